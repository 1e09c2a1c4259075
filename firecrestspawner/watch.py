"""What do the answers about one job prove? Pure: no I/O, and the time comes in as an argument.

*List rows are hints.* The job's names and nodes in a list pass through other users' job names
(FirecREST facts, 4), so what would end a server or move a connection is asked again by id, with the
service account, and counts only if user and job name agree (R10). What nobody could prove is
*unknown*, and unknown is alive (R1).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from .models import Job, JobState

log = logging.getLogger(__name__)

#: "No such job" counts only when said this often over this many seconds.
ABSENT_ANSWERS = 3
ABSENT_SECONDS = 120.0
#: A job of the right user but of another name is somebody else's only after so many seconds.
PLACEHOLDER_SECONDS = 30.0
#: A job that a list leaves out is asked for by id at most this often (seconds).
MISSING_RECHECK = 30.0
#: When lists keep announcing what the answers by id do not bear out, the pause doubles up to this.
VAIN_RECHECK = 300.0
#: A lost node or a preemption is an end only when it is still so after so many seconds: a scheduler
#: that puts the job back into its queue does so within moments, once the accounting has caught up.
REQUEUE_SECONDS = 120.0
#: No clock or time zone is further off (seconds), and no scheduler comes back to a number sooner.
A_DAY = 86_400.0


@dataclass(eq=False)
class Watch:
    """One job the Hub cares about, and what is known of it.

    ``name`` is the name that all of this Hub's jobs carry, ``since`` the time of the submit (Unix
    seconds, 0 if unknown). ``confirmed`` is the last answer by id whose user and name agreed;
    ``hint`` the last list row. ``stranger`` is true when a query by id showed the number to be
    somebody else's job. ``began`` is when the job was seen to have begun (Unix seconds, the
    cluster's). ``over_at`` is when its time limit ends it, as last told. ``vain`` counts the
    queries by id since the last that told something new although a list had announced it.
    ``changed`` is set at all news. All other times are of one clock.
    """

    job_id: str
    user: str
    name: str
    since: float = 0.0
    starting: bool = True
    confirmed: Job | None = None
    hint: Job | None = None
    stranger: bool = False
    began: int | None = None
    over_at: float | None = None
    lost_since: float | None = None
    disagrees_since: float | None = None
    absent_since: float | None = None
    absent_at: float = float("-inf")
    absent_answers: int = 0
    absent: bool = False
    asked_at: float = float("-inf")
    news_at: float = float("-inf")
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

    def is_ours(self, job: Job) -> bool:
        """Whether user and name agree with what was submitted (R10)."""
        return job.belongs_to(self.user, self.name)

    def time_left(self, now: float) -> float | None:
        """Seconds until the job reaches its time limit; None where it does not run, or has none."""
        return None if self.over_at is None else max(0.0, self.over_at - now)

    def _time(self, job: Job, now: float) -> None:
        left = job.time_left
        self.over_at = None if left is None else now + left

    def _news(self, now: float) -> None:
        self.news_at = now
        self.changed.set()

    # -- rows of a list ----------------------------------------------------------------------

    def listed(self, row: Job | None, now: float, fast: float) -> bool:
        """Note the job's row of a list, or that it has none.

        True when the job has to be asked for by id. ``fast`` is the shortest pause between lists.
        """
        if self.ended is not None:
            return False
        if row is None or self._is_former(row):
            return now - self.asked_at >= max(MISSING_RECHECK, self._pause(MISSING_RECHECK))
        if self.is_ours(row):
            self._time(row, now)
            if row != self.hint:
                self.hint = row
                self._news(now)
        return self._announces(row) and now - self.asked_at >= self._pause(fast)

    def _announces(self, row: Job) -> bool:
        """Whether a row says what only an answer by id may say."""
        known = self.confirmed
        if self.absent:
            return True
        if known is not None:
            return (row.state, row.nodes) != (known.state, known.nodes)
        if not self.is_ours(row) or self.disagrees_since is not None:
            return True
        if row.state is JobState.PENDING:
            return False  # a queued job leads to nothing yet
        # A server whose address was found before the Hub's restart has nothing to ask for.
        return self.starting or row.state not in (JobState.RUNNING, JobState.SUSPENDED)

    def _pause(self, least: float) -> float:
        """Seconds between two queries by id: forged rows must not cost one at each tick (C1)."""
        if not self.vain:
            return 0.0
        return min(least * 2.0 ** min(self.vain, 10), VAIN_RECHECK)

    def bore_out(self, news: bool) -> None:
        """A query by id that a list had led to was answered; did it tell anything new?"""
        # "No such job" has to be heard several times before it means anything.
        self.vain = 0 if news or self.absent_answers else self.vain + 1

    # -- answers by id -----------------------------------------------------------------------

    def answered(self, job: Job, now: float) -> Job | None:
        """Note an answer by id; returns what it tells of the job, or None if it tells nothing."""
        if self.absent:
            self._news(now)
        self.heard()
        if not self.is_ours(job):
            self._disagrees(job, now)
            return None
        if self.ended is not None:
            return self.ended
        self.stranger, self.disagrees_since = False, None
        if self._is_former(job) or self._may_come_back(job, now):
            return None
        self._time(job, now)
        if job.state is JobState.RUNNING:
            self.began = job.start or self.began
        if job != self.confirmed:
            self.confirmed = job
            if job.state is not JobState.UNKNOWN:
                self.hint = job
            self._news(now)
        return job

    def _is_former(self, job: Job) -> bool:
        """Whether this is the end of an earlier job or run under the same number.

        A cluster that was set up again counts from one again, and a record of the last job of that
        number may be all that its accounting knows for a while; a requeued job's record may still
        be that of its last run. A later start needs no such care: it is alive, and its end is ours
        too, for a number is free only when its job is gone.
        """
        if not job.state.terminal:
            return False
        end = job.end or job.start  # PBS has no end, FirecREST says
        if end is None:
            return False
        return end < (self.began or 0) or end < self.since - A_DAY

    def _may_come_back(self, job: Job, now: float) -> bool:
        """Whether the scheduler may still put this job back into its queue."""
        if not job.state.may_run_again:
            self.lost_since = None
            return False
        if self.lost_since is None:
            self.lost_since = now
        return now - self.lost_since < REQUEUE_SECONDS

    def heard(self) -> None:
        """The job is not absent: there is a record of its number, or it called itself (R1)."""
        self.absent, self.absent_since, self.absent_answers = False, None, 0

    def _disagrees(self, job: Job, now: float) -> None:
        """An answer by id about somebody else's job, or about ours before it is written down."""
        if self.disagrees_since is None:
            self.disagrees_since = now
        # For seconds after a submit slurmdbd may give a job the name "allocation" (seen on 22.05).
        settled = job.user != self.user or now - self.disagrees_since >= PLACEHOLDER_SECONDS
        if settled and not self.stranger and self.confirmed is None:
            self.stranger = True
            self._news(now)
            log.warning("Job %s is not %s's job of this Hub: not believed", self.job_id, self.user)

    def not_found(self, now: float, sees_others_at: float) -> None:
        """One more "no such job"; alone it proves nothing (FirecREST facts, 1).

        ``sees_others_at`` is when the account that asked was last seen to see any job.
        """
        if sees_others_at < self.absent_at:
            # The account has seen nobody's job since the last such answer: it may have lost its
            # permission, and that answer is worth nothing.
            self.absent_since, self.absent_answers = None, 0
        if self.absent_since is None:
            self.absent_since = now
        self.absent_at = now
        self.absent_answers += 1
        long_enough = now - self.absent_since >= ABSENT_SECONDS
        if self.absent_answers >= ABSENT_ANSWERS and long_enough:
            self.absent = True
            self._news(now)
