"""Is a failure called by its name? Real ends of real logs, each with its source.

*run*: printed by running it (bash 5.2, dash 0.5, Python 2.7 to 3.11, JupyterHub 6.1, on Linux;
paths and names of hosts were changed);
*issue*: as users posted it to the tracker of the project that prints it; *source*: the format
string of that project.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from firecrestspawner.causes import Cause, Traces, cause_of, cause_of_refusal
from firecrestspawner.channel import TIME_IS_UP
from firecrestspawner.models import Job, JobState
from firecrestspawner.script import launcher_command


def read_logs() -> dict[str, str]:
    """logs.txt: each begins with ``=== cause (which) | source``."""
    text = Path(__file__).with_name("logs.txt").read_text(encoding="utf-8")
    parts = re.split(r"^=== (.+) \| .+\n", text, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


LOGS = read_logs()


def job(state: JobState, **fields: object) -> Job:
    return Job(id="7", name="hub", user="alice", state=state, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "log"), LOGS.items(), ids=list(LOGS))
def test_the_end_of_a_log_tells_the_cause(name: str, log: str) -> None:
    cause = cause_of(Traces(exit_code=1, exit_reason="exited with code 1", lines=log.splitlines()))
    assert cause.name == name.partition(" (")[0]
    assert cause.sentence.endswith(".") or cause.name == "unknown"
    assert cause.advice.endswith(".") and cause.text == cause.text.strip()


@pytest.mark.parametrize(
    ("traces", "name"),
    [
        (Traces(job(JobState.TIMEOUT)), "time-limit"),
        (Traces(job(JobState.OUT_OF_MEMORY, exit_code=0, signal=125)), "out-of-memory"),
        (Traces(job(JobState.NODE_FAIL)), "node-failure"),
        (Traces(job(JobState.PREEMPTED)), "preempted"),
        (Traces(job(JobState.CANCELLED)), "cancelled"),
        (Traces(job(JobState.FAILED, exit_code=0, signal=53)), "no-workdir"),
        (Traces(job(JobState.FAILED, exit_code=1)), "unknown"),
        (Traces(exit_reason="no free port in 20000-20010 on the node"), "no-port"),
        (
            Traces(exit_code=127, exit_reason="lab not found on the node: is its environment"),
            "missing-command",
        ),
        (Traces(exit_reason="killed by signal 9 (Killed), perhaps out of memory"), "killed"),
        (Traces(exit_reason="stopped by SIGTERM", walltime=20), "time-limit"),
        (Traces(exit_reason=f"ended by the Hub: {TIME_IS_UP}", exit_code=0), "time-limit"),
        (Traces(exit_reason="stopped by SIGTERM", walltime=3000), "stopped"),
        (Traces(exit_reason="stopped by SIGTERM"), "stopped"),
        (Traces(exit_code=0, exit_reason="exited with code 0", walltime=3000), "shut-down"),
        (Traces(), "unknown"),
    ],
)
def test_what_scheduler_and_launcher_say_tells_the_cause(traces: Traces, name: str) -> None:
    assert cause_of(traces).name == name


def test_the_schedulers_verdict_comes_before_the_log() -> None:
    lines = LOGS["import-error"].splitlines()
    assert cause_of(Traces(job(JobState.TIMEOUT), lines=lines)).name == "time-limit"
    assert cause_of(Traces(job(JobState.FAILED), lines=lines)).name == "import-error"


def test_the_last_thing_that_went_wrong_counts() -> None:
    lines = [*LOGS["import-error"].splitlines(), "OSError: [Errno 28] No space left on device"]
    assert cause_of(Traces(lines=lines)).name == "disk-full"


def test_what_a_shell_shows_before_it_runs_it_has_not_happened() -> None:
    """With `set -x` in a prologue bash shows the launcher, the sentences of its stub included."""
    command = launcher_command("/bin/false")
    done = subprocess.run(
        ["bash", "-c", f"set -x\n(echo no; {command})"], capture_output=True, text=True
    )
    lines = done.stderr.splitlines()
    assert any("Python 3.8 or newer is needed" in line for line in lines)
    assert cause_of(Traces(exit_code=1, lines=lines)).name == "unknown"


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (JobState.PENDING, "Its job was still in the queue, and was cancelled."),
        (JobState.RUNNING, "Its job ran, but no server came up in it."),
        (None, ""),
    ],
)
def test_a_start_that_took_too_long_is_told_as_far_as_is_known(
    state: JobState | None, sentence: str
) -> None:
    known = job(state) if state is not None else None
    assert cause_of(Traces(known, late=True)).sentence == sentence
    assert cause_of(Traces(known)).name == "unknown"


def test_what_a_job_wrote_before_it_was_cancelled_did_not_end_it() -> None:
    cancelled = job(JobState.CANCELLED)
    for name in ("import-error", "disk-full", "no-permission"):
        lines = LOGS[name].splitlines()
        assert cause_of(Traces(cancelled, lines=lines)).name == "cancelled"
    for name in ("time-limit", "preempted", "out-of-memory"):
        lines = LOGS[name].splitlines()
        assert cause_of(Traces(cancelled, lines=lines)).name == name


#: FirecREST's own answers (recorded, and seen of Slurm 22.05 in tests/slurm/test_entitlements.py),
#: as the client has them (answers.failure).
REFUSED = "The scheduler refused the job: {}."


@pytest.mark.parametrize(
    ("words", "name", "explained"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination specified",
         "account", "may not be charged"),
        ("invalid partition specified: nosuch, Batch job submission failed: Invalid partition name "
         "specified", "queue-policy", "no such partition"),
        ("AssocMaxSubmitJobLimit, Batch job submission failed: Job violates accounting/QOS policy "
         "(job submit limit, user's size and/or time limits)", "queue-policy", "A limit of"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some "
         "limit)", "queue-policy", "A limit of"),
        ("Batch job submission failed: Access denied to requested reservation", "queue-policy",
         "reservation is not valid, or not for you"),
        ("Batch job submission failed: Invalid qos specification", "queue-policy", "not for you"),
        ("Batch job submission failed: Requested node configuration is not available",
         "queue-policy", "No node of the cluster has"),
        ("Batch job submission failed: Node count specification invalid", "queue-policy",
         "No node of the cluster has"),
        ("Batch job submission failed: More processors requested than permitted", "queue-policy",
         "No node of the cluster has"),
        ("Batch job submission failed: Invalid feature specification", "queue-policy",
         "No node of the cluster has"),
        ("Batch job submission failed: User's group not permitted to use this partition",
         "queue-policy", "or none of yours"),
        ("Batch job submission failed: Required partition not available (inactive or drain)",
         "queue-policy", "takes no jobs"),
        # Others of slurm_errno.c.
        ("Batch job submission failed: Requested partition configuration not available now",
         "queue-policy", "A limit of"),
        ("Batch job submission failed: CPU count specification invalid", "queue-policy",
         "No node of the cluster has"),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)",
         "outage", "does not answer"),
        # An OpenPBS 23.06.06: of a queue with a list of users, and of ngpus where nobody made it.
        ("Unknown queue", "queue-policy", "no such partition"),
        ("Unauthorized Request", "queue-policy", "or none of yours"),
        ("Queue is not enabled", "queue-policy", "takes no jobs"),
        ("Job violates queue and/or server resource limits", "queue-policy", "A limit of"),
        ("would exceed queue generic's per-user limit", "queue-policy", "A limit of"),
        ("Unknown resource: ngpus", "queue-policy", "No node of the cluster has"),
        ("Illegal attribute or resource value Resource_List.walltime", "queue-policy", ""),
        ("unrecognized option '--uenv=jupyter/24.11:v1'", "queue-policy", "has no such option"),
    ],
)  # fmt: skip
def test_a_schedulers_refusal_is_quoted_and_explained(
    words: str, name: str, explained: str
) -> None:
    cause = cause_of_refusal("rejected", REFUSED.format(words))
    assert cause.name == name
    assert words in cause.sentence and cause.advice
    assert explained in cause.sentence


def test_other_refusals_have_their_sentence_already() -> None:
    away = "The cluster's API (FirecREST) cannot be reached right now."
    assert cause_of_refusal("firecrest-unreachable", away) == Cause("outage", away)
    assert cause_of_refusal("login-required", away) == Cause("login-required", away)


def test_of_a_line_without_end_only_the_beginning_is_read() -> None:
    """Patterns are tried on what a user's own job wrote, on the Hub's event loop."""
    assert cause_of(Traces(lines=["x" * 490 + "MemoryError"])).name == "unknown"
    assert cause_of(Traces(lines=["jupyter" * 10_000] * 200)).name == "unknown"
