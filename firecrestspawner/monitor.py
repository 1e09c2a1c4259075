"""What has become of our jobs? One snapshot per system, shared by all spawners.

A :class:`JobMonitor` asks FirecREST once per tick for the jobs that carry the Hub's name, whatever
the number of servers (C1), and swaps the whole snapshot in. Spawners read memory. Where no list is
to be had, or one costs too much, it asks for one job after another. What an answer proves about a
job is the :class:`~firecrestspawner.watch.Watch`'s to say, what is asked and when is
:mod:`firecrestspawner.pace`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from .client import FirecREST, as_service
from .deadline import in_time
from .errors import Error, FirecRESTError, NotFound
from .isolation import EACH
from .metrics import TICKS
from .models import Job, Listing
from .pace import ListChoice, interval
from .service import ServiceAccount
from .slices import Slices
from .watch import Watch

log = logging.getLogger(__name__)

#: How far back a list goes for jobs that have ended: the shortest that FirecREST knows. Jobs that
#: wait or run are in a list of any window (FirecREST's API description, ``time_window``), looks
#: are minutes apart at most, and what ended before is asked for by id: it is missing in the list.
WINDOW = "1h"
#: Seconds without any sign of life after which the loop is stuck. It waits for one answer at a
#: time, and every question to FirecREST or the issuer has a deadline of half a minute at most.
STUCK = 180.0
#: Seconds between looks at the loop.
WATCHDOG = 15.0


class JobMonitor:
    """The reflector of one system's jobs.

    Parameters
    ----------
    name: the job name all of this Hub's jobs carry.
    fast, slow: seconds between ticks while something is starting or stopping, and otherwise.

    Attributes
    ----------
    snapshot: the jobs as they were last seen, by id; replaced as a whole.
    first_load: set once there is a snapshot. ``in_time(first_load.wait(), seconds)`` harms nobody
        else who waits, as giving up a shared future would.
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
        self.first_load = asyncio.Event()
        self.watches: dict[Watch, None] = {}
        self._choice = ListChoice()
        self._sees_others_at = float("-inf")
        self._wake = asyncio.Event()
        self._failures = 0
        self._news_at = float("-inf")
        self._took = 0.0
        self._alive_until = float("inf")

    @property
    def age(self) -> float | None:
        """Seconds since the snapshot was taken; None before the first one."""
        return None if self.snapshot_at is None else self.clock() - self.snapshot_at

    @property
    def stuck(self) -> bool:
        """True when the loop should have gone on long ago."""
        return self.clock() > self._alive_until

    def watch(self, job_id: str, user: str, *, since: float = 0.0) -> Watch:
        """Begin to watch a job of the cluster user ``user``.

        ``since`` is when it was submitted (Unix seconds; 0 if unknown). Each caller has a watch of
        its own: whoever claims a wrong number harms no other (R10).
        """
        watch = Watch(job_id, user, self.name, since=since, news_at=self.clock())
        self.watches[watch] = None
        self._wake.set()
        return watch

    def unwatch(self, watch: Watch) -> None:
        self.watches.pop(watch, None)

    def hurry(self) -> None:
        """Tick now instead of when it is next due."""
        self._wake.set()

    # -- the loop ----------------------------------------------------------------------------

    async def keep_running(self) -> None:
        """Run the loop for ever: one that died or hangs is ended, and another one begun (R1)."""
        while True:
            self._beat()
            loop = asyncio.ensure_future(self.run())
            try:
                while not loop.done() and not self.stuck:
                    await asyncio.wait([loop], timeout=WATCHDOG)
                hung = not loop.done()
            finally:
                await _end(loop)
            log.error(
                "The watch over the jobs on %s %s; it begins anew",
                self.system, "hung" if hung else "had ended",
                exc_info=None if hung or loop.cancelled() else loop.exception(),
            )  # fmt: skip
            await asyncio.sleep(self.fast)

    async def run(self) -> None:
        """Tick for ever; nothing that goes wrong ends the loop but cancellation."""
        while True:
            self._wake.clear()
            if self.watches:
                began = self.clock()
                try:
                    with TICKS.labels(self.system).time():
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
                self._took = self.clock() - began
            await self._pause()

    async def _pause(self) -> None:
        wait = self._wait() if self.watches else None
        self._alive_until = float("inf") if wait is None else self.clock() + wait + STUCK
        try:
            await in_time(self._wake.wait(), wait)
        except asyncio.TimeoutError:
            self._beat()
            return
        self._beat()
        # Many callers may hurry at once; one tick serves them all.
        await asyncio.sleep(min(self.fast, 0.2))

    def _wait(self) -> float:
        """Seconds until the next tick when nobody hurries."""
        now = self.clock()
        news = max((watch.news_at for watch in self.watches if watch.starting), default=None)
        if news is not None:
            self._news_at = news
        quiet = now - self._news_at
        wait = interval(self.fast, self.slow, busy=news is not None, quiet=quiet)
        # Looking is not to be the cluster's main occupation, whatever a look costs.
        wait = max(wait, min(4 * self._took, self.slow))
        if not self._failures:
            return wait
        return min(wait * 2 ** min(self._failures, 5), max(self.slow, 60.0))

    def _beat(self) -> None:
        """The loop lives."""
        self._alive_until = self.clock() + STUCK

    # -- one look ----------------------------------------------------------------------------

    async def tick(self) -> None:
        """One look: the list, then by id what it makes worth asking; or everything by id.

        Raises our errors when nothing was to be learnt.
        """
        self._beat()
        if not self._choice.wanted(len(self.watches), self.clock()):
            self._choice.by_id_next = False
            await self._look_by_id([watch for watch in self.watches if self._is_due(watch)])
            return
        try:
            listing = await as_service(
                self.account,
                lambda token: self.firecrest.jobs(
                    token, self.system, name=self.name, all_users=True, window=WINDOW
                ),
            )
        except FirecRESTError as error:
            log.warning("The list of jobs on %s: %s; asking by id", self.system, error.detail)
            self._choice.by_id_next = True
            await self._look_by_id(list(self.watches))
            self._choice.failed(self.clock())
            return
        self._tell_of_filter(listing)
        self._choice.came(listing, self.clock())
        self._swap(listing.jobs)
        await self._follow(listing.jobs)

    def _tell_of_filter(self, listing: Listing) -> None:
        if self._choice.filtered and listing.others:
            log.info(
                "FirecREST does not filter the list of jobs on %s by name: of %s rows %s are not "
                "this Hub's", self.system, listing.rows, listing.others,
            )  # fmt: skip

    def _swap(self, jobs: Sequence[Job]) -> None:
        self.snapshot = {job.id: job for job in jobs}
        self.snapshot_at = self.clock()
        self.first_load.set()
        self._beat()

    async def _follow(self, jobs: Sequence[Job]) -> None:
        """Give each watch its row, and ask by id about those whose row announces something."""
        due, slices, now, snapshot = [], Slices(), self.clock(), self.snapshot
        live = {job.id for job in jobs if not job.state.terminal}
        for watch in list(self.watches):
            # What any row shows alive is not absent (R1): another with its number may be forged.
            if watch.job_id in live and not watch.absent:
                watch.heard()
            row = snapshot.get(watch.job_id)
            # A row can be forged only by a job that the account sees, and so proves that it sees.
            if row is not None and watch.is_ours(row):
                self._sees_others_at = now
            if watch.listed(row, now, self.fast):
                due.append(watch)
            await slices.breathe()
        before = {watch: watch.confirmed for watch in due}
        answered, _ = await self._by_id(due)
        for watch in answered:
            watch.bore_out(watch.confirmed is not before[watch])

    def _is_due(self, watch: Watch) -> bool:
        return watch.starting or self.clock() - watch.asked_at >= self.slow

    async def _look_by_id(self, watches: list[Watch]) -> None:
        """A look without a list. Raises the last error when there was no answer at all."""
        answered, error = await self._by_id(watches)
        if error is not None and not answered:
            raise error
        if 2 * len(answered) > len(watches):
            self._swap([watch.confirmed for watch in self.watches if watch.confirmed])

    async def _by_id(self, watches: list[Watch]) -> tuple[list[Watch], Error | None]:
        """Confirm them all, those first that were asked for longest ago.

        Returns those about which there was an answer, and the last error. As many errors in a row
        as are asked at a time end the round: nobody is at home, and the others would wait in vain.
        """
        queue = iter(sorted(watches, key=lambda watch: watch.asked_at))
        round_ = _Round()
        tasks = [asyncio.ensure_future(self._work(queue, round_)) for _ in range(EACH)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return round_.answered, round_.error

    async def _work(self, queue: Iterator[Watch], round_: _Round) -> None:
        for watch in queue:
            try:
                await self.confirm(watch)
            except Error as error:
                log.info("A job on %s: %s", self.system, error.detail)
                round_.error = error
                round_.in_a_row += 1
                if round_.in_a_row >= EACH:
                    return
            else:
                round_.answered.append(watch)
                round_.in_a_row = 0
            self._beat()

    async def confirm(self, watch: Watch) -> Job | None:
        """Ask for a job by id with the service account.

        Returns the job when its user and name agree, else None. Raises FirecRESTError or
        ProviderUnavailable when nobody could say.
        """
        watch.asked_at = self.clock()
        try:
            job = await as_service(
                self.account, lambda token: self.firecrest.job(token, self.system, watch.job_id)
            )
        except NotFound:
            watch.not_found(self.clock(), self._sees_others_at)
            return None
        self._sees_others_at = self.clock()
        return watch.answered(job, self._sees_others_at)


async def _end(loop: asyncio.Task[None]) -> None:
    """End a loop, wherever it is; one that cannot be ended is left after WATCHDOG seconds."""
    loop.cancel()
    await asyncio.wait([loop], timeout=WATCHDOG)


class _Round:
    """What several workers have of one round of queries by id."""

    def __init__(self) -> None:
        self.answered: list[Watch] = []
        self.error: Error | None = None
        self.in_a_row = 0
