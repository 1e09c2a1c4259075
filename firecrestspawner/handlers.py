"""The Hub's endpoint for jobs: who is calling, and what is answered.

``POST /hub/api/firecrest/job`` has its own authentication (ticket, then signatures; see
:mod:`firecrestspawner.channel`) and takes neither the Hub's tokens nor its cookies. The
:class:`Switchboard` knows which spawner a message is for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler

from . import channel
from .errors import ChannelError, Error

log = logging.getLogger(__name__)

#: Seconds within which a message is answered; the launcher gives up after ten.
DEADLINE = 8.0
#: Unknown spawns are looked for in the database at most this often (seconds, C4).
LOOKUP_INTERVAL = 10.0


class End(Protocol):
    """The Hub's end of one line: a spawner, or the tombstone of an ended spawn."""

    async def hear(self, message: channel.Message, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message. Raises ChannelError when it is not proven."""

    async def after(self, message: channel.Message) -> None:
        """What is to be done once the answer is on its way."""


class Switchboard:
    """Finds the Hub's end of a line by the spawn's id."""

    def __init__(self) -> None:
        self._ends: dict[str, End] = {}
        self._looked_at = float("-inf")

    def plug(self, spawn_id: str, end: End) -> None:
        self._ends[spawn_id] = end

    def unplug(self, spawn_id: str) -> None:
        self._ends.pop(spawn_id, None)

    def __len__(self) -> int:
        return len(self._ends)

    def find(self, spawn_id: str) -> End | None:
        return self._ends.get(spawn_id)

    def look_up(self, spawn_id: str, db: Any, users: Any) -> End | None:
        """Find an end that no spawner object of this Hub process has plugged in yet.

        After a restart the Hub makes spawner objects only for servers it takes for running; a
        tombstone may belong to one that it did not make. Making it plugs its lines in.
        """
        if time.monotonic() - self._looked_at < LOOKUP_INTERVAL:
            return None
        self._looked_at = time.monotonic()
        for row in db.query(orm.Spawner).filter(orm.Spawner.state.isnot(None)):
            if row.state and spawn_id in spawn_ids(row.state) and row.user is not None:
                users[row.user].get_spawner(row.name)
                break
        return self._ends.get(spawn_id)


def spawn_ids(state: Mapping[str, Any]) -> set[str]:
    """The ids of the spawns a stored state speaks of."""
    tombstones = state.get("tombstones") or []
    return {str(state.get("spawn_id"))} | {str(stone.get("spawn_id")) for stone in tombstones}


class JobChannelHandler(APIHandler):
    """``POST /hub/api/firecrest/job``: one message of a job, one answer."""

    def initialize(self, switchboard: Switchboard) -> None:
        self.switchboard = switchboard

    async def prepare(self) -> None:
        """Skip the Hub's own authentication and its XSRF check: a job has no cookie to protect."""
        self._jupyterhub_user = None

    def check_xsrf_cookie(self) -> None:
        return

    def get_content_type(self) -> str:
        return "application/json"

    async def post(self) -> None:
        """Answer a message: 200 with the answer, 400 malformed, 403 not proven."""
        try:
            message, raw = channel.parse(self.request.body)
            end = self.switchboard.find(message.spawn_id)
            if end is None:
                end = self.switchboard.look_up(message.spawn_id, self.db, self.users)
            if end is None:
                self._reply(200, channel.unknown(message.spawn_id))
                return
            answer = await asyncio.wait_for(end.hear(message, raw), DEADLINE)
        except ChannelError as error:
            self._refuse(error)
            return
        except Error as error:
            log.warning("Job channel: %s", error.detail)
            self._reply(503, {"status": 503, "message": "Try again."})
            return
        except asyncio.TimeoutError:
            self._reply(503, {"status": 503, "message": "Try again."})
            return
        self._reply(200, answer)
        await end.after(message)

    def _refuse(self, error: ChannelError) -> None:
        if error.status == 403:
            # S4: whoever tries a ticket or a signature that does not fit is worth a line.
            log.warning("Job channel: refused a message from %s: %s",
                        self.request.remote_ip, error.detail)  # fmt: skip
        self._reply(error.status, {"status": error.status, "message": error.message})

    def _reply(self, status: int, body: Mapping[str, Any]) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        # S7: a hello's answer holds the server's environment.
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))
