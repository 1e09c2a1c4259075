"""Which FirecREST is asked about any number of running jobs? A process of its own.

It answers lists and queries by id at once, with rows as long as the real server's (615 bytes):
what is measured is the Hub.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

JOB_NAME = "bench"


class Cluster:
    """The stand-in, as the measuring process speaks to it."""

    def __init__(self, pipe: Connection, url: str) -> None:
        self._pipe = pipe
        self.url = url

    def requests(self) -> Counter[str]:
        """How often each operation was asked for so far."""
        counted: Counter[str] = self._tell("requests")
        return counted

    def end(self, job_id: str) -> None:
        """The job is over from now on."""
        self._tell("end", job_id)

    def hold(self) -> None:
        """Nobody gets an answer until :meth:`release`."""
        self._tell("hold")

    def release(self) -> None:
        self._tell("release")

    def _tell(self, *what: str) -> Any:
        self._pipe.send(what)
        return self._pipe.recv()


@contextmanager
def cluster(jobs: int, systems: int = 1) -> Iterator[Cluster]:
    """``jobs`` running jobs; job ``n`` is on system ``n % systems``."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, jobs, systems)
    )
    process.start()
    theirs.close()
    try:
        yield Cluster(ours, ours.recv())
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection, jobs: int, systems: int) -> None:
    asyncio.run(_serve_until_closed(pipe, jobs, systems))


async def _serve_until_closed(pipe: Connection, jobs: int, systems: int) -> None:
    rows = {str(n): row(str(n)) for n in range(jobs)}
    lists: dict[int, bytes] = {}
    counted: Counter[str] = Counter()
    answering = asyncio.Event()
    answering.set()

    class Api(RequestHandler):
        def set_default_headers(self) -> None:
            self.set_header("Content-Type", "application/json")
            self.set_header("f7t-appversion", "2.x.x")

    class Jobs(Api):
        async def get(self, system: str) -> None:
            counted["list"] += 1
            await answering.wait()
            number = int(system)
            if number not in lists:
                mine = [row for job_id, row in rows.items() if int(job_id) % systems == number]
                lists[number] = json.dumps({"jobs": mine}).encode()
            self.finish(lists[number])

    class Job(Api):
        async def get(self, system: str, job_id: str) -> None:
            counted["by id"] += 1
            await answering.wait()
            self.finish({"jobs": [rows[job_id]]})

    class Jupyter(RequestHandler):
        """The single-user server of everybody, for whom it is enough that it answers."""

        def get(self) -> None:
            self.finish({"version": "0"})

    def asked() -> None:
        try:
            what, *arguments = pipe.recv()
        except EOFError:
            closed.set()
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            return
        if what == "end":
            rows[arguments[0]]["status"]["state"] = "COMPLETED"
            lists.clear()
        elif what == "hold":
            answering.clear()
        elif what == "release":
            answering.set()
        pipe.send(counted)

    sockets = bind_sockets(0, "127.0.0.1", backlog=1024)
    routes = [
        (r"/compute/(\d+)/jobs", Jobs),
        (r"/compute/(\d+)/jobs/(\d+)", Job),
        (r"/user/.*", Jupyter),
    ]
    HTTPServer(Application(routes, log_function=lambda handler: None)).add_sockets(sockets)
    closed = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), asked)
    pipe.send(f"http://127.0.0.1:{sockets[0].getsockname()[1]}")
    await closed.wait()


def user(job_id: str) -> str:
    return f"user{job_id}"


def row(job_id: str) -> dict[str, Any]:
    """A running job, as FirecREST describes it (JobModelOutput)."""
    status = {"state": "RUNNING", "stateReason": "None", "exitCode": 0, "interruptSignal": None}
    times = {"elapsed": 100, "start": 1_700_000_000, "end": None, "suspended": 0, "limit": 14_400}
    return {
        "jobId": job_id,
        "name": JOB_NAME,
        "status": status,
        "tasks": [{"id": f"{job_id}.batch", "name": "batch", "status": status, "time": times}],
        "time": times,
        "account": "project-0",
        "allocationNodes": 1,
        "cluster": "bench",
        "group": "users",
        "nodes": f"nid{int(job_id):06d}",
        "partition": "normal",
        "priority": 4_294_901_700,
        "killRequestUser": None,
        "user": user(job_id),
        "workingDirectory": f"/users/{user(job_id)}",
    }
