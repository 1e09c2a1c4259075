"""What a user may ask for: the form, and the same options through the REST API, typed and checked.

One table of fields serves both. What passes is still only a value: :mod:`firecrestspawner.script`
quotes it or refuses it where it lands (S2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2

from .client import System
from .errors import OptionsError

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.@%+-]{0,63}"
_FEATURES = r"[A-Za-z0-9][A-Za-z0-9_|&.*-]{0,63}"


@dataclass(frozen=True)
class Field:
    """One thing a user may choose.

    ``hint`` is what the form says below the field, beside the ``example``; ``unset`` is what an
    empty field means where the site has set nothing. ``api`` names the field of FirecREST's job
    description that carries it, where there is one: only these reach a system that ignores
    directives.
    """

    name: str
    label: str
    pattern: str
    example: str
    hint: str
    unset: str = "the system's default"
    number: bool = False
    api: str = ""

    def read(self, value: Any) -> str:
        """The value as text. Raises OptionsError naming the field."""
        if self.number and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise OptionsError(f"Option {self.name!r} must be text such as {self.example!r}.")
        value = value.strip()
        if not re.fullmatch(self.pattern, value, re.ASCII):
            raise OptionsError(
                f"{self.label}: {_shown(value)} cannot be used; write it like {self.example!r} "
                f"(option {self.name!r})."
            )
        return value


FIELDS = {
    field.name: field
    for field in (
        Field("partition", "Partition", rf"{_WORD}(,{_WORD}){{0,7}}", "normal",
              "The queue to wait in", api="partition"),
        Field("account", "Account", _WORD, "proj1",
              "The project that is charged", "your default account", api="account"),
        Field("reservation", "Reservation", _WORD, "course",
              "Only if you were given one", "none", api="reservation"),
        Field("runtime", "Run time", r"(\d{1,3}-)?\d{1,3}(:\d{1,2}){0,2}", "04:00:00",
              "Hours:minutes:seconds after which the server is ended"),
        Field("nodes", "Nodes", r"[1-9]\d{0,3}", "1", "How many", "1", number=True),
        Field("cpus", "CPUs per task", r"[1-9]\d{0,4}", "4", "How many", number=True),
        Field("gpus", "GPUs", r"([A-Za-z][A-Za-z0-9_.-]{0,31}:)?\d{1,3}", "1",
              "How many, or type:number", "none", number=True),
        Field("memory", "Memory", r"[1-9]\d{0,6}[KMGT]?", "16G",
              "On each node, with a unit (K, M, G or T)"),
        Field("qos", "QoS", _WORD, "interactive", "Quality of service", "your default"),
        Field("constraint", "Constraint", _FEATURES, "gpu",
              "Features that the nodes must have", "none", api="constraints"),
    )
}  # fmt: skip


def parse(
    options: Mapping[str, Any], *, fields: Sequence[str], systems: Sequence[str]
) -> dict[str, str]:
    """The options a user set, checked: ``{"system": ..., field: value}`` without empty ones.

    Parameters
    ----------
    options: what the form or the REST API gave.
    fields: the names of FIELDS users of this Hub may set.
    systems: the systems they may choose.

    Raises OptionsError (400) naming the first option that is wrong.
    """
    if not isinstance(options, Mapping):
        raise OptionsError("The options must be an object.")
    chosen: dict[str, str] = {}
    for name, value in options.items():
        if value is None or value == "":
            continue
        if name == "system":
            if value not in systems:
                raise OptionsError(f"There is no system called {_shown(value)} to choose here.")
            chosen["system"] = value
        elif name in fields and name in FIELDS:
            chosen[name] = FIELDS[name].read(value)
        else:
            raise OptionsError(f"There is no option called {_shown(name)}.")
    return chosen


def from_form(form: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The posted form as options; the Hub gives a list of values for each name."""
    return {
        name: values[0].strip()
        for name, values in form.items()
        # A site's page may post the Hub's own XSRF field along.
        if name != "_xsrf" and values and isinstance(values[0], str) and values[0].strip()
    }


def ignored(names: Iterable[str], system: System) -> list[str]:
    """Those of the values called ``names`` that the system would never see.

    In connection modes rest and hybrid FirecREST drops every directive of the script, and its API
    has no field for them (FirecREST facts, 5).
    """
    if system.honours_directives:
        return []
    return [name for name in names if name not in _CARRIED]


def refuse_ignored(chosen: Iterable[str], system: System) -> None:
    """Raise OptionsError for the first thing a user asked for that the system would ignore."""
    for name in ignored(chosen, system):
        raise OptionsError(
            f"{FIELDS[name].label} cannot be asked for on {system.name}: its scheduler is reached "
            f"in {system.connection_mode!r} mode, which has no way to."
        )


# What the API has a field for, and what is run by the shell, not read by the scheduler.
_CARRIED = {name for name, field in FIELDS.items() if field.api} | {
    *("output", "prologue", "epilogue", "image", "edf"),
}


@lru_cache(maxsize=1)
def _form() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("firecrestspawner"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("form.html")


def form(
    *,
    fields: Sequence[str],
    systems: Sequence[str],
    chosen: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> str:
    """The HTML of the spawn form; ``chosen`` pre-fills it, ``defaults`` are shown as hints."""
    return _form().render(
        fields=[FIELDS[name] for name in fields if name in FIELDS],
        systems=systems,
        chosen=chosen,
        defaults=defaults,
    )


def _shown(value: Any) -> str:
    return repr(str(value)[:40])
