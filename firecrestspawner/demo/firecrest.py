"""How does a FirecREST v2 behave over HTTP, when no cluster is at hand?

A stand-in over real HTTP, as FirecREST itself: an ASGI application on uvicorn. It verifies
tokens, checks requests, answers in FirecREST's words, and hands the work to an executor; on demand
it fails (:mod:`.faults`). Run it alone with ``python -m firecrestspawner.demo.firecrest``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from .answers import AnswerError, parse_json
from .executors import Executor, LocalExecutor
from .faults import Fault, Faults
from .operations import Call, System, perform
from .verifier import TokenError, Verifier
from .wire import BARE, Broken, Held, Server, json_response, tracking

__all__ = ["FirecREST", "RequestRecord", "System", "main"]

_ROUTES = [
    ("GET", "/status/liveness/", "liveness"),
    ("GET", "/status/systems", "systems"),
    ("GET", "/status/{system}/nodes", "nodes"),
    ("GET", "/status/{system}/partitions", "partitions"),
    ("GET", "/status/{system}/reservations", "reservations"),
    ("GET", "/status/{system}/userinfo", "userinfo"),
    ("POST", "/compute/{system}/jobs", "submit"),
    ("GET", "/compute/{system}/jobs", "list"),
    ("GET", "/compute/{system}/jobs/{job_id}", "job"),
    ("DELETE", "/compute/{system}/jobs/{job_id}", "cancel"),
    ("GET", "/compute/{system}/jobs/{job_id}/metadata", "metadata"),
    *(
        ("GET", f"/filesystem/{{system}}/ops/{name}", name)
        for name in ("tail", "head", "view", "ls", "stat")
    ),
    ("POST", "/filesystem/{system}/ops/mkdir", "mkdir"),
    ("POST", "/filesystem/{system}/ops/upload", "upload"),
]
#: SSH sessions that a call needs at a time; what is not named here needs one.
_SESSIONS = {"liveness": 0, "systems": 0, "job": 2, "list": 2, "metadata": 2, "userinfo": 3}
_QUERIES = ("job", "list", "metadata", "userinfo")
_RECORD = "firecrest.record"


@dataclass
class RequestRecord:
    """A request that was served. Sizes in bytes, times in seconds; ``body`` only for submits.

    ``status`` is 0 when the connection was reset instead of an answer.
    """

    method: str
    path: str
    query: dict[str, str]
    operation: str = ""
    username: str | None = None
    status: int = 0
    request_size: int = 0
    answer_size: int = 0
    at: float = field(default_factory=time.time)
    elapsed: float = 0.0
    body: Any = field(default=None, repr=False)


class FirecREST:
    """A FirecREST server on a thread of its own; a context manager.

    ``jwks_url``: the issuer's keys. ``systems``: what it serves; give each an executor of its
    own. ``port`` 0 takes a free one, and keeps it. ``operators``: usernames for whom the
    schedulers have an Operator role. ``version``: ``2.5.6`` ignores ``name`` and ``time_window``.

    ``requests`` are the last :class:`RequestRecord` s, ``faults`` what goes wrong on purpose,
    ``peak_sessions`` the most SSH sessions that (system, user) had at a time.
    """

    def __init__(
        self,
        jwks_url: str,
        systems: Sequence[System],
        port: int = 0,
        host: str = "127.0.0.1",
        operators: Iterable[str] = ("service-account-jupyterhub-service",),
        version: str = "2.x.x",
        claim: str = "preferred_username",
        keep: int = 20_000,
    ) -> None:
        self.systems = {system.name: system for system in systems}
        self.host = host
        self.port = port
        self.operators = set(operators)
        self.version = version
        self.verifier = Verifier(jwks_url, claim)
        self.faults = Faults()
        self.requests: deque[RequestRecord] = deque(maxlen=keep)
        self.peak_sessions: Counter[tuple[str, str]] = Counter()
        self._sessions: Counter[tuple[str, str]] = Counter()
        self._transports: dict[Any, asyncio.Transport] = {}
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._routed = Starlette(
            routes=[
                Route(path, partial(self._serve, operation=name), methods=[method])
                for method, path, name in _ROUTES
            ],
            exception_handlers={HTTPException: self._not_routed},
        )

    # -- life ------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end. Known once it has been started."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> FirecREST:
        """Listen. After :meth:`stop` it can be started again, on the same port.

        Raises OSError if the address is taken.
        """
        # With the protocol named, asyncio turns Nagle off: an answer is two small writes.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        # Now: two sockets may be bound to one port, and only here is one of them refused.
        listener.listen(128)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self,
            http=tracking(self._transports),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._server = Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self._thread.start()
        while not self._server.up.wait(0.1):
            if not self._thread.is_alive():
                raise RuntimeError("the FirecREST stand-in ended before it served")
        return self

    def stop(self) -> None:
        """Stop serving; the executors' jobs run on."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._server = self._thread = None

    def close(self) -> None:
        """Stop serving, and end every job of every executor."""
        self.stop()
        for system in self.systems.values():
            system.executor.stop()

    def __enter__(self) -> FirecREST:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(self, operation: str | None = None, username: str | None = None) -> int:
        """How many of the kept requests were of one operation, of one user."""
        return sum(
            operation in (None, record.operation) and username in (None, record.username)
            for record in list(self.requests)
        )

    # -- one request -----------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application: FirecREST's headers and the record around the routes."""
        request = Request(scope)
        record = RequestRecord(request.method, request.url.path, dict(request.query_params))
        # FirecREST knows no capitals in paths, whosever name they are in.
        scope = {**scope, "path": scope["path"].lower(), _RECORD: record}
        started = time.monotonic()
        ids = {
            name: request.headers.get(name, uuid.uuid4().hex)
            for name in ("x-request-id", "x-correlation-id")
        }
        if not all(map(_is_uuid, ids.values())):
            # Refused before anything of FirecREST's own: no body, none of its headers.
            record.status = 400
            self._keep(record, started)
            await Response(status_code=400)(scope, receive, send)
            return
        own = {"f7t-timestamp": str(time.time()), "f7t-appversion": self.version, **ids}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if BARE in scope:
                    # An unexpected exception leaves FirecREST before it has named the request.
                    own.pop("x-request-id")
                    own.pop("x-correlation-id")
                extra = [(name.encode(), value.encode()) for name, value in own.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            else:
                record.answer_size += len(message.get("body", b""))
            # Recorded before the client can know of the answer, so that tests see it in time.
            if not message.get("more_body") and message["type"] == "http.response.body":
                self._keep(record, started)
            await send(message)

        await self._routed(scope, receive, sending)
        if not record.elapsed:
            self._keep(record, started)

    def _keep(self, record: RequestRecord, started: float) -> None:
        record.elapsed = max(time.monotonic() - started, 1e-6)
        self.requests.append(record)

    async def _not_routed(self, request: Request, error: Exception) -> Response:
        # Wrong path or method: no authentication has taken place yet.
        status = getattr(error, "status_code", 500)
        found = AnswerError(status, str(getattr(error, "detail", "")))
        response = json_response(status, found.body(None))
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    async def _serve(self, request: Request, operation: str) -> Response:
        record: RequestRecord = request.scope[_RECORD]
        record.operation = operation
        raw = await request.body()
        record.request_size = len(raw)
        refusal: Response | None = None
        body: Any = None
        try:
            body = await self._body(request, operation, raw)
            if operation != "liveness":
                header = request.headers.get("authorization")
                record.username = await run_in_threadpool(self.verifier.username, header)
        except TokenError as error:
            refusal = _unauthorised(error, request.headers.get("authorization", ""))
        except AnswerError as error:
            refusal = json_response(error.status, error.body(None))
        record.body = body if operation == "submit" else None
        user, params = record.username, request.path_params
        fault = self.faults.take(operation, user, params.get("job_id"), record.query)
        if fault is not None:
            await _linger(fault)
            if fault.replaces and not fault.processed:
                return self._fail(fault, user, request)
        if refusal is None:
            call = Call(
                operation=operation,
                user=user or "",
                operator=user in self.operators,
                systems=self.systems,
                version=self.version,
                params=params,
                query=request.query_params,
                body=body,
                raw=raw,
            )
            refusal = await self._answer(call, request)
        if fault is not None and fault.replaces:
            return self._fail(fault, user, request)
        return refusal

    async def _body(self, request: Request, operation: str, raw: bytes) -> Any:
        if operation == "upload":
            async with request.form() as form:
                file = form.get("file")
                if file is None or isinstance(file, str):
                    raise AnswerError(400, "Field required: file", kind="validation")
                return file.filename or "", await file.read()
        return parse_json(raw, operation) if operation in ("submit", "mkdir") else None

    async def _answer(self, call: Call, request: Request) -> Response:
        try:
            with self._held(call) as latency:
                if latency:
                    await asyncio.sleep(latency)
                status, body = await run_in_threadpool(perform, call)
        except AnswerError as error:
            response = json_response(error.status, error.body(call.user))
            if not error.anonymous:
                response.headers["f7t-authusername"] = call.user
            if error.unhandled:
                return Broken(response, self._transports.get(request.client))
            return response
        if not call.operator:
            body = self.faults.forged(call.operation, call.user, body)
        return json_response(status, body)

    def _held(self, call: Call) -> Held:
        wanted = _SESSIONS.get(call.operation, 1)
        if "system" not in call.params or not wanted:
            return Held(self._sessions, ("", ""), 0, 0.0)
        system = call.system
        key = (system.name, call.user)
        now = self._sessions[key] + wanted
        if system.max_sessions is not None and now > system.max_sessions:
            reason = "Unable to open a new SSH channel."
            if call.operation in _QUERIES:
                raise AnswerError(500, "Error executing Slurm command.", caused_by=[reason])
            raise AnswerError(424, reason)
        self.peak_sessions[key] = max(self.peak_sessions[key], now)
        return Held(self._sessions, key, wanted, system.latency)

    def _fail(self, fault: Fault, user: str | None, request: Request) -> Response:
        if fault.reset:
            return Broken(None, self._transports.get(request.client))
        status = fault.status or 200
        body = fault.body
        if body is None and status >= 400:
            body = AnswerError(status, fault.message).body(user)
        response = json_response(status, body)
        response.headers.update(fault.headers)
        return response


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _unauthorised(error: TokenError, authorization: str) -> Response:
    response = json_response(error.status, AnswerError(error.status, error.message).body(None))
    if error.echo:
        # The real one does this too: whoever logs headers of answers logs tokens.
        response.headers["auth-token"] = authorization.partition(" ")[2]
    elif error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


async def _linger(fault: Fault) -> None:
    await asyncio.sleep(fault.delay)
    # The event is set by another thread, which no asyncio.Event would notice.
    while fault.until is not None and not fault.until.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# -- on its own ----------------------------------------------------------------------------


def _executor(arguments: argparse.Namespace) -> Executor:
    if arguments.executor == "local":
        return LocalExecutor(arguments.workdir, slots=arguments.slots)
    from .slurm_executor import SlurmExecutor

    return SlurmExecutor()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; then end all jobs. Prints the URL on standard output."""
    parser = argparse.ArgumentParser(prog="firecrestspawner.demo.firecrest", description=__doc__)
    parser.add_argument("--jwks-url", required=True, help="where the issuer publishes its keys")
    parser.add_argument("--executor", choices=("local", "slurm"), default="local")
    parser.add_argument("--workdir", type=Path, default=Path("firecrest-demo"))
    parser.add_argument("--system", default="demo", help="name of the system")
    parser.add_argument("--file-system", action="append", help="where users may read files")
    parser.add_argument("--mode", choices=("ssh", "rest", "hybrid"), default="ssh")
    parser.add_argument("--slots", type=int, default=4, help="local: jobs that run at once")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--operator", action="append", help="username that may see all jobs")
    parser.add_argument("--version", default="2.x.x", help="2.5.6 ignores list filters")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    system = System(
        arguments.system,
        _executor(arguments),
        connection_mode=arguments.mode,
        file_systems=tuple(arguments.file_system or ["/home"]),
    )
    operators = arguments.operator or ["service-account-jupyterhub-service"]
    server = FirecREST(
        arguments.jwks_url,
        [system],
        port=arguments.port,
        host=arguments.host,
        operators=operators,
        version=arguments.version,
    )
    with server:
        print(server.url, flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
