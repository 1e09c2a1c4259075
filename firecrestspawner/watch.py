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
#: When rows keep announcing what the answers by id do not bear out, the pause doubles up to this.
VAIN_RECHECK = 300.0


@dataclass(eq=False)
class Watch:
    """One job the Hub cares about, and what is known of it. Times are seconds of one clock.

    ``name`` is the name that all of this Hub's jobs carry. ``confirmed`` is the last answer by id
    whose user and name agreed; ``hint`` the last list row. ``stranger`` is true when a query by id
    showed the number to be somebody else's job. ``vain`` counts the queries by id since the last
    that told something new although a row had announced it. ``changed`` is set at all news.
    """

    job_id: str
    user: str
    name: str
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

    def is_ours(self, job: Job) -> bool:
        """Whether user and name agree with what was submitted (R10)."""
        return job.belongs_to(self.user, self.name)

    def listed(self, row: Job | None, now: float, fast: float) -> bool:
        """Note the job's row of a list, or that it has none.

        True when the job has to be asked for by id. ``fast`` is the shortest pause between lists.
        """
        if row is None:
            return now - self.asked_at > MISSING_RECHECK
        if self.is_ours(row) and row != self.hint:
            self.hint = row
            self.changed.set()
        known = self.confirmed
        if known is None:
            # A queued job leads to nothing yet; all else waits for the answer by id.
            due = row.state is not JobState.PENDING or not self.is_ours(row)
        else:
            due = not known.state.terminal and (row.state, row.nodes) != (known.state, known.nodes)
        return due and now - self.asked_at >= self._pause(fast)

    def _pause(self, fast: float) -> float:
        """Seconds between two queries by id: forged rows must not cost one at each tick (C1)."""
        if not self.vain:
            return 0.0
        return min(fast * 2.0 ** min(self.vain, 10), VAIN_RECHECK)

    def answered(self, job: Job, now: float) -> Job | None:
        """Note an answer by id; returns what is known of the job now, or None if it is not ours."""
        self.absent_since, self.absent_answers = None, 0
        if not self.is_ours(job):
            self._disagrees(job, now)
            return None
        if self.ended is not None:
            return self.ended
        self.stranger, self.disagrees_since = False, None
        if job != self.confirmed:
            self.confirmed = job
            if job.state is not JobState.UNKNOWN:
                self.hint = job
            self.changed.set()
        return job

    def _disagrees(self, job: Job, now: float) -> None:
        """An answer by id about somebody else's job, or about ours before it is written down."""
        if self.disagrees_since is None:
            self.disagrees_since = now
        # For seconds after a submit slurmdbd may give a job the name "allocation" (seen on 22.05).
        settled = job.user != self.user or now - self.disagrees_since >= PLACEHOLDER_SECONDS
        if settled and not self.stranger and self.confirmed is None:
            self.stranger = True
            self.changed.set()
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
            self.changed.set()
