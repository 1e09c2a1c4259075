"""How does the spawn form look: which fields of which systems, and what is said beside them?

Rendered from memory: no page waits for FirecREST. A browser without scripts shows the fields of all
systems, each under its name; what is posted for another system than the chosen one does not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2

from .fields import FIELDS, LONGEST, Field
from .links import LONGEST_CHOICES
from .models import System
from .options import OF, ignored
from .profiles import CUSTOM, UNLISTED, Profile, default
from .settings import Environment, Settings


@dataclass(frozen=True)
class Panel:
    """One system in the form.

    ``trouble`` is what is known to be wrong with it, ``described`` how FirecREST describes it, if
    that is known, and ``unused`` the names of fields that its batch script does not use.
    """

    settings: Settings
    trouble: str = ""
    described: System | None = None
    unused: Collection[str] = ()

    @property
    def lost(self) -> list[Field]:
        """The fields that the system has no way to honour."""
        if self.described is None:
            return []
        names = ignored(self.settings.fields, self.described)
        return [self.settings.fields[name] for name in names]

    @property
    def fields(self) -> list[Field]:
        lost = self.lost
        offered = [each for each in self.settings.fields.values() if each.name not in self.unused]
        return [field for field in offered if field not in lost]

    @property
    def empty(self) -> dict[str, str]:
        """What each field means when it is left empty."""
        requests = self.settings.requests
        found = {}
        for field in self.fields:
            value = field.default or (
                self.settings.workdir if field.name == "workdir" else requests.get(field.name)
            )
            found[field.name] = field.choices.get(str(value), str(value)) if value else field.unset
        return found

    @property
    def usual(self) -> str:
        """The partition that an empty field means; "" where that depends on what else is chosen."""
        field = self.settings.fields.get("partition")
        if field is None or any("partition" in each.values for each in self._environments):
            return ""
        return field.default or str(self.settings.requests.get("partition", ""))

    @property
    def _environments(self) -> list[Environment]:
        field = self.settings.fields.get("environment")
        return [self.settings.environments[name] for name in field.choices] if field else []

    def same_fields(self, other: Panel) -> bool:
        """Whether one set of fields serves both systems."""
        mine = (self.fields, self.empty, self.lost, self.usual)
        return mine == (other.fields, other.empty, other.lost, other.usual)


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("firecrestspawner"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("form.html")


def render(
    panels: Sequence[Panel],
    chosen: Mapping[str, Any],
    profiles: Sequence[Profile] = (),
    *,
    hints: str = "",
) -> str:
    """The HTML of the form; ``chosen`` pre-fills it. Empty when there is nothing to choose.

    Parameters
    ----------
    panels: the systems that may be chosen, the default one first.
    chosen: earlier options.
    profiles: what is ready-made; the plain fields are beside them, if there are any.
    hints: the path that says what the user may use, for the browser to ask.
    """
    chosen = {name: value for name, value in chosen.items() if _may_be_shown(value)}
    plain = len(panels) > 1 or any(panel.settings.fields for panel in panels)
    if not plain and not profiles:
        return ""
    names = [panel.settings.system for panel in panels]
    wanted = chosen.get("system")
    common = all(panel.same_fields(panels[0]) for panel in panels[1:])
    profile = _selected(profiles, chosen, plain)
    return _template().render(
        panels=panels,
        shown=panels[:1] if common else panels,
        plain=plain,
        common=common,
        mark=OF,
        unlisted=UNLISTED,
        custom=CUSTOM,
        profiles=profiles,
        profile=profile,
        own=profile in ("", CUSTOM),
        system=wanted if wanted in names else "".join(names[:1]),
        chosen=chosen,
        hints=hints if plain else "",
        longest_link=LONGEST_CHOICES,
        labels={name: each.label for name, each in FIELDS.items()},
    )


def _may_be_shown(value: Any) -> bool:
    """Whether a field could hold it. The Hub stores what a request to its REST API asked for before
    anybody has looked at it, and the form has to appear all the same.
    """
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= LONGEST)


def _selected(profiles: Sequence[Profile], chosen: Mapping[str, Any], plain: bool) -> str:
    """The entry that is chosen when the form appears; empty where there are no profiles."""
    if not profiles:
        return ""
    wanted = chosen.get("profile")
    if plain and chosen and wanted in (None, CUSTOM):
        return CUSTOM
    slugs = [each.slug for each in profiles if not each.lost]
    return wanted if isinstance(wanted, str) and wanted in slugs else default(profiles).slug
