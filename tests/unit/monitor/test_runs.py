"""Which run of which job is an answer about? Requeues, numbers used again, late records."""

from __future__ import annotations

import asyncio
import time

import pytest

from firecrestspawner.errors import BadAnswer, NotFound, ProviderUnavailable
from firecrestspawner.models import Job, JobState
from firecrestspawner.watch import REQUEUE_SECONDS, Watch
from tests.unit.monitor.scene import NAME, Scene, job, settled, unauthorized, until
from tests.unit.virtual_time import in_virtual_time

NOW = 1_800_000_000


def watch(since: float = NOW) -> Watch:
    return Watch("1", "alice", NAME, since=since)


def ran(state: JobState, start: int | None, end: int | None, **fields: str) -> Job:
    return job("1", state, start=start, end=end, **fields)


# -- lost nodes and preemption -------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in JobState if state.may_run_again])
@in_virtual_time
async def test_a_lost_node_is_the_end_when_it_is_still_so_after_a_while(state: JobState) -> None:
    """R1: a partition may requeue what the script did not ask for."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", state))
    began = scene.loop.time()
    scene.run()
    await asyncio.sleep(REQUEUE_SECONDS - 10)
    assert not watch.over and scene.cluster.by_id().count("1") > 2
    await until(watch, lambda: watch.over, 100)
    assert watch.ended is not None and watch.ended.state is state
    assert scene.loop.time() - began >= REQUEUE_SECONDS


@pytest.mark.parametrize("state", [state for state in JobState if state.may_run_again])
@in_virtual_time
async def test_a_job_that_is_put_back_into_the_queue_lives(state: JobState) -> None:
    """R1: node failure, wait of two minutes, another node; twice."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.run()
    for _ in range(2):
        scene.cluster.put(job("1", state))
        await asyncio.sleep(REQUEUE_SECONDS - 40)
        scene.cluster.put(job("1", JobState.PENDING, nodes="", reason="BeginTime"))
        await asyncio.sleep(REQUEUE_SECONDS)
        scene.cluster.put(job("1", nodes="nid002"))
        await asyncio.sleep(60)
        assert not watch.over
    assert watch.confirmed == job("1", nodes="nid002")
    scene.cluster.put(job("1", JobState.COMPLETED, nodes="nid002"))
    await until(watch, lambda: watch.over, scene.monitor.slow + 1)


# -- a number that is used again -----------------------------------------------------------------


def test_the_record_of_an_earlier_job_of_that_number_is_no_end() -> None:
    """R1: a cluster that was set up again counts from one, and forgets nothing it wrote down."""
    ours = watch()
    old = ran(JobState.COMPLETED, NOW - 90 * 86_400, NOW - 89 * 86_400)
    assert ours.answered(old, now=1.0) is None
    assert ours.ended is None and ours.job is None and not ours.stranger
    assert ours.absent_answers == 0
    running = ran(JobState.RUNNING, NOW + 60, None)
    assert ours.answered(running, now=5.0) == running
    assert ours.answered(old, now=9.0) is None and ours.confirmed == running
    done = ran(JobState.FAILED, NOW + 60, NOW + 600)
    assert ours.answered(done, now=600.0) == done and ours.over


def test_the_end_of_the_run_before_a_requeue_is_no_end_of_the_next() -> None:
    """R1: both times are the cluster's own, so no clock matters."""
    ours = watch(since=0)
    ours.answered(ran(JobState.RUNNING, 5000, None), now=1.0)
    ours.answered(ran(JobState.RUNNING, 7000, None, nodes="nid002"), now=2.0)
    assert ours.answered(ran(JobState.FAILED, 5000, 6000), now=3.0) is None
    assert ours.ended is None
    ours.answered(ran(JobState.FAILED, 7000, 7001), now=4.0)
    assert ours.over


def test_the_end_of_a_later_job_of_that_number_is_the_end_of_ours() -> None:
    """R1: a number is free only when its job is gone."""
    ours = watch()
    ours.answered(ran(JobState.RUNNING, NOW + 60, None), now=1.0)
    ours.answered(ran(JobState.RUNNING, NOW + 86_400, None), now=2.0)
    assert ours.ended is None, "it may be another run of ours"
    ours.answered(ran(JobState.COMPLETED, NOW + 86_400, NOW + 90_000), now=3.0)
    assert ours.over


@pytest.mark.parametrize("skew", [-14 * 3600, -60, 0, 60, 14 * 3600])
def test_a_cluster_with_another_clock_is_believed_all_the_same(skew: int) -> None:
    ours = watch()
    ours.answered(ran(JobState.FAILED, NOW + skew, NOW + skew + 1), now=1.0)
    assert ours.over


