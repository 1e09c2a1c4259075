"""What do FirecREST's answers look like? Error bodies, validation messages, jobs.

Pure. Shapes and texts follow the recorded answers of a FirecREST v2 over Slurm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from .cluster import Job, JobRequest, Task

JOB_ID = re.compile(r"[a-zA-Z0-9]+")
#: Seconds in each value of ``time_window``.
WINDOWS = {"1h": 3600, "8h": 28_800, "24h": 86_400, "3d": 259_200, "7d": 604_800}
_QUOTA = re.compile(r"(QOS|Assoc)(Max|Min)\w*Limit")


class AnswerError(Exception):
    """An error answer. ``unhandled``: the server also closes the connection, as it does after an
    exception that it did not expect (and then it names no user)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "error",
        caused_by: list[str] | None = None,
        data: Any = None,
        unhandled: bool = False,
        anonymous: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.caused_by = caused_by
        self.data = data
        self.unhandled = unhandled
        self.anonymous = anonymous or unhandled

    def body(self, user: str | None) -> dict[str, Any]:
        """FirecREST's error body."""
        return {
            "errorType": self.kind,
            "message": self.message,
            "causedBy": self.caused_by,
            "data": self.data,
            "user": None if self.anonymous else user,
        }


def job_not_found() -> AnswerError:
    """What every query says of a job that it does not see, whatever the reason."""
    return AnswerError(404, "Job not found.")


def slurm_refused(stderr: str, exit_status: int) -> AnswerError:
    """An sbatch or scancel that failed over SSH; limits of accounting are a 403."""
    if _QUOTA.search(stderr):
        text = "Job submission rejected: accounting/QOS policy limit exceeded. "
        return AnswerError(403, text + stderr.rstrip("\n"))
    text = f"Unexpected Slurm command response. exit_status:{exit_status} std_err:{stderr}"
    return AnswerError(500, text)


def slurmrestd_refused(stderr: str, cluster: str) -> AnswerError:
    """A submit that slurmrestd refused: its own JSON, pretty-printed, is the message."""
    reason = stderr.rstrip("\n").rpartition(": ")[2]
    number = {"Invalid partition name specified": 2000}.get(reason, 2045)
    answer = {
        "errors": [
            {
                "description": "Batch job submission failed",
                "error_number": number,
                "error": reason,
                "source": "slurm_submit_batch_job()",
            }
        ],
        "warnings": [],
        "meta": {"slurm": {"release": "24.11.5", "cluster": cluster}},
    }
    text = json.dumps(answer, indent=2).replace("/", "\\/")
    return AnswerError(500, f"Unexpected Slurm API response. status:500 message:{text}")


def unhealthy(service: str, system: str) -> AnswerError:
    """The health checker has marked a service red."""
    text = f"The {service} service for the requested system ({system}) is unhealthy."
    return AnswerError(503, text)


# -- validation ----------------------------------------------------------------------------

_Problem = dict[str, Any]
_SOURCES = {
    "submit": ("compute", 40, "post_job_submit", "post /compute/{system_name}/jobs"),
    "list": ("compute", 70, "get_jobs", "get /compute/{system_name}/jobs"),
    "job": ("compute", 117, "get_job", "get /compute/{system_name}/jobs/{job_id}"),
}


def invalid(operation: str, problems: list[_Problem], anonymous: bool = False) -> AnswerError:
    """A 400: the whole of pydantic's complaint, lower-cased, input included."""
    module, line, function, route = _SOURCES.get(
        operation, ("filesystem/ops", 1, operation, operation)
    )
    plural = "" if len(problems) == 1 else "s"
    listed = "".join(f"  {problem!r}\n" for problem in problems)
    message = (
        f"{len(problems)} validation error{plural}:\n{listed}\n"
        f'  File "src/firecrest/{module}/router.py", line {line}, in {function}\n    {route}'
    ).lower()
    fields = []
    for each in problems:
        # Of a body that is missing altogether there is no name.
        where, name = (*each["loc"], None)[:2]
        fields.append({"location": where, "name": name, "message": each["msg"]})
    return AnswerError(
        400, message, kind="validation", data={"fields": fields}, anonymous=anonymous
    )


