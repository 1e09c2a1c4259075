"""What ends a server in the monitor's eyes, and what does not? In virtual time."""

from __future__ import annotations

import asyncio

import pytest

from firecrestspawner.errors import (
    Error,
    ProviderUnavailable,
)
from firecrestspawner.models import JobState
from tests.unit.monitor.scene import (
    TROUBLES,
    Scene,
    job,
    settled,
    until,
)
from tests.unit.virtual_time import in_virtual_time

# -- what ends a server --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", [state for state in JobState if state.terminal and not state.may_run_again]
)
@in_virtual_time
async def test_a_terminal_state_confirmed_by_id_is_the_end(state: JobState) -> None:
    """R1."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", state, exit_code=3))
    watch.changed.clear()
    await scene.monitor.tick()
    assert watch.over and watch.changed.is_set()
    assert watch.ended is not None and watch.ended.exit_code == 3


@in_virtual_time
async def test_an_end_is_final() -> None:
    """R1: the record of a job that has ended may change; the job does not come back."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", JobState.COMPLETED))
    await scene.monitor.tick()
    scene.cluster.put(job("1", JobState.RUNNING))
    await scene.monitor.confirm(watch)
    assert watch.ended is not None and watch.ended.state is JobState.COMPLETED


@in_virtual_time
async def test_the_end_is_noticed_within_a_tick() -> None:
    scene = Scene()
    scene.cluster.put(job("1"))
    watch = scene.watch("1")
    scene.run()
    await asyncio.sleep(100)
    assert not watch.over
    scene.cluster.put(job("1", JobState.FAILED))
    await until(watch, lambda: watch.over, scene.monitor.slow + 1)


# -- what proves nothing -------------------------------------------------------------------------


@pytest.mark.parametrize("error", TROUBLES, ids=lambda error: type(error).__name__)
@in_virtual_time
async def test_a_failing_firecrest_ends_no_server(error: Error) -> None:
    """R1."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.list_error = scene.cluster.job_error = error
    scene.run()
    await asyncio.sleep(24 * 3600)
    assert not watch.over and not watch.stranger
    assert scene.cluster.count() > 100, "it gave up"


@pytest.mark.parametrize("error", TROUBLES, ids=lambda error: type(error).__name__)
@in_virtual_time
async def test_an_end_that_cannot_be_confirmed_is_no_end(error: Error) -> None:
    """R1: the list says so, but the query by id fails."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", JobState.COMPLETED))
    scene.cluster.job_error = error
    await scene.ticks(20)
    assert not watch.over
    scene.cluster.job_error = None
    await scene.monitor.tick()
    assert watch.over


@in_virtual_time
async def test_an_issuer_that_is_away_ends_no_server() -> None:
    """R1, R5."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.account.error = ProviderUnavailable("Away.")
    scene.run()
    await asyncio.sleep(24 * 3600)
    assert not watch.over
    scene.account.error = None
    scene.cluster.put(job("1", JobState.COMPLETED))
    await asyncio.sleep(61)
    assert watch.over, "it did not come back by itself"


@in_virtual_time
async def test_an_empty_list_ends_no_server() -> None:
    """R1."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.listed = []
    await scene.ticks(100)
    assert not watch.over


@in_virtual_time
async def test_a_terminal_row_of_a_list_ends_no_server() -> None:
    """R1, R10: rows of a list pass through everybody's job names."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.listed = [job("1", JobState.COMPLETED)]
    await scene.ticks(20)
    assert not watch.over
    assert watch.confirmed == job("1")


@pytest.mark.parametrize(
    "state",
    [state for state in JobState if not state.terminal],
)
@in_virtual_time
async def test_no_other_state_is_an_end(state: JobState) -> None:
    """R1: nor is RUNNING that turns into PENDING again (FirecREST facts, 10)."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", state, nodes=""))
    await scene.ticks(20)
    assert not watch.over


