"""What becomes of a start whose submit's answer was lost, and of the next one?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from firecrestspawner import cluster
from firecrestspawner.channel import Hello
from firecrestspawner.errors import Unreachable, Unwell
from firecrestspawner.models import JobState
from firecrestspawner.spawn import TOMBSTONES
from tests.unit.spawner.scene import Api, Scene, job

NONCE = "a" * 32


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SETTLING", 0.3)


def lost() -> Unwell:
    return Unwell("It took too long.", ambiguous=True)


async def submitted(scene: Scene, name: str = "") -> Any:
    spawner = scene.spawner(name)
    await spawner._submit_once(*await spawner._prepare())
    return spawner.spawn


async def start_and_fail(scene: Scene, name: str = "") -> Any:
    """A start whose submit is ambiguous, and what the Hub does then. The spawn."""
    spawner = scene.spawner(name)
    with pytest.raises(Unwell):
        await submitted(scene, name)
    spawn = spawner.spawn
    await spawner.stop()
    spawner.clear_state()
    spawner._save()
    return spawn


async def hello(scene: Scene, spawn: Any, job_id: str) -> str:
    end = scene.switchboard.find(spawn.id)
    end = end or scene.switchboard.look_up(spawn.id, scene.db, scene.users)
    assert end is not None
    message = Hello(spawn.id, spawn.line.ticket_secret, NONCE, job_id)
    answer = await end.hear(message, {})
    await end.after(message)
    return answer["verdict"]


@pytest.mark.parametrize("restart", [False, True], ids=["same Hub", "after a restart"])
@pytest.mark.parametrize("second", ["", "other"], ids=["same server", "another server"])
async def test_the_second_start_does_not_adopt_the_firsts_job(
    scene: Scene, api: Api, restart: bool, second: str
) -> None:
    """R3, R7: both answers are lost. The first job appears late, the second is never made."""
    api.submits = [lost(), lost()]
    first = await start_and_fail(scene)
    api.put(job("7"))
    if restart:
        scene.restart()
    again = await start_and_fail(scene, second)
    assert (first.job_id, again.job_id) == ("", "")
    assert api.calls.count("submit") == 2
    assert await hello(scene, first, "7") == "ended"


async def test_the_second_start_finds_its_own_job_beside_the_firsts(scene: Scene, api: Api) -> None:
    """R3."""
    api.submits = [lost(), lost()]
    first = await start_and_fail(scene)
    api.put(job("7"))
    submit = api.submit

    async def made_all_the_same(*args: Any) -> str:
        api.put(job("8"))
        return await submit(*args)

    api.submit = made_all_the_same  # type: ignore[method-assign, assignment]
    spawn = await submitted(scene)
    assert spawn.job_id == "8" and scene.state()["job_id"] == "8"
    assert await hello(scene, first, "7") == "ended"
    assert "tombstones" not in scene.state(), "the first is settled"


@pytest.mark.parametrize("ambiguous", [True, False], ids=["lost", "refused"])
async def test_a_job_that_has_introduced_itself_was_submitted_whatever_the_answer(
    scene: Scene, api: Api, ambiguous: bool
) -> None:
    """R1, R3: only the script holds the ticket. Found by `make chaos SEED=2009258 RUNS=1`."""
    api.submits = [Unwell("No.", ambiguous=ambiguous)]
    submit = api.submit

    async def while_its_job_begins(*args: Any) -> str:
        assert await hello(scene, scene.spawner().spawn, "9") == "start"
        return await submit(*args)

    api.submit = while_its_job_begins  # type: ignore[method-assign, assignment]
    spawn = await submitted(scene)
    assert spawn.job_id == "9" and scene.state()["job_id"] == "9"
    assert scene.spawner().spawn is spawn, "the start goes on"


@pytest.mark.parametrize("answer", ["9", Unwell("It took too long.", ambiguous=True)])
async def test_a_start_goes_on_with_the_job_that_introduces_itself_before_the_answer(
    scene: Scene, api: Api, answer: Any
) -> None:
    """R3: neither a start nor a stop waits for an answer that says what is known already."""
    scene.config.FirecRESTSpawner.stop_patience = 1000
    api.submits = [answer]
    submit, asked, answers = api.submit, asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any) -> str:
        asked.set()
        await answers.wait()
        return await submit(*args)

    api.submit = slowly  # type: ignore[method-assign, assignment]
    spawner = scene.spawner()
    start = asyncio.ensure_future(submitted(scene))
    await asyncio.wait_for(asked.wait(), 10)
    assert await hello(scene, spawner.spawn, "9") == "start"
    spawn = await asyncio.wait_for(start, 10)
    assert spawner._submit is not None and not spawner._submit.done()
    answers.set()
    await asyncio.wait_for(spawner._submit, 10)
    assert spawner.spawn is spawn and scene.state()["job_id"] == "9"


async def test_a_stop_cancels_the_job_that_introduced_itself_before_the_answer(
    scene: Scene, api: Api
) -> None:
    """R7."""
    scene.config.FirecRESTSpawner.stop_patience = 1000
    api.put(job("9"))
    asked, never = asyncio.Event(), asyncio.Event()

    async def mute(*args: Any) -> str:
        asked.set()
        await never.wait()
        return "9"

    api.submit = mute  # type: ignore[method-assign, assignment]
    spawner = scene.spawner()
    start = asyncio.ensure_future(submitted(scene))
    await asyncio.wait_for(asked.wait(), 10)
    await hello(scene, spawner.spawn, "9")
    await start
    await asyncio.wait_for(spawner.stop(now=True), 10)
    assert "cancel 9" in api.calls
    assert spawner._submit is not None
    spawner._submit.cancel()


async def test_a_second_start_waits_for_the_firsts_job_to_appear(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: a ticket whose submit is unsettled is not replaced by a second submit."""
    monkeypatch.setattr(cluster, "SETTLING", 1000.0)
    api.submits = [lost(), "8"]
    await start_and_fail(scene)
    start = asyncio.ensure_future(submitted(scene))
    await asyncio.wait([start], timeout=0.3)
    assert api.calls.count("submit") == 1
    api.put(job("7"))
    assert (await asyncio.wait_for(start, 10)).job_id == "8"


