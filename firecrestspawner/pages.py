"""What do the Hub's pages say of sessions, of systems, and of servers' jobs and ends?

Where are their templates? Those in ``templates/hub`` extend the stock ones; ``configure(c)`` puts
them into the Hub's ``template_paths``, and :func:`add_to` gives them what they call.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from . import links
from .models import Job, JobState
from .tokens import read_session

TEMPLATES = str(Path(__file__).with_name("templates") / "hub")


A_MINUTE = 60


class Notice(NamedTuple):
    """The session has ``ended``, or ends in about ``minutes`` (at least 1)."""

    ended: bool
    minutes: int = 0


class Overview(NamedTuple):
    """What the home page says of a server and its job; what is not known is empty.

    ``left`` is seconds until the job's time limit, which ends the server; None while that cannot be
    told. ``warning`` is how many of them are few.
    """

    name: str
    system: str
    job_id: str
    state: str
    node: str
    left: int | None
    warning: int

    @property
    def soon(self) -> bool:
        return self.left is not None and self.left < self.warning

    @property
    def time_left(self) -> str:
        """In words, as the page's own script goes on to write it."""
        if self.left is None:
            return ""
        if self.left < A_MINUTE:
            return "less than a minute" if self.left > 0 else "none"
        minutes = self.left // A_MINUTE
        parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
        return " ".join(f"{number} {unit}" for number, unit in parts if number)


def overview(
    job: Job | None,
    *,
    name: str,
    system: str,
    job_id: str,
    host: str,
    ready: bool,
    stopping: bool,
    warning: int,
    left: float | None,
) -> Overview:
    """What there is to say of the server ``name``, from what the Hub already knows (C3).

    ``job`` is the monitor's last word on its job, ``host`` where the server itself says it is.
    ``ready`` and ``stopping`` are the Hub's, and newer than that. ``warning`` is minutes, ``left``
    seconds.
    """
    return Overview(
        name=name,
        system=system,
        job_id=job_id,
        state=_state(job, job_id, ready=ready, stopping=stopping),
        node=(job.nodes if job is not None else "") or host,
        left=None if left is None else int(left),
        warning=A_MINUTE * warning,
    )


def _state(job: Job | None, job_id: str, *, ready: bool, stopping: bool) -> str:
    if stopping:
        return "stopping"
    if job is not None and job.state.terminal:
        return "ended"
    if job is not None and job.state is JobState.SUSPENDED:
        return "suspended"
    if ready:
        return "running"
    if not job_id:
        return "being submitted"
    return "queued" if job is None or job.state is JobState.PENDING else "starting"


def servers(user: Any) -> list[Overview]:
    """What the home page says of those of ``user``'s servers that have a job, by name."""
    found = (
        spawner.overview() for spawner in user.spawners.values() if hasattr(spawner, "overview")
    )
    return sorted((each for each in found if each is not None), key=lambda each: each.name)


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
    """How ``user``'s server called ``server`` ended, where the Hub knows it (ending.Ending)."""
    if server not in user.orm_spawners:
        return None
    spawner = user.spawners[server]
    return spawner.last_end() if hasattr(spawner, "last_end") else None


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
        "firecrest_servers": servers,
        "firecrest_reauth": partial(links.reauth, app.hub.base_url),
        "firecrest_output": partial(links.output, app.hub.base_url),
    }
    for environment in ("jinja2_env", "jinja2_env_sync"):
        app.tornado_settings[environment].globals.update(functions)
    # The one thing that JupyterHub calls with whom it serves (BaseHandler.template_namespace).
    variables = app.tornado_settings.get("template_vars") or {}
    app.tornado_settings["template_vars"] = {**variables, "firecrest_viewer": viewer}
    if TEMPLATES not in app.template_paths:
        app.log.warning(
            "JupyterHub.template_paths lacks %s: the home page will not say when a user's session "
            "has ended, which system is unwell, nor where servers run. Insert a directory of your "
            "own instead of assigning the list.",
            TEMPLATES,
        )
