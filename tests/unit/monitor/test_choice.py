"""Which way does the monitor look, and does it find back to the list? In virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from firecrestspawner.errors import Unreachable, Unwell
from firecrestspawner.isolation import EACH
from firecrestspawner.models import JobState
from firecrestspawner.pace import PROBE, RETRY_MOST
from tests.unit.monitor.scene import Scene, job, settled, until
from tests.unit.virtual_time import in_virtual_time


def since(scene: Scene, before: int) -> list[str]:
    return [what for _, what, _ in scene.cluster.asked[before:]]


@in_virtual_time
async def test_the_list_goes_back_no_further_than_it_must() -> None:
    """C1: jobs that wait or run are in it whatever the window."""
    scene = Scene()
    await settled(scene, "1")
    assert scene.cluster.windows == {"1h"}


@in_virtual_time
async def test_few_servers_among_many_jobs_are_asked_for_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """C1, R9: release 2.5.6 lists everybody's jobs of a week."""
    caplog.set_level(logging.INFO)
    scene = Scene()
    scene.cluster.others = 10_000
    watches = await settled(scene, "1", "2", "3")
    assert "does not filter the list of jobs on demo by name" in caplog.text
    before, began = len(scene.cluster.asked), scene.loop.time()
    scene.cluster.put(job("4", JobState.PENDING, nodes=""))
    scene.watch("4", settled=False)
    scene.run()
    await asyncio.sleep(1500)
    asked = since(scene, before)
    assert "list" not in asked
    looks = (scene.loop.time() - began) / scene.monitor.slow
    assert asked.count("4") > 2 * looks
    assert asked.count("1") <= looks + 1, "settled servers are looked at once in a slow interval"
    scene.cluster.put(job("2", JobState.COMPLETED))
    await until(watches[1], lambda: watches[1].over, scene.monitor.slow + 5)
    assert scene.monitor.age is not None and scene.monitor.age < scene.monitor.slow + 5


@in_virtual_time
async def test_many_servers_are_looked_at_by_a_list_that_is_not_filtered() -> None:
    """C1."""
    scene = Scene()
    scene.cluster.others = 10_000
    await settled(scene, *(str(number) for number in range(100)))
    before = len(scene.cluster.asked)
    await scene.ticks(5)
    assert since(scene, before) == ["list"] * 5


@in_virtual_time
async def test_the_filter_of_an_upgraded_server_is_used_again() -> None:
    """C1."""
    scene = Scene()
    scene.cluster.others = 10_000
    await settled(scene, "1", "2", "3")
    scene.run()
    await asyncio.sleep(600)
    scene.cluster.others = 0
    await asyncio.sleep(PROBE)
    before = len(scene.cluster.asked)
    await asyncio.sleep(600)
    assert set(since(scene, before)) == {"list"}


@in_virtual_time
async def test_a_failing_list_is_not_asked_for_at_every_look() -> None:
    """R9: each costs the cluster seconds, and everybody who uses it."""
    scene = Scene()
    watches = await settled(scene, *(str(number) for number in range(20)))
    scene.cluster.list_error = Unwell("Poisoned.")
    scene.run()
    await asyncio.sleep(3600)
    assert scene.cluster.count("list") <= 1 + 10 + 3600 / RETRY_MOST
    scene.cluster.put(job("7", JobState.COMPLETED))
    await until(watches[7], lambda: watches[7].over, 2 * scene.monitor.slow)


@in_virtual_time
async def test_with_nobody_at_home_it_is_not_knocked_at_every_door() -> None:
    """R8, R9: a thousand deadlines one after another would take hours."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(1000)))
    scene.cluster.list_error = scene.cluster.job_error = Unreachable("-")
    before = len(scene.cluster.asked)
    with pytest.raises(Unreachable):
        await scene.monitor.tick()
    asked = since(scene, before)
    assert asked[0] == "list" and len(asked) < 1 + 2 * EACH


@in_virtual_time
async def test_after_an_outage_the_list_is_not_the_only_one_to_ask_whether_it_is_over() -> None:
    """R9: a breaker lets one question through now and then, and the list may fail for itself."""
    scene = Scene()
    await settled(scene, "1")
    scene.cluster.list_error = scene.cluster.job_error = Unreachable("-")
    before = len(scene.cluster.asked)
    for _ in range(4):
        await asyncio.sleep(scene.monitor.slow)
        with pytest.raises(Unreachable):
            await scene.monitor.tick()
    assert since(scene, before) == ["list", "1", "1", "list", "1", "1"]
    scene.cluster.job_error = None
    await asyncio.sleep(scene.monitor.slow)
    await scene.monitor.tick()
    await scene.monitor.tick()
    assert since(scene, before)[6:] == ["list", "1"], "with queries answered, the list is the fault"


@in_virtual_time
async def test_a_few_bad_jobs_do_not_keep_the_others_from_being_looked_at() -> None:
    """R9: a round that is given up begins with the others the next time."""
    scene = Scene()
    watches = await settled(scene, *(str(number) for number in range(40)))
    bad = {str(number) for number in range(3 * EACH)}
    scene.cluster.errors |= {job_id: Unwell("A 500.") for job_id in bad}
    scene.cluster.put(*(job(str(number), JobState.COMPLETED) for number in range(40)))
    scene.cluster.list_error = Unwell("Poisoned.")
    scene.run()
    await asyncio.sleep(300)
    assert {watch.job_id for watch in watches if not watch.over} == bad


@in_virtual_time
async def test_a_restarted_hub_with_a_thousand_servers_asks_once() -> None:
    """C1, R6: a running server whose address is known leads nowhere by id."""
    scene = Scene()
    ids = [str(number) for number in range(1000)]
    scene.cluster.put(*(job(job_id) for job_id in ids))
    watches = [scene.watch(job_id) for job_id in ids]
    scene.run()
    await asyncio.wait_for(scene.monitor.first_load.wait(), 5)
    await asyncio.sleep(20)
    assert since(scene, 0) == ["list"]
    scene.cluster.put(job("7", JobState.COMPLETED))
    await until(watches[7], lambda: watches[7].over, scene.monitor.slow + 1)
    assert scene.cluster.by_id() == ["7"]


@in_virtual_time
async def test_an_empty_list_costs_ever_fewer_queries_and_ends_nothing() -> None:
    """R1, C1: for five minutes."""
    scene = Scene()
    watches = await settled(scene, *(str(number) for number in range(100)))
    scene.cluster.listed = []
    scene.run()
    before = len(scene.cluster.by_id())
    await asyncio.sleep(300)
    assert len(scene.cluster.by_id()) - before <= 4 * 100
    assert not any(watch.over for watch in watches)
