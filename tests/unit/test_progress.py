"""Is a waiting user told the truth, in a sentence?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firecrestspawner.models import Job, JobState
from firecrestspawner.progress import Progress, Stage, how_it_ended

NOW = 1_800_000_000.0


def job(state: JobState, **fields: object) -> Job:
    return Job(id="7", name="hub", user="alice", state=state, **fields)  # type: ignore[arg-type]


def event(
    stage: Stage, job: Job | None, waited: float, progress: Progress | None = None, **more: Any
) -> dict[str, Any]:
    """What is said ``waited`` seconds after the submit, at NOW."""
    if progress is None:
        progress = Progress()
    return progress.event(stage, job, "7", "daint", waited, **{"now": NOW, **more})


def said(job: Job | None, waited: float = 1, stage: Stage = Stage.SUBMITTED, **more: Any) -> str:
    message: str = event(stage, job, waited, **more)["message"]
    return message


QUEUED = job(JobState.PENDING, reason="Priority")
RUNNING = job(JobState.RUNNING, nodes="nid001")


# --- the bar --------------------------------------------------------------------------------


def test_the_bar_moves_with_each_stage_and_never_reaches_the_end_by_itself() -> None:
    percents = [
        event(Stage.SUBMITTING, None, 0)["progress"],
        event(Stage.SUBMITTED, QUEUED, 1)["progress"],
        event(Stage.SUBMITTED, QUEUED, 600)["progress"],
        event(Stage.SUBMITTED, QUEUED, 1e9)["progress"],
        event(Stage.SUBMITTED, job(JobState.PENDING, nodes="nid001"), 1e9)["progress"],
        event(Stage.SUBMITTED, RUNNING, 1e9)["progress"],
        event(Stage.LAUNCHED, RUNNING, 1e9)["progress"],
        event(Stage.LISTENING, RUNNING, 1e9)["progress"],
    ]
    assert percents == sorted(set(percents))
    assert percents[-1] < 100


def test_it_moves_at_every_step_of_the_first_hour_in_the_queue() -> None:
    seconds = (0, 30, 60, 120, 180, 240, 300, 600, 900, 1200, 1800, 2700, 3600)
    percents = [event(Stage.SUBMITTED, QUEUED, waited)["progress"] for waited in seconds]
    assert percents == sorted(set(percents))


def test_it_moves_while_a_server_takes_its_time_to_start() -> None:
    progress = Progress()
    seen = [
        event(stage, RUNNING, 900 + wait, progress, now=NOW + wait)
        for stage, waits in (
            (Stage.SUBMITTED, (0, 29, 31, 61)),
            (Stage.LAUNCHED, (70, 99, 101, 131)),
        )
        for wait in waits
    ]
    percents = [each["progress"] for each in seen]
    assert percents == sorted(percents) and len(set(percents)) == 6
    assert "more than 30 s so far" in seen[-2]["message"]


JOBS = st.none() | st.builds(
    job,
    st.sampled_from(JobState),
    reason=st.sampled_from(["", "Priority", "JobHeldUser"]) | st.text(max_size=300),
    nodes=st.sampled_from(["", "nid001"]),
    start=st.none() | st.integers(0, 2**40),
)


@given(st.lists(st.tuples(st.sampled_from(Stage), JOBS, st.integers(0, 10**7)), max_size=30))
def test_for_one_start_it_never_goes_back(looks: list[tuple[Stage, Job | None, int]]) -> None:
    """Whatever a scheduler says, in whatever order: also of jobs that run, wait and run again."""
    progress = Progress()
    percents, passed = [], 0
    for stage, described, seconds in looks:
        passed += seconds
        now = event(stage, described, passed, progress, now=NOW + passed)
        percents.append(now["progress"])
        assert now["message"].isprintable() and len(now["message"]) < 600
    assert percents == sorted(percents)
    assert all(0 < percent < 100 for percent in percents)


def test_all_who_look_at_a_start_see_the_same() -> None:
    progress = Progress()
    event(Stage.SUBMITTED, RUNNING, 40, progress)
    assert event(Stage.SUBMITTED, QUEUED, 41, progress)["progress"] == 70
    assert event(Stage.SUBMITTED, QUEUED, 41, progress) == event(
        Stage.SUBMITTED, QUEUED, 41, progress
    )


# --- the words ------------------------------------------------------------------------------


def test_a_queued_job_is_named_with_its_reason_and_system() -> None:
    message = said(QUEUED, 130)
    for part in ("Job 7", "daint", "other jobs come first", "(Priority)", "more than 2 min"):
        assert part in message


def test_what_will_not_pass_by_itself_comes_with_what_to_do() -> None:
    message = said(job(JobState.PENDING, reason="PartitionTimeLimit", start=int(NOW) + 600))
    assert "Waiting does not help: cancel the start, and choose a shorter run time." in message
    assert "expects" not in message


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (20, "about 1 min."),
        (250, "about 5 min."),
        (45 * 60, "about 45 min."),
        (91 * 60, "about 2 h."),
        (23.5 * 3600, "about 24 h."),
        (5 * 86400 - 3600, "about 5 days."),
    ],
)
def test_an_estimate_of_the_scheduler_is_told_roughly(seconds: float, words: str) -> None:
    message = said(job(JobState.PENDING, reason="Resources", start=int(NOW + seconds)))
    assert message.endswith(f"The scheduler expects it to start in {words}")


def test_an_estimate_that_has_passed_is_not_told() -> None:
    assert "expects" not in said(job(JobState.PENDING, reason="Resources", start=int(NOW) - 1))


def test_a_corrected_estimate_is_news_only_when_it_says_something_else() -> None:
    """The page's log gets a line for each event; Slurm plans anew every 30 seconds."""
    lines = {
        said(job(JobState.PENDING, reason="Resources", start=int(NOW) + 3601 + second))
        for second in range(1200)
    }
    assert len(lines) == 1


