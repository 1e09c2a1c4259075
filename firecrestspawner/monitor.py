"""What has become of our jobs? One snapshot per system, shared by all spawners.

A :class:`JobMonitor` asks FirecREST once per tick for the jobs that carry the Hub's name, whatever
the number of servers (C1), and swaps the whole snapshot in. Spawners read memory. What an answer
proves about a job is the :class:`~firecrestspawner.watch.Watch`'s to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from .client import FirecREST, as_service
from .errors import Error, FirecRESTError, NotFound
from .models import Job
from .service import ServiceAccount
from .watch import Watch

log = logging.getLogger(__name__)

#: An sshd with its default MaxSessions serves about five queries per account at a time.
SESSIONS = 4


class JobMonitor:
    """The reflector of one system's jobs.

    Parameters
    ----------
    name: the job name all of this Hub's jobs carry.
    fast, slow: seconds between ticks while something is starting or stopping, and otherwise.
    """

    def __init__(
        self,
        firecrest: FirecREST,
        system: str,
        account: ServiceAccount,
        name: str,
        *,
        fast: float = 2.0,
        slow: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.firecrest = firecrest
        self.system = system
        self.account = account
        self.name = name
        self.fast = fast
        self.slow = slow
        self.clock = clock
        self.snapshot: dict[str, Job] = {}
        self.snapshot_at: float | None = None
        self.watches: list[Watch] = []
        self._sees_others_at = float("-inf")
        self._sessions = asyncio.Semaphore(SESSIONS)
        self._wake = asyncio.Event()
        self._failures = 0

    def watch(self, job_id: str, user: str) -> Watch:
        """Begin to watch a job of the cluster user ``user``.

        Each caller has a watch of its own: whoever claims a wrong number harms no other (R10).
        """
        watch = Watch(job_id, user, self.name)
        self.watches.append(watch)
        self._wake.set()
        return watch

    def unwatch(self, watch: Watch) -> None:
        self.watches = [other for other in self.watches if other is not watch]

    def hurry(self) -> None:
        """Tick now instead of when it is next due."""
        self._wake.set()

    async def run(self) -> None:
        """Tick for ever; nothing that goes wrong ends the loop but cancellation."""
        while True:
            self._wake.clear()
            if self.watches:
                try:
                    await self.tick()
                    self._failures = 0
                except Error as error:
                    self._failures += 1
                    log.warning("Jobs on %s: %s", self.system, error.detail)
                except Exception:
                    # Whatever one tick stumbled over, the next one must come: without the loop
                    # no server would ever be seen to end.
                    self._failures += 1
                    log.exception("A look at the jobs on %s failed", self.system)
            await self._pause()

    async def _pause(self) -> None:
        quiet = not any(watch.starting for watch in self.watches)
        wait = self.slow if quiet else self.fast
        wait = min(wait * 2 ** min(self._failures, 5), max(self.slow, 60.0))
        try:
            await asyncio.wait_for(self._wake.wait(), wait if self.watches else None)
        except asyncio.TimeoutError:
            return
        # Many callers may hurry at once; one tick serves them all.
        await asyncio.sleep(min(self.fast, 0.2))

    async def tick(self) -> None:
        """One look: the list, then by id what it makes worth asking."""
        try:
            listing = await as_service(
                self.account,
                lambda token: self.firecrest.jobs(
                    token, self.system, name=self.name, all_users=True
                ),
            )
        except FirecRESTError as error:
            log.warning("The list of jobs on %s: %s; asking by id", self.system, error.detail)
            await self._by_id(list(self.watches))
            return
        self.snapshot = {job.id: job for job in listing.jobs}
        self.snapshot_at = self.clock()
        if any(self._theirs(watch) for watch in self.watches):
            self._sees_others_at = self.snapshot_at
        due = [
            watch
            for watch in list(self.watches)
            if watch.listed(self.snapshot.get(watch.job_id), self.clock(), self.fast)
        ]
        before = {watch: watch.confirmed for watch in due}
        for watch in await self._by_id(due):
            if watch.confirmed is not before[watch]:
                watch.vain = 0
            elif watch.job_id in self.snapshot:
                watch.vain += 1

    def _theirs(self, watch: Watch) -> bool:
        # A row can be forged only by a job that the account sees, and so proves that it sees.
        row = self.snapshot.get(watch.job_id)
        return row is not None and watch.is_ours(row)

    async def _by_id(self, watches: list[Watch]) -> list[Watch]:
        """Confirm them all; returns those about which there was an answer."""
        results = await asyncio.gather(
            *(self.confirm(watch) for watch in watches), return_exceptions=True
        )
        for result in results:
            if isinstance(result, Error):
                log.info("A job on %s: %s", self.system, result.detail)
            elif isinstance(result, BaseException):
                raise result
        return [
            watch
            for watch, result in zip(watches, results, strict=True)
            if not isinstance(result, BaseException)
        ]

    async def confirm(self, watch: Watch) -> Job | None:
        """Ask for a job by id with the service account.

        Returns the job when its user and name agree, else None. Raises FirecRESTError or
        ProviderUnavailable when nobody could say.
        """
        watch.asked_at = self.clock()
        try:
            async with self._sessions:
                job = await as_service(
                    self.account, lambda token: self.firecrest.job(token, self.system, watch.job_id)
                )
        except NotFound:
            watch.not_found(self.clock(), self._sees_others_at)
            return None
        self._sees_others_at = self.clock()
        return watch.answered(job, self._sees_others_at)
