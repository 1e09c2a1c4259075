"""Which ready-made starts does a site offer, and what does a user's choice among them stand for?

The convention of kubespawner's ``profile_list``, so that a site can bring its own along. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import OptionsError
from .fields import FIELDS, NAME, shown
from .settings import NOT_REQUESTS

#: The entry beside the profiles that has the plain fields.
CUSTOM = "custom"
#: What is added to an option's name for a value of the user's own.
UNLISTED = "--unlisted-choice"

_SLUG = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_OPTION = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
#: Checks one value of an override, by its whole name, or raises ValueError.
Check = Callable[[str, Any], None]


@dataclass(frozen=True)
class Choice:
    key: str
    display_name: str
    override: Mapping[str, Any]


@dataclass(frozen=True)
class Unlisted:
    """A value of the user's own; in the values of ``override`` it replaces ``{value}``."""

    display_name: str
    pattern: str
    message: str
    override: Mapping[str, str]

    def read(self, name: str, value: Any) -> dict[str, str]:
        """What the value sets. Raises OptionsError naming the option."""
        kinds = [FIELDS[key[4:]].kind if key[4:] in FIELDS else NAME for key in self.override]
        # The kinds first: they bound what a site's pattern is tried on, whatever that costs (R8).
        if (
            not isinstance(value, str)
            or not all(re.fullmatch(kind.pattern, value, re.ASCII) for kind in kinds)
            or not re.fullmatch(self.pattern, value, re.ASCII)
        ):
            why = f": {self.message}" if self.message else ""
            raise OptionsError(f"{shown(value)} cannot be had here (option {name!r}){why}.")
        return {key: text.replace("{value}", value) for key, text in self.override.items()}


@dataclass(frozen=True)
class Option:
    """What is left to choose in a profile: one of ``choices``, or a value of the user's own.

    Without choices that is the only way, and there is no ``default``.
    """

    key: str
    display_name: str
    choices: Mapping[str, Choice]
    default: str
    unlisted: Unlisted | None = None

    @property
    def overrides(self) -> list[Mapping[str, Any]]:
        """What each of its choices sets."""
        own = [] if self.unlisted is None else [self.unlisted.override]
        return [*(choice.override for choice in self.choices.values()), *own]

    def honoured(self, lost: Collection[str]) -> Option | None:
        """What is left of it where requests called ``lost`` come to nothing; None for nothing."""

        def fits(override: Mapping[str, Any]) -> bool:
            return not set(requested([override])) & set(lost)

        choices = {key: each for key, each in self.choices.items() if fits(each.override)}
        own = self.unlisted if self.unlisted and fits(self.unlisted.override) else None
        if not choices and (self.choices or own is None):
            return None
        default = self.default if self.default in choices else next(iter(choices), "")
        return replace(self, choices=choices, default=default, unlisted=own)


@dataclass(frozen=True)
class Profile:
    """One ready-made start: ``override`` is what it sets, ``options`` what is left to choose.

    ``lost`` are the requests, by short name, for which its system has no use: with one that it
    always makes it cannot be started. ``left_out`` are those of choices that are not offered.
    """

    slug: str
    display_name: str
    description: str = ""
    default: bool = False
    override: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def requests(self) -> list[str]:
        """What it may request, by short names."""
        offered = [option.overrides for option in self.options.values()]
        return requested([self.override, *(each for some in offered for each in some)])

    def honoured(self, lost: Collection[str]) -> Profile:
        """The profile where requests called ``lost`` (short names) come to nothing.

        Choices that make one are not offered, and options without a choice are none.
        """
        fits = {key: option.honoured(lost) for key, option in self.options.items()}
        return replace(
            self,
            options={key: option for key, option in fits.items() if option is not None},
            lost=tuple(name for name in requested([self.override]) if name in lost),
            left_out=tuple(name for name in self.requests if name in lost),
        )

    def chosen(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a user's ``options`` set, defaults included, by whole names (``req_gpus``, ...).

        Raises OptionsError naming the first option that is wrong.
        """
        found = dict(self.override)
        for name in options:
            key = str(name).removesuffix(UNLISTED)
            own = key in self.options and (key == name or self.options[key].unlisted)
            if name != "profile" and not own:
                raise OptionsError(f"There is no option called {shown(name)}.")
        for key, option in self.options.items():
            value, own = options.get(key), options.get(key + UNLISTED)
            if option.unlisted is not None and own not in (None, ""):
                found |= option.unlisted.read(key + UNLISTED, own)
                continue
            if not option.choices:
                raise OptionsError(
                    f"{option.display_name}: a value is needed (option {key + UNLISTED!r})."
                )
            value = option.default if value in (None, "") else value
            if not isinstance(value, str) or value not in option.choices:
                names = ", ".join(option.choices)[:80]
                raise OptionsError(
                    f"{option.display_name}: {shown(value)} is not offered; choose {names} "
                    f"(option {key!r})."
                )
            found |= option.choices[value].override
        return found


def requested(overrides: Iterable[Mapping[str, Any]]) -> list[str]:
    """The short names of the requests that any of these make, each once."""
    names = [name[4:] for override in overrides for name in override if name.startswith("req_")]
    return list(dict.fromkeys(names))


def choose(profiles: Sequence[Profile], options: Mapping[str, Any]) -> Profile | None:
    """The profile a user asked for; None for plain options.

    Who asks for nothing gets the default one. Raises OptionsError.
    """
    wanted = options.get("profile") if isinstance(options, Mapping) else None
    if not profiles or wanted == CUSTOM or (wanted in (None, "") and options):
        if wanted not in (None, "", CUSTOM):
            raise OptionsError(f"There is no profile called {shown(wanted)}.")
        return None
    if wanted in (None, ""):
        return default(profiles)
    for profile in profiles:
        if profile.slug == wanted:
            return profile
    raise OptionsError(f"There is no profile called {shown(wanted)}.")


def default(profiles: Sequence[Profile]) -> Profile:
    """The one that is marked so, else the first; one that can be started, if there is any."""
    profiles = [each for each in profiles if not each.lost] or profiles
    return next((each for each in profiles if each.default), profiles[0])


def read(given: Any, check: Check) -> tuple[Profile, ...]:
    """A site's ``profile_list``. Raises ValueError, whose message says where it is wrong."""
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"a list of profiles is needed: {shown(given)}")
    found = tuple(_profile(each, check) for each in given)
    slugs = [each.slug for each in found]
    if twice := [slug for slug in slugs if slugs.count(slug) > 1 or slug == CUSTOM]:
        raise ValueError(f"{twice[0]!r} is the slug of another entry")
    return found


