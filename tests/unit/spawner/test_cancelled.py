"""What is left of a start that is cancelled, at whatever moment?"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.user import User

from firecrestspawner import cluster
from firecrestspawner.channel import Hello, Ready
from firecrestspawner.models import JobState
from tests.unit.spawner.scene import Api, Scene, job
from tests.unit.virtual_time import in_virtual_time

NONCE = "a" * 32


class Distant(Api):
    """FirecREST, whose answers take some rounds of the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted = asyncio.Event()

    async def systems(self, *args: Any) -> Any:
        await rounds(3)
        return await super().systems(*args)

    async def nodes(self, *args: Any) -> Any:
        await rounds(3)
        return await super().nodes(*args)

    async def submit(self, *args: Any) -> Any:
        await rounds(3)
        answer = await super().submit(*args)
        self.submitted.set()
        await rounds(3)
        return answer

    async def job(self, *args: Any) -> Any:
        await rounds(3)
        return await super().job(*args)


async def rounds(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def begin_and_listen(scene: Scene, api: Distant, job_id: str) -> None:
    """What a job does that begins as soon as it is submitted, while the Hub wants it."""
    api.submitted.clear()
    await api.submitted.wait()
    api.put(job(job_id, JobState.RUNNING))
    await rounds(5)
    spawner = scene.user.spawners[""]
    spawn = spawner.spawn
    hello = Hello(spawn.id, spawn.line.ticket_secret, NONCE, job_id)
    if (await spawner.hear(hello, {}))["verdict"] == "ended":
        return
    spawn.line.prove = lambda raw: None
    await rounds(5)
    await spawner.hear(Ready(spawn.id, ("10.1.0.1",), 20001), {})


def left(scene: Scene) -> list[Any]:
    """Jobs, watches, tokens, and what is stored or waited for of a start."""
    tokens = scene.db.query(orm.APIToken).filter(orm.APIToken.note.like("Server at %"))
    names = ("spawn_id", "tombstones")
    clusters = scene._clusters[-1]._clusters.values()
    state = scene.state() if "" in scene.row.orm_spawners else {}
    return [
        *(each for each in scene.api.jobs_by_id.values() if not each.state.terminal),
        *(watch for each in clusters for watch in each.monitor.watches),
        *(turn for each in clusters for turn in each._submitting.values() if turn.locked()),
        *tokens,
        *(name for name in names if name in state),
        *scene.switchboard._ends,
    ]


@in_virtual_time
async def test_a_start_can_be_cancelled_in_any_round_of_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R7, S10: JupyterHub gives it a second to be gone, and then calls its stop."""

    async def answers(user: User, spawner: Any) -> None:
        spawner._start_pending = False

    monkeypatch.setattr(User, "_wait_up", answers)
    api = Distant()
    monkeypatch.setattr(cluster, "FirecREST", lambda url: api)
    scene = Scene(api)
    scene.let_users_spawn()
    for number in range(1000):
        api.submits = [str(number)]
        start = asyncio.ensure_future(scene.user.spawn(""))
        living = asyncio.ensure_future(begin_and_listen(scene, api, str(number)))
        await rounds(number)
        if start.done():
            break
        start.cancel()
        await asyncio.wait([start], timeout=1)
        # Python 3.10 loses it in User.spawn's asyncio.wait_for(), and nobody can tell.
        assert start.cancelled() or sys.version_info < (3, 11), f"in round {number}"
        if "" in scene.row.orm_spawners:
            await scene.user.stop("")
        living.cancel()
        assert left(scene) == [], f"after round {number}"
    await start
    assert number > 20 and scene.user.spawners[""].ready
    await scene.aclose()