@pytest.mark.parametrize("changes", [{"user": "mallory"}, {"name": "another"}, {"name": ""}])
@in_virtual_time
async def test_an_end_under_another_name_or_user_is_no_end(changes: dict[str, str]) -> None:
    """R10: a job whose user or name no longer agrees is unknown, never dead."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", JobState.CANCELLED, **changes))
    await scene.ticks(20)
    assert not watch.over and not watch.stranger
    assert watch.confirmed == job("1")


@in_virtual_time
async def test_a_monitor_survives_what_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    """R1: a loop that died would leave every server as it was last seen."""
    scene = Scene()
    scene.cluster.put(job("1"))
    watch = scene.watch("1")
    scene.cluster.list_error = ZeroDivisionError("a fault of ours")  # type: ignore[assignment]
    scene.run()
    await asyncio.sleep(600)
    assert "A look at the jobs on demo failed" in caplog.text
    scene.cluster.list_error = None
    scene.cluster.put(job("1", JobState.COMPLETED))
    await asyncio.sleep(61)
    assert watch.over


# -- absence -------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_that_only_its_own_query_misses_is_absent_in_time() -> None:
    """R1: repeated "no such job" by id, from an account that sees the other users' jobs."""
    scene = Scene()
    gone, _, _ = await settled(scene, "1", "2", "3")
    del scene.cluster.jobs_by_id["1"]
    vanished = scene.loop.time()
    scene.run()
    await until(gone, lambda: gone.absent, 600)
    assert gone.over and gone.ended is None
    assert scene.loop.time() - vanished >= 120
    assert scene.cluster.by_id().count("1") >= 1 + 3


@in_virtual_time
async def test_a_job_is_not_absent_before_the_grace_period() -> None:
    """R1: however often it is asked for."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    del scene.cluster.jobs_by_id["1"]
    for _ in range(50):
        await scene.monitor.confirm(watch)
        await scene.monitor.confirm(other)
        await asyncio.sleep(2)
    assert not watch.absent


@in_virtual_time
async def test_two_answers_do_not_make_a_job_absent() -> None:
    """R1: however long they are apart."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    del scene.cluster.jobs_by_id["1"]
    for _ in range(2):
        await scene.monitor.confirm(watch)
        await scene.monitor.confirm(other)
        await asyncio.sleep(3600)
    assert not watch.absent


@in_virtual_time
async def test_an_account_that_sees_nobody_proves_nothing() -> None:
    """R1: it may have lost its permission; then everything is "no such job"."""
    scene = Scene()
    watches = await settled(scene, "1", "2", "3")
    scene.cluster.jobs_by_id.clear()
    scene.run()
    await asyncio.sleep(24 * 3600)
    assert scene.cluster.by_id().count("1") > 10
    assert not any(watch.over for watch in watches)


@in_virtual_time
async def test_a_permission_lost_on_the_way_proves_nothing() -> None:
    """R1: one odd answer while the account still saw, then only answers of a blind one."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    hidden = scene.cluster.jobs_by_id.pop("1")
    await scene.monitor.confirm(watch)
    await scene.monitor.confirm(other)
    scene.cluster.jobs_by_id.clear()
    await scene.ticks(20)
    assert not watch.over and not other.over
    scene.cluster.put(hidden)
    await scene.monitor.confirm(watch)
    assert watch.confirmed == job("1") and watch.absent_answers == 0


@in_virtual_time
async def test_an_answer_in_between_starts_the_count_again() -> None:
    """R1."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    for _ in range(10):
        missing = scene.cluster.jobs_by_id.pop("1")
        for _ in range(2):
            await scene.monitor.confirm(watch)
            await scene.monitor.confirm(other)
            await asyncio.sleep(100)
        scene.cluster.put(missing)
        await scene.monitor.confirm(watch)
    assert not watch.absent


@in_virtual_time
async def test_a_job_that_a_list_still_shows_is_not_absent() -> None:
    """R1: a forged row may lead to queries by id, and those may miss a job that waits."""
    scene = Scene()
    watch, other = scene.watch("1"), scene.watch("2")
    scene.cluster.put(job("2"))
    forged = [job("1", JobState.PENDING), job("1", JobState.FAILED), job("2")]
    for listed in (forged, forged[::-1]):
        scene.cluster.listed = listed
        await scene.ticks(20)
        assert not watch.over and not other.over
    assert scene.cluster.by_id().count("1") > 3, "it was asked for, and not found"
    # Once no row says that it is there, it is as absent as any other.
    scene.cluster.listed = [job("2")]
    scene.run()
    await until(watch, lambda: watch.absent, 1200)


@in_virtual_time
async def test_troubles_do_not_count_as_absence() -> None:
    """R1: only "no such job" does; not a 500, nor a refused token."""
    scene = Scene()
    watch, _ = await settled(scene, "1", "2")
    scene.cluster.listed = [job("2")]
    for error in TROUBLES * 4:
        scene.cluster.errors["1"] = error
        await scene.ticks(1, apart=60)
    assert watch.absent_answers == 0 and not watch.over
