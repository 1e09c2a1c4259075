"""How long does a stop wait, and what does it leave?"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from jupyterhub.orm import APIToken

from firecrestspawner import channel
from firecrestspawner.channel import Hello
from firecrestspawner.errors import LoginRequired, Unwell
from firecrestspawner.models import JobState
from tests.unit.spawner.scene import Scene, job

NONCE = "a" * 32


async def started(scene: Scene, answer: Any = "7") -> Any:
    """A spawner whose job is submitted."""
    scene.api.submits = [answer]
    spawner = scene.spawner()
    spawn, request, token = await spawner._prepare()
    await spawner._submit_once(spawn, request, token)
    return spawner


@pytest.fixture
def patient(scene: Scene) -> Scene:
    scene.config.FirecRESTSpawner.stop_patience = 40
    return scene


async def test_nothing_is_waited_for_where_a_queued_job_cannot_be_cancelled(patient: Scene) -> None:
    """R7: the tombstone does the rest."""
    spawner = await started(patient)
    patient.logins.error = LoginRequired("over")
    began = time.monotonic()
    await spawner.stop()
    assert time.monotonic() - began < 10
    assert [stone["job_id"] for stone in patient.state()["tombstones"]] == ["7"]
    stone = patient.switchboard.find(spawner.spawn.id)
    assert stone is not None
    hello = Hello(spawner.spawn.id, spawner.spawn.line.ticket_secret, NONCE, "7")
    answer = await stone.hear(hello, {})
    assert answer["verdict"] == "ended"


async def test_one_look_tells_that_a_job_that_cannot_be_cancelled_is_gone(patient: Scene) -> None:
    """A cancel of a finished job is refused, too (FirecREST facts, 9)."""
    spawner = await started(patient)
    patient.logins.error = LoginRequired("over")
    patient.api.put(job("7", JobState.FAILED))
    await spawner.stop()
    assert "tombstones" not in patient.state() or not spawner.tombstones


async def test_a_job_that_is_absent_after_all_would_be_told_that_it_is_not_wanted(
    scene: Scene,
) -> None:
    """R7: absence is concluded from what an account does not see. JupyterHub, which polls first,
    calls no stop for such a server."""
    spawner = await started(scene)
    spawn = spawner.spawn
    spawner._watch.absent = True
    assert await spawner.poll() == 1
    spawner.clear_state()
    spawner._save()
    assert [stone["job_id"] for stone in scene.state()["tombstones"]] == ["7"]
    hello = Hello(spawn.id, spawn.line.ticket_secret, NONCE, "7")
    stone = scene.switchboard.find(spawn.id)
    assert stone is not None
    assert (await stone.hear(hello, {}))["verdict"] == "ended"


async def test_a_running_server_is_given_time_to_hear_that_it_is_not_wanted(patient: Scene) -> None:
    """R7: it calls, is told, and says goodbye."""
    spawner = await started(patient)
    spawn = spawner.spawn
    await spawner.hear(Hello(spawn.id, spawn.line.ticket_secret, NONCE, "7"), {})
    patient.api.put(job("7", JobState.RUNNING))
    patient.logins.error = LoginRequired("over")
    stop = asyncio.ensure_future(spawner.stop())
    await asyncio.wait([stop], timeout=1.0)
    assert not stop.done()
    patient.api.put(job("7", JobState.COMPLETED))
    await asyncio.wait_for(stop, 20)
    assert not spawner.tombstones


async def test_a_stop_that_is_cancelled_still_tells_the_job(patient: Scene) -> None:
    """R7: JupyterHub cancels a start, and with it the stop of one that failed."""
    spawner = await started(patient)
    spawn = spawner.spawn
    await spawner.hear(Hello(spawn.id, spawn.line.ticket_secret, NONCE, "7"), {})
    patient.logins.error = LoginRequired("over")
    stop = asyncio.ensure_future(spawner.stop())
    await asyncio.wait([stop], timeout=0.3)
    stop.cancel()
    await asyncio.wait([stop])
    spawner.clear_state()  # as User.stop does whatever happens
    line = patient.switchboard.find(spawn.id)
    assert line is not None
    raw = channel.signed({"message": "alive", "spawn_id": spawn.id}, spawn.line.secret)
    assert (await line.hear(channel.Alive(spawn.id), raw))["verdict"] == "ended"


async def test_a_job_whose_number_nobody_knows_may_be_there(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Unwell):
        await started(scene, Unwell("Perhaps.", ambiguous=True))
    with caplog.at_level(logging.WARNING):
        await scene.spawner().stop()
    assert "job (number unknown) on daint may be there" in caplog.text


async def test_a_job_whose_number_is_somebody_elses_is_not_waited_for(patient: Scene) -> None:
    """R10: what can be looked at is not the job that was started."""
    spawner = await started(patient)
    spawn = spawner.spawn
    patient.api.put(job("5", JobState.RUNNING, user="bob"))
    await spawner.hear(Hello(spawn.id, spawn.line.ticket_secret, NONCE, "5"), {})
    await spawner._look(spawn)
    began = time.monotonic()
    await spawner.stop()
    assert time.monotonic() - began < 10
    assert not any(call.startswith("cancel") for call in patient.api.calls)


async def test_the_next_start_revokes_the_token_of_one_that_was_cancelled(scene: Scene) -> None:
    """S10: JupyterHub forgets that token when a start follows within its second of grace."""
    spawner = scene.spawner()
    lost = scene.row.new_api_token(note="Server at /user/alice/", scopes=[])
    others = scene.row.new_api_token(note="Server at /user/alice/other/", scopes=[])
    scene.logins.error = LoginRequired("over")
    with pytest.raises(Exception, match="over"):
        await spawner.start()
    valid = [APIToken.find(scene.db, token) is not None
             for token in (lost, others, spawner.api_token)]  # fmt: skip
    assert valid == [False, True, True]
