"""What does each FirecREST endpoint do? From a checked call to a status and a body.

Every operation is a plain function that may block; the HTTP layer runs it in a thread.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from . import answers
from .answers import AnswerError
from .cluster import CancelError, Executor, Job, JobRequest, SchedulerError, UnknownUserError
from .filesystem import FileError, Files, check_path
from .sbatch import ConnectionResetBySizeError, SubmitError, SubmitTimeoutError

_NO_SSH = "Unable to establish SSH connection."
_SLURM_FAILED = "Error executing Slurm command."
#: FirecREST's own, in seconds, as ``/status/systems`` tells them.
_TIMEOUTS = {
    "connection": 5,
    "login": 5,
    "commandExecution": 5,
    "idleTimeout": 60,
    "keepAlive": 5,
}


@dataclass
class System:
    """One cluster behind FirecREST.

    ``connection_mode``: ``ssh``, or ``rest``/``hybrid``, where #SBATCH lines do not count.
    ``private_data`` is Slurm's PrivateData=jobs: only owners and operators see a job.
    ``unhealthy`` may hold ``scheduler``, ``ssh``, ``filesystem``, and may change at any time.
    ``max_sessions``: SSH sessions one account may have at once; ``latency``: seconds that every
    call holds its sessions.
    """

    name: str
    executor: Executor
    connection_mode: str = "ssh"
    scheduler: str = "slurm"
    file_systems: tuple[str, ...] = ("/home",)
    private_data: bool = False
    unhealthy: set[str] = field(default_factory=set)
    max_sessions: int | None = None
    latency: float = 0.0

    @property
    def over_ssh(self) -> bool:
        """Whether jobs go through sbatch and sacct, rather than slurmrestd."""
        return self.connection_mode == "ssh"

    def require(self, service: str) -> None:
        """Raises AnswerError (503) if the health checker has marked ``service`` red."""
        # Without ssh the scheduler cannot be reached, and is reported instead.
        down = self.unhealthy & ({"scheduler", "ssh"} if service == "scheduler" else {service})
        if down:
            raise answers.unhealthy(service, self.name)


@dataclass(frozen=True)
class Call:
    """A request that has passed authentication and routing."""

    operation: str
    user: str
    operator: bool
    systems: Mapping[str, System]
    version: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def system(self) -> System:
        """The system in the path; raises AnswerError (404). Case does not matter."""
        wanted = self.params["system"].lower()
        for name, system in self.systems.items():
            if name.lower() == wanted:
                return system
        raise AnswerError(404, "System not found")

    def flag(self, name: str) -> bool:
        """A boolean of the query; absent is False. Raises AnswerError (400) if it is none."""
        return answers.check_flag(self.operation, name, self.query.get(name, "false"))

    def number(self, name: str) -> int | None:
        """A number of the query; raises AnswerError (400) if it is none."""
        value = self.query.get(name)
        if value is None:
            return None
        if not value.isdigit():
            message = "Input should be a valid integer, unable to parse string as an integer"
            problem = {"type": "int_parsing", "loc": ("query", name), "msg": message}
            raise answers.invalid(self.operation, [{**problem, "input": value}])
        return int(value)

    def path(self) -> str:
        """The checked ``path`` of a file operation."""
        if "path" not in self.query:
            problem = {"type": "missing", "loc": ("query", "path"), "msg": "Field required"}
            raise answers.invalid(self.operation, [{**problem, "input": None}])
        return check_path(self.query["path"], self.system.file_systems, self.system.name)

    def sees(self, job: Job) -> bool:
        """Whether the scheduler shows ``job`` to this caller."""
        return not self.system.private_data or self.operator or job.user == self.user


Answer = tuple[int, Any]


def perform(call: Call) -> Answer:
    """Carry out a call. Raises AnswerError for everything that goes wrong."""
    try:
        return _OPERATIONS[call.operation](call)
    except FileError as error:
        raise AnswerError(error.status, error.message) from error
    except SchedulerError as error:
        raise AnswerError(500, _SLURM_FAILED, caused_by=[str(error)]) from error
    except UnknownUserError as error:
        causes = {"job": [_NO_SSH], "list": [_NO_SSH], "userinfo": [_SLURM_FAILED, _NO_SSH]}
        if call.operation in causes:
            raise AnswerError(500, _SLURM_FAILED, caused_by=causes[call.operation]) from error
        raise AnswerError(424, _NO_SSH) from error


# -- status --------------------------------------------------------------------------------


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def _liveness(call: Call) -> Answer:
    return 200, {"healthcheckRuns": {name: _now() for name in call.systems}, "lastUpdate": 3}


def _systems(call: Call) -> Answer:
    return 200, {"systems": [_describe(system) for system in call.systems.values()]}


def _describe(system: System) -> dict[str, Any]:
    now = _now()
    health = [
        {
            "serviceType": service,
            "lastChecked": now,
            "latency": 0.01,
            "healthy": service not in system.unhealthy,
            "message": None,
        }
        for service in ("scheduler", "ssh")
    ]
    health += [
        {**health[0], "serviceType": "filesystem", "path": path}
        | {"healthy": "filesystem" not in system.unhealthy}
        for path in system.file_systems
    ]
    return {
        "name": system.name,
        "ssh": {
            "host": "127.0.0.1",
            "port": 22,
            "proxyHost": None,
            "proxyPort": None,
            "maxClients": 100,
            "timeout": _TIMEOUTS,
        },
        "scheduler": {
            "type": system.scheduler,
            "connectionMode": system.connection_mode,
            "version": system.executor.version,
            "apiUrl": None if system.over_ssh else "http://127.0.0.1:6820",
            "apiVersion": None if system.over_ssh else "0.0.42",
            "timeout": 10,
        },
        "servicesHealth": health,
        "probing": {
            "services": {name: {"timeout": 5} for name in ("ssh", "scheduler", "filesystem")},
            "intervalCheck": 15,
        },
        "lastHealthCheck": now,
        "fileSystems": [
            {"path": path, "dataType": "users", "defaultWorkDir": path == system.file_systems[0]}
            for path in system.file_systems
        ],
        "dataOperation": {
            "datatransfer_jobs_directives": [],
            "max_ops_file_size": 5_242_880,
            "data_transfer": None,
        },
    }


def _nodes(call: Call) -> Answer:
    rows = call.system.executor.nodes()
    if not call.system.over_ssh:
        rows = [{**row, "features": row["features"].split(",")} for row in rows]
    return 200, {"nodes": rows}


def _partitions(call: Call) -> Answer:
    rows = call.system.executor.partitions(call.user)
    if not call.system.over_ssh:
        rows = [{**row, "partition": [row["partition"]]} for row in rows]
    return 200, {"partitions": rows}


def _reservations(call: Call) -> Answer:
    return 200, {"reservations": call.system.executor.reservations(call.user)}


def _userinfo(call: Call) -> Answer:
    call.system.require("ssh")
    return 200, call.system.executor.userinfo(call.user)


# -- compute -------------------------------------------------------------------------------


def _submit(call: Call) -> Answer:
    system = call.system
    request, script_path = answers.parse_submit(call.body, system.over_ssh)
    system.require("scheduler")
    try:
        if script_path is not None:
            # slurmrestd takes no path: there FirecREST falls back to sbatch.
            request = replace(_with_script(call, request, script_path), directives=True)
        return 201, {"jobId": system.executor.submit(call.user, request)}
    except SubmitTimeoutError as error:
        raise AnswerError(408, "Command execution timeout limit exceeded.") from error
    except ConnectionResetBySizeError as error:
        raise AnswerError(424, "SSH connection Reset.") from error
    except SubmitError as error:
        if not system.over_ssh:
            raise answers.slurmrestd_refused(error.stderr, system.executor.cluster) from error
        raise answers.slurm_refused(error.stderr, error.exit_status) from error


def _with_script(call: Call, request: JobRequest, path: str) -> JobRequest:
    try:
        script = Files(call.system.executor, call.user).view(path)
    except FileError as error:
        raise SubmitError(f"sbatch: error: Unable to open file {path}\n") from error
    return replace(request, script=script)


def _list(call: Call) -> Answer:
    system, query, since = call.system, call.query, time.time() - answers.WINDOWS["7d"]
    name = query.get("name")
    if call.version.startswith("2.5"):
        name = None
    else:
        since = time.time() - answers.check_window(query.get("time_window", "24h"))
    everybody = call.flag("allusers")
    system.require("scheduler")
    rows = [
        job
        for job in system.executor.jobs(call.user)
        if call.sees(job) and (everybody or job.user == call.user)
    ]
    rows = answers.select(rows, name=name, account=query.get("account"), since=since)
    return 200, {"jobs": _render(system, rows)}


def _job(call: Call) -> Answer:
    system, job_id = call.system, call.params["job_id"]
    answers.check_job_id(job_id)
    system.require("scheduler")
    rows = _render(system, filter(call.sees, system.executor.jobs(call.user, job_id)))
    if not rows:
        raise answers.job_not_found()
    return 200, {"jobs": rows}


def _render(system: System, jobs: Any) -> list[dict[str, Any]]:
    found = list(jobs)
    if system.over_ssh:
        if any(map(answers.unreadable, found)):
            raise AnswerError(500, _SLURM_FAILED)
        # Without tasks a row with a pipe in its name is not broken, but lost.
        found = [job for job in found if "|" not in job.name]
    cluster = system.executor.cluster
    return [answers.render_job(job, cluster, system.over_ssh) for job in found]


def _metadata(call: Call) -> Answer:
    system, job_id = call.system, call.params["job_id"]
    answers.check_job_id(job_id)
    system.require("scheduler")
    if not system.over_ssh:
        mode = f"{system.connection_mode} connection mode"
        message = f"Scheduler can't handle this request when configured to use {mode}"
        raise AnswerError(501, message)
    visible = any(map(call.sees, system.executor.jobs(call.user, job_id)))
    found = system.executor.metadata(call.user, job_id, call.operator) if visible else None
    if found is None:
        raise answers.job_not_found()
    row = {
        "jobId": found.id,
        "script": found.script,
        "standardInput": "/dev/null",
        "standardOutput": found.output,
        "standardError": found.error,
    }
    return 200, {"jobs": [row]}


def _cancel(call: Call) -> Answer:
    system, job_id = call.system, call.params["job_id"]
    answers.check_job_id(job_id)
    system.require("scheduler")
    try:
        system.executor.cancel(call.user, job_id, call.operator)
    except CancelError as error:
        # slurmrestd says yes to everything; the job may run on.
        if system.over_ssh:
            text = (
                f"scancel: Terminating job {job_id}\n"
                f"scancel: error: Kill job error on job id {job_id}: {error.reason}\n"
            )
            raise answers.slurm_refused(text, error.exit_status) from error
    return 204, None


# -- files ---------------------------------------------------------------------------------


def _files(call: Call) -> Files:
    for service in ("ssh", "filesystem"):
        call.system.require(service)
    return Files(call.system.executor, call.user)


def _part(call: Call) -> Answer:
    lines, size = call.number("lines"), call.number("bytes")
    if lines is not None and size is not None:
        raise AnswerError(400, "Only one of `bytes` or `lines` can be specified.")
    skip = call.flag("skipHeading" if call.operation == "tail" else "skipTrailing")
    files = _files(call)
    read = files.tail if call.operation == "tail" else files.head
    return 200, {"output": read(call.path(), lines, size, skip)}


def _view(call: Call) -> Answer:
    return 200, {"output": _files(call).view(call.path())}


def _ls(call: Call) -> Answer:
    return 200, {"output": _files(call).ls(call.path(), call.flag("showHidden"))}


def _stat(call: Call) -> Answer:
    return 200, {"output": _files(call).stat(call.path())}


def _mkdir(call: Call) -> Answer:
    body = call.body if isinstance(call.body, dict) else {}
    given = body.get("sourcePath", body.get("path"))
    if not isinstance(given, str):
        problem = {"type": "missing", "loc": ("body", "path"), "msg": "Field required"}
        raise answers.invalid("mkdir", [{**problem, "input": body}])
    path = check_path(given, call.system.file_systems, call.system.name)
    return 201, {"output": _files(call).mkdir(path, bool(body.get("parent")))}


def _upload(call: Call) -> Answer:
    name, data = call.body
    if "/" in name or not name:
        raise AnswerError(400, "The file name is not valid.")
    _files(call).write(posixpath.join(call.path(), name), data)
    return 204, None


_OPERATIONS: dict[str, Callable[[Call], Answer]] = {
    "liveness": _liveness,
    "systems": _systems,
    "nodes": _nodes,
    "partitions": _partitions,
    "reservations": _reservations,
    "userinfo": _userinfo,
    "submit": _submit,
    "list": _list,
    "job": _job,
    "metadata": _metadata,
    "cancel": _cancel,
    "tail": _part,
    "head": _part,
    "view": _view,
    "ls": _ls,
    "stat": _stat,
    "mkdir": _mkdir,
    "upload": _upload,
}
