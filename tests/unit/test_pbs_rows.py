"""What does the Hub make of PBS's jobs as FirecREST tells of them?

The rows were recorded: OpenPBS 23.06.06, asked through FirecREST's head; its releases from 2.3.0 to
2.5.6 make the same of the same output of qstat.
"""

from __future__ import annotations

from typing import Any

import pytest

from firecrestspawner.models import Job, JobState

BEGAN = 1795871886


def row(
    state: str,
    code: int = 0,
    *,
    nodes: str = "node01",
    start: int | None = BEGAN,
    elapsed: int | None = 0,
    limit: int | None = None,
) -> dict[str, Any]:
    """One job of an answer."""
    times = {"elapsed": elapsed, "start": start, "end": None, "suspended": None, "limit": limit}
    return {
        "jobId": "10",
        "name": "jhub-70a75106b2",
        "status": {
            "state": state,
            "stateReason": None,
            "exitCode": code,
            "interruptSignal": None,
        },
        "tasks": None,
        "time": times,
        "account": "_pbs_project_default",
        "allocationNodes": 1,
        "cluster": "pbs01",
        "group": None,
        "nodes": nodes,
        "partition": "workq",
        "killRequestUser": None,
        "user": "alice",
        "workingDirectory": "/home/alice",
        "priority": 0,
    }


NEVER_BEGAN: dict[str, Any] = {"start": None, "elapsed": None}


@pytest.mark.parametrize(
    ("recorded", "state", "status"),
    [
        pytest.param(row("F", elapsed=20), JobState.COMPLETED, 0, id="exit 0"),
        pytest.param(row("F", 3), JobState.FAILED, 3, id="exit 3"),
        pytest.param(row("F", 127), JobState.FAILED, 127, id="no such program"),
        pytest.param(row("F", 255), JobState.FAILED, 255, id="exit 255"),
        pytest.param(row("F", 137), JobState.FAILED, 137, id="the script's shell was killed"),
        pytest.param(row("F", 271, elapsed=10), JobState.CANCELLED, 143, id="qdel"),
        pytest.param(
            row("F", -29, elapsed=87, limit=60), JobState.TIMEOUT, 1, id="over its time limit"
        ),
        pytest.param(row("F", -20, elapsed=None), JobState.NODE_FAIL, 1, id="its node was lost"),
        pytest.param(row("F", -27, elapsed=21), JobState.OUT_OF_MEMORY, 1, id="over its memory"),
        pytest.param(
            row("F", nodes="None assigned", **NEVER_BEGAN),
            JobState.CANCELLED,
            1,
            id="qdel of a job that waits",
        ),
        pytest.param(
            row("F", nodes="1:ppn=2", **NEVER_BEGAN),
            JobState.CANCELLED,
            1,
            id="qdel of a job that waits for -l nodes",
        ),
    ],
)
def test_how_a_job_ended(recorded: dict[str, Any], state: JobState, status: int) -> None:
    ended = Job.from_api(recorded)
    assert (ended.state, ended.exit_status) == (state, status)


@pytest.mark.parametrize("signal", [1, 9, 15, 64])
def test_a_signal_is_told_by_pbs_or_by_the_scripts_shell(signal: int) -> None:
    for status in (128 + signal, 256 + signal):
        assert Job.from_api(row("F", status)).exit_status == 128 + signal


@pytest.mark.parametrize("code", [0, 3, 271])
def test_what_still_exits_has_not_ended(code: int) -> None:
    """R1."""
    assert Job.from_api(row("E", code)).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("recorded", "nodes"),
    [
        pytest.param(row("R"), "node01", id="exec_host node01/0*4"),
        pytest.param(row("R", nodes="node01,node01"), "node01", id="node01/0+node01/1"),
        pytest.param(row("Q", nodes="None assigned", **NEVER_BEGAN), "", id="select"),
        # Of a job without a node FirecREST shows what it asked for.
        pytest.param(row("H", nodes="1:ppn=2", **NEVER_BEGAN), "", id="-l nodes"),
    ],
)
def test_a_job_is_on_nodes_from_its_start_on(recorded: dict[str, Any], nodes: str) -> None:
    """S8."""
    assert Job.from_api(recorded).nodes == nodes


@pytest.mark.parametrize(
    ("elapsed", "after", "left"),
    [
        pytest.param(None, 3, None, id="qstat has no resources_used in the first seconds"),
        pytest.param(320, 320, 1180, id="just counted"),
        pytest.param(320, 439, 1061, id="counted two minutes ago"),
        pytest.param(320, 439 + 3600, 1061, id="FirecREST is an hour behind the cluster"),
        pytest.param(320, 439 - 5.75 * 3600, 1061, id="FirecREST is in Kathmandu"),
        pytest.param(320, 318, 1180, id="the cluster's clock is fast"),
        pytest.param(320, 720, 1180, id="it was suspended, or nobody counts"),
    ],
)
def test_the_time_left_is_pbs_own_count_and_what_has_passed_since(
    elapsed: int | None, after: float, left: int | None
) -> None:
    """On an OpenPBS the count stood still for up to two minutes, while the time limit came nearer;
    it kills when it counts the next time."""
    job = Job.from_api(row("R", elapsed=elapsed, limit=1500), now=BEGAN + after)
    assert job.time_left == left


def test_only_a_running_job_of_pbs_is_counted_on() -> None:
    for state in ("F", "S", "RUNNING"):
        assert Job.from_api(row(state, elapsed=320), now=BEGAN + 400).elapsed == 320
