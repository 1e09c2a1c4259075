"""Which settings hold for a server on one system: the Hub's, with the system's own in their place?

:func:`on` is the one place that puts them together. What it returns is frozen: nothing is set on a
spawner, so that two servers of one user on two systems cannot take each other's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .fields import FIELDS, Field, directory, narrowed

#: What may differ from system to system, beside every ``req_*`` and a ``display_name``.
OVERRIDABLE = (
    *("batch_script", "workdir", "python", "port_range"),
    *("connect_networks", "address_template", "hub_connect_url"),
    *("option_fields", "environments"),
)
#: What a profile sets beside ``req_*``.
NOT_REQUESTS = ("system", "environment", "workdir")
#: In the place of a system's name: all others that FirecREST lists.
ALL = "*"


@dataclass(frozen=True)
class Environment:
    """One set of software to choose: shell text that makes it ready, and values of ``req_*``."""

    name: str
    display_name: str
    prologue: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What holds on the system called ``system``.

    ``requests`` are the values of all ``req_*`` that are set, by short name; ``fields`` what users
    may choose, in the form's order. ``hub_connect_url`` is one of the system's own: the one for all
    is JupyterHub's to use.
    """

    system: str
    display_name: str
    batch_script: str
    workdir: str
    python: str
    port_range: tuple[int, int]
    connect_networks: Sequence[str]
    address_template: str
    hub_connect_url: str | None
    requests: Mapping[str, Any]
    fields: Mapping[str, Field]
    environments: Mapping[str, Environment]
    #: What a profile sets, by short name.
    profile: Mapping[str, Any] = field(default_factory=dict)

    def with_profile(self, sets: Mapping[str, Any]) -> Settings:
        """The same with what a profile sets, by whole names. Raises ValueError."""
        environment = sets.get("environment", "")
        if environment and environment not in self.environments:
            raise ValueError(f"there is no environment {environment!r} on {self.system}")
        return replace(
            self,
            workdir=directory(sets.get("workdir", self.workdir)),
            # The directory that is set is the one, whatever an empty field means.
            fields={
                name: each
                for name, each in self.fields.items()
                if name != "workdir" or "workdir" not in sets
            },
            profile={name.removeprefix("req_"): value for name, value in sets.items()},
        )

    def values(self, chosen: Mapping[str, str]) -> dict[str, Any]:
        """What the script is given: the site's values, and over them what a user ``chosen`` has.

        An environment's prologue follows the system's own, which may have to load what it needs.
        """
        values = self.defaults(chosen)
        environment = self._environment(chosen)
        if environment is not None and environment.prologue:
            earlier = values.get("prologue")
            values["prologue"] = "\n".join(filter(None, (earlier, environment.prologue)))
        asked = {name: value for name, value in chosen.items() if not self.fields[name].ours}
        return {**values, **asked}

    def defaults(self, chosen: Mapping[str, str]) -> dict[str, Any]:
        """The site's own values: those of the environment that is ``chosen``, of the profile."""
        own = {name: each.default for name, each in self.fields.items() if each.default}
        own = {name: value for name, value in own.items() if not self.fields[name].ours}
        environment = self._environment(chosen)
        preset = {name: each for name, each in self.profile.items() if name not in NOT_REQUESTS}
        return {**self.requests, **own, **(environment.values if environment else {}), **preset}

    def _environment(self, chosen: Mapping[str, str]) -> Environment | None:
        offered = self.fields.get("environment")
        preset = self.profile.get("environment", "")
        name = chosen.get("environment") or preset or (offered.default if offered else "")
        return self.environments.get(name)


def on(config: Any, system: str) -> Settings:
    """What holds on ``system``, by the spawner's configuration ``config``.

    Raises ValueError, which names the setting, for what no check of a single setting can find.
    """
    own = overrides(config.systems, system)

    def get(name: str) -> Any:
        return own.get(name, getattr(config, name))

    requests = {
        name.removeprefix("req_"): value
        for name in config.trait_names()
        if name.startswith("req_") and (value := get(name))
    }
    environments = {name: _environment(name, each) for name, each in get("environments").items()}
    return Settings(
        system=system,
        display_name=title(config.systems, system),
        batch_script=get("batch_script"),
        workdir=get("workdir"),
        python=get("python"),
        port_range=tuple(get("port_range")),
        connect_networks=tuple(get("connect_networks")),
        address_template=get("address_template"),
        hub_connect_url=own.get("hub_connect_url"),
        requests=requests,
        fields=fields(get("option_fields"), environments),
        environments=environments,
    )


def names(systems: Sequence[str] | Mapping[str, Any], default: str) -> list[str]:
    """The systems that are named, the ``default`` one first; ``ALL`` may be among them."""
    known = list(systems)
    first = [default] if default and (not known or default in known or ALL in known) else []
    return [*first, *(name for name in known if name not in first)]


def overrides(systems: Sequence[str] | Mapping[str, Any], system: str) -> Mapping[str, Any]:
    """What the site has set for one system alone."""
    if not isinstance(systems, Mapping):
        return {}
    return systems.get(system, systems.get(ALL, {}))


def fields(
    wanted: Sequence[str] | Mapping[str, Mapping[str, Any]],
    environments: Mapping[str, Environment] | None = None,
) -> dict[str, Field]:
    """The fields that ``option_fields`` names, as the site wants them.

    ``environments`` are those there are to choose; without one there is no field for them. None
    leaves that open, for the check of ``option_fields`` alone. Raises ValueError.
    """
    found = {}
    for name in wanted:
        if name not in FIELDS:
            raise ValueError(f"there is no field {name!r}; choose from {', '.join(FIELDS)}")
        given = FIELDS[name]
        wishes = dict(wanted[name]) if isinstance(wanted, Mapping) else {}
        if name == "environment":
            if environments is None:
                continue
            if not environments:
                continue
            labels = {each.name: each.display_name for each in environments.values()}
            offered = wishes.get("choices", labels)
            wishes["choices"] = {key: labels.get(key, "") for key in offered}
            if missing := [key for key in offered if key not in labels]:
                raise ValueError(f"environment: there is no environment {missing[0]!r}")
        try:
            found[name] = narrowed(given, wishes) if wishes else given
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def title(systems: Sequence[str] | Mapping[str, Any], system: str) -> str:
    """What users are shown for a system: its ``display_name``, or else its name."""
    named: str = overrides(systems, system).get("display_name", system)
    return named


def _environment(name: str, given: Mapping[str, Any]) -> Environment:
    values = {key.removeprefix("req_"): value for key, value in given.get("values", {}).items()}
    return Environment(name, given.get("display_name", name), given.get("prologue", ""), values)
