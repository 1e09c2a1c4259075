"""What really runs on the cluster? The truth: jobs that wait, run and end."""

from __future__ import annotations

import base64
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tests.chaos.clock import EPOCH, WorldLoop

#: Seconds that Slurm leaves a job between SIGTERM and SIGKILL (KillWait).
KILL_WAIT = 30.0
#: A time limit that no schedule lives to see.
MONTH = 30 * 86400.0
NODES = {f"nid{number:03d}": f"10.1.0.{number}" for number in range(1, 5)}

_TICKET = re.compile(r"^export FIRECREST_TICKET='?([A-Za-z0-9_=-]+)", re.MULTILINE)


class Program(Protocol):
    """What a job runs. Its maker is told of its end by a callback."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL; no callback."""

    @property
    def serving(self) -> bool:
        """Whether a server of it can be used, or is about to be."""


@dataclass(frozen=True)
class Fate:
    """What becomes of a job by itself. ``ends`` is a state, or ``requeue``, or nothing. So many
    seconds before its ``limit`` it is ``extended`` to twice that; with 0 it is not.
    """

    queued: float
    startup: float
    lives: float
    ends: str
    code: int = 0
    saving: float = 1.0
    limit: float = MONTH
    extended: float = 0.0


@dataclass(eq=False)
class Job:
    """One job, with all that nobody but the scheduler knows."""

    id: str
    user: str
    name: str
    blob: str
    spawn_id: str
    fate: Fate
    submitted: float
    state: str = "PENDING"
    node: str = ""
    started: float = 0.0
    ended: float = 0.0
    code: int | None = None
    program: Program | None = None
    #: What its state will be, once it has got a SIGTERM.
    ending: str = ""
    runs: int = 0
    limit: float = MONTH
    extended: float = float("-inf")

    @property
    def requeued(self) -> bool:
        """Whether it has run before, and lost what it ran."""
        return self.runs > (1 if self.state == "RUNNING" else 0)

    @property
    def alive(self) -> bool:
        """Whether it runs, or will."""
        return self.state in ("PENDING", "RUNNING")

    @property
    def serving(self) -> bool:
        return self.program is not None and self.program.serving

    def left(self, now: float) -> float:
        """Seconds of its time limit."""
        return self.limit - (now - self.started)

    def row(self, now: float, state: str = "") -> dict[str, Any]:
        """As FirecREST describes it."""
        shown = state or self.state
        if self.ending and shown == "RUNNING":
            shown = "COMPLETING"
        return {
            "jobId": self.id,
            "name": self.name,
            "user": self.user,
            "nodes": "" if shown == "PENDING" else self.node or "None assigned",
            "status": {
                "state": f"{shown} by 1001" if shown == "CANCELLED" else shown,
                "stateReason": "Priority" if shown == "PENDING" else "None",
                "exitCode": self.code,
                "interruptSignal": None,
            },
            "time": {
                "start": int(EPOCH + self.started) if self.started else None,
                "end": int(EPOCH + self.ended) if self.ended else None,
                "elapsed": int((self.ended or now) - self.started) if self.started else 0,
                "limit": int(self.limit),
            },
        }


Run = Callable[[Job, Callable[[int], None]], Program]