async def test_a_start_that_waits_can_be_stopped_and_submits_nothing(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7."""
    monkeypatch.setattr(cluster, "SETTLING", 1000.0)
    scene.config.FirecRESTSpawner.stop_patience = 20
    api.submits = [lost()]
    await start_and_fail(scene)
    spawner = scene.spawner()
    start = asyncio.ensure_future(spawner.start())
    await asyncio.wait([start], timeout=0.3)
    await asyncio.wait_for(spawner.stop(), 10)
    with pytest.raises(Exception, match=r"The start was cancelled\."):
        await start
    assert api.calls.count("submit") == 1
    assert len(scene.state()["tombstones"]) == 1, "the first one's"


async def test_without_a_list_a_start_goes_on_and_adopts_nothing(scene: Scene, api: Api) -> None:
    """R3: a poisoned list keeps nobody from starting."""
    api.submits = [lost(), "8"]
    await start_and_fail(scene)
    api.list_error = Unreachable("away")
    assert (await asyncio.wait_for(submitted(scene), 10)).job_id == "8"


async def test_two_servers_that_start_at_once_do_not_wait_for_each_other(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: one that waits for its turn is not one whose answer was lost."""
    monkeypatch.setattr(cluster, "SETTLING", 1000.0)
    api.submits = ["7", "8"]
    spawns = await asyncio.wait_for(asyncio.gather(submitted(scene), submitted(scene, "other")), 10)
    assert {spawn.job_id for spawn in spawns} == {"7", "8"}
    assert "list" not in api.calls


async def test_a_late_refusal_of_an_old_start_leaves_the_new_one_alone(
    scene: Scene, api: Api
) -> None:
    """R1."""
    gate = asyncio.Event()
    submit = api.submit

    async def slow(*args: Any) -> str:
        await gate.wait()
        return await submit(*args)

    api.submit = slow  # type: ignore[method-assign, assignment]
    api.submits = [Unwell("busy"), "8"]
    scene.config.FirecRESTSpawner.stop_patience = 0
    spawner = scene.spawner()
    old = asyncio.ensure_future(submitted(scene))
    await asyncio.wait([old], timeout=0.1)
    await spawner.stop()
    spawner.clear_state()
    new = asyncio.ensure_future(submitted(scene))
    await asyncio.wait([new], timeout=0.1)
    gate.set()
    with pytest.raises(Unwell):
        await old
    assert (await new).job_id == "8" and spawner.spawn is await new
    api.put(job("8", JobState.RUNNING))
    assert await spawner.poll() is None


async def test_an_old_starts_answer_that_is_lost_late_costs_the_new_one_nothing(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R2, R3, R6: what is stored of the new one stays, and its submit waits for the old job."""
    monkeypatch.setattr(cluster, "SETTLING", 1000.0)
    gate = asyncio.Event()

    async def slow(*args: Any) -> str:
        await gate.wait()
        raise lost()

    api.submit = slow  # type: ignore[method-assign, assignment]
    scene.config.FirecRESTSpawner.stop_patience = 0
    spawner = scene.spawner()
    old = asyncio.ensure_future(submitted(scene))
    await asyncio.wait([old], timeout=0.1)
    spawner.spawn.submitted_at -= 2000  # so slow was it
    await spawner.stop()
    spawner.clear_state()
    spawner._save()
    scene.user.spawners.pop("")
    new = asyncio.ensure_future(submitted(scene))
    await asyncio.wait([new], timeout=0.1)
    gate.set()
    with pytest.raises(Unwell):
        await old
    assert scene.state()["spawn_id"] == scene.spawner().spawn.id
    await asyncio.wait([new], timeout=0.3)
    assert api.calls[-1] == "list" and not scene.spawner().spawn.submitted_at
    new.cancel()
    scene.spawner()._submit.cancel()


async def test_a_server_keeps_a_bounded_number_of_lines(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C4: how often everybody's servers call depends on how many lines there are."""
    monkeypatch.setattr(cluster, "SETTLING", 0.0)
    scene.config.FirecRESTSpawner.stop_patience = 0
    api.submits = [lost() for _ in range(TOMBSTONES + 2)]
    for _ in range(TOMBSTONES + 2):
        await start_and_fail(scene)
    assert len(scene.state()["tombstones"]) == len(scene.switchboard) == TOMBSTONES
