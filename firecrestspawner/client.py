"""How the Hub speaks to FirecREST: deadlines, bounded retries, typed errors, typed answers.

One :class:`FirecREST` per API URL, over one pyfirecrest client and so one connection pool and TLS
context for the whole Hub. The token is an argument of each call and reaches pyfirecrest through a
context variable: many users share the client, none another's token.

pyfirecrest's exceptions carry the server's answers and those carry tokens and environments (S9);
they end here. What leaves is an error of :mod:`firecrestspawner.errors`.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import httpx
from firecrest.FirecrestException import FirecrestException
from firecrest.v2 import AsyncFirecrest

from .answers import AWAY, UNREADABLE, failure
from .deadline import in_time
from .errors import (
    BadAnswer,
    BadRequest,
    FirecRESTError,
    Forbidden,
    NotFound,
    Unauthorized,
    Unreachable,
    Unwell,
)
from .isolation import SERVICE, Guard
from .metrics import BREAKER, REQUESTS, observe
from .models import Job, JobRequest, Listing, Node, Secret, System
from .service import ServiceAccount
from .slices import Slices, elements

log = logging.getLogger(__name__)
T = TypeVar("T")

# At DEBUG httpcore logs response headers, and FirecREST's 401s hold the token in one (S1, S9).
logging.getLogger("httpcore").setLevel(logging.INFO)

_SYSTEM = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_JOB_ID = re.compile(r"[A-Za-z0-9_.\[\]@-]{1,100}")

#: What is asked of a system beside its jobs, and how a user is told who does not answer.
BESIDE = {"files": "The file service of {}", "hints": "What may be used on {}"}

_token: contextvars.ContextVar[Secret] = contextvars.ContextVar("firecrest_token")
#: Whether the call that is under way is the service account's.
_looking: contextvars.ContextVar[bool] = contextvars.ContextVar("firecrest_looking", default=False)


class _CurrentToken:
    """pyfirecrest's authorization object: the token of the call that is under way."""

    def auth_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {_token.get().reveal()}"}


@dataclass(frozen=True)
class _Question:
    """What is asked, of which system (empty: of the API itself), and how.

    ``what`` names it in the log. ``write`` is to change something. With ``retry`` a read whose
    connection broke is asked once more: the request after an unhandled 500 on a kept-alive
    connection finds it closed (FirecREST facts, status codes). ``insist`` as in Guard.run.
    What is asked ``beside`` the scheduler's jobs (BESIDE) is so behind a guard of its own: a file
    system that hangs, or an accounting database, says nothing of the scheduler, and must not keep
    anybody's job from being started or seen (R9).
    """

    operation: str
    system: str
    what: str
    write: bool = False
    retry: bool = False
    insist: bool = False
    beside: str = ""


