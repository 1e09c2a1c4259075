"""What has become of our jobs? One snapshot per system, shared by all spawners.

A :class:`JobMonitor` asks FirecREST once per tick for the jobs that carry the Hub's name, whatever
the number of servers (C1), and swaps the whole snapshot in. Spawners read memory.

*List rows are hints.* The job's names and nodes in a list pass through other users' job names
(FirecREST facts, 4), so what would end a server or move a connection is asked again by id, with the
service account, and counts only if user and job name agree (R10). What nobody could prove is
*unknown*, and unknown is alive (R1).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .client import FirecREST, as_service
from .errors import Error, FirecRESTError, NotFound
from .models import Job, JobState
from .service import ServiceAccount

log = logging.getLogger(__name__)

#: An sshd with its default MaxSessions serves about five queries per account at a time.
SESSIONS = 4
#: "No such job" counts only when said this often over this many seconds.
ABSENT_ANSWERS = 3
ABSENT_SECONDS = 120.0
#: A job of the right user but of another name is somebody else's only after so many seconds.
PLACEHOLDER_SECONDS = 30.0
#: A job that a list leaves out is asked for by id at most this often (seconds).
MISSING_RECHECK = 30.0
#: When rows keep announcing what the answers by id do not bear out, the pause doubles up to this.
VAIN_RECHECK = 300.0


@dataclass(eq=False)
class Watch:
    """One job the Hub cares about, and what is known of it.

    ``confirmed`` is the last answer by id whose user and name agreed; ``hint`` the last list row.
    ``stranger`` is true when a query by id showed the number to be somebody else's job. ``vain``
    counts the queries by id since the last that told something new although a row had announced it.
    """

    job_id: str
    user: str
    starting: bool = True
    confirmed: Job | None = None
    hint: Job | None = None
    stranger: bool = False
    disagrees_since: float | None = None
    absent_since: float | None = None
    absent_at: float = float("-inf")
    absent_answers: int = 0
    absent: bool = False
    asked_at: float = float("-inf")
    vain: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def job(self) -> Job | None:
        """The best description to show: the confirmed one unless a hint is further along."""
        if self.confirmed and self.confirmed.state.terminal:
            return self.confirmed
        return self.hint or self.confirmed

    @property
    def ended(self) -> Job | None:
        """The job in its confirmed terminal state, or None while it is alive or unknown."""
        if self.confirmed is not None and self.confirmed.state.terminal:
            return self.confirmed
        return None

    @property
    def over(self) -> bool:
        """True when the job is proven not to run any more (R1)."""
        return self.ended is not None or self.absent


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
        watch = Watch(job_id, user)
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
            jobs = await as_service(
                self.account,
                lambda token: self.firecrest.jobs(
                    token, self.system, name=self.name, all_users=True
                ),
            )
        except FirecRESTError as error:
            log.warning("The list of jobs on %s: %s; asking by id", self.system, error.detail)
            await self._by_id(list(self.watches))
            return
        self.snapshot = {job.id: job for job in jobs}
        self.snapshot_at = self.clock()
        if any(self._theirs(watch) for watch in self.watches):
            self._sees_others_at = self.snapshot_at
        due = []
        for watch in list(self.watches):
            if self._hint(watch, self.snapshot.get(watch.job_id)):
                due.append(watch)
        before = {watch: watch.confirmed for watch in due}
        for watch in await self._by_id(due):
            if watch.confirmed is not before[watch]:
                watch.vain = 0
            elif watch.job_id in self.snapshot:
                watch.vain += 1

    def _theirs(self, watch: Watch) -> bool:
        # A row can be forged only by a job that the account sees, and so proves that it sees.
        row = self.snapshot.get(watch.job_id)
        return row is not None and row.belongs_to(watch.user, self.name)

    def _hint(self, watch: Watch, row: Job | None) -> bool:
        """Note a list row; True when the job has to be asked for by id."""
        if row is None:
            return self.clock() - watch.asked_at > MISSING_RECHECK
        if row.belongs_to(watch.user, self.name) and row != watch.hint:
            watch.hint = row
            watch.changed.set()
        known = watch.confirmed
        if known is None:
            # A queued job leads to nothing yet; all else waits for the answer by id.
            due = row.state is not JobState.PENDING or not row.belongs_to(watch.user, self.name)
        else:
            due = not known.state.terminal and (row.state, row.nodes) != (known.state, known.nodes)
        return due and self.clock() - watch.asked_at >= self._pause_between(watch)

    def _pause_between(self, watch: Watch) -> float:
        """Seconds between two queries by id: forged rows must not cost one at each tick (C1)."""
        if not watch.vain:
            return 0.0
        return min(self.fast * 2.0 ** min(watch.vain, 10), VAIN_RECHECK)

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
            self._not_found(watch)
            return None
        watch.absent_since, watch.absent_answers = None, 0
        self._sees_others_at = self.clock()
        if not job.belongs_to(watch.user, self.name):
            self._disagrees(watch, job)
            return None
        if watch.confirmed is not None and watch.confirmed.state.terminal:
            return watch.confirmed
        watch.stranger, watch.disagrees_since = False, None
        if job != watch.confirmed:
            watch.confirmed = job
            if job.state is not JobState.UNKNOWN:
                watch.hint = job
            watch.changed.set()
        return job

    def _disagrees(self, watch: Watch, job: Job) -> None:
        """An answer by id about somebody else's job, or about ours before it is written down."""
        now = self.clock()
        if watch.disagrees_since is None:
            watch.disagrees_since = now
        # For seconds after a submit slurmdbd may give a job the name "allocation" (seen on 22.05).
        settled = job.user != watch.user or now - watch.disagrees_since >= PLACEHOLDER_SECONDS
        if settled and not watch.stranger and watch.confirmed is None:
            watch.stranger = True
            watch.changed.set()
            log.warning(
                "Job %s on %s is not %s's job of this Hub: not believed",
                watch.job_id, self.system, watch.user,
            )  # fmt: skip

    def _not_found(self, watch: Watch) -> None:
        """One more "no such job"; alone it proves nothing (FirecREST facts, 1)."""
        now = self.clock()
        if self._sees_others_at < watch.absent_at:
            # The account has seen nobody's job since the last such answer: it may have lost its
            # permission, and that answer is worth nothing.
            watch.absent_since, watch.absent_answers = None, 0
        if watch.absent_since is None:
            watch.absent_since = now
        watch.absent_at = now
        watch.absent_answers += 1
        long_enough = now - watch.absent_since >= ABSENT_SECONDS
        if watch.absent_answers >= ABSENT_ANSWERS and long_enough:
            watch.absent = True
            watch.changed.set()
