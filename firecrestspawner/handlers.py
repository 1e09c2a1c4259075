"""The Hub's endpoint for jobs: who is calling, and what is answered.

``POST /hub/api/firecrest/job`` has its own authentication (ticket, then signatures; see
:mod:`firecrestspawner.channel`) and takes neither the Hub's tokens nor its cookies. The
:class:`Switchboard` knows which spawner a message is for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler
from tornado.web import stream_request_body

from . import channel
from .deadline import in_time
from .errors import ChannelError, Error

log = logging.getLogger(__name__)

#: Seconds within which a message is answered; the launcher gives up after ten.
DEADLINE = 8.0


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
        self._stored: dict[str, int] | None = None

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
        tombstone may belong to one that it did not make. Making it plugs its lines in. The database
        is read once, whoever asks for whatever (C4): from the start of this process on, new lines
        come from spawner objects, which plug them in themselves.
        """
        if self._stored is None:
            self._stored = {
                known: row.id
                for row in db.query(orm.Spawner)
                for known in spawn_ids(row.state or {})
            }
        row_id = self._stored.pop(spawn_id, None)
        row = None if row_id is None else db.get(orm.Spawner, row_id)
        if row is not None and row.user is not None:
            users[row.user].get_spawner(row.name)
        return self._ends.get(spawn_id)


def spawn_ids(state: Mapping[str, Any]) -> set[str]:
    """The ids of the spawns a stored state speaks of."""
    stones = state.get("tombstones") or []
    return {str(each["spawn_id"]) for each in (state, *stones) if "spawn_id" in each}


@stream_request_body
class JobChannelHandler(APIHandler):
    """``POST /hub/api/firecrest/job``: one message of a job, one answer."""

    def initialize(self, switchboard: Switchboard) -> None:
        self.switchboard = switchboard

    async def prepare(self) -> None:
        """Skip the Hub's own authentication and its XSRF check: a job has no cookie to protect.

        A longer body than any message is not read: Tornado answers 400 and closes, whether the
        length is announced or not. Its own limit is 100 MB, for whoever can reach the Hub.
        """
        self._jupyterhub_user = None
        self._body = bytearray()
        self.request.connection.set_max_body_size(channel.MAX_BODY)

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def check_xsrf_cookie(self) -> None:
        return

    def get_content_type(self) -> str:
        return "application/json"

    async def post(self) -> None:
        """Answer a message: 200 with the answer, 400 malformed, 403 not proven."""
        try:
            message, raw = channel.parse(bytes(self._body))
            end = self.switchboard.find(message.spawn_id)
            if end is None:
                end = self.switchboard.look_up(message.spawn_id, self.db, self.users)
            if end is None:
                self._reply(200, channel.unknown(message.spawn_id))
                return
            answer = await in_time(end.hear(message, raw), DEADLINE)
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
