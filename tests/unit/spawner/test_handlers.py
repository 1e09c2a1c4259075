"""What does the job channel's endpoint take in, and whom does it look for?"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy
import tornado.httpserver
import tornado.netutil
from jupyterhub import orm
from tornado.web import Application

from firecrestspawner import channel
from firecrestspawner.handlers import JobChannelHandler, Switchboard
from tests.unit.spawner.scene import Scene

ALIVE = {"message": "alive", "spawn_id": "0" * 16, "mac": "0" * 64}


class Door:
    """The endpoint, on a port."""

    def __init__(self, scene: Scene) -> None:
        self.switchboard = scene.switchboard
        application = Application(
            [("/job", JobChannelHandler, {"switchboard": scene.switchboard})],
            db=scene.db,
            users=scene.users,
            hub=scene.user.settings["hub"],
            log=logging.getLogger("hub"),
        )
        [socket] = tornado.netutil.bind_sockets(0, "127.0.0.1")
        self.port = socket.getsockname()[1]
        self.server = tornado.httpserver.HTTPServer(application)
        self.server.add_socket(socket)

    async def send(self, head: str, *chunks: bytes) -> bytes:
        """A request as it is; the head of the answer, empty if the connection was reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"POST /job HTTP/1.1\r\nHost: hub\r\n{head}\r\n\r\n".encode())
        try:
            for chunk in chunks:
                writer.write(chunk)
                await asyncio.wait_for(writer.drain(), 5)
            return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def ask(self, message: dict[str, Any]) -> bytes:
        body = json.dumps(message).encode()
        return await self.send(f"Content-Length: {len(body)}", body)


@pytest.fixture
async def door(scene: Scene) -> AsyncIterator[Door]:
    door = Door(scene)
    yield door
    door.server.stop()
    await door.server.close_all_connections()


async def test_a_message_is_answered_however_its_body_comes(door: Door) -> None:
    body = json.dumps(ALIVE).encode()
    assert b"200 OK" in await door.ask(ALIVE)
    halves = [b"%x\r\n%s\r\n" % (len(half), half) for half in (body[:20], body[20:])]
    chunked = await door.send("Transfer-Encoding: chunked", *halves, b"0\r\n\r\n")
    assert b"200 OK" in chunked and b"no-store" in chunked


@pytest.mark.parametrize("announced", [True, False])
async def test_a_long_body_is_not_read(
    door: Door, announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C4, R8: nobody has to prove anything to send one."""
    taken = 0
    received = JobChannelHandler.data_received

    def count(self: JobChannelHandler, chunk: bytes) -> None:
        nonlocal taken
        taken += len(chunk)
        received(self, chunk)

    monkeypatch.setattr(JobChannelHandler, "data_received", count)
    length = 50_000_000
    if announced:
        answer = await door.send(f"Content-Length: {length}", *[b" " * 8192] * 10)
    else:
        chunk = b"2000\r\n" + b" " * 8192 + b"\r\n"
        answer = await door.send("Transfer-Encoding: chunked", *[chunk] * 100)
    assert b"200 OK" not in answer
    assert taken <= channel.MAX_BODY


async def test_strangers_cost_the_database_one_read(scene: Scene) -> None:
    """C4: and delay no tombstone's answer."""
    queries: list[str] = []
    engine = scene.factory.kw["bind"]
    sqlalchemy.event.listen(
        engine, "before_cursor_execute", lambda *args: queries.append(str(args[2]))
    )
    switchboard = Switchboard()
    for number in range(1000):
        assert switchboard.look_up(f"{number:016x}", scene.db, scene.users) is None
    assert len([query for query in queries if "spawners" in query]) <= 1


async def test_an_alive_that_changes_nothing_costs_the_database_nothing(
    scene: Scene, door: Door
) -> None:
    """C4: nor does its end in the handler, where JupyterHub looks after its session."""
    scene.api.submits = ["7"]
    spawner = scene.spawner()
    await spawner._submit_once(*await spawner._prepare())
    line, spawn_id = spawner.spawn.line, spawner.spawn.id
    hello = {"ticket": line.ticket.reveal(), "nonce": "0" * 32, "job_id": "7"}
    assert b"200 OK" in await door.ask({"message": "hello", **hello})
    alive = channel.signed({"message": "alive", "spawn_id": spawn_id}, line.secret)
    touched: list[str] = []
    engine = scene.factory.kw["bind"]
    for event in ("begin", "commit", "rollback"):
        sqlalchemy.event.listen(engine, event, lambda *_, event=event: touched.append(event))
    for _ in range(3):
        assert b"200 OK" in await door.ask(alive)
    assert touched == []
    # That it would have been seen: the next word changes something.
    spawner._save()
    assert touched


async def test_a_tombstone_is_found_at_once_after_a_restart_whoever_asked_before(
    scene: Scene,
) -> None:
    """R7."""
    scene.api.submits = ["7", "8"]
    ids = []
    for name in ("", "second"):
        spawner = scene.spawner(name)
        await spawner._submit_once(*await spawner._prepare())
        spawn = spawner.spawn
        spawner.tombstones = [spawn.tombstone("Stopped.")]
        ids.append(spawn.id)
        spawner.clear_state()
        spawner._save()
    scene.restart()
    for number in range(100):
        assert scene.switchboard.look_up(f"{number:016x}", scene.db, scene.users) is None
    for spawn_id in ids:
        assert scene.switchboard.look_up(spawn_id, scene.db, scene.users) is not None


async def test_a_user_who_is_gone_has_no_line(scene: Scene) -> None:
    orphan = orm.Spawner(name="x", state={"tombstones": [{"spawn_id": "1" * 16}]})
    scene.db.add(orphan)
    scene.db.commit()
    assert scene.switchboard.look_up("1" * 16, scene.db, scene.users) is None
