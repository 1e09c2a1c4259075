"""What does FirecREST answer? The real client's requests, with pyfirecrest's network replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from firecrest.v2 import AsyncFirecrest

from tests.chaos.cluster import NODES, Job, Scheduler, spawn_id
from tests.chaos.plan import Plan, Window

SYSTEM = "daint"
HTML = b"<html><body>Please log in</body></html>"
#: FirecREST gives a command five seconds, and runs three of them at most for one request: an answer
#: that was lost is followed by its job within this time.
LATEST_EFFECT = 14.0
NEVER = 1e6

_TEXTS = {
    "404": "Job not found.",
    "408": "Command execution timeout limit exceeded.",
    "424": "Unable to establish SSH connection",
    "500": "Error executing Slurm command.",
}
#: These are answered before anything is run.
_NO_EFFECT = ("refused", "401", "403", "404", "424", "429", "503")


class Wire:
    """The network between Hub and FirecREST, and FirecREST itself. Faults as the plan says."""

    def __init__(self, world: Any, plan: Plan, scheduler: Scheduler) -> None:
        self._world, self._plan, self._scheduler = world, plan, scheduler
        self._rng, self._loop = world.rng, world.loop

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], params: Any, body: Any
    ) -> httpx.Response:
        """One request of the Hub."""
        who = headers["Authorization"].removeprefix("Bearer ")
        operation, job_id = self._operation(method, path, params)
        window = self._fault(operation, who)
        kind = window.kind if window else ""
        self._world.note("api", f"{who} {operation} {job_id}".rstrip(), kind)
        await asyncio.sleep(self._rng.uniform(0.005, 0.1))
        if kind == "slow" and window:
            await asyncio.sleep(window.seconds)
        if kind == "refused":
            raise httpx.ConnectError("refused")
        if operation in ("submit", "cancel"):
            return await self._write(operation, who, job_id, body, kind)
        if kind in ("lost", "hang") or kind[:3].isdigit() or kind in ("service 401", "garbage"):
            return await self._fail(kind)
        return _answer(200, self._read(operation, who, job_id, window))

    def _operation(self, method: str, path: str, params: Any) -> tuple[str, str]:
        parts = path.strip("/").split("/")
        if method == "POST":
            return "submit", ""
        if method == "DELETE":
            return "cancel", parts[-1]
        if parts[0] == "status":
            return ("systems" if parts[-1] == "systems" else "nodes"), ""
        if len(parts) == 4:
            return "job", parts[-1]
        return ("list" if params.get("allusers") else "own"), ""

    def _fault(self, operation: str, who: str) -> Window | None:
        for window in self._world.faults("firecrest"):
            if window.where not in ("*", operation):
                continue
            if window.kind == "service 401" and who != "service":
                continue
            if window.kind in ("empty", "404") and operation not in ("list", "own", "job"):
                continue
            if window.chance >= 1 or self._rng.random() < window.chance:
                return window
        return None

    # -- writes ------------------------------------------------------------------------------

    async def _write(
        self, operation: str, who: str, job_id: str, body: Any, kind: str
    ) -> httpx.Response:
        effect = self._cancel
        if operation == "submit":
            effect = self._submit
            self._world.checker.submits(spawn_id(body["job"]["script"]))
        if kind in ("", "slow", "lie"):
            # A session that was cut off, as by a killed Hub, does not take back what it began.
            answer = self._world.outside(effect, who, job_id, body)
            await asyncio.sleep(self._rng.uniform(0.0, 0.3))
            if kind == "lie" and operation == "submit":
                self._world.checker.lied_to(spawn_id(body["job"]["script"]))
                wrong = self._rng.choice((self._scheduler.foreign.id, "999999", "1"))
                return _answer(201, {"jobId": wrong})
            return answer
        if kind not in _NO_EFFECT and self._rng.random() < 0.5:
            late = self._rng.choice((0.0, 0.0, self._rng.uniform(0, LATEST_EFFECT)))
            self._world.note("api", f"{operation} has its effect all the same, in {late:.1f} s")
            self._world.outside(self._loop.call_later, late, effect, who, job_id, body)
        return await self._fail(kind)

    def _submit(self, who: str, job_id: str, body: Any) -> httpx.Response:
        job = self._scheduler.submit(who, self._world.job_name, body["job"]["script"])
        self._world.submitted(job)
        return _answer(201, {"jobId": job.id})

    def _cancel(self, who: str, job_id: str, body: Any) -> httpx.Response:
        job = self._scheduler.jobs.get(job_id)
        if job is None:
            return _error(500, "scancel: error: Invalid job id specified")
        if job.user != who:
            return _error(500, "scancel: error: Access/permission denied")
        if not job.alive:
            return _error(500, "Job/step already completing or completed")
        self._world.cancelled(job)
        self._scheduler.cancel(job)
        return _answer(204, None)

    async def _fail(self, kind: str) -> httpx.Response:
        if kind == "hang":
            await asyncio.sleep(NEVER)
        if kind == "lost":
            raise httpx.ReadError("reset")
        if kind == "garbage":
            return httpx.Response(200, content=HTML)
        if kind == "service 401":
            return _error(401, "Token is invalid")
        return _error(int(kind), _TEXTS.get(kind, "Trouble."))

    # -- reads -------------------------------------------------------------------------------

    def _read(self, operation: str, who: str, job_id: str, window: Window | None) -> Any:
        kind = window.kind if window else ""
        if operation == "systems":
            return {"systems": [{"name": SYSTEM, "scheduler": {"type": "slurm"}}]}
        if operation == "nodes":
            nodes = [{"name": name, "address": number} for name, number in NODES.items()]
            return {"nodes": nodes}
        if kind == "poison":
            raise _Failed(_error(500, "Error executing Slurm command."))
        everybody = operation == "list" or who == "service"
        jobs = [
            job
            for job in self._scheduler.jobs.values()
            if (everybody or job.user == who) and (not job_id or job.id == job_id)
        ]
        if operation != "job" and self._plan.filters:
            jobs = [job for job in jobs if job.name == self._world.job_name]
        if kind == "young" and window:
            jobs = [job for job in jobs if self._age(job) > window.seconds]
        if kind == "empty":
            jobs = []
        if operation == "job" and not jobs:
            raise _Failed(_error(404, "Job not found."))
        now = self._loop.time()
        rows = [job.row(now, self._shown(job, kind)) for job in jobs]
        if kind == "forged":
            # A newline in some job's name; of two rows with one number the last counts (facts, 4).
            rows += [self._forged(job, now) for job in jobs if job.alive]
        return {"jobs": rows}

    def _forged(self, job: Job, now: float) -> dict[str, Any]:
        if self._rng.random() < 0.5:
            return job.row(now, "FAILED") | {"nodes": "evil"}
        return job.row(now) | {"time": {"elapsed": 3600, "limit": 3600}}

    def _age(self, job: Job) -> float:
        return float(self._loop.time() - job.submitted)

    def _shown(self, job: Job, kind: str) -> str:
        """For seconds after its start a job may still be called PENDING, or again (facts, 10)."""
        young = job.state == "RUNNING" and self._loop.time() - job.started < 4.0
        return "PENDING" if kind == "stale" and young else ""


class _Failed(Exception):
    def __init__(self, response: httpx.Response) -> None:
        super().__init__("an error of FirecREST's")
        self.response = response


def _answer(status: int, body: Any) -> httpx.Response:
    content = b"" if body is None else json.dumps(body).encode()
    return httpx.Response(status, content=content)


def _error(status: int, message: str) -> httpx.Response:
    return _answer(status, {"errorType": "error", "message": message})


def client(wire: Wire) -> Callable[..., AsyncFirecrest]:
    """pyfirecrest's client on this wire, for ``firecrestspawner.client.AsyncFirecrest``."""

    class Client(AsyncFirecrest):
        def __init__(self, url: str, *, authorization: Any) -> None:
            # Not its own: that makes a TLS context, which nobody needs here.
            self._authorization = authorization
            self.set_api_version("2.6.0")

        async def close_session(self) -> None:
            """There is none."""

        async def _send(
            self, method: str, path: str, params: Any = None, body: Any = None
        ) -> httpx.Response:
            headers = await self._auth_headers()
            params = {name: value for name, value in (params or {}).items() if value is not None}
            try:
                return await wire.request(method, path, headers, params, body)
            except _Failed as failed:
                return failed.response

        async def _get_request(self, endpoint: str, *_: Any, params: Any = None) -> httpx.Response:
            return await self._send("GET", endpoint, params)

        async def _post_request(
            self, endpoint: str, *_: Any, json_data: Any = None, **__: Any
        ) -> httpx.Response:
            return await self._send("POST", endpoint, body=json_data)

        async def _delete_request(self, endpoint: str, *_: Any, **__: Any) -> httpx.Response:
            return await self._send("DELETE", endpoint)

    return Client