class FirecREST:
    """Typed access to one FirecREST v2 API.

    Parameters
    ----------
    url: the API's base URL, path prefix included.
    deadline: seconds for one call, connection and answer included. The server's own limit for a
        command on the cluster is 5 s and it may run three of them for one call.
    """

    def __init__(self, url: str, *, deadline: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.deadline = deadline
        self._client: AsyncFirecrest | None = None
        self._guards: dict[str, Guard] = {}
        #: What users are shown for a system, where that is not its name.
        self.titles: dict[str, str] = {}

    @property
    def client(self) -> AsyncFirecrest:
        if self._client is None:
            self._client = AsyncFirecrest(self.url, authorization=_CurrentToken())
            self._client.timeout = self.deadline
            # None would repeat a 429 for ever, sleeping as long as the answer says.
            self._client.num_retries_rate_limit = 0
            self._client.disable_client_logging = True
        return self._client

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close_session()
            self._client = None

    def guard(self, system: str, *, beside: str = "") -> Guard:
        """What stands before the calls for a system's jobs, or for what is ``beside`` them.

        The system ``""`` is the API itself.
        """
        key = f"{system} {beside}" if beside else system
        if key not in self._guards:
            what = BESIDE.get(beside, "{}")
            named = (what.format(each or "FirecREST") for each in (system, self.title(system)))
            guard = self._guards[key] = Guard(*named)
            observe(BREAKER, lambda: float(guard.breaker.state), system=key)
        return self._guards[key]

    def title(self, system: str) -> str:
        """What users are shown for a system."""
        return self.titles.get(system, system)

    async def systems(self, token: Secret) -> dict[str, System]:
        """The systems this deployment serves, by name."""
        question = _Question("systems", "", "systems")
        rows = await self._call(token, question, lambda: self.client.systems())
        return {system.name: system for system in _read(rows, _system)}

    async def nodes(self, token: Secret, system: str) -> Sequence[Node]:
        """All nodes of a system."""
        question = _Question("nodes", system, f"nodes of {system}")
        rows = await self._call(token, question, lambda: self.client.nodes(_name(system)))
        slices, nodes = Slices(), list[Node]()
        for row in rows if isinstance(rows, list) else _garbage():
            await slices.breathe()
            nodes.extend(_read([row], Node.from_api))
        return nodes

    async def status(self, token: Secret, system: str, what: str) -> Any:
        """What ``userinfo``, ``partitions`` or ``reservations`` of the system answer, unread."""
        question = _Question(what, system, f"{what} of {system}", beside="hints")
        return await self._call(token, question, lambda: getattr(self.client, what)(_name(system)))

    async def job(self, token: Secret, system: str, job_id: str) -> Job:
        """One job by its id.

        Raises NotFound when FirecREST says so, which never proves absence.
        """
        question = _Question("job", system, f"job {job_id} on {system}", retry=True)
        jobs = await self._call(
            token, question, lambda: self.client.job_info(_name(system), _job_id(job_id))
        )
        found = _read(jobs, Job.from_api)
        for job in found:
            if job.id == job_id:
                return job
        detail = f"the answer about job {job_id} on {system} does not hold it"
        if found:
            # Of an array job Slurm shows the tasks, under ids of their own: nothing is proven.
            raise BadAnswer(UNREADABLE, detail=detail)
        named = self.title(system)
        raise NotFound(f"The system {named} does not know the job {job_id}.", detail=detail)

    async def jobs(
        self, token: Secret, system: str, *, name: str, all_users: bool, window: str | None = None
    ) -> Listing:
        """The jobs called ``name``: all users', or the token owner's.

        ``window`` is how far back the list goes for jobs that have ended: ``1h``, ``8h``, ``24h``
        (the API's default), ``3d`` or ``7d``; those that have not are always in it. Servers before
        2.6 ignore name and window silently, so the name is applied to the answer too.
        """
        question = _Question("jobs", system, f"jobs on {system}")
        return await self._call(
            token, question, lambda: self._list(_name(system), name, all_users, window)
        )

    async def _list(self, system: str, name: str, all_users: bool, window: str | None) -> Listing:
        # Not job_info(): that refuses the filters for versions which merely ignore them, and the
        # version changes under a running Hub.
        params = {"allusers": all_users, "name": name, "time_window": window}
        answer = await self.client._get_request(f"/compute/{system}/jobs", params=params)
        self.client._check_response(answer, 200, return_json=False)
        jobs, others = [], 0
        async for row in elements(answer.text, "jobs"):
            given = row.get("name") if isinstance(row, dict) else None
            if given == name:
                try:
                    jobs.append(Job.from_api(row))
                except ValueError:
                    continue  # one odd row must not hide the others
            elif isinstance(given, str) and given.lower() != name.lower():
                others += 1  # a filtering database has no regard to case
        return Listing(jobs, others)

    async def submit(self, token: Secret, system: str, request: JobRequest) -> str:
        """Submit once, without a retry, and return the job id the server printed.

        Raises SubmissionRejected with the scheduler's words; any error's ``ambiguous`` says
        whether the job may exist all the same (R3).
        """
        question = _Question("submit", system, f"submit to {system}", write=True)
        answer = await self._call(token, question, lambda: self._submit(_name(system), request))
        job_id = answer.get("jobId") if isinstance(answer, dict) else None
        known = isinstance(job_id, str | int) and not isinstance(job_id, bool)
        if not known or not _JOB_ID.fullmatch(str(job_id)):
            raise BadAnswer(
                f"FirecREST accepted the job on {self.title(system)} but did not say its number.",
                detail=f"the answer to a submit on {system} holds no job id",
                ambiguous=True,
            )
        return str(job_id)

    async def _submit(self, system: str, request: JobRequest) -> Any:
        # Not submit(): it lacks the API's name, standardOutput and constraints fields.
        answer = await self.client._post_request(
            f"/compute/{system}/jobs", json_data={"job": request.body()}
        )
        return self.client._check_response(answer, 201)

    async def cancel(self, token: Secret, system: str, job_id: str) -> None:
        """Ask for the job to be cancelled. Neither success nor error says what became of it."""
        what = f"cancel job {job_id} on {system}"
        question = _Question("cancel", system, what, write=True, insist=True)
        await self._call(
            token, question, lambda: self.client.cancel_job(_name(system), _job_id(job_id))
        )

    async def tail(self, token: Secret, system: str, path: str, *, size: int) -> str:
        """The last ``size`` bytes of a file, as text; bytes that are none are replaced.

        ``path`` is absolute. FirecREST puts it into a shell's single quotes as it is (FirecREST
        facts, trust): one with a quote or a control character in it raises BadRequest here.
        Raises NotFound when there is no such file.
        """
        if not path.startswith("/") or "'" in path or not path.isprintable():
            raise BadRequest("That is not the path of a file.", detail="a path that is not sent")
        question = _Question("tail", system, f"tail on {system}", retry=True, beside="files")
        answer = await self._call(
            token, question, lambda: self.client.tail(_name(system), path, num_bytes=size)
        )
        content = answer.get("content") if isinstance(answer, Mapping) else None
        if not isinstance(content, str):
            _garbage()
        return content[-size:]

    async def _call(
        self, token: Secret, question: _Question, call: Callable[[], Awaitable[T]]
    ) -> T:
        """Ask when it is this call's turn, and count what comes of it. Raises FirecRESTError."""
        account = SERVICE if _looking.get() else _owner(token)
        outcome = "cancelled"
        try:
            answer = await self.guard(question.system, beside=question.beside).run(
                account,
                lambda: self._ask(token, question, call),
                patience=self.deadline,
                insist=question.insist,
            )
            outcome = "ok"
            return answer
        except FirecRESTError as error:
            outcome = error.reason
            raise
        finally:
            REQUESTS.labels(question.system, question.operation, outcome).inc()

    async def _ask(self, token: Secret, question: _Question, call: Callable[[], Awaitable[T]]) -> T:
        """Make one call under the deadline and turn every failure into a FirecRESTError."""
        what, write = question.what, question.write
        _token.set(token)
        try:
            return await in_time(call(), self.deadline)
        except FirecrestException as error:
            raise failure(what, error.responses[-1] if error.responses else None, write) from None
        except asyncio.TimeoutError:
            raise Unreachable(
                AWAY, detail=f"{what}: no answer in {self.deadline:g} s", ambiguous=write
            ) from None
        except _UNSENT as error:
            raise Unreachable(AWAY, detail=f"{what}: {type(error).__name__}") from None
        except (httpx.HTTPError, OSError) as error:
            if question.retry and isinstance(error, httpx.TransportError):
                return await self._ask(token, replace(question, retry=False), call)
            raise Unreachable(
                AWAY, detail=f"{what}: {type(error).__name__}", ambiguous=write
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadAnswer(
                UNREADABLE,
                detail=f"{what}: {type(error).__name__} while reading the answer",
                ambiguous=write,
            ) from None


def _owner(token: Secret) -> int:
    """Tells the users apart whose tokens these are: one that is refreshed is still the same user's.

    Not verified, for it only says whose turn it is. A token that does not say is a user of its own.
    """
    try:
        payload = token.reveal().split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
        return hash(("subject", subject))
    except (IndexError, ValueError, KeyError, TypeError):
        return hash(token)


async def as_service(account: ServiceAccount, call: Callable[[Secret], Awaitable[T]]) -> T:
    """Run ``call`` with the service account's token; once more when the API refuses the token.

    What the API holds against the account no user can mend: it becomes Unwell.
    """
    token = await account.get()
    try:
        return await _look(call, token)
    except Forbidden as error:
        raise _account_refused(error) from None
    except Unauthorized as error:
        account.forget(token)
        fresh = await account.get()
        if fresh == token:
            raise _account_refused(error) from None
    try:
        return await _look(call, fresh)
    except (Forbidden, Unauthorized) as error:
        raise _account_refused(error) from None


async def _look(call: Callable[[Secret], Awaitable[T]], token: Secret) -> T:
    before = _looking.set(True)
    try:
        return await call(token)
    finally:
        _looking.reset(before)


def _account_refused(error: Forbidden | Unauthorized) -> Unwell:
    return Unwell(
        "The cluster's API does not accept the Hub's own account. Please tell the administrators.",
        detail=f"the service account is refused: {error.detail}",
    )


#: What goes wrong before anything is sent: not ambiguous.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.InvalidURL,
    httpx.UnsupportedProtocol,
)


def _read(rows: Any, reader: Callable[[Any], T]) -> Sequence[T]:
    if not isinstance(rows, list):
        _garbage()
    try:
        return [reader(row) for row in rows]
    except (KeyError, TypeError, AttributeError, ValueError):
        _garbage()


def _garbage() -> NoReturn:
    raise BadAnswer(UNREADABLE)


def _system(row: Any) -> System:
    scheduler = row.get("scheduler") or {}
    health = row.get("servicesHealth") or []
    return System(
        name=str(row["name"]),
        scheduler=str(scheduler.get("type") or "slurm").lower(),
        connection_mode=str(scheduler.get("connectionMode") or "ssh").lower(),
        unhealthy=tuple(
            str(service.get("serviceType")) for service in health if service.get("healthy") is False
        ),
    )


def _name(system: str) -> str:
    # pyfirecrest puts names into paths as they are.
    if not _SYSTEM.fullmatch(system):
        raise BadRequest("That is not the name of a system.", detail="malformed system name")
    return quote(system, safe="")


def _job_id(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise BadRequest("That is not a job number.", detail="malformed job id")
    return quote(job_id, safe="")
