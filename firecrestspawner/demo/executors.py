"""How does a cluster of local processes run jobs? The ``local`` executor.

Its jobs are real processes of the demo's own Unix user, whoever submits them. The words and the
protocol that all executors share are in :mod:`firecrestspawner.demo.cluster`, and can be imported
from here too.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from . import processes
from .cluster import (
    ALREADY_OVER,
    NO_SUCH_JOB,
    NOT_YOURS,
    CancelError,
    Executor,
    Job,
    JobRequest,
    Metadata,
    UnknownUserError,
)
from .homes import Homes
from .local_job import LocalJob, with_batch_step
from .local_nodes import Nodes, hostlist
from .sbatch import (
    Directives,
    SubmitError,
    check_environment,
    check_script,
    parse_directives,
)

__all__ = [
    "CancelError",
    "Executor",
    "Job",
    "JobRequest",
    "LocalExecutor",
    "Metadata",
    "SubmitError",
    "UnknownUserError",
]


class LocalExecutor:
    """A little cluster: one FIFO queue, some slots, nodes that are loopback addresses.

    ``root`` gets the home directories (``<root>/home/<user>``, mode 0700), which the API calls
    ``/home/<user>``. ``nodes`` are (name, address) pairs, ``slots`` the number of node
    allocations that may run at once. ``accounts`` maps a user to accounts, the default first;
    None gives everybody ``demo``. ``hold`` True keeps jobs PENDING until :meth:`release`.
    ``users``: those who exist; None is everybody. ``limit`` is the default time limit,
    ``kill_wait`` the time between SIGTERM and SIGKILL, both in seconds. ``max_submit``: jobs that
    one user may have unfinished.
    """

    version = "22.05.8"

    def __init__(
        self,
        root: str | os.PathLike[str],
        nodes: Sequence[tuple[str, str]] = (("nid001", "127.0.0.2"), ("nid002", "127.0.0.3")),
        slots: int = 4,
        hold: bool = False,
        partitions: Sequence[str] = ("normal", "debug"),
        accounts: Mapping[str, Sequence[str]] | None = None,
        *,
        users: Iterable[str] | None = None,
        cluster: str = "cluster",
        limit: int = 3600,
        kill_wait: float = 5.0,
        max_submit: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = Path(root).resolve()
        self.cluster = cluster
        self.slots = slots
        self.max_submit = max_submit
        self._nodes = Nodes(nodes)
        self._partitions = tuple(partitions)
        self._limit = limit
        self._kill_wait = kill_wait
        self._clock = clock
        self._hold = hold
        self._stopped = False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._ids = itertools.count(1)
        self._jobs: dict[str, LocalJob] = {}
        self._planted: dict[str, Job] = {}
        self._marker = f"{uuid.uuid4().hex}/"
        self._guardian: processes.Guardian | None = None
        self._spool = self.root / "spool"
        for directory in (self.root, self._spool):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.homes = Homes(self.root, users, accounts)

    # -- users and files -------------------------------------------------------------------

    def home_of(self, user: str) -> Path:
        """The real directory behind ``/home/<user>``, made if need be. Raises UnknownUserError."""
        return self.homes.home_of(user)

    def userinfo(self, user: str) -> dict[str, Any]:
        """Ids are handed out in the order in which users turn up, from 1001 on."""
        return self.homes.userinfo(user)

    def run(
        self, user: str, command: Sequence[str], data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a file command; paths in another user's home are refused."""
        return self.homes.run(user, command, data)

    # -- submit ----------------------------------------------------------------------------

    def submit(self, user: str, request: JobRequest) -> str:
        """Queue a job; it starts at once if a slot is free and the queue is not held."""
        self.home_of(user)
        self.homes.uid(user)
        check_script(request.script)
        asked = Directives()
        if request.directives:
            check_environment(request.env)
            asked = parse_directives(request.script)
        with self._lock:
            job_id = self._next_id()
            row = self._new_row(job_id, user, request, asked)
            mark = f"{self._marker}{job_id}/"
            self._jobs[job_id] = LocalJob(job_id, user, request, asked, row, mark)
            self._schedule()
        return job_id

    def _next_id(self) -> str:
        return next(text for text in map(str, self._ids) if text not in self._jobs | self._planted)

    def _new_row(self, job_id: str, user: str, request: JobRequest, asked: Directives) -> Job:
        partition = request.partition or asked.partition or self._partitions[0]
        if partition not in self._partitions:
            raise SubmitError(
                f"sbatch: error: invalid partition specified: {partition}\nsbatch: error: Batch "
                "job submission failed: Invalid partition name specified\n"
            )
        accounts = self.homes.accounts_of(user)
        account = request.account or asked.account or (accounts[0] if accounts else "")
        if account not in accounts:
            raise SubmitError(
                "sbatch: error: Batch job submission failed: Invalid account or account/partition "
                "combination specified\n"
            )
        if request.reservation or asked.reservation:
            raise SubmitError(
                "sbatch: error: Batch job submission failed: Requested reservation is invalid\n"
            )
        unfinished = sum(job.user == user and not job.over for job in self._jobs.values())
        if self.max_submit is not None and unfinished >= self.max_submit:
            raise SubmitError(
                "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission "
                "failed: Job violates accounting/QOS policy (job submit limit, user's size "
                "and/or time limits)\n"
            )
        home = PurePosixPath("/home", user)
        return Job(
            id=job_id,
            name=request.name or asked.name or ("sbatch" if request.directives else "allocation"),
            user=user,
            group=user,
            account=account,
            partition=partition,
            state="PENDING",
            reason="JobHeldUser" if asked.hold else "None",
            exit_code=None,
            signal=None,
            start=None,
            end=None,
            elapsed=0,
            limit=self._limit if asked.limit is None else asked.limit,
            nodes="",
            node_count=asked.nodes,
            working_directory=str(home / (request.working_directory or asked.chdir or "")),
            # Slurm's priorities fall with the job's age in the queue.
            priority=0 if asked.hold else 4_294_901_760 - int(job_id),
            suspended=None,
        )

    # -- the queue -------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Start what fits, first in first out, and tell the others why they wait (lock held)."""
        waiting = [job for job in self._jobs.values() if job.row.state == "PENDING"]
        blocked = False
        for job in waiting:
            if job.asked.hold:
                continue
            if job.row.node_count > len(self._nodes.names):
                job.row = replace(job.row, reason="PartitionConfig")
                continue
            full = len(self._busy()) + job.row.node_count > self.slots
            if blocked or full or self._hold or self._stopped:
                job.row = replace(job.row, reason="Priority" if blocked else "Resources")
                blocked = True
                continue
            self._allocate(job)

    def _busy(self) -> list[str]:
        """Node names, as often as a job occupies them."""
        # A cancelled job keeps its nodes until its last process has gone.
        occupants = (job for job in self._jobs.values() if not job.ended.is_set())
        return [name for job in occupants if job.row.start for name in job.node_names]

    def _allocate(self, job: LocalJob) -> None:
        job.node_names = self._nodes.pick(job.row.node_count, self._busy())
        job.row = replace(
            job.row,
            state="RUNNING",
            reason="None",
            exit_code=0,
            signal=0,
            suspended=0,
            start=int(self._clock()),
            nodes=hostlist(job.node_names),
        )
        threading.Thread(target=self._live, args=(job,), daemon=True).start()

    # -- a job's life ----------------------------------------------------------------------

    def _live(self, job: LocalJob) -> None:
        """From start to end, in a thread of its own."""
        timer = threading.Timer(job.row.limit or 0, self._time_out, args=(job,))
        timer.daemon = True
        try:
            with self._lock:
                if not job.over:
                    job.process = self._launch(job)
                    timer.start()
            if job.process is not None:
                code = job.process.wait()
                state = "COMPLETED" if code == 0 else "FAILED"
                self._close(job, state, exit_code=max(code, 0), number=max(-code, 0))
                # Whatever the script left running has no job any more.
                self._kill(job)
        except OSError:
            # As slurmstepd does for a directory or an output file that it cannot use.
            self._close(job, "FAILED", exit_code=0, number=53)
        finally:
            timer.cancel()
            with self._changed:
                job.ended.set()
                self._schedule()
                self._changed.notify_all()

    def _launch(self, job: LocalJob) -> subprocess.Popen[bytes]:
        if self._guardian is None:
            self._guardian = processes.Guardian(self._marker)
        return processes.start(
            job.request.script,
            env=job.environment(self.homes, self.cluster),
            cwd=self.homes.path_of(job.row.working_directory),
            output=self.homes.path_of(job.output),
            error=None if job.error is None else self.homes.path_of(job.error),
            spool=self._spool,
        )

    def _close(self, job: LocalJob, state: str, exit_code: int, number: int) -> None:
        """Write the end of a job down, unless a reason for it is already known."""
        with self._lock:
            if job.over:
                return
            job.over = True
            job.row = replace(
                job.row,
                state=state,
                reason="None",
                exit_code=exit_code,
                signal=number,
                suspended=0,
                end=int(self._clock()),
                nodes=job.row.nodes or "None assigned",
                node_count=job.row.node_count if job.row.start is not None else 0,
            )

    def _time_out(self, job: LocalJob) -> None:
        self._close(job, "TIMEOUT", exit_code=0, number=0)
        self._kill(job)

    def _kill(self, job: LocalJob) -> None:
        if job.process is not None:
            processes.end(job.mark, job.process.pid, self._kill_wait)

    def cancel(self, user: str, job_id: str, operator: bool) -> None:
        """As scancel does: the job counts as cancelled at once, its processes end in time."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None:
                raise CancelError(*NO_SUCH_JOB)
            if job.user != user and not operator:
                raise CancelError(*NOT_YOURS)
            if job.over:
                raise CancelError(*ALREADY_OVER)
            job.row = replace(job.row, cancelled_by=user)
            self._close(job, f"CANCELLED by {self.homes.uid(user)}", exit_code=0, number=0)
            if job.row.start is None:
                job.ended.set()
            self._schedule()
            self._changed.notify_all()
        threading.Thread(target=self._kill, args=(job,), daemon=True).start()

    def stop(self) -> None:
        """End every job and every process; the records stay readable. Nothing starts again."""
        with self._lock:
            self._stopped = True
            running = [
                job for job in self._jobs.values() if job.row.start and not job.ended.is_set()
            ]
            for job in running:
                self._close(job, "CANCELLED by 0", exit_code=0, number=0)
        # One call for all, so that the patience is spent once.
        processes.end(self._marker, patience=self._kill_wait)
        for job in running:
            self._kill(job)
            # Longer than any end of processes takes: an unkillable one must not hang the demo.
            job.ended.wait(self._kill_wait + 15)
        if self._guardian is not None:
            self._guardian.dismiss()
            self._guardian = None

    # -- queries ---------------------------------------------------------------------------

    def jobs(self, viewer: str, job_id: str | None = None) -> list[Job]:
        """All jobs in the order of their ids, or the one asked for."""
        self.home_of(viewer)
        with self._lock:
            rows = {job.id: job.row for job in self._jobs.values()} | self._planted
        chosen = rows.values() if job_id is None else [rows[job_id]] if job_id in rows else []
        return [with_batch_step(row, self._clock()) for row in chosen]

    def metadata(self, viewer: str, job_id: str, operator: bool) -> Metadata | None:
        """Script and files; the script is empty for others than owner and operators."""
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            return None
        return Metadata(
            id=job_id,
            script=job.request.script if operator or viewer == job.user else "",
            output=job.output,
            error=job.error or job.output,
        )

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes with their loopback addresses; the numbers are this machine's."""
        with self._lock:
            return self._nodes.rows(self._busy(), self._partitions)

    def partitions(self, viewer: str) -> list[dict[str, Any]]:
        """Every partition spans all nodes."""
        with self._lock:
            return self._nodes.partitions(self._partitions)

    def reservations(self, viewer: str) -> list[dict[str, Any]]:
        """None: this cluster has no reservations."""
        return []

    # -- for tests -------------------------------------------------------------------------

    def hold(self) -> None:
        """Start no more jobs: what is submitted from now on stays PENDING (Resources)."""
        with self._lock:
            self._hold = True

    def release(self, job_id: str | None = None) -> None:
        """Open the queue again, or release one job that was submitted with ``--hold``."""
        with self._lock:
            if job_id is None:
                self._hold = False
            else:
                job = self._jobs[job_id]
                job.asked = replace(job.asked, hold=False)
            self._schedule()

    def set_nodes(self, nodes: Sequence[tuple[str, str]]) -> None:
        """Replace the node list, as (name, address) pairs; running jobs keep theirs."""
        with self._lock:
            self._nodes = Nodes(nodes)
            self._schedule()

    def alter(self, job_id: str, **changes: Any) -> None:
        """Overwrite fields of what queries show of a job, as ``scontrol update`` might."""
        with self._lock:
            if job_id in self._planted:
                self._planted[job_id] = replace(self._planted[job_id], **changes)
            else:
                self._jobs[job_id].row = replace(self._jobs[job_id].row, **changes)

    def plant(self, user: str, name: str, **fields: Any) -> Job:
        """Add a job that exists in answers only: no process, RUNNING on the first node unless
        ``fields`` (of :class:`Job`) say otherwise."""
        with self._lock:
            job_id = fields.pop("id", None) or self._next_id()
            request = JobRequest(f"/home/{user}", "", name=name)
            asked = Directives(account=(*self.homes.accounts_of(user), "")[0] or None)
            row = replace(
                self._new_row(job_id, user, request, asked),
                state="RUNNING",
                exit_code=0,
                signal=0,
                start=int(self._clock()),
                nodes=self._nodes.names[0],
            )
            self._planted[job_id] = replace(row, **fields)
            return self._planted[job_id]

    def forget(self, job_id: str) -> None:
        """Drop a finished or planted job from the records: queries by id say 404."""
        with self._lock:
            self._planted.pop(job_id, None)
            self._jobs.pop(job_id, None)

    def wait_until(self, job_id: str, met: Callable[[Job], bool], timeout: float = 10.0) -> Job:
        """Wait until ``met`` holds for a job's row. Raises TimeoutError after ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                row = with_batch_step(self._jobs[job_id].row, self._clock())
                if met(row):
                    return row
                if time.monotonic() > deadline:
                    raise TimeoutError(f"job {job_id} is {row.state} ({row.reason})")
                self._changed.wait(0.1)
