"""How much of its time has a job left, as far as answers told?"""

from __future__ import annotations

from typing import Any

from firecrestspawner.models import Job, JobState
from firecrestspawner.watch import Watch
from tests.unit.monitor.scene import NAME, job

FAST = 2.0


def watch() -> Watch:
    return Watch("1", "alice", NAME)


def running(elapsed: int, limit: int, **fields: Any) -> Job:
    return job("1", elapsed=elapsed, limit=limit, **fields)


def test_nobody_has_said_anything_yet() -> None:
    assert watch().time_left(0.0) is None


def test_it_passes_between_answers_and_is_never_less_than_none() -> None:
    one = watch()
    one.answered(running(600, 3600), 100.0)
    assert one.time_left(100.0) == 3000
    assert one.time_left(2100.5) == 999.5
    assert one.time_left(9000.0) == 0


def test_a_job_that_was_extended_has_more_of_it() -> None:
    one = watch()
    one.answered(running(3500, 3600), 0.0)
    one.listed(running(3530, 7200), 30.0, FAST)
    assert one.time_left(30.0) == 3670
    one.answered(running(3540, 10800), 40.0)
    assert one.time_left(40.0) == 7260


def test_while_it_does_not_run_it_does_not_pass() -> None:
    one = watch()
    one.answered(running(600, 3600), 0.0)
    one.listed(job("1", JobState.SUSPENDED, elapsed=630, limit=3600), 30.0, FAST)
    assert one.time_left(60.0) is None
    one.listed(running(630, 3600), 90.0, FAST)
    assert one.time_left(90.0) == 2970


def test_another_jobs_row_tells_nothing() -> None:
    """R10"""
    one = watch()
    one.answered(running(600, 3600), 0.0)
    for row in (running(3590, 3600, user="bob"), running(3590, 3600, name="else")):
        one.listed(row, 10.0, FAST)
        one.answered(row, 10.0)
    assert one.time_left(10.0) == 2990