@pytest.mark.parametrize(
    "end",
    [
        ran(JobState.CANCELLED, None, None),
        ran(JobState.CANCELLED, None, NOW + 5),
        ran(JobState.COMPLETED, NOW + 5, None),  # PBS
    ],
    ids=["no times", "never began", "no end"],
)
def test_an_end_without_all_its_times_is_an_end(end: Job) -> None:
    ours = watch()
    ours.answered(end, now=1.0)
    assert ours.over


def test_times_of_a_waiting_job_are_estimates_and_prove_nothing() -> None:
    """R1: Slurm says when it expects to start a job that waits."""
    ours = watch()
    ours.answered(ran(JobState.PENDING, NOW + 9999, NOW + 19_999, nodes=""), now=1.0)
    ours.answered(ran(JobState.CANCELLED, None, NOW + 60, nodes=""), now=2.0)
    assert ours.over


@in_virtual_time
async def test_an_old_record_in_the_list_costs_few_queries_and_is_not_shown() -> None:
    """C1, R1."""
    scene = Scene()
    old = job("1", JobState.COMPLETED, start=1000, end=2000)
    scene.cluster.put(old)
    watch = scene.monitor.watch("1", "alice", since=time.time())
    scene.run()
    await asyncio.sleep(3600)
    assert not watch.over and watch.job is None
    assert len(scene.cluster.by_id()) <= 20


# -- arrays --------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_tasks_of_an_array_are_not_its_absence() -> None:
    """R1: Slurm shows 13_1, 13_2 for job 13; the client says that this is no answer."""
    scene = Scene()
    watch, _ = await settled(scene, "13", "14")
    scene.cluster.listed = [job("13_1", JobState.COMPLETED), job("13_2"), job("14")]
    scene.cluster.errors["13"] = BadAnswer("Tasks.")
    scene.run()
    await asyncio.sleep(3600)
    assert not watch.over and watch.absent_answers == 0


# -- absence, again ------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_that_calls_is_not_absent() -> None:
    """R1: the service account may have lost the right to see one user's jobs and not another's."""
    scene = Scene()
    watch, _ = await settled(scene, "1", "2")
    del scene.cluster.jobs_by_id["1"]
    scene.run()
    for _ in range(100):
        await asyncio.sleep(60)
        watch.heard()
        assert not watch.over
    await until(watch, lambda: watch.over, 600)


@in_virtual_time
async def test_a_job_that_is_seen_again_is_not_absent_any_more() -> None:
    """R1."""
    scene = Scene()
    watch, _ = await settled(scene, "1", "2")
    hidden = scene.cluster.jobs_by_id.pop("1")
    scene.run()
    await until(watch, lambda: watch.absent, 600)
    scene.cluster.put(hidden)
    await until(watch, lambda: not watch.over, 60)


# -- what the issue asks to be shown -------------------------------------------------------------


@in_virtual_time
async def test_a_job_that_is_not_found_for_its_first_seconds_starts() -> None:
    """R1: "404 Job not found." right after the submit."""
    scene = Scene()
    await settled(scene, "1")
    watch = scene.monitor.watch("2", "alice", since=time.time())
    scene.run()
    await asyncio.sleep(10)
    assert not watch.over and not watch.stranger
    scene.cluster.put(job("2", JobState.PENDING, nodes=""))
    await asyncio.sleep(5)
    assert watch.job is not None and watch.job.state is JobState.PENDING
    scene.cluster.put(job("2"))
    await until(watch, lambda: watch.confirmed == job("2"), 5)
    assert not watch.over


@in_virtual_time
async def test_refused_service_accounts_and_garbage_stop_no_server() -> None:
    """R1: 401 for the service account, then 200 with garbage, then no issuer, an hour each."""
    scene = Scene()
    watches = await settled(scene, *(str(number) for number in range(20)))
    scene.run()
    for error in (unauthorized(), BadAnswer("Garbage.")):
        scene.cluster.list_error = scene.cluster.job_error = error
        await asyncio.sleep(3600)
        assert not any(watch.over or watch.stranger for watch in watches)
    scene.cluster.list_error = scene.cluster.job_error = None
    scene.account.error = ProviderUnavailable("Away.")
    await asyncio.sleep(3600)
    scene.account.error = None
    # Everything is "not found": the account has lost the sight of others.
    scene.cluster.listed, scene.cluster.job_error = [], NotFound("No such job.")
    await asyncio.sleep(3600)
    assert not any(watch.over or watch.stranger for watch in watches)
