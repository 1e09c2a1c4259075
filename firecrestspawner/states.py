"""What does a scheduler's word for a job's state mean to the Hub? Every word of Slurm and PBS.

Sources: for Slurm https://slurm.schedmd.com/job_state_codes.html (states and flags) and the "JOB
STATE CODES" of squeue(1) and sacct(1), of which FirecREST passes the long names on; for PBS the
``job_state`` attribute of the PBS Professional Reference Guide and qstat(1B), one letter, which
FirecREST passes on as it is. No letter of PBS is a word of Slurm.

A wrong *alive* costs somebody a click, a wrong *ended* costs a user their work (R1): what is in no
table, and every flag that does not say that the job is over, is alive.
"""

from __future__ import annotations

import enum
import functools
import re
import signal


class JobState(enum.Enum):
    """A job's state as the Hub needs to tell states apart."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    NODE_FAIL = "node failure"
    OUT_OF_MEMORY = "out of memory"
    PREEMPTED = "preempted"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """True when a job in this state has ended."""
        return self in _TERMINAL

    @property
    def may_run_again(self) -> bool:
        """True for an end after which a scheduler may put the job back into its queue.

        Our scripts say ``--no-requeue``; a site's own may not, and its partitions may say more.
        """
        return self in _MAY_RUN_AGAIN

    @classmethod
    def parse(cls, text: str) -> JobState:
        """Map a scheduler's state, e.g. ``"CANCELLED by 1001"`` or ``"RUNNING,COMPLETING"``.

        Of several words the state decides, but for two kinds of flags: whatever has ended and is
        put back into the queue waits there, and what is still being cleaned up is not gone yet.
        """
        return _parsed(text)


@functools.lru_cache(maxsize=256)  # ten thousand rows have a handful of states
def _parsed(text: str) -> JobState:
    words = re.split(r"[\s,+|]+", text.upper())
    if not _REQUEUE.isdisjoint(words):
        return JobState.PENDING
    states = [_STATES[word] for word in words if word in _STATES]
    if not states:
        # squeue and sacct print a flag that they know instead of the state.
        return next((_FLAGS[word] for word in words if word in _FLAGS), JobState.UNKNOWN)
    if states[0].terminal and "COMPLETING" in words:
        return JobState.RUNNING
    return states[0]


def is_pbs(text: str) -> bool:
    """Whether a state is one of PBS's letters."""
    return len(text) == 1


def pbs_end(status: int, *, began: bool) -> tuple[JobState, int, int]:
    """How a finished PBS job ended, by its ``Exit_status``: state, exit code, signal.

    FirecREST says 0 where there is none: of a job that was deleted before it ``began``. From 256 on
    it is the signal that ended the login shell around the script, which is qdel's SIGTERM; from 128
    on the script's shell tells of one; a negative one is PBS's own word (PBS Professional
    Administrator's Guide, "Job Exit Status Codes"; OpenPBS, job.h).
    """
    if status < 0:
        return _PBS_ENDS.get(status, JobState.FAILED), 1, 0
    if status == 256 + signal.SIGTERM or not (began or status):
        return JobState.CANCELLED, 0, status % 256
    if status >= 256:
        return JobState.FAILED, 0, status % 256
    if 128 < status <= 128 + signal.SIGRTMAX:
        return JobState.FAILED, 0, status - 128
    return JobState.FAILED if status else JobState.COMPLETED, status, 0


_PBS_ENDS = {
    -20: JobState.NODE_FAIL,  # JOB_EXEC_RERUN_MS_FAIL: and it may not be run again
    -26: JobState.OUT_OF_MEMORY,  # JOB_EXEC_KILL_VMEM
    -27: JobState.OUT_OF_MEMORY,  # JOB_EXEC_KILL_MEM
    -29: JobState.TIMEOUT,  # JOB_EXEC_KILL_WALLTIME
}

_TERMINAL = frozenset(
    {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.TIMEOUT,
        JobState.NODE_FAIL,
        JobState.OUT_OF_MEMORY,
        JobState.PREEMPTED,
    }
)

_MAY_RUN_AGAIN = frozenset({JobState.NODE_FAIL, JobState.PREEMPTED})

_STATES = {
    # Slurm's states
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAIL,
    "BOOT_FAIL": JobState.NODE_FAIL,
    "PREEMPTED": JobState.PREEMPTED,
    # PBS's letters
    "Q": JobState.PENDING,  # queued
    "H": JobState.PENDING,  # held
    "W": JobState.PENDING,  # waits for its time, or for its files
    "T": JobState.PENDING,  # on its way to another place
    "M": JobState.UNKNOWN,  # moved to another server: nobody here knows
    "R": JobState.RUNNING,
    "B": JobState.RUNNING,  # an array, of which some jobs have begun
    "E": JobState.RUNNING,  # exits, after it has run
    "S": JobState.SUSPENDED,
    "U": JobState.SUSPENDED,  # the workstation's own user came back
    "F": JobState.COMPLETED,  # finished; how well is in its exit status
    "X": JobState.COMPLETED,  # the same of a job of an array
    "C": JobState.COMPLETED,  # the same in Torque
}

#: Slurm's flags of a job that goes back into the queue, whatever has become of it.
_REQUEUE = {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}

#: Slurm's other flags. REVOKED (a federation runs the job elsewhere), LAUNCH_FAILED, RECONFIG_FAIL
#: and UPDATE_DB say nothing certain of a job's end: with no state beside them they are UNKNOWN.
_FLAGS = {
    "CONFIGURING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "EXPEDITING": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "COMPLETING": JobState.RUNNING,  # it holds its nodes, and its processes may still run
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.SUSPENDED,
}
