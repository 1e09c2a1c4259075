"""What does watching any number of servers cost? In virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from firecrestspawner.models import JobState, Secret
from tests.unit.monitor.scene import (
    Scene,
    job,
    settled,
    unauthorized,
    until,
)
from tests.unit.virtual_time import in_virtual_time


@pytest.mark.parametrize("servers", [1, 500])
@in_virtual_time
async def test_any_number_of_servers_costs_one_request_per_tick(servers: int) -> None:
    """C1."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(servers)))
    before, began = len(scene.cluster.asked), scene.loop.time()
    scene.run()
    await asyncio.sleep(3600)
    asked = [what for _, what, _ in scene.cluster.asked[before:]]
    assert set(asked) == {"list"}
    ticks = (scene.loop.time() - began) / scene.monitor.slow
    assert 0.9 * ticks <= len(asked) <= ticks + 1
    assert scene.account.given == 1


@in_virtual_time
async def test_a_change_costs_one_more_by_id() -> None:
    """C1."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(100)))
    before = len(scene.cluster.asked)
    scene.cluster.put(job("5", JobState.COMPLETED), job("6", JobState.SUSPENDED))
    await scene.ticks(10)
    asked = [what for _, what, _ in scene.cluster.asked[before:]]
    assert sorted(asked) == sorted(["list"] * 10 + ["5", "6"])


@pytest.mark.parametrize("starting", [False, True], ids=["slow ticks", "fast ticks"])
@pytest.mark.parametrize("alternating", [False, True])
@in_virtual_time
async def test_rows_that_keep_announcing_what_is_not_so_cost_little(
    starting: bool, alternating: bool
) -> None:
    """C1: job names are the user's own, and may hold what looks like another job's row."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    watch.starting = starting
    forged = [job("1", JobState.CANCELLED), job("1", nodes="evil"), job("1")]
    scene.cluster.listed = forged[:1]
    before = len(scene.cluster.by_id())
    scene.run()
    for _ in range(3600):
        await asyncio.sleep(1)
        if alternating:
            scene.cluster.listed = [forged[int(scene.loop.time()) % 3]]
    assert len(scene.cluster.by_id()) - before <= 20


@in_virtual_time
async def test_after_rows_that_were_forged_a_true_end_is_seen_all_the_same() -> None:
    """R1, C1."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.listed = [job("1", JobState.CANCELLED)]
    scene.run()
    await asyncio.sleep(3600)
    scene.cluster.listed = None
    await asyncio.sleep(400)
    scene.cluster.put(job("1", JobState.COMPLETED))
    await until(watch, lambda: watch.over, scene.monitor.slow + 1)


@in_virtual_time
async def test_queued_jobs_cost_nothing_by_id() -> None:
    """C1."""
    scene = Scene()
    for number in range(100):
        scene.cluster.put(job(str(number), JobState.PENDING, nodes=""))
        scene.watch(str(number), settled=False)
    await scene.ticks(10, apart=2)
    assert scene.cluster.by_id() == []


@in_virtual_time
async def test_nothing_is_asked_while_nothing_is_watched() -> None:
    """C1."""
    scene = Scene()
    scene.run()
    await asyncio.sleep(3600)
    assert scene.cluster.asked == []
    scene.cluster.put(job("1"))
    watch = scene.watch("1")
    await asyncio.wait_for(watch.changed.wait(), 2)
    scene.monitor.unwatch(watch)
    await asyncio.sleep(60)
    before = len(scene.cluster.asked)
    await asyncio.sleep(3600)
    assert len(scene.cluster.asked) == before


@in_virtual_time
async def test_many_who_are_in_a_hurry_share_a_tick() -> None:
    """C1: a course of 200 that starts at once."""
    scene = Scene()
    scene.run()
    await asyncio.sleep(10)
    for number in range(200):
        scene.cluster.put(job(str(number), JobState.PENDING, nodes=""))
        scene.watch(str(number), settled=False)
        await asyncio.sleep(0.005)
    assert scene.cluster.count("list") <= 1 + 1.0 / 0.2


@in_virtual_time
async def test_ticks_are_quick_only_while_something_starts() -> None:
    """C1."""
    scene = Scene()
    scene.cluster.put(job("1"))
    watch = scene.watch("1", settled=False)
    scene.run()
    await asyncio.sleep(60)
    assert scene.cluster.count("list") > 20
    watch.starting = False
    await asyncio.sleep(3)
    before = scene.cluster.count("list")
    await asyncio.sleep(300)
    assert scene.cluster.count("list") - before <= 11


@in_virtual_time
async def test_a_refused_token_is_replaced_once() -> None:
    """C1: the issuer may have changed its keys."""
    scene = Scene()
    await settled(scene, "1")
    refused = iter([unauthorized(), None])
    serve = scene.cluster._serve

    async def refuse_the_first(what: str, token: Secret) -> None:
        await serve(what, token)
        if token.reveal() == "token 1" and (error := next(refused, None)):
            raise error

    scene.cluster._serve = refuse_the_first  # type: ignore[method-assign]
    await scene.monitor.tick()
    assert scene.cluster.asked[-1][1:] == ("list", "token 2")


@in_virtual_time
async def test_what_a_user_is_shown_is_the_newest_of_list_and_query() -> None:
    scene = Scene()
    scene.cluster.put(job("1", JobState.PENDING, nodes="", reason="Resources"))
    watch = scene.watch("1", settled=False)
    await scene.monitor.tick()
    assert watch.job is not None and watch.job.reason == "Resources"
    scene.cluster.put(replace(job("1", JobState.PENDING, nodes=""), reason="Priority"))
    await scene.monitor.tick()
    assert watch.job.reason == "Priority"