def _keys(where: str, given: Any, *known: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: a dict is needed: {shown(given)}")
    for key in given:
        if key not in known:
            raise ValueError(f"{where}: there is no {key!r}; there are {', '.join(known)}")
    return given


def _text(where: str, given: Mapping[str, Any], key: str, otherwise: str = "") -> str:
    value = given.get(key, otherwise)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key!r} is text: {shown(value)}")
    return value


def _profile(given: Any, check: Check) -> Profile:
    known = ("display_name", "slug", "description", "default", "profile_options")
    given = _keys("a profile", given, *known, "spawner_override")
    name = _text("a profile", given, "display_name")
    slug = _text(name, given, "slug") or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not name or not re.fullmatch(_SLUG, slug):
        raise ValueError(f"a profile has a display_name, and a slug such as 'gpu-small': {slug!r}")
    options = given.get("profile_options", {})
    if not isinstance(options, Mapping):
        raise ValueError(f"{slug}: 'profile_options' is a dict")
    return Profile(
        slug,
        name,
        _text(slug, given, "description"),
        bool(given.get("default", False)),
        _override(slug, given, check),
        {key: _option(f"{slug}: {key}", key, each, check) for key, each in options.items()},
    )


def _option(where: str, key: Any, given: Any, check: Check) -> Option:
    if not isinstance(key, str) or not re.fullmatch(_OPTION, key) or key in ("profile", "system"):
        raise ValueError(f"{where}: the name of an option is a word such as 'image'")
    given = _keys(where, given, "display_name", "choices", "unlisted_choice")
    unlisted = given.get("unlisted_choice") or {}
    if not isinstance(unlisted, Mapping):
        raise ValueError(f"{where}: 'unlisted_choice' is a dict")
    own = _unlisted(f"{where}: unlisted_choice", unlisted) if unlisted.get("enabled") else None
    entries = given.get("choices", {})
    if not isinstance(entries, Mapping) or not (entries or own):
        raise ValueError(
            f"{where}: 'choices' is a dict with an entry at least, or unlisted_choice is enabled"
        )
    choices, first = {}, ""
    for name, each in entries.items():
        place = f"{where}: {name}"
        each = _keys(place, each, "display_name", "default", "spawner_override")
        label = _text(place, each, "display_name", str(name))
        choices[str(name)] = Choice(str(name), label, _override(place, each, check))
        first = str(name) if each.get("default") and not first else first
    label = _text(where, given, "display_name", key)
    return Option(key, label, choices, first or next(iter(choices), ""), own)


def _unlisted(where: str, given: Any) -> Unlisted:
    known = ("enabled", "display_name", "display_name_in_choices")
    given = _keys(
        where, given, *known, "validation_regex", "validation_message", "spawner_override"
    )
    pattern = _text(where, given, "validation_regex", ".*")
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:
        raise ValueError(f"{where}: 'validation_regex' is none: {error}") from None
    override = given.get("spawner_override")
    if not isinstance(override, Mapping) or not override:
        raise ValueError(f"{where}: 'spawner_override' says what the value is for")
    for key, text in override.items():
        # A value of a user's own, so nothing that goes into a script as it is (S2).
        target = FIELDS.get(key[4:]) if str(key).startswith("req_") else None
        if target is None or target.ours or not isinstance(text, str):
            raise ValueError(f"{where}: a value cannot be had for {key!r}")
    return Unlisted(
        _text(where, given, "display_name", "Other"),
        pattern,
        _text(where, given, "validation_message").rstrip("."),
        dict(override),
    )


def _override(where: str, given: Mapping[str, Any], check: Check) -> dict[str, Any]:
    override = given.get("spawner_override", {})
    if not isinstance(override, Mapping):
        raise ValueError(f"{where}: 'spawner_override' is a dict")
    for key, value in override.items():
        try:
            if not isinstance(key, str):
                raise ValueError(f"a setting has a name: {shown(key)}")
            if key in NOT_REQUESTS and not isinstance(value, str):
                raise ValueError(f"{key!r} is text: {shown(value)}")
            if key not in NOT_REQUESTS:
                check(key, value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return dict(override)