def check_job_id(job_id: str) -> None:
    """Raises AnswerError (400) unless FirecREST's path pattern takes ``job_id``."""
    if JOB_ID.fullmatch(job_id) is None:
        pattern = "^[a-zA-Z0-9]+$"
        problem = {
            "type": "string_pattern_mismatch",
            "loc": ("path", "job_id"),
            "msg": f"String should match pattern '{pattern}'",
            "input": job_id,
            "ctx": {"pattern": pattern},
        }
        raise invalid("job", [problem])


def check_flag(operation: str, name: str, value: str) -> bool:
    """A boolean of the query; raises AnswerError (400) for a word that pydantic does not take."""
    if value.lower() not in _FLAGS:
        message = "Input should be a valid boolean, unable to interpret input"
        problem = {"type": "bool_parsing", "loc": ("query", name), "msg": message, "input": value}
        raise invalid(operation, [problem])
    return _FLAGS[value.lower()]


_FLAGS = dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True)
_FLAGS |= dict.fromkeys(("false", "0", "no", "off", "f", "n"), False)


def check_window(window: str) -> int:
    """Seconds of a ``time_window``; raises AnswerError (400) for a value not in WINDOWS."""
    if window not in WINDOWS:
        expected = "'1h', '8h', '24h', '3d' or '7d'"
        problem = {
            "type": "enum",
            "loc": ("query", "time_window"),
            "msg": f"Input should be {expected}",
            "input": window,
            "ctx": {"expected": expected},
        }
        raise invalid("list", [problem])
    return WINDOWS[window]


def parse_json(body: bytes, operation: str) -> Any:
    """The decoded body. FirecREST reads it before it looks at the token."""
    try:
        return json.loads(body or b"null")
    except ValueError as error:
        reason = getattr(error, "msg", "invalid encoding")
        problem = {
            "type": "json_invalid",
            "loc": ("body", getattr(error, "pos", 0)),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": reason},
        }
        raise invalid(operation, [problem], anonymous=True) from error


_TEXTS = {
    "name": ("name",),
    "account": ("account",),
    "partition": ("partition",),
    "reservation": ("reservation",),
    "constraints": ("constraints",),
    "output": ("standardOutput", "standard_output"),
    "error": ("standardError", "standard_error"),
}


def parse_submit(body: Any, directives: bool) -> tuple[JobRequest, str | None]:
    """The request of a submit's body, and its ``scriptPath``. Raises AnswerError (400, 500).

    Fields that the API does not know are dropped without a word.
    """
    if body is None:
        raise invalid("submit", [_missing(("body",), None)])
    _require_object(("body",), body)
    if "job" not in body:
        raise invalid("submit", [_missing(("body", "job"), body)])
    job = body["job"]
    _require_object(("body", "job"), job)
    problems: list[_Problem] = []
    directory = job.get("workingDirectory", job.get("working_directory"))
    if directory is None:
        problems.append(_missing(("body", "job", "workingDirectory"), job))
    elif not isinstance(directory, str):
        problems.append(_not_a("string", ("body", "job", "workingDirectory"), directory))
    texts: dict[str, str] = {}
    for field, names in (*_TEXTS.items(), ("script", ("script",)), ("path", _SCRIPT_PATH)):
        value = next((job[name] for name in names if job.get(name) is not None), None)
        if isinstance(value, str):
            texts[field] = value
        elif value is not None:
            problems.append(_not_a("string", ("body", "job", names[0]), value))
    env = job.get("env", {"F7T_version": "v2.0.0"})
    problems += _environment_problems(env)
    if problems:
        raise invalid("submit", problems)
    if isinstance(env, list):
        raise AnswerError(500, "(\"'list' object has no attribute 'items'\",)", unhandled=True)
    path, script = texts.pop("path", None), texts.pop("script", "")
    request = JobRequest(str(directory), script, env, directives=directives, **texts)
    return request, path


_SCRIPT_PATH = ("scriptPath", "script_path")


