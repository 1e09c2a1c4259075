"""What to tell a waiting user: from a job to a progress event, or to how it ended. Pure."""

from __future__ import annotations

import enum
import math
from typing import Any

from .models import Job, JobState

#: Seconds of waiting after which there is something new to say; from an hour on, each half hour.
STEPS = (0, 30, 60, 120, 180, 240, 300, 600, 900, 1200, 1800, 2700)
HALF_HOUR = 1800

#: What Slurm's reasons begin with (https://slurm.schedmd.com/job_reason_codes.html), in words.
REASONS = {
    "Resources": "no nodes are free for it yet",
    "Priority": "other jobs come first",
    "ReqNodeNotAvail": "nodes it needs are not available",
    "Nodes required for job are DOWN": "nodes it needs are not available",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is not in use",
    "PartitionTimeLimit": "its run time is longer than the partition allows",
    "Partition": "the partition does not take it as it is",
    "QOS": "a limit of its quality of service is reached",
    "Assoc": "a limit of its account is reached",
    "MaxJobs": "a limit of its account is reached",
    "Reservation": "its reservation has not begun",
    "BeginTime": "it is to start later",
    "JobHeld": "it is held",
    "Licenses": "no licence is free for it yet",
}


class Stage(enum.Enum):
    """How far a spawn has come, as the Hub itself knows it."""

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    LAUNCHED = "launched"
    LISTENING = "listening"


def event(stage: Stage, job: Job | None, job_id: str, system: str, waited: float) -> dict[str, Any]:
    """A JupyterHub progress event ``{"progress": percent, "message": text}``.

    ``waited`` is seconds since the submit. While a job is queued the event changes in steps that
    get longer and longer: the page's event log gets a line for every change. Only the Hub's own
    ready event has 100 percent.
    """
    if stage is Stage.SUBMITTING:
        return _event(5, f"Submitting a job to {system}")
    if stage is Stage.LISTENING:
        return _event(95, "JupyterLab is up; connecting to it")
    if stage is Stage.LAUNCHED:
        return _event(80, f"Job {job_id} runs on {system}; JupyterLab is starting")
    number = f"Job {job_id}" if job_id else "The job"
    if job is not None and job.state is JobState.RUNNING:
        where = f" on {job.nodes}" if job.nodes else ""
        return _event(70, f"{number} runs{where}; waiting for its first sign of life")
    if job is not None and job.state is JobState.SUSPENDED:
        return _event(70, f"{number} is suspended on {system}")
    step = _step(waited)
    so_far = f", more than {_amount(step)} so far" if step else ""
    why = f": {explained(job.reason)}" if job is not None and job.reason else ""
    return _event(_creep(step), f"{number} waits in the queue of {system}{so_far}{why}")


def explained(reason: str) -> str:
    """Why a job waits, for somebody who does not know Slurm's words for it."""
    for beginning, words in REASONS.items():
        if reason.startswith(beginning):
            return f"{words} ({reason})"
    return reason


def _event(percent: int, message: str) -> dict[str, Any]:
    return {"progress": percent, "message": message}


def _step(waited: float) -> int:
    if waited >= 2 * HALF_HOUR:
        return int(waited // HALF_HOUR) * HALF_HOUR
    return max((step for step in STEPS if step <= waited), default=0)


def _creep(waited: int) -> int:
    return 10 + int(50 * (1 - math.exp(-waited / 900)))


def _amount(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    amounts = ((hours, "h"), (minutes, "min"))
    return " ".join(f"{number} {unit}" for number, unit in amounts if number)


def how_it_ended(job: Job) -> str:
    """One sentence about a job that ended before its server was ready."""
    how = {
        JobState.FAILED: "failed",
        JobState.CANCELLED: "was cancelled",
        JobState.TIMEOUT: "reached its time limit",
        JobState.NODE_FAIL: "lost its node",
        JobState.OUT_OF_MEMORY: "ran out of memory",
        JobState.PREEMPTED: "was preempted by another job",
    }.get(job.state, "ended")
    code = f" with exit code {job.exit_code}" if job.state is JobState.FAILED else ""
    reason = f" ({job.reason})" if job.reason else ""
    return f"Job {job.id} {how}{code}{reason} before its server was ready."
