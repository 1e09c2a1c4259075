"""Is a server ended in time to save, only then, and only if its job is really near its limit?"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from firecrestspawner import channel, conversation
from firecrestspawner.errors import Unreachable
from firecrestspawner.models import JobState
from tests.unit.spawner.scene import Api, Scene, job

HOUR = 3600
STOPPED = "The server was stopped from the Hub."


async def running(scene: Scene, elapsed: int, limit: int | None = HOUR) -> Any:
    """A server whose job has run so long, as a list tells."""
    scene.api.submits = ["7"]
    spawner = scene.spawner()
    spawn, request, token = await spawner._prepare()
    await spawner._submit_once(spawn, request, token)
    spawn.address, spawn.port, spawn.line.ready = "10.1.0.1", 20001, True
    listed(scene, elapsed, limit)
    return spawner


def listed(scene: Scene, elapsed: int, limit: int | None = HOUR, **fields: Any) -> None:
    """What the scheduler says now, in lists and by id; the latter has not been asked just now."""
    row = job("7", JobState.RUNNING, elapsed=elapsed, limit=limit, **fields)
    scene.api.put(row)
    spawner = scene.spawner()
    monitor = spawner._cluster("daint").monitor
    spawner._watch.asked_at = float("-inf")
    spawner._watch.listed(row, monitor.clock(), monitor.fast)


async def alive(spawner: Any) -> dict[str, Any]:
    line = spawner.spawn.line
    said = channel.signed({"message": "alive", "spawn_id": line.spawn_id}, line.secret)
    message, raw = channel.parse(json.dumps(said).encode())
    answer: dict[str, Any] = await spawner.hear(message, raw)
    channel.prove(answer, line.secret)
    return answer


def asked(api: Api) -> int:
    return api.calls.count("job 7")


async def test_a_server_is_ended_a_minute_before_its_jobs_limit(scene: Scene, api: Api) -> None:
    spawner = await running(scene, HOUR - 59)
    answer = await alive(spawner)
    assert (answer["verdict"], answer["reason"]) == ("ended", channel.TIME_IS_UP)
    assert asked(api) == 1
    assert not spawner.spawn.line.ended and spawner.tombstones == [], "nobody has stopped it"
    assert await spawner.poll() is None, "until it says so"


async def test_it_calls_again_when_it_is_time(scene: Scene, api: Api) -> None:
    spawner = await running(scene, HOUR - 68)
    answer = await alive(spawner)
    assert answer["verdict"] == "alive"
    assert 6 <= answer["next"] <= 8
    assert asked(api) == 0
    listed(scene, 60)
    assert (await alive(spawner))["next"] >= 12


async def test_a_job_that_was_extended_since_the_last_look_goes_on(scene: Scene, api: Api) -> None:
    """R7"""
    spawner = await running(scene, HOUR - 30)
    api.put(job("7", JobState.RUNNING, elapsed=HOUR - 30, limit=2 * HOUR))
    answer = await alive(spawner)
    assert answer["verdict"] == "alive" and answer["next"] >= 12
    assert (await alive(spawner))["verdict"] == "alive"
    assert asked(api) == 1


@pytest.mark.parametrize("absence", ["unreachable", "unknown", "another's", "untold", "suspended"])
async def test_without_an_answer_that_proves_it_the_scheduler_decides(
    scene: Scene, api: Api, absence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1, R7, R10: no list's row ends a server, and no outage."""
    spawner = await running(scene, HOUR - 30)
    if absence == "unreachable":

        async def fail(*_: Any) -> Any:
            raise Unreachable("FirecREST does not answer.")

        monkeypatch.setattr(api, "job", fail)
    elif absence == "unknown":
        api.jobs_by_id.clear()
    elif absence == "another's":
        api.put(job("7", JobState.RUNNING, elapsed=HOUR - 30, limit=HOUR, user="mallory"))
    elif absence == "untold":
        api.put(job("7", JobState.RUNNING, limit=HOUR))
    else:
        api.put(job("7", JobState.SUSPENDED, elapsed=HOUR - 30, limit=HOUR))
    assert (await alive(spawner))["verdict"] == "alive"


async def test_a_job_that_calls_without_end_has_the_account_ask_now_and_then(
    scene: Scene, api: Api
) -> None:
    """C1: whoever holds the channel's secret is a user."""
    spawner = await running(scene, HOUR - 30)
    api.jobs_by_id.clear()
    for _ in range(20):
        answer = await alive(spawner)
        assert 1 <= answer["next"] <= 5
    assert asked(api) == 1


@pytest.mark.parametrize(("left", "verdict"), [(31, "alive"), (29, "ended")])
async def test_a_short_job_keeps_nine_tenths_of_its_time(
    scene: Scene, left: int, verdict: str
) -> None:
    spawner = await running(scene, 300 - left, 300)
    assert (await alive(spawner))["verdict"] == verdict


async def test_a_site_may_leave_it_to_the_scheduler(scene: Scene, api: Api) -> None:
    scene.config.FirecRESTSpawner.walltime_grace = 0
    spawner = await running(scene, HOUR)
    answer = await alive(spawner)
    assert answer["verdict"] == "alive" and answer["next"] >= 12
    assert asked(api) == 0


async def test_a_server_that_is_stopped_is_told_that(scene: Scene, api: Api) -> None:
    """R7: and FirecREST is not asked about it any more."""
    spawner = await running(scene, HOUR - 30)
    spawner.spawn.tombstone(STOPPED)
    assert (await alive(spawner))["reason"] == STOPPED
    assert asked(api) == 0


async def test_so_is_one_that_is_stopped_while_firecrest_is_asked(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7"""
    spawner = await running(scene, HOUR - 30)
    answer = api.job

    async def stop_meanwhile(*args: Any) -> Any:
        spawner.spawn.tombstone(STOPPED)
        return await answer(*args)

    monkeypatch.setattr(api, "job", stop_meanwhile)
    assert (await alive(spawner))["reason"] == STOPPED
    assert spawner.spawn.told


async def test_an_answer_that_does_not_come_is_not_waited_for_long(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R8: the job's own call hangs up after ten seconds."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(conversation, "PATIENCE", 0.05)
    spawner = await running(scene, HOUR - 30)

    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(api, "job", hang)
    assert (await alive(spawner))["verdict"] == "alive"
    assert "no answer in 0.05 s" in caplog.text


async def test_a_job_without_a_limit_is_not_ended(scene: Scene) -> None:
    spawner = await running(scene, 10**7, None)
    answer = await alive(spawner)
    assert answer["verdict"] == "alive" and answer["next"] >= 12