def _require_object(loc: tuple[str, ...], given: Any) -> None:
    if isinstance(given, dict):
        return
    message = "Input should be a valid dictionary or object to extract fields from"
    problem = {"type": "model_attributes_type", "loc": loc, "msg": message, "input": given}
    raise invalid("submit", [problem])


def _environment_problems(env: Any) -> list[_Problem]:
    if isinstance(env, list) and all(isinstance(value, str) for value in env):
        return []
    if not isinstance(env, dict):
        return [_not_a("dictionary", ("body", "job", "env", "dict[str,str]"), env)]
    wrong = [(name, value) for name, value in env.items() if not isinstance(value, str)]
    if not wrong:
        return []
    found = [_not_a("string", ("body", "job", "env", "dict[str,str]", k), v) for k, v in wrong]
    return [*found, _not_a("list", ("body", "job", "env", "list[str]"), env)]


def _missing(loc: tuple[str, ...], given: Any) -> _Problem:
    return {"type": "missing", "loc": loc, "msg": "Field required", "input": given}


def _not_a(kind: str, loc: tuple[str, ...], given: Any) -> _Problem:
    message = f"Input should be a valid {kind}"
    return {"type": f"{kind}_type", "loc": loc, "msg": message, "input": given}


# -- jobs ----------------------------------------------------------------------------------


def render_job(job: Job, cluster: str, over_ssh: bool) -> dict[str, Any]:
    """A job as the API shows it; slurmrestd's words differ a little from sacct's."""
    state = job.state if over_ssh else job.state.partition(" ")[0]
    return {
        "jobId": job.id,
        "name": job.name,
        "status": _status(state, job.reason, job.exit_code, job.signal, over_ssh),
        "tasks": [_task(task, over_ssh) for task in job.tasks],
        "time": {
            "elapsed": job.elapsed,
            "start": _moment(job.start, over_ssh),
            "end": _moment(job.end, over_ssh),
            "suspended": job.suspended if over_ssh else job.suspended or 0,
            "limit": job.limit,
        },
        "account": job.account,
        "allocationNodes": job.node_count,
        "cluster": cluster,
        "group": job.group,
        "nodes": job.nodes,
        "partition": job.partition,
        "killRequestUser": None if over_ssh else job.cancelled_by,
        "user": job.user,
        "workingDirectory": job.working_directory,
        "priority": job.priority,
    }


def _task(task: Task, over_ssh: bool) -> dict[str, Any]:
    # slurmrestd has either a signal or an exit code.
    exit_code = task.exit_code if over_ssh or not task.signal else None
    return {
        "id": task.id,
        "name": task.name,
        "status": _status(task.state, None, exit_code, task.signal, over_ssh),
        "time": {
            "elapsed": task.elapsed,
            "start": _moment(task.start, over_ssh),
            "end": _moment(task.end, over_ssh),
            "suspended": 0,
            "limit": None,
        },
    }


def _status(
    state: str, reason: str | None, exit_code: int | None, number: int | None, over_ssh: bool
) -> dict[str, Any]:
    return {
        "state": state,
        "stateReason": reason,
        "exitCode": exit_code,
        "interruptSignal": number if over_ssh else number or None,
    }


def _moment(seconds: int | None, over_ssh: bool) -> int | None:
    return seconds if over_ssh else seconds or 0


def select(
    jobs: Iterable[Job], *, name: str | None, account: str | None, since: float
) -> list[Job]:
    """The jobs that a list shows: alive after ``since``, with one of the names and accounts.

    A filter is a list separated by commas; names with blanks or quotes never match. The database
    compares names without regard to case. An empty filter is none.
    """
    names = {part.lower() for part in name.split(",") if part} if name else None
    if names is not None and re.search(r"[\s'\"]", name or ""):
        names = set()
    accounts = set(account.split(",")) if account else None
    return [
        job
        for job in jobs
        if (names is None or job.name.lower() in names)
        and (accounts is None or job.account in accounts)
        and (job.end is None or job.end >= since)
    ]


def unreadable(job: Job) -> bool:
    """Whether this row breaks FirecREST's reading of sacct: names are not escaped there."""
    return "|" in job.name and bool(job.tasks)
