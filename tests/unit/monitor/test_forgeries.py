"""What can others' jobs and failing lists do to a watch? In virtual time."""

from __future__ import annotations

import asyncio

import pytest

from firecrestspawner import watch as rules
from firecrestspawner.errors import (
    BadAnswer,
    FirecRESTError,
    Unreachable,
    Unwell,
)
from firecrestspawner.isolation import EACH
from firecrestspawner.models import Job, JobState
from firecrestspawner.pace import RETRY_MOST
from tests.unit.monitor.scene import (
    Scene,
    job,
    settled,
)
from tests.unit.virtual_time import in_virtual_time

# -- strangers and forgeries ---------------------------------------------------------------------


@in_virtual_time
async def test_a_number_that_is_anothers_job_is_a_stranger() -> None:
    """R10: a ~/.bashrc can print any number at the submit."""
    scene = Scene()
    scene.cluster.put(job("7", JobState.COMPLETED, user="bob"))
    watch = scene.watch("7")
    await scene.monitor.tick()
    assert watch.stranger and watch.changed.is_set()
    assert not watch.over and watch.job is None


@in_virtual_time
async def test_a_job_of_another_name_is_a_stranger_once_its_name_has_had_time_to_appear() -> None:
    """R10: for seconds after a submit slurmdbd calls a job "allocation"."""
    scene = Scene()
    scene.cluster.put(job("7", JobState.PENDING, name="allocation"))
    watch = scene.watch("7")
    await scene.ticks(3, apart=2)
    assert not watch.stranger and watch.confirmed is None
    await scene.ticks(3, apart=rules.PLACEHOLDER_SECONDS)
    assert watch.stranger


@in_virtual_time
async def test_a_name_that_appears_late_makes_the_job_ours() -> None:
    """R10."""
    scene = Scene()
    scene.cluster.put(job("7", JobState.PENDING, name="allocation"))
    watch = scene.watch("7")
    await scene.ticks(2, apart=2)
    scene.cluster.put(job("7", JobState.RUNNING))
    await scene.ticks(2)
    assert not watch.stranger and watch.confirmed is not None


@in_virtual_time
async def test_a_stranger_harms_nobody_but_its_watcher() -> None:
    """R10: alice's forged number is bob's job; bob's own watch goes on."""
    scene = Scene()
    scene.cluster.put(job("7", user="bob"))
    bobs = scene.watch("7", "bob")
    await scene.monitor.tick()
    scene.watch("7", "alice")
    scene.cluster.put(job("7", JobState.COMPLETED, user="bob"))
    await scene.ticks(3)
    assert bobs.ended is not None and not bobs.stranger


@in_virtual_time
async def test_unwatching_a_forged_number_leaves_the_owners_watch_alone() -> None:
    """R10."""
    scene = Scene()
    scene.cluster.put(job("7", user="bob"))
    bobs = scene.watch("7", "bob")
    alices = scene.watch("7", "alice")
    scene.monitor.unwatch(alices)
    scene.cluster.put(job("7", JobState.COMPLETED, user="bob"))
    await scene.ticks(2)
    assert bobs.over


@pytest.mark.parametrize(
    "forged",
    [
        job("1", nodes="evil"),
        job("1", JobState.CANCELLED, nodes="evil"),
        job("1", user="mallory", nodes="evil"),
        job("1", name="x", nodes="evil"),
        job("1", JobState.UNKNOWN, nodes="evil"),
    ],
    ids=["nodes", "end", "user", "name", "state"],
)
@in_virtual_time
async def test_a_forged_row_changes_nothing_that_is_believed(forged: Job) -> None:
    """R10, S8: state and nodes count only from a query by id."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    scene.cluster.listed = [forged, job("2")]
    await scene.ticks(5)
    assert watch.confirmed == job("1") and not watch.over and not watch.stranger
    assert other.confirmed == job("2")


@in_virtual_time
async def test_a_forged_row_of_a_queued_job_gives_it_no_node() -> None:
    """R10, S8."""
    scene = Scene()
    scene.cluster.put(job("1", JobState.PENDING, nodes=""))
    scene.cluster.listed = [job("1", JobState.RUNNING, nodes="evil")]
    watch = scene.watch("1", settled=False)
    await scene.ticks(3)
    assert watch.confirmed is not None and watch.confirmed.nodes == ""


@in_virtual_time
async def test_a_renamed_job_is_believed_again_when_it_agrees() -> None:
    """R10."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", name="renamed"))
    await scene.ticks(3)
    scene.cluster.put(job("1", JobState.COMPLETED))
    await scene.ticks(3)
    assert watch.over


# -- lists that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Unwell("Poisoned."), BadAnswer("Garbage."), Unreachable("-")])
@in_virtual_time
async def test_without_a_list_every_job_is_asked_for_by_id(error: FirecRESTError) -> None:
    """R9: one job called a|b breaks the whole list for everybody."""
    scene = Scene()
    ids = [str(number) for number in range(40)]
    watches = await settled(scene, *ids)
    scene.cluster.list_error = error
    scene.cluster.put(job("17", JobState.FAILED))
    before = len(scene.cluster.asked)
    await scene.monitor.tick()
    assert watches[17].over
    assert [watch.job_id for watch in watches if watch.over] == ["17"]
    assert sorted(what for _, what, _ in scene.cluster.asked[before:]) == sorted(["list", *ids])


@in_virtual_time
async def test_never_more_than_four_are_asked_for_at_a_time() -> None:
    """R9: sshd's MaxSessions serves about five."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(40)))
    scene.cluster.list_error = Unwell("Poisoned.")
    await scene.monitor.tick()
    assert EACH == 4
    assert scene.cluster.most_at_a_time == 4


@in_virtual_time
async def test_the_list_comes_back_by_itself() -> None:
    """R9, C1: and then one request per tick is enough again."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(20)))
    scene.cluster.list_error = Unwell("Poisoned.")
    scene.run()
    await asyncio.sleep(600)
    scene.cluster.list_error = None
    await asyncio.sleep(RETRY_MOST + scene.monitor.slow + 1)
    before = len(scene.cluster.asked)
    await asyncio.sleep(600)
    assert {what for _, what, _ in scene.cluster.asked[before:]} == {"list"}
    assert scene.monitor.snapshot_at is not None
    assert scene.loop.time() - scene.monitor.snapshot_at <= scene.monitor.slow + 1


@in_virtual_time
async def test_one_failing_query_does_not_hide_the_others() -> None:
    """R9."""
    scene = Scene()
    watches = await settled(scene, *(str(number) for number in range(10)))
    scene.cluster.list_error = Unwell("Poisoned.")
    scene.cluster.errors["3"] = Unwell("A 500.")
    scene.cluster.put(*(job(str(number), JobState.COMPLETED) for number in range(10)))
    await scene.monitor.tick()
    assert [watch.job_id for watch in watches if not watch.over] == ["3"]