def test_nodes_are_named_as_soon_as_there_are_some() -> None:
    """FirecREST says PENDING for seconds after a start, with the nodes (facts, job dict)."""
    assert "has its place on nid001" in said(job(JobState.PENDING, nodes="nid001"))
    assert "runs on nid001; waiting for its first sign of life" in said(RUNNING)


def test_a_suspended_job_is_said_to_be() -> None:
    assert said(job(JobState.SUSPENDED, nodes="nid001")) == "Job 7 is suspended on daint"


def test_what_may_be_old_is_said_to_be() -> None:
    away = "daint does not answer at the moment."
    assert said(QUEUED, trouble=away).endswith(f"(Priority). {away}")
    assert away not in said(RUNNING, stage=Stage.LAUNCHED, trouble=away)


def test_a_job_that_runs_is_a_link_to_its_output_and_nothing_else_is_markup() -> None:
    page = '/hub/firecrest/output?server=a&b="'
    evil = job(JobState.RUNNING, nodes="<b>nid</b>")
    running = event(Stage.SUBMITTED, evil, 1, output=page)
    assert running["html_message"].count("<") == 2 == running["html_message"].count("<a ") * 2
    assert 'href="/hub/firecrest/output?server=a&amp;b=&quot;"' in running["html_message"]
    assert "<b>nid</b>" in running["message"]  # the page takes this one for text
    assert "html_message" not in event(Stage.SUBMITTED, QUEUED, 1, output=page)


def test_each_end_is_told_for_what_it_is() -> None:
    assert "time limit" in how_it_ended(job(JobState.TIMEOUT))
    assert "exit code 3" in how_it_ended(job(JobState.FAILED, exit_code=3))
    assert "memory" in how_it_ended(job(JobState.OUT_OF_MEMORY))
    assert "node" in how_it_ended(job(JobState.NODE_FAIL))
    assert "cancelled" in how_it_ended(job(JobState.CANCELLED))
    assert "(because)" in how_it_ended(job(JobState.COMPLETED, reason="because"))


def test_what_a_scheduler_says_of_an_end_is_one_line_that_prints() -> None:
    """It goes into the Hub's log."""
    reason = "a\r\x1b[31m\u202e\n[I Hub] another line"
    assert how_it_ended(job(JobState.FAILED, exit_code=1, reason=reason)).isprintable()
