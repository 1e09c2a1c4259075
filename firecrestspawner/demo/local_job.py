"""What is one job of the ``local`` executor: its files, its environment, its row?"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from .cluster import Job, JobRequest, Task, job_path
from .homes import LOCALE, Homes
from .processes import MARKER
from .sbatch import Directives, exported


@dataclass
class LocalJob:
    """A submitted job and its process. ``mark`` is the value of MARKER in its environment.

    ``over``: its end is written down; ``ended``: its last process has gone, its nodes are free.
    """

    id: str
    user: str
    request: JobRequest
    asked: Directives
    row: Job
    mark: str
    node_names: list[str] = field(default_factory=list)
    over: bool = False
    process: subprocess.Popen[bytes] | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def output(self) -> str:
        """Standard output, as a path of the API."""
        return self._path(self.request.output or self.asked.output or "slurm-%j.out")

    @property
    def error(self) -> str | None:
        """Standard error, as a path of the API; None if it goes where the output goes."""
        pattern = self.request.error or self.asked.error
        return None if pattern is None else self._path(pattern)

    def _path(self, pattern: str) -> str:
        words = {
            "j": self.id,
            "A": self.id,
            "x": self.row.name,
            "u": self.user,
            "N": (self.node_names or [""])[0],
            "n": "0",
            "t": "0",
            "%": "%",
        }
        name = re.sub(r"%([jAxuNnt%])", lambda match: words[match[1]], pattern)
        return str(PurePosixPath(self.row.working_directory, name))

    def environment(self, homes: Homes, cluster: str) -> dict[str, str]:
        """The variables of the batch script: login, ``env`` of the request, Slurm's own."""
        if self.request.directives:
            login = self._login(homes) | exported(self.request.env)
            return login | {"SLURM_EXPORT_ENV": "ALL"} | self._slurm(homes, cluster)
        # slurmrestd inherits nothing, and drops variables without a value.
        env = {name: value for name, value in self.request.env.items() if value}
        return env | self._slurm(homes, cluster)

    def _login(self, homes: Homes) -> dict[str, str]:
        return {
            "HOME": str(homes.home_of(self.user)),
            "USER": self.user,
            "LOGNAME": self.user,
            "SHELL": "/bin/bash",
            "PATH": job_path(),
            **LOCALE,
        }

    def _slurm(self, homes: Homes, cluster: str) -> dict[str, str]:
        row, cpus = self.row, str(os.cpu_count() or 1)
        return {
            "SLURM_CLUSTER_NAME": cluster,
            "SLURM_CPUS_ON_NODE": cpus,
            "SLURM_JOBID": self.id,
            "SLURM_JOB_ACCOUNT": row.account,
            "SLURM_JOB_CPUS_PER_NODE": cpus,
            "SLURM_JOB_END_TIME": str((row.start or 0) + (row.limit or 0)),
            "SLURM_JOB_ID": self.id,
            "SLURM_JOB_NAME": row.name,
            "SLURM_JOB_NODELIST": row.nodes,
            "SLURM_JOB_NUM_NODES": str(row.node_count),
            "SLURM_JOB_PARTITION": row.partition,
            "SLURM_JOB_START_TIME": str(row.start),
            "SLURM_JOB_USER": self.user,
            "SLURM_NODEID": "0",
            "SLURM_NODELIST": row.nodes,
            "SLURM_NTASKS": str(self.asked.ntasks),
            "SLURM_PROCID": "0",
            "SLURM_SUBMIT_DIR": str(homes.path_of(row.working_directory)),
            "SLURMD_NODENAME": self.node_names[0],
            MARKER: self.mark,
        }


def with_batch_step(row: Job, now: float) -> Job:
    """The row as a query at ``now`` (seconds since the epoch) shows it: elapsed time, step."""
    if row.start is None:
        return row
    elapsed = max((row.end or int(now)) - row.start, 0)
    state = row.state.partition(" ")[0]
    signalled = {"CANCELLED": 15, "TIMEOUT": 15}.get(state, row.signal or 0)
    task = Task(
        id=f"{row.id}.batch",
        name="batch",
        state="CANCELLED" if signalled else state,
        exit_code=row.exit_code,
        signal=signalled,
        start=row.start,
        end=row.end,
        elapsed=elapsed,
    )
    return replace(row, elapsed=elapsed, tasks=row.tasks or (task,))
