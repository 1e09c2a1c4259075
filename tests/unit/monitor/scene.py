"""What does the monitor ask in these tests: a cluster, an account, a clock of our own?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from firecrestspawner.errors import (
    BadAnswer,
    Error,
    Forbidden,
    NotFound,
    Unauthorized,
    Unreachable,
    Unwell,
)
from firecrestspawner.models import Job, JobState, Listing, Secret
from firecrestspawner.monitor import JobMonitor
from firecrestspawner.watch import Watch

NAME = "jhub-0123456789"


def job(job_id: str, state: JobState = JobState.RUNNING, **fields: Any) -> Job:
    defaults: dict[str, Any] = {"name": NAME, "user": "alice", "nodes": "nid001"}
    return Job(id=job_id, state=state, **defaults | fields)


def unauthorized() -> Unauthorized:
    return Unauthorized("Not you.", detail="job 1 on demo: HTTP 401 (expired)")


class Account:
    """A service account; ``given`` counts the tokens it had to fetch."""

    def __init__(self) -> None:
        self.given = 0
        self.error: Error | None = None
        self._token: Secret | None = None

    async def get(self, min_validity: float = 60.0) -> Secret:
        if self.error is not None:
            raise self.error
        if self._token is None:
            await asyncio.sleep(0.01)
            self.given += 1
            self._token = Secret(f"token {self.given}")
        return self._token

    def forget(self, token: Secret) -> None:
        if token == self._token:
            self._token = None


class Cluster:
    """FirecREST as the monitor uses it. ``jobs_by_id`` is the truth; ``listed``, if it is set,
    is what lists say instead. Errors may be set for lists, for all queries by id, or for some.
    """

    def __init__(self) -> None:
        self.jobs_by_id: dict[str, Job] = {}
        self.listed: list[Job] | None = None
        self.list_error: Error | None = None
        self.job_error: Error | None = None
        self.errors: dict[str, Error] = {}
        self.latency = 0.1
        #: Rows of other names that come along where the name is not filtered.
        self.others = 0
        self.windows: set[str | None] = set()
        self.asked: list[tuple[float, str, str]] = []
        self.under_way = self.most_at_a_time = 0

    def put(self, *jobs: Job) -> None:
        self.jobs_by_id |= {job.id: job for job in jobs}

    def count(self, what: str = "") -> int:
        return sum(what in ("", asked) for _, asked, _ in self.asked)

    def by_id(self) -> list[str]:
        return [what for _, what, _ in self.asked if what != "list"]

    async def jobs(
        self, token: Secret, system: str, *, name: str, all_users: bool, window: str | None = None
    ) -> Listing:
        assert (system, name, all_users) == ("demo", NAME, True)
        await self._serve("list", token)
        if self.list_error is not None:
            raise self.list_error
        self.windows.add(window)
        rows = list(self.jobs_by_id.values() if self.listed is None else self.listed)
        return Listing(rows, self.others)

    async def job(self, token: Secret, system: str, job_id: str) -> Job:
        assert system == "demo"
        self.under_way += 1
        self.most_at_a_time = max(self.most_at_a_time, self.under_way)
        try:
            await self._serve(job_id, token)
        finally:
            self.under_way -= 1
        error = self.errors.get(job_id) or self.job_error
        if error is not None:
            raise error
        if job_id not in self.jobs_by_id:
            raise NotFound("No such job.")
        return self.jobs_by_id[job_id]

    async def _serve(self, what: str, token: Secret) -> None:
        self.asked.append((asyncio.get_running_loop().time(), what, token.reveal()))
        await asyncio.sleep(self.latency)


class Scene:
    """A monitor whose clock is the loop's, with its cluster and its account."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.account = Account()
        self.loop = asyncio.get_running_loop()
        self.monitor = JobMonitor(
            self.cluster,  # type: ignore[arg-type]
            "demo",
            self.account,  # type: ignore[arg-type]
            NAME,
            clock=self.loop.time,
        )

    def watch(self, job_id: str, user: str = "alice", *, settled: bool = True) -> Watch:
        watch = self.monitor.watch(job_id, user)
        watch.starting = not settled
        return watch

    def run(self) -> asyncio.Task[None]:
        """The monitor's own loop, from now on."""
        return asyncio.ensure_future(self.monitor.run())

    async def ticks(self, count: int, apart: float = 30.0) -> None:
        for _ in range(count):
            await self.monitor.tick()
            await asyncio.sleep(apart)


async def until(watch: Watch, condition: Callable[[], bool], seconds: float) -> None:
    """Wait for the watch's event until ``condition`` holds; TimeoutError after ``seconds``."""

    async def wait() -> None:
        while not condition():
            watch.changed.clear()
            await watch.changed.wait()

    await asyncio.wait_for(wait(), seconds)


async def settled(scene: Scene, *ids: str) -> list[Watch]:
    """Watches of running jobs, confirmed by id."""
    watches = [scene.watch(job_id, settled=False) for job_id in ids]
    scene.cluster.put(*(job(job_id) for job_id in ids))
    await scene.monitor.tick()
    for watch in watches:
        watch.starting = False
    assert all(watch.confirmed == job(watch.job_id) for watch in watches)
    return watches


#: What may go wrong with any question.
TROUBLES: list[Error] = [
    Unreachable("No answer."),
    Unwell("A 500."),
    BadAnswer("Garbage."),
    Forbidden("A 403.", detail="HTTP 403"),
    unauthorized(),
]
