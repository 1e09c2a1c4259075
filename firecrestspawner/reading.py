"""What does the page with a job's output show, and to whom? ``GET /hub/firecrest/output``.

To a user in a browser, of a server of their own: an admin's session, a share of the server, and any
API token open nothing here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.user import User
from tornado import web

from . import links, output
from .endings import read_output
from .endpoints import parse_arguments
from .errors import Error
from .output import Output
from .shared import Shared

#: Seconds for which what was read is shown to all who ask (C3).
FRESH = 5.0
NO_JOB = "No job of this server is known here."
#: So many logs are kept; the ones looked at longest ago go first.
KEPT = 100


class Source(NamedTuple):
    """A job of a server: the one that there is, or the last whose end is remembered."""

    spawn_id: str
    system: str
    job_id: str
    path: str


def source_of(spawner: Any) -> Source | None:
    """Which job's output is the server's; None while it has none that the Hub knows."""
    spawn = spawner.spawn
    if spawn is not None:
        path = output.log_path(spawn.log, job_id=spawn.job_id, user=spawn.user)
        return Source(spawn.id, spawn.system, spawn.job_id, path) if spawn.job_id else None
    ending = spawner.ending
    if ending is None or not ending.job_id:
        return None
    return Source(ending.spawn_id, ending.system, ending.job_id, ending.output.path)


class Shelf:
    """The outputs that were read a moment ago: any number of tabs makes one request for each."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Source, Shared[Output]] = OrderedDict()

    async def get(self, spawner: Any, source: Source) -> Output:
        """The end of the job's output, read anew when it is older than FRESH seconds."""

        async def fetch() -> Output:
            return await read_output(spawner, source.system, source.path)

        # By all of it: a job that introduces itself may correct its number, and so its log's path.
        shared = self._kept.setdefault(source, Shared(fetch))
        self._kept.move_to_end(source)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return await shared.get(FRESH)


class OutputHandler(BaseHandler):
    """``GET /hub/firecrest/output?server=NAME``: the end of what the server's job has written."""

    def initialize(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Cache-Control", "no-store")

    @web.authenticated
    async def get(self) -> None:
        """200, also with a sentence where there is nothing to show; 404 for no server of theirs."""
        user = self.current_user
        if not isinstance(user, User) or getattr(self, "_token_authenticated", False):
            raise web.HTTPError(403, "This page is for the user's own browser.")
        try:
            arguments = parse_arguments(self.request.query_arguments, {"server"})
        except Error as error:
            raise web.HTTPError(error.status, error.message) from None
        name = arguments.get("server", "")
        if name not in user.orm_user.orm_spawners:
            raise web.HTTPError(404, "You have no server of that name.")
        spawner = user.spawners[name]
        source = source_of(spawner)
        page = links.output(self.hub.base_url, name)
        html = await self.render_template(
            "firecrest_output.html",
            server_name=name,
            source=source,
            system=spawner.title(source.system) if source else "",
            output=await self.shelf.get(spawner, source) if source else Output("", problem=NO_JOB),
            this_page=page,
            login_again=links.reauth(self.hub.base_url, page),
        )
        self.finish(html)
