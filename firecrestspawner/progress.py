"""What to tell a waiting user: from a job to a progress event, or to how it ended. Pure."""

from __future__ import annotations

import enum
import math
from typing import Any

from .models import Job, JobState


class Stage(enum.Enum):
    """How far a spawn has come, as the Hub itself knows it."""

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    LAUNCHED = "launched"
    LISTENING = "listening"


def event(stage: Stage, job: Job | None, job_id: str, system: str, waited: float) -> dict[str, Any]:
    """A JupyterHub progress event ``{"progress": percent, "message": text}``.

    ``waited`` is seconds since the submit. The bar moves while a job is queued, ever more slowly,
    and reaches 100 only by the Hub's own ready event.
    """
    if stage is Stage.SUBMITTING:
        return _event(5, f"Submitting a job to {system}")
    if stage is Stage.LISTENING:
        return _event(95, "JupyterLab is listening; connecting to it")
    if stage is Stage.LAUNCHED:
        return _event(80, f"Job {job_id} runs on {system}; JupyterLab is starting")
    number = f"Job {job_id}" if job_id else "The job"
    if job is not None and job.state is JobState.RUNNING:
        where = f" on {job.nodes}" if job.nodes else ""
        return _event(70, f"{number} runs{where}; waiting for its first sign of life")
    if job is not None and job.state is JobState.SUSPENDED:
        return _event(_creep(waited), f"{number} is suspended on {system}")
    why = f" ({job.reason})" if job is not None and job.reason else ""
    return _event(_creep(waited), f"{number} waits in the queue of {system}{why}, {_ago(waited)}")


def _event(percent: int, message: str) -> dict[str, Any]:
    return {"progress": percent, "message": message}


def _creep(waited: float) -> int:
    return 10 + int(50 * (1 - math.exp(-max(waited, 0.0) / 300)))


def _ago(seconds: float) -> str:
    if seconds < 60:
        return f"{int(seconds)} s so far"
    return f"{int(seconds // 60)} min so far"


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
