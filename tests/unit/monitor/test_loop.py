"""Does the monitor's loop go on whatever happens, and can everybody tell how old its news is?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from firecrestspawner.errors import Unreachable
from firecrestspawner.isolation import EACH
from firecrestspawner.models import JobState
from firecrestspawner.monitor import STUCK, WATCHDOG
from firecrestspawner.watch import MISSING_RECHECK
from tests.unit.monitor.scene import Scene, job, settled, until
from tests.unit.virtual_time import in_virtual_time


def kept(scene: Scene) -> asyncio.Task[None]:
    """The monitor's loop under its watchdog."""
    return asyncio.ensure_future(scene.monitor.keep_running())


async def forever(*args: Any, **kwargs: Any) -> Any:
    await asyncio.Event().wait()


@in_virtual_time
async def test_the_age_of_the_news_is_known_to_everybody() -> None:
    scene = Scene()
    assert scene.monitor.age is None and not scene.monitor.first_load.is_set()
    await settled(scene, "1")
    assert scene.monitor.first_load.is_set()
    assert scene.monitor.age == pytest.approx(0.1)  # the query by id
    await asyncio.sleep(100)
    assert scene.monitor.age == pytest.approx(100.1)


@in_virtual_time
async def test_the_news_grows_old_while_nobody_answers_and_is_young_again_by_itself() -> None:
    """R9."""
    scene = Scene()
    await settled(scene, "1")
    scene.cluster.list_error = scene.cluster.job_error = Unreachable("-")
    kept(scene)
    await asyncio.sleep(6 * 3600)
    assert scene.monitor.age is not None and scene.monitor.age > 6 * 3600
    scene.cluster.list_error = scene.cluster.job_error = None
    await asyncio.sleep(61)
    assert scene.monitor.age < 61


@in_virtual_time
async def test_who_waits_for_the_first_load_waits_until_somebody_answers() -> None:
    """R6: and who gives up spoils it for nobody."""
    scene = Scene()
    scene.cluster.list_error = scene.cluster.job_error = Unreachable("-")
    scene.cluster.put(job("1"))
    scene.watch("1")
    kept(scene)
    patient = asyncio.ensure_future(scene.monitor.first_load.wait())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(scene.monitor.first_load.wait(), 600)
    scene.cluster.list_error = scene.cluster.job_error = None
    await asyncio.wait_for(patient, 61)
    assert list(scene.monitor.snapshot) == ["1"]


@in_virtual_time
async def test_a_loop_that_was_ended_is_begun_anew(caplog: pytest.LogCaptureFixture) -> None:
    """R1: whoever ended it."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    kept(scene)
    await asyncio.sleep(100)
    for task in asyncio.all_tasks():
        if getattr(task.get_coro(), "__qualname__", "") == "JobMonitor.run":
            task.cancel()
    scene.cluster.put(job("1", JobState.COMPLETED))
    await until(watch, lambda: watch.over, WATCHDOG + scene.monitor.slow)
    assert "had ended; it begins anew" in caplog.text


@in_virtual_time
async def test_a_loop_that_dies_is_begun_anew_and_says_of_what(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R1: a fault where none was foreseen."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    wait, faults = scene.monitor._wait, iter([ZeroDivisionError("a fault of ours")] * 3)

    def fail() -> float:
        for fault in faults:
            raise fault
        return wait()

    scene.monitor._wait = fail  # type: ignore[method-assign]
    kept(scene)
    await asyncio.sleep(60)
    assert caplog.text.count("a fault of ours") == 3
    scene.cluster.put(job("1", JobState.COMPLETED))
    await until(watch, lambda: watch.over, scene.monitor.slow + 1)


@pytest.mark.parametrize("what", ["jobs", "job"])
@in_virtual_time
async def test_a_look_that_hangs_is_ended_and_the_next_one_comes(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R1, R8: a call without its deadline, say."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    working = getattr(scene.cluster, what)
    setattr(scene.cluster, what, forever)
    scene.cluster.put(job("1", JobState.COMPLETED))
    kept(scene)
    await asyncio.sleep(STUCK + 3 * WATCHDOG)
    assert "hung; it begins anew" in caplog.text
    setattr(scene.cluster, what, working)
    await until(watch, lambda: watch.over, STUCK + 3 * WATCHDOG + scene.monitor.slow)


@in_virtual_time
async def test_a_long_look_is_not_taken_for_one_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R9: ten thousand queries by id, and each is answered."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(10_000)))
    scene.cluster.listed = []
    await asyncio.sleep(MISSING_RECHECK)
    before, began = len(scene.cluster.by_id()), scene.loop.time()
    kept(scene)
    await asyncio.sleep(10_000 * scene.cluster.latency / EACH + 1)
    assert len(scene.cluster.by_id()) >= before + 10_000
    assert scene.loop.time() - began > STUCK
    assert "anew" not in caplog.text


@in_virtual_time
async def test_a_loop_with_nothing_to_watch_is_not_stuck(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    kept(scene)
    await asyncio.sleep(24 * 3600)
    assert caplog.text == ""


@in_virtual_time
async def test_the_loop_ends_with_its_owner() -> None:
    scene = Scene()
    await settled(scene, "1")
    owner = kept(scene)
    await asyncio.sleep(100)
    owner.cancel()
    await asyncio.wait([owner])
    before = len(scene.cluster.asked)
    await asyncio.sleep(600)
    assert len(scene.cluster.asked) == before


@in_virtual_time
async def test_a_list_that_takes_long_is_asked_for_less_often() -> None:
    """C1: at most a fifth of the time is spent with looking, up to the slow interval."""
    scene = Scene()
    scene.cluster.latency = 5.0
    scene.cluster.put(job("1", JobState.PENDING, nodes=""))
    scene.watch("1", settled=False)
    scene.run()
    await asyncio.sleep(120)
    assert scene.cluster.count("list") <= 1 + 120 / 25


@in_virtual_time
async def test_a_job_in_the_queue_for_hours_is_not_looked_at_every_two_seconds() -> None:
    """C1: and what comes next is seen at once, for its job says so."""
    scene = Scene()
    scene.cluster.put(job("1", JobState.PENDING, nodes=""))
    scene.watch("1", settled=False)
    scene.run()
    await asyncio.sleep(3600)
    before = scene.cluster.count("list")
    await asyncio.sleep(600)
    assert scene.cluster.count("list") - before <= 600 / scene.monitor.slow + 1
    await asyncio.sleep(scene.monitor.slow / 3)
    before = scene.cluster.count("list")
    scene.monitor.hurry()
    await asyncio.sleep(0.5)
    assert scene.cluster.count("list") == before + 1


@pytest.mark.parametrize("rounds", range(6))
def test_a_watch_that_is_ended_as_it_wakes_ends_at_once(rounds: int) -> None:
    """R8: a Hub that shuts down does not wait for it. Until Python 3.12 a cancellation that comes
    together with the news is lost, a few rounds of the event loop after them."""

    async def end() -> float:
        scene = Scene()
        await settled(scene, "1")
        watching = kept(scene)
        await asyncio.sleep(1)
        began = scene.loop.time()
        scene.monitor.hurry()
        for _ in range(rounds):
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait([watching])
        return scene.loop.time() - began

    assert in_virtual_time(end)() < 1
