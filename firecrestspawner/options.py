"""What may a user ask for, through the form or the REST API, and what of it would be lost?

One definition of each field (:mod:`firecrestspawner.fields`) serves both. What passes is still only
a value: :mod:`firecrestspawner.script` quotes it or refuses it where it lands (S2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .errors import OptionsError
from .fields import FIELDS, Field, shown
from .models import System
from .profiles import CUSTOM

#: Between a field's name and a system's, in a form whose systems have different fields.
OF = "@"


def choose_system(options: Mapping[str, Any], names: Collection[str], default: str) -> str:
    """The system a user asked for, one of ``names``, or the ``default``.

    Raises OptionsError (400).
    """
    if not isinstance(options, Mapping):
        raise OptionsError("The options must be an object.")
    wanted = options.get("system")
    if wanted is None or wanted == "":
        return default
    if not isinstance(wanted, str) or wanted not in names:
        raise OptionsError(f"There is no system called {shown(wanted)} to choose here.")
    return wanted


def parse(options: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, str]:
    """The other options a user set, checked: ``{field: value}`` without empty ones.

    Parameters
    ----------
    options: what the form or the REST API gave.
    fields: what users may set on the system.

    Raises OptionsError (400) naming the first option that is wrong.
    """
    chosen: dict[str, str] = {}
    for name, value in options.items():
        if name in ("system", "profile"):
            continue
        if name not in fields:
            raise OptionsError(f"There is no option called {shown(name)}.")
        if value is not None and value != "":
            chosen[name] = fields[name].read(value)
    return chosen


def check_limits(chosen: Mapping[str, str], fields: Mapping[str, Field], partition: str) -> None:
    """Raise OptionsError for more than any of the job's partitions has.

    ``partition`` is where the job waits, several separated by commas; what the site says of it are
    the ``limits`` of the field of that name.
    """
    limits = fields["partition"].limits if "partition" in fields else {}
    for name, value in chosen.items():
        most = [limits.get(each, {}).get(name, "") for each in partition.split(",")]
        measure = fields[name].kind.measure
        if measure is None or not all(most):
            continue
        widest = max(most, key=measure)
        if measure(value) > measure(widest):
            raise OptionsError(
                f"{fields[name].label}: {shown(value)} cannot be had in the partition "
                f"{partition.replace(',', ' or ')}; ask for at most {widest} (option {name!r})."
            )


def from_form(form: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """The posted form as options; the Hub gives a list of values for each name.

    Where each system, or profile, has fields of its own, only those of the chosen one count: named
    ``field@system``, ``option@@slug`` of a profile, or ``field@`` beside profiles.
    """
    given = {
        name: values[0].strip()
        for name, values in form.items()
        # A site's page may post the Hub's own XSRF field along.
        if name != "_xsrf" and values and isinstance(values[0], str) and values[0].strip()
    }
    profile = given.get("profile", CUSTOM)
    of_profile = {"", f"{OF}{profile}"} if profile != CUSTOM else {"", OF, given.get("system")}
    options = {}
    for name, value in given.items():
        key, mark, of = name.partition(OF)
        if mark and (of or OF) not in of_profile:
            continue
        if profile == CUSTOM or name != "system":
            options[key] = value
    return options


def ignored(names: Iterable[str], system: System) -> list[str]:
    """Those of the values called ``names`` that the system would never see.

    In connection modes rest and hybrid FirecREST drops every directive of the script, and its API
    has no field for them (FirecREST facts, 5).
    """
    if system.honours_directives:
        return []
    return [name for name in names if name not in _CARRIED]


def refuse_ignored(chosen: Iterable[str], system: System, title: str) -> None:
    """Raise OptionsError for the first thing a user asked for that the system would ignore.

    ``title`` is what users are shown for the system.
    """
    for name in ignored(chosen, system):
        raise OptionsError(
            f"{FIELDS[name].label} cannot be asked for on {title}: its scheduler is reached "
            f"in {system.connection_mode!r} mode, which has no way to."
        )


# What the API has a field for, and what is run by the shell, not read by the scheduler.
_CARRIED = {name for name, field in FIELDS.items() if field.api or field.ours} | {
    *("output", "prologue", "epilogue", "modules", "venv", "image", "edf"),
}
