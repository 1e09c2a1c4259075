"""Is a waiting user told the truth, in a sentence?"""

from __future__ import annotations

from firecrestspawner.models import Job, JobState
from firecrestspawner.progress import Stage, event, how_it_ended


def job(state: JobState, **fields: object) -> Job:
    return Job(id="7", name="hub", user="alice", state=state, **fields)  # type: ignore[arg-type]


def test_the_bar_moves_with_each_stage_and_never_reaches_the_end_by_itself() -> None:
    queued = job(JobState.PENDING, reason="Priority")
    running = job(JobState.RUNNING, nodes="nid001")
    percents = [
        event(Stage.SUBMITTING, None, "", "daint", 0)["progress"],
        event(Stage.SUBMITTED, queued, "7", "daint", 1)["progress"],
        event(Stage.SUBMITTED, queued, "7", "daint", 600)["progress"],
        event(Stage.SUBMITTED, queued, "7", "daint", 1e9)["progress"],
        event(Stage.SUBMITTED, running, "7", "daint", 1e9)["progress"],
        event(Stage.LAUNCHED, running, "7", "daint", 1e9)["progress"],
        event(Stage.LISTENING, running, "7", "daint", 1e9)["progress"],
    ]
    assert percents == sorted(set(percents))
    assert percents[-1] < 100


def test_a_queued_job_is_named_with_its_reason_and_system() -> None:
    message = event(Stage.SUBMITTED, job(JobState.PENDING, reason="Priority"), "7", "daint", 130)
    for part in ("7", "daint", "Priority", "2 min"):
        assert part in message["message"]


def test_each_end_is_told_for_what_it_is() -> None:
    assert "time limit" in how_it_ended(job(JobState.TIMEOUT))
    assert "exit code 3" in how_it_ended(job(JobState.FAILED, exit_code=3))
    assert "memory" in how_it_ended(job(JobState.OUT_OF_MEMORY))
    assert "node" in how_it_ended(job(JobState.NODE_FAIL))
    assert "cancelled" in how_it_ended(job(JobState.CANCELLED))
    assert "(because)" in how_it_ended(job(JobState.COMPLETED, reason="because"))