class Scheduler:
    """Queues, starts and ends jobs.

    Parameters
    ----------
    run: starts a job's program; it is told what to call with the exit code.
    note: takes lines for the journal.
    """

    def __init__(
        self, loop: WorldLoop, rng: random.Random, run: Run, note: Callable[..., None]
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self.calm = False
        self.short_limits = False
        self.until = 0.0
        self._loop, self._rng, self._run, self._note = loop, rng, run, note
        # Jobs of others have numbers, too: a submit's answer may name one.
        self._last = 100
        self.foreign = self._add("mallory", "train", "", "", Fate(0, 1, 1e9, ""))
        self.foreign.state = "RUNNING"

    def submit(self, user: str, name: str, script: str) -> Job:
        """Queue a job."""
        job = self._add(user, name, _blob(script), spawn_id(script), self._fate())
        self._note("slurm", f"job {job.id} of {user} is queued for {job.fate.queued:.1f} s")
        self._loop.call_later(0.0 if self.calm else job.fate.queued, self._start, job)
        return job

    def _add(self, user: str, name: str, blob: str, spawn_id: str, fate: Fate) -> Job:
        self._last += 1
        job = Job(str(self._last), user, name, blob, spawn_id, fate, self._loop.time())
        self.jobs[job.id] = job
        return job

    def _fate(self) -> Fate:
        rng = self._rng
        ends = rng.choice(
            ("",) * 14 + ("exit", "exit", "crash", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY",
                          "PREEMPTED", "requeue", "scancel")
        )  # fmt: skip
        fate = Fate(
            queued=rng.choice((0.5, 2.0, 2.0, 20.0, 90.0, 900.0)) * rng.uniform(0.2, 1.0),
            startup=rng.choice((0.5, 3.0, 10.0)) * rng.uniform(0.3, 1.0),
            lives=rng.choice((3.0, 30.0, 200.0)) * rng.uniform(0.2, 1.0),
            ends=ends,
            code=rng.choice((0, 1)) if ends == "exit" else 137,
            saving=rng.choice((0.1, 2.0, 60.0)),
        )
        return self._soon_over(fate) if self.short_limits else fate

    def _soon_over(self, fate: Fate) -> Fate:
        """With a limit that the job comes to; it is extended before that is near, or too late."""
        limit = self._rng.choice((60.0, 180.0, 400.0))
        extended = self._rng.choice((0.0, 5.0, limit / 10 + 1, limit / 10 + 10))
        return replace(fate, queued=2.0, ends="", limit=limit, extended=extended)

    def settle_down(self) -> None:
        """From now on nothing waits in the queue, and no job ends by itself."""
        self.calm = True
        for job in list(self.jobs.values()):
            job.limit, job.extended = MONTH, self._loop.time()
            if job.state == "PENDING":
                self._start(job)

    def _start(self, job: Job) -> None:
        if job.state != "PENDING":
            return
        job.state, job.started = "RUNNING", self._loop.time()
        job.node = self._rng.choice(list(NODES))
        job.runs += 1
        self._note("slurm", f"job {job.id} runs on {job.node}")
        job.program = self._run(job, lambda code: self._exited(job, code))
        if self.calm:
            return
        if job.fate.ends and not job.requeued:
            self._loop.call_later(job.fate.lives, self._fulfil, job, job.program)
        job.limit = job.fate.limit
        if job.fate.extended:
            lead = job.limit - job.fate.extended
            self._loop.call_later(lead, self._extend, job, job.program)
        self._loop.call_later(job.limit, self._look_at_limit, job, job.program)

    def _exited(self, job: Job, code: int) -> None:
        if not job.alive:
            return
        done = "COMPLETED" if code == 0 else "FAILED"
        self._end(job, job.ending or done, code)

    def _end(self, job: Job, state: str, code: int | None = None) -> None:
        program, job.program = job.program, None
        job.state, job.ended, job.code = state, self._loop.time(), code
        self._note("slurm", f"job {job.id} is {state}")
        if program is not None:
            program.kill()

    def _fulfil(self, job: Job, program: Program) -> None:
        """What was to happen to the job happens, unless all is calm by now."""
        if self.calm or job.program is not program:
            return
        ends = job.fate.ends
        if ends == "requeue":
            self._note("slurm", f"job {job.id} is requeued")
            job.program, job.state, job.node = None, "PENDING", ""
            program.kill()
            self._loop.call_later(job.fate.queued, self._start, job)
        elif ends in ("exit", "crash"):
            program.end(job.fate.code)  # type: ignore[attr-defined]
        elif ends == "scancel":
            self.cancel(job)
        else:
            self._end(job, ends)

    def cancel(self, job: Job) -> None:
        """scancel: SIGTERM, and SIGKILL after KillWait."""
        if job.state == "PENDING":
            self._end(job, "CANCELLED")
        else:
            self._terminate(job, "CANCELLED")

    def _terminate(self, job: Job, state: str) -> None:
        if job.state == "RUNNING" and not job.ending and job.program is not None:
            job.ending = state
            self._note("slurm", f"job {job.id} is to end: {state}")
            self._loop.call_later(KILL_WAIT, self._kill, job)
            job.program.terminate()

    def _kill(self, job: Job) -> None:
        if job.alive:
            self._end(job, job.ending)

    def _extend(self, job: Job, program: Program) -> None:
        """An operator does, while the job runs and has not been told to end."""
        if job.program is program and job.limit < MONTH:
            job.limit, job.extended = 2 * job.limit, self._loop.time()
            self._note("slurm", f"job {job.id} is extended")

    def _look_at_limit(self, job: Job, program: Program) -> None:
        if job.program is not program:
            return
        if (left := job.left(self._loop.time())) > 0:
            # In whole seconds: no clock goes on by the last digit of a float.
            self._loop.call_later(math.ceil(left), self._look_at_limit, job, program)
        else:
            self._terminate(job, "TIMEOUT")


def _blob(script: str) -> str:
    match = _TICKET.search(script)
    return match[1] if match else ""


def spawn_id(script: str) -> str:
    """Which spawn a batch script is for: the first half of its ticket."""
    ticket: str = json.loads(base64.urlsafe_b64decode(_blob(script) + "=="))["ticket"]
    return ticket.partition(".")[0]
