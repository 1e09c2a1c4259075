"""What is there to choose for one user's server, and what has been chosen?

One definition for form and REST API: profiles and fields as the configuration has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from traitlets import TraitError

from . import form, options, profiles, submission
from .deadline import in_time
from .errors import OptionsError
from .profiles import Profile
from .settings import Settings

#: Seconds that the form waits for a list of systems that nobody has ever seen.
GLANCE = 2.0
#: Seconds that a site's own profile_list may take: a page waits for it, and a start.
LISTING = 10.0


async def page(spawner: Any) -> str:
    """The HTML of the spawn form, with the last choice; empty when nothing is to be chosen."""
    if spawner._offers_all:
        await spawner._clusters.glance(spawner.firecrest_url, GLANCE)
    panels = []
    for name in spawner.known_systems():
        here = submission.of_system(spawner, name)
        cluster = spawner._cluster(name) if spawner.firecrest_url else None
        described = cluster.described if cluster else None
        unused = submission.unused(here, here.fields, described)
        panels.append(form.Panel(here, cluster.trouble if cluster else "", described, unused))
    listed = [_honoured(spawner, each) for each in await offered(spawner)]
    return form.render(panels, spawner.user_options or {}, listed, hints=_hints(spawner))


def _honoured(spawner: Any, profile: Profile) -> Profile:
    """What is left of a profile on its system, as far as that is known without asking.

    Where it is for a choice to name the system, that is the start's to say.
    """
    names = spawner.known_systems()
    system = profile.override.get("system") or "".join(names[:1])
    choices = [each for option in profile.options.values() for each in option.overrides]
    if not spawner.firecrest_url or system not in names or any("system" in c for c in choices):
        return profile
    cluster = spawner._cluster(system)
    here = submission.of_system(spawner, system)
    lost = submission.lost(here, profile.requests, cluster.described)
    if lost:
        cluster.warn_once(
            f"c.FirecRESTSpawner.profile_list: {profile.slug}: {system} has no use for "
            f"{', '.join(f'req_{name}' for name in lost)}, which is not offered"
        )
    return profile.honoured(lost)


def _hints(spawner: Any) -> str:
    """Where the form may ask what the user may use; empty where it should not.

    An admin's browser would be told of the admin's own accounts.
    """
    viewer = getattr(spawner.handler, "current_user", None)
    mine = viewer is not None and viewer.name == spawner.user.name
    return f"{spawner.hub.base_url}api/firecrest/hints" if mine and spawner.hint_age else ""


async def made(spawner: Any) -> tuple[Settings, dict[str, str]]:
    """What holds for the start that ``user_options`` ask for, and the values of its fields.

    Raises OptionsError for what cannot be chosen.
    """
    if spawner._offers_all:
        await spawner._clusters.ask(spawner.firecrest_url)
    names = spawner.known_systems()
    default = names[0] if names else ""
    wanted = spawner.user_options
    listed = [_honoured(spawner, each) for each in await offered(spawner)]
    profile = profiles.choose(listed, wanted)
    if profile is None:
        system = options.choose_system(wanted, names, default)
        here = submission.of_system(spawner, system)
        if listed and len(names) < 2 and not here.fields:
            # The form has no such entry, either: the site offers its profiles and nothing else.
            raise OptionsError(f"There is no profile called {profiles.CUSTOM!r}.")
        chosen = options.parse(wanted, here.fields)
        partition = here.values(chosen).get("partition") or ""
        options.check_limits(chosen, here.fields, str(partition))
        return here, chosen
    sets = profile.chosen(wanted)
    here = submission.of_system(spawner, options.choose_system(sets, names, default))
    return preset(here, profile, sets), {}


async def offered(spawner: Any) -> tuple[Profile, ...]:
    """The site's profiles for the user. Raises ConfigurationError for what a callable got wrong."""
    given = spawner.profile_list
    if callable(given):
        given = await _called(given, spawner)
    try:
        return profiles.read(given or [], spawner.check_request)
    except (ValueError, TraitError) as error:
        raise submission.misconfigured(f"c.FirecRESTSpawner.profile_list: {error}") from None


async def _called(profile_list: Callable[[Any], Any], spawner: Any) -> Any:
    """What the site's own code answers. Raises ConfigurationError when it does not."""
    try:
        given = profile_list(spawner)
        return await in_time(given, LISTING) if hasattr(given, "__await__") else given
    except asyncio.TimeoutError:
        why = f"no answer in {LISTING:g} s"
    except Exception as error:
        spawner.log.exception("c.FirecRESTSpawner.profile_list failed")
        why = type(error).__name__
    raise submission.misconfigured(f"c.FirecRESTSpawner.profile_list: {why}")


def preset(here: Settings, profile: Profile, sets: Mapping[str, Any]) -> Settings:
    """``here`` with what a profile sets. Raises ConfigurationError when that makes no sense."""
    try:
        return here.with_profile(sets)
    except ValueError as error:
        raise submission.misconfigured(
            f"c.FirecRESTSpawner.profile_list: {profile.slug}: {error}"
        ) from None
