"""Why did a start fail, or a server end, and what is to be tried? From the traces to a named cause.

Traces are what the scheduler says of the job, what the launcher said at its end, the last lines of
the job's log, and what FirecREST answered. The scheduler's own verdict (time, memory, node) comes
first, then what the launcher knows, then the log, read from its end. No trace is believed further
than a sentence on the page of the job's own user.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .models import Job
from .states import JobState

#: The last seconds of a job in which SIGTERM is the scheduler's word that its time is over.
LAST_SECONDS = 60
#: Characters of a line that are read.
WIDTH = 300
#: What slurmd ends a job with that it cannot change to the working directory of (recorded:
#: FAILED, exit code 0, signal 53, no output file).
NO_WORKDIR = 53


class Cause(NamedTuple):
    """``name`` is for programs and styles; ``sentence`` says what it was, ``advice`` what to do."""

    name: str
    sentence: str
    advice: str = ""

    @property
    def text(self) -> str:
        return f"{self.sentence} {self.advice}".strip()


@dataclass(frozen=True)
class Traces:
    """What is known of one end. All of it may be missing.

    ``walltime`` is how many seconds the job had left when its server ended, as the launcher says;
    ``late`` that the start took too long, though nothing has ended.
    """

    job: Job | None = None
    exit_code: int | None = None
    exit_reason: str = ""
    walltime: int | None = None
    lines: Sequence[str] = ()
    late: bool = False


_ADMINS = "If it happens again, tell the administrators, with the job's number."

TIME = Cause(
    "time-limit", "The job reached its time limit.", "Start again, with a longer run time."
)
MEMORY = Cause(
    "out-of-memory",
    "The job needed more memory than it had.",
    "Start again, with more memory if there is a choice; in a notebook, load less at a time.",
)
NODE = Cause(
    "node-failure", "Its compute node failed.", "Start again: another node will be chosen."
)
PREEMPTED = Cause(
    "preempted",
    "The scheduler gave its nodes to a job that comes first.",
    "Start again, or choose a partition or quality of service that is not preempted.",
)
CANCELLED = Cause(
    "cancelled", "The job was cancelled.", "If it was not you, ask the centre's support why."
)
NO_COMMAND = Cause(
    "missing-command",
    "The command that starts the server was not found on the compute node.",
    "The environment that was loaded lacks it: choose another, or install jupyterhub and "
    "jupyterlab in your own. If nothing was chosen, tell the administrators.",
)
NO_MODULE = Cause(
    "import-error",
    "A Python package that the server needs could not be imported.",
    "The last lines name it: install it in the environment, or choose another. Packages in "
    "~/.local can hide those of the environment.",
)
NO_PYTHON = Cause(
    "missing-python",
    "There is no Python on the compute node, or in the container, for the job to begin with.",
    "Choose another image if there is a choice; else tell the administrators: the setting is "
    "c.FirecRESTSpawner.python.",
)
OLD_PYTHON = Cause(
    "old-python",
    "The Python of the compute node or of the environment is too old.",
    "Choose an environment with a newer Python. If nothing was chosen, tell the administrators.",
)
NO_SUCH_MODULE = Cause(
    "unknown-module",
    "A module that was to be loaded does not exist on the cluster.",
    "The last lines name it: choose another environment, or correct the list of modules.",
)
NO_VENV = Cause(
    "missing-environment",
    "There is no virtual environment in the directory that was chosen.",
    "Check its path, or make it on the cluster first.",
)
QUOTA = Cause(
    "disk-quota",
    "Your disk quota is used up.",
    "Delete files (their number may be limited, too), or ask for more, and start again.",
)
FULL = Cause(
    "disk-full",
    "There was no space left on a file system of the compute node.",
    "If it is your own directory, delete files and start again; else tell the administrators.",
)
IMAGE = Cause(
    "image-not-found",
    "The container image could not be found or fetched.",
    "Check its name, its tag, and whether you may read it, and start again.",
)
UENV = Cause(
    "image-not-found", "There is no uenv image by that name.", "Check its name, or pull it first."
)
CONTAINER = Cause(
    "container", "The container could not be started.", f"The last lines say why. {_ADMINS}"
)
NO_ENGINE = Cause(
    "no-container-engine",
    "What starts the container is not there on the compute node.",
    "Tell the administrators: the batch script needs Apptainer in the PATH, or a plugin of Slurm.",
)
NO_PORT = Cause(
    "no-port",
    "The compute node had no free port for the server.",
    f"Start again. {_ADMINS}",
)
NO_HUB = Cause("hub-not-reached", "The job could not reach the Hub from its compute node.", _ADMINS)
NO_TICKET = Cause(
    "no-ticket",
    "What the job needs to begin did not reach the compute node.",
    "A container or srun cleaned it away, and the working directory is not there. Tell the "
    "administrators.",
)
WORKDIR = Cause(
    "no-workdir",
    "The job's working directory does not exist, or may not be entered.",
    "Log in to the cluster once, so that it is made; else tell the administrators.",
)
READ_ONLY = Cause(
    "no-permission",
    "The server may not read or write a file or directory.",
    "The last lines name it. If it is yours, correct its owner or its permissions.",
)
KILLED = Cause(
    "killed", "The server was killed.", "Perhaps it needed more memory than it had. " + _ADMINS
)
STOPPED = Cause(
    "stopped",
    "It was stopped from outside the Hub: cancelled, preempted, or with its node.",
    "Start again. If it was not you who cancelled it, ask the centre's support why.",
)
SHUT_DOWN = Cause(
    "shut-down", "The server was shut down from inside: by its user, or since nobody used it."
)
UNREACHABLE = Cause(
    "port-not-reached",
    "The server runs, but the Hub could not connect to it on its compute node.",
    f"Start again. {_ADMINS}",
)
QUEUED = Cause(
    "start-timeout",
    "Its job was still in the queue, and was cancelled.",
    "Ask for less time or fewer nodes, choose another partition, or come when less is going on.",
)
SLOW = Cause(
    "start-timeout",
    "Its job ran, but no server came up in it.",
    f"The last lines of its output may tell why. {_ADMINS}",
)
UNKNOWN = Cause("unknown", "", f"The last lines of its output may tell more. {_ADMINS}")

_STATES = {
    JobState.TIMEOUT: TIME,
    JobState.OUT_OF_MEMORY: MEMORY,
    JobState.NODE_FAIL: NODE,
    JobState.PREEMPTED: PREEMPTED,
}

#: What the launcher says at its end (singleuser.py).
_REASONS = (
    (r"ended by the Hub: the job's time is nearly over", TIME),
    (r"\S+ not found on the node", NO_COMMAND),
    (r"no free port in ", NO_PORT),
    (r"\S+ cannot be run on the node", NO_COMMAND),
)

#: What a line of a log means. Texts of Slurm (slurmstepd), bash and dash, Python, Linux (strerror),
#: Lmod and Environment Modules, Apptainer and Singularity, Pyxis and Enroot, Podman, uenv.
_LINES = (
    (r"CANCELLED AT \S+ DUE TO TIME LIMIT", TIME),
    (r"PBS: job killed: walltime", TIME),
    (r"oom[-_]kill|exceeded memory limit|PBS: job killed: (mem|vmem)\b|\bMemoryError\b"
     r"|Cannot allocate memory|: Out Of Memory$", MEMORY),
    (r"DUE TO NODE FAILURE|error: Node failure on ", NODE),
    (r"DUE TO PREEMPTION", PREEMPTED),
    (r"Disk quota exceeded", QUOTA),
    (r"No space left on device", FULL),
    (r"Python 3\.\d+ or newer is needed|requires Python |requires a different Python"
     r"|future feature annotations is not defined", OLD_PYTHON),
    (r"(ModuleNotFoundError|ImportError): ", NO_MODULE),
    (r"error while loading shared libraries", NO_MODULE),
    (r"The following module\(s\) are unknown|Unable to locate a modulefile"
     r"|following module\(s\) exist, however", NO_SUCH_MODULE),
    (r"FATAL:\s+(While [a-z ]+: )?(could not open image|[Uu]nable to (handle|pull|get)"
     r"|[Ii]mage file|Unsupported transport type)"
     r"|failed to import docker image|returned error code: 4\d\d|manifest unknown"
     r"|pyxis:\s+\[ERROR\] No such file or directory: |\[ERROR\] Invalid image (format|reference)",
     IMAGE),
    (r"srun: unrecognized option '--(container-|environment)"
     r"|execve\(\): (apptainer|singularity): |\b(apptainer|singularity): (command )?not found",
     NO_ENGINE),
    (r"no uenv (matches|found)|no matching uenv\b", UENV),
    (r"/bin/activate: No such file or directory", NO_VENV),
    (r"gave up on the Hub at ", NO_HUB),
    (r"no usable ticket|no ticket: ", NO_TICKET),
    (r"\bpython[\d.]*: (command )?not found|execve\(\): \S*\bpython[\d.]*: No such file"
     r"|FATAL:\s+\"\S*\bpython[\d.]*\": executable file not found"
     r"|FATAL:\s+stat \S*\bpython[\d.]*: no such file", NO_PYTHON),
    (r"jupyter\S*: (command )?not found|not found on the node", NO_COMMAND),
    (r"PermissionError: ", READ_ONLY),
    (r"couldn't chdir to ", WORKDIR),
)  # fmt: skip

#: The same of lines that say that something failed, and leave it to others to say why.
_VAGUE = (
    (r"FATAL:\s+|pyxis: (couldn't start container|failed to )|enroot-\w+: failed", CONTAINER),
)  # fmt: skip

_PATTERNS = tuple(
    [(re.compile(pattern), cause) for pattern, cause in table] for table in (_LINES, _VAGUE)
)

# A server goes on after such a record of its log (traitlets' format), whose further lines are
# indented; and bash shows with `set -x` what it is about to run, our own sentences included.
_WENT_ON = re.compile(r"\[[DIW] \d{4}-\d\d-\d\d ")
_GOES_ON_BELOW = re.compile(r" {4}|\s*$")
_TRACE = re.compile(r"\++ ")
#: Of a job that was cancelled, only these say why: what it wrote before did not end it.
_CANCELS = {TIME, MEMORY, NODE, PREEMPTED}

#: What the scheduler says when it does not take a job (slurm_errno.c, PBS's pbs_errno).
_REFUSALS = (
    (r"unrecognized option ",
     Cause("queue-policy", "The scheduler of this cluster has no such option.",
           "Tell the administrators: the batch script asks for it.")),
    (r"contact slurm controller|temporarily unable to accept",
     Cause("outage", "The scheduler does not answer at the moment.", "Start again in a while.")),
    (r"User's group not permitted|Required partition not available|Unauthorized Request"
     r"|Queue is not enabled",
     Cause("queue-policy", "The partition takes no jobs, or none of yours.",
           "Choose another partition.")),
    (r"(QOS|Assoc)(Max|Min|Grp)|[Ll]imit|exceed|partition configuration",
     Cause("queue-policy", "A limit of your account, or of the queue, does not allow this job.",
           "Ask for less, end another of your jobs, or choose another account or partition.")),
    (r"[Ii]nvalid account|[Aa]ccount",
     Cause("account", "The job may not be charged to that account.", "Choose another account.")),
    (r"[Ii]nvalid partition|[Uu]nknown queue|not (a )?valid partition",
     Cause("queue-policy", "There is no such partition.", "Choose another partition.")),
    (r"[Rr]eservation",
     Cause("queue-policy", "The reservation is not valid, or not for you.",
           "Choose another reservation, or none.")),
    (r"QOS|qos",
     Cause("queue-policy", "That quality of service is not for you.", "Choose another one.")),
    (r"[Nn]ode (configuration|count)|[Ff]eature|constraint|gres|GRES|TRES|[Mm]emory|processors"
     r"|CPU count|Unknown resource",
     Cause("queue-policy", "No node of the cluster has what was asked for.",
           "Ask for less, or choose another partition.")),
)  # fmt: skip

#: By the ``reason`` of an error of ours: nothing ran, so there is nothing to be read in a log.
OUTAGES = {
    "firecrest-unreachable",
    "firecrest-unwell",
    "firecrest-bad-answer",
    "issuer-unavailable",
}


def cause_of(traces: Traces) -> Cause:
    """The cause of a job's end; UNKNOWN when no trace tells."""
    job = traces.job
    if job is not None and job.state in _STATES:
        return _STATES[job.state]
    if traces.late and job is not None and job.state is JobState.PENDING:
        return QUEUED
    left = traces.walltime
    if traces.exit_reason == "stopped by SIGTERM" and left is not None and left <= LAST_SECONDS:
        return TIME
    for pattern, cause in _REASONS:
        if re.match(pattern, traces.exit_reason):
            return cause
    read = _read(list(_evidence(traces.lines)))
    if job is not None and job.state is JobState.CANCELLED:
        return read if read in _CANCELS else CANCELLED
    if read is not None:
        return read
    if traces.exit_reason.startswith("killed by signal"):
        return KILLED
    if traces.exit_reason.startswith("stopped by SIG"):
        return STOPPED
    if traces.exit_code == 0:
        return SHUT_DOWN
    if job is not None and job.state is JobState.FAILED and job.signal == NO_WORKDIR:
        return WORKDIR
    return SLOW if traces.late and job is not None else UNKNOWN


def _evidence(lines: Sequence[str]) -> Iterator[str]:
    """The lines that may tell of an end."""
    went_on = False
    for line in lines:
        went_on = bool(_WENT_ON.match(line)) or (went_on and bool(_GOES_ON_BELOW.match(line)))
        if not (went_on or _TRACE.match(line)):
            yield line


def _read(lines: Sequence[str]) -> Cause | None:
    """What the last line means that means anything."""
    for table in _PATTERNS:
        for line in reversed(lines):
            for pattern, cause in table:
                if pattern.search(line, 0, WIDTH):
                    return cause
    return None


def cause_of_refusal(reason: str, message: str) -> Cause:
    """The cause of a start that ran nothing: an error's ``reason`` and ``message`` (errors.Error).

    The message is a sentence already; only a scheduler's refusal gets further words.
    """
    if reason == "rejected":
        for pattern, cause in _REFUSALS:
            if re.search(pattern, message):
                return cause._replace(sentence=f"{message} {cause.sentence}")
        return Cause("queue-policy", message, "Choose something else, or ask the centre's support.")
    return Cause("outage" if reason in OUTAGES else reason, message)
