"""What does the FirecREST stand-in ask of a cluster? The protocol of executors and its words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class JobRequest:
    """A submit, as it came through the API.

    ``directives`` False is ``connectionMode`` rest: #SBATCH lines and the login environment do
    not count. The script is left out of the repr: it holds the job's ticket.
    """

    working_directory: str
    script: str = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    name: str | None = None
    account: str | None = None
    partition: str | None = None
    reservation: str | None = None
    constraints: str | None = None
    output: str | None = None
    error: str | None = None
    directives: bool = True


@dataclass(frozen=True)
class Task:
    """One step of a job. Times are seconds since the epoch."""

    id: str
    name: str
    state: str
    exit_code: int | None
    signal: int | None
    start: int | None
    end: int | None
    elapsed: int


@dataclass(frozen=True)
class Job:
    """One job as a query shows it. Times are seconds since the epoch, ``limit`` in seconds."""

    id: str
    name: str
    user: str
    group: str
    account: str
    partition: str
    state: str
    reason: str | None
    exit_code: int | None
    signal: int | None
    start: int | None
    end: int | None
    elapsed: int
    limit: int | None
    nodes: str
    node_count: int
    working_directory: str
    priority: int
    suspended: int | None = 0
    tasks: tuple[Task, ...] = ()
    cancelled_by: str = ""


@dataclass(frozen=True)
class Metadata:
    """The script (empty for those who may not read it) and the files of one job."""

    id: str
    script: str = field(repr=False)
    output: str
    error: str


class CancelError(Exception):
    """scancel refused: its exit status and the end of its message."""

    def __init__(self, reason: str, exit_status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_status = exit_status


class UnknownUserError(Exception):
    """The cluster has no such Unix account."""


class SchedulerError(Exception):
    """The scheduler could not be asked."""


ALREADY_OVER = ("Job/step already completing or completed", 0)
NO_SUCH_JOB = ("Invalid job id specified", 0)
NOT_YOURS = ("Access/permission denied", 210)


def job_path() -> str:
    """PATH of jobs: this interpreter's directory first, so that its Jupyter is found there."""
    own = os.path.dirname(sys.executable)
    return os.pathsep.join([own, os.environ.get("PATH", os.defpath)])


class Executor(Protocol):
    """What a cluster can do. Every call may block and may come from any thread."""

    @property
    def cluster(self) -> str:
        """The scheduler's name for the cluster."""

    @property
    def version(self) -> str:
        """The scheduler's version."""

    def submit(self, user: str, request: JobRequest) -> str:
        """Queue a job and return its id. Raises the errors of :mod:`.sbatch`."""

    def jobs(self, viewer: str, job_id: str | None = None) -> list[Job]:
        """All jobs, or one, as far as the scheduler shows them to ``viewer``."""

    def metadata(self, viewer: str, job_id: str, operator: bool) -> Metadata | None:
        """Script and files of a job; None if the scheduler no longer knows it."""

    def cancel(self, user: str, job_id: str, operator: bool) -> None:
        """End a job. Raises CancelError."""

    def nodes(self) -> list[dict[str, Any]]:
        """The rows of ``/status/{system}/nodes``."""

    def partitions(self, viewer: str) -> list[dict[str, Any]]:
        """The rows of ``/status/{system}/partitions``, as far as ``viewer`` is shown them."""

    def reservations(self, viewer: str) -> list[dict[str, Any]]:
        """The rows of ``/status/{system}/reservations``, as far as ``viewer`` is shown them."""

    def userinfo(self, user: str) -> dict[str, Any]:
        """The answer of ``/status/{system}/userinfo``. Raises UnknownUserError."""

    def run(
        self, user: str, command: Sequence[str], data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a file command as ``user``, in whose terms its paths are."""

    def stop(self) -> None:
        """Leave no process behind."""
