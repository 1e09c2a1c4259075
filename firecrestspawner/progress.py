"""What to tell a waiting user: from a job to a progress event, or to how it ended. Pure."""

from __future__ import annotations

import enum
import html
import math
from typing import Any

from . import reasons
from .models import TEXT_LIMIT, Job, JobState

#: Seconds of waiting after which there is something new to say; from an hour on, each half hour.
STEPS = (0, 30, 60, 120, 180, 240, 300, 600, 900, 1200, 1800, 2700)
HALF_HOUR, HOUR, DAY = 1800, 3600, 86400
#: An estimate of the scheduler's is said as *about* so many seconds; above, in whole hours or days.
ABOUT = tuple(60 * minutes for minutes in (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90))


class Stage(enum.Enum):
    """How far a spawn has come, as the Hub itself knows it."""

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    LAUNCHED = "launched"
    LISTENING = "listening"


class Phase(enum.Enum):
    """What a user sees of it: where on the bar a phase begins, where it ends at the latest, and
    after how many seconds it stands there.
    """

    SUBMITTING = (5, 9, HOUR)
    QUEUED = (10, 60, 30 * DAY)
    ALLOCATED = (62, 69, HOUR)
    RUNNING = (70, 79, HOUR)
    LAUNCHED = (80, 94, HOUR)
    LISTENING = (95, 99, HOUR)


class Progress:
    """One start, as all who look at it are told of it: its events agree, and never go back.

    A scheduler may take a job back into its queue, and FirecREST may call one pending that has run
    already (FirecREST facts, job dict): what is said follows, the bar stays where it was.
    """

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._since = 0.0
        self._furthest = 0

    def event(
        self,
        stage: Stage,
        job: Job | None,
        job_id: str,
        system: str,
        waited: float,
        *,
        now: float,
        trouble: str = "",
        output: str = "",
    ) -> dict[str, Any]:
        """A JupyterHub progress event ``{"progress": percent, "message": text}``.

        ``waited`` is seconds since the submit, ``now`` Unix seconds, ``trouble`` a sentence on why
        what is known of the job may be old. ``output`` is the path of the page with what the job
        has written: with a job that runs the event has ``html_message``, escaped, with that link.
        Events change in steps that get longer and longer, for the page's event log gets a line for
        every change. Only the Hub's own ready event has 100 percent.
        """
        phase = _phase(stage, job)
        if phase is not self._phase:
            self._phase, self._since = phase, now
        # How long a phase lasts is known of the queue alone: a restarted Hub has the time of the
        # submit, and of no other beginning.
        lasted = waited if phase is Phase.QUEUED else now - self._since
        step = _step(lasted)
        percent = max(self._furthest, _creep(phase, step))
        self._furthest = percent
        so_far = f", more than {amount(step)} so far" if step else ""
        message = _message(phase, job, job_id, system, so_far, now)
        if trouble and phase in (Phase.QUEUED, Phase.ALLOCATED, Phase.RUNNING):
            message = f"{message.removesuffix('.')}. {trouble}"
        event = {"progress": percent, "message": message}
        if output and phase in (Phase.RUNNING, Phase.LAUNCHED):
            link = f'<a href="{html.escape(output)}">What it has written</a>'
            event["html_message"] = f"{html.escape(message)}. {link}"
        return event


def _phase(stage: Stage, job: Job | None) -> Phase:
    if stage is not Stage.SUBMITTED or job is None:
        return Phase.QUEUED if stage is Stage.SUBMITTED else Phase[stage.name]
    if job.state in (JobState.RUNNING, JobState.SUSPENDED):
        return Phase.RUNNING
    return Phase.ALLOCATED if job.state is JobState.PENDING and job.nodes else Phase.QUEUED


def _message(
    phase: Phase, job: Job | None, job_id: str, system: str, so_far: str, now: float
) -> str:
    number = f"Job {job_id}" if job_id else "The job"
    if phase is Phase.SUBMITTING:
        return f"Submitting a job to {system}"
    if phase is Phase.LISTENING:
        return "JupyterLab is up; connecting to it"
    if phase is Phase.LAUNCHED:
        return f"{number} runs on {system}; JupyterLab is starting{so_far}"
    where = f" on {reasons.shown(job.nodes)}" if job is not None and job.nodes else ""
    if phase is Phase.ALLOCATED:
        return f"{number} has its place{where}, which is being prepared{so_far}"
    if phase is Phase.RUNNING:
        if job is not None and job.state is JobState.SUSPENDED:
            return f"{number} is suspended on {system}"
        return f"{number} runs{where}; waiting for its first sign of life{so_far}"
    waiting = f"{number} waits in the queue of {system}{so_far}"
    if job is None or job.state is not JobState.PENDING:
        return waiting
    why = reasons.why(job.reason)
    waiting = f"{waiting}: {why}" if why else waiting
    more = " ".join(filter(None, (reasons.advice(job.reason), _when(job, now))))
    return f"{waiting}. {more}" if more else waiting


def _when(job: Job, now: float) -> str:
    """When the job is to start; "" when the scheduler does not say, or what has passed already.

    The scheduler corrects itself all the time, so that *about* is as exact as it is worth a line.
    """
    reason = reasons.explain(job.reason)
    if job.start is None or job.start <= now or (reason is not None and not reason.passes):
        return ""
    left = job.start - now
    about = next((step for step in ABOUT if left <= step), None)
    if about is None:
        unit = HOUR if left <= 36 * HOUR else DAY
        about = math.ceil(left / unit) * unit
    return f"The scheduler expects it to start in about {amount(about)}."


def _step(waited: float) -> int:
    if waited >= 2 * HALF_HOUR:
        return int(waited // HALF_HOUR) * HALF_HOUR
    return max((step for step in STEPS if step <= waited), default=0)


def _creep(phase: Phase, waited: int) -> int:
    """From a phase's beginning towards its end, fast at first: nobody knows how long it takes."""
    first, last, longest = phase.value
    part = math.log1p(waited / STEPS[1]) / math.log1p(longest / STEPS[1])
    return first + int((last - first) * min(part, 1.0))


def amount(seconds: int) -> str:
    """Whole seconds in words."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds >= 2 * DAY and seconds % DAY == 0:
        return f"{seconds // DAY} days"
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
    reason = f" ({reasons.shown(job.reason, TEXT_LIMIT)})" if job.reason else ""
    return f"Job {job.id} {how}{code}{reason} before its server was ready."
