"""What do the Hub's pages say of sessions, systems and ends of servers? Where are their templates?

The templates in ``templates/hub`` extend the stock ones; ``configure(c)`` puts them into the Hub's
``template_paths``, and :func:`add_to` gives them what they call.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from . import links
from .tokens import read_session

TEMPLATES = str(Path(__file__).with_name("templates") / "hub")


class Notice(NamedTuple):
    """The session has ``ended``, or ends in about ``minutes`` (at least 1)."""

    ended: bool
    minutes: int = 0


def session_notice(
    auth_state: Mapping[str, Any] | None, *, warning: float, now: float | None = None
) -> Notice | None:
    """What a page has to say of the session; None when it goes on for ``warning`` seconds more.

    Asks nobody: a page does not wait for the issuer.
    """
    now = time.time() if now is None else now
    session = read_session(auth_state, now=now)
    if not session.valid:
        return Notice(ended=True)
    if session.expires_at is None or session.expires_at - now > warning:
        return None
    return Notice(ended=False, minutes=max(1, ceil((session.expires_at - now) / 60)))


def troubles(user: Any) -> list[str]:
    """What a page says of the systems that ``user``'s servers can be on (R9)."""
    spawner = user.spawner
    return spawner.troubles() if hasattr(spawner, "troubles") else []


def farewells(user: Any) -> list[str]:
    """What a page says of jobs of ``user`` that were stopped and may still be there (R7)."""
    spawner = user.spawner
    return spawner.farewells() if hasattr(spawner, "farewells") else []


def ending(user: Any, server: str) -> Any:
    """How ``user``'s server called ``server`` ended, where the Hub knows it (endings.Ending)."""
    known = user.settings.get("firecrest_endings")
    return known.get(user.name, server) if known is not None else None


def viewer(user: Any) -> str:
    """The name of whoever looks at a page; the templates' own ``user`` may be another's."""
    return getattr(user, "name", "")


def add_to(app: Any, warning: float) -> None:
    """Give the Hub's templates the functions that ours call.

    ``app`` is the JupyterHub application, once it has made its template environments.
    """
    functions = {
        "firecrest_session_notice": partial(session_notice, warning=warning),
        "firecrest_troubles": troubles,
        "firecrest_farewells": farewells,
        "firecrest_ending": ending,
        "firecrest_reauth": partial(links.reauth, app.hub.base_url),
    }
    for environment in ("jinja2_env", "jinja2_env_sync"):
        app.tornado_settings[environment].globals.update(functions)
    # The one thing that JupyterHub calls with whom it serves (BaseHandler.template_namespace).
    variables = app.tornado_settings.get("template_vars") or {}
    app.tornado_settings["template_vars"] = {**variables, "firecrest_viewer": viewer}
    if TEMPLATES not in app.template_paths:
        app.log.warning(
            "JupyterHub.template_paths lacks %s: the home page will not say when a user's session "
            "has ended, nor which system is unwell. Insert a directory of your own instead of "
            "assigning the list.",
            TEMPLATES,
        )
