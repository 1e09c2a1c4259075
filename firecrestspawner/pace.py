"""How often are jobs looked at, and what is asked: the list, or one job after another? Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .models import Listing

# What FirecREST's calls cost a cluster (FirecREST facts, "load"; measured on 2.5.6 and 2.x with
# Slurm 22.05 over SSH): a list 0.09 s and 0.45 s (and 0.6 MB) more for each 1,000 jobs in it, never
# an answer beyond 20,000; a query by id 0.1 s.
LIST_SECONDS = 0.09
LIST_SECONDS_PER_JOB = 0.45 / 1000
LIST_MOST = 20_000
QUERY_SECONDS = 0.1

#: A filtered list of so many jobs is asked for without a look at its cost.
ROWS = 1000
#: A list that does not come is asked for again after so many seconds, doubling, up to so many.
RETRY_LEAST = 2.0
RETRY_MOST = 300.0
#: One that costs more than queries by id is asked for after so many seconds all the same: the
#: server may have been upgraded to one that filters.
PROBE = 1800.0


def interval(fast: float, slow: float, *, busy: bool, quiet: float) -> float:
    """Seconds until the next look, between the bounds ``fast`` and ``slow``.

    ``busy``: something starts or stops. ``quiet``: seconds since there was news of such. A job that
    waits in the queue for hours needs no look every two seconds, for it says itself when it begins;
    when nothing is under way any more the looks become rare sooner.
    """
    return max(fast, min(slow, quiet / (60 if busy else 3)))


def list_is_cheaper(watched: int, rows: int) -> bool:
    """Whether a list of ``rows`` jobs costs a cluster less than queries for ``watched`` jobs."""
    if rows > LIST_MOST:
        return False
    return LIST_SECONDS + rows * LIST_SECONDS_PER_JOB <= watched * QUERY_SECONDS


@dataclass
class ListChoice:
    """Whether to ask for the list, from what came back before. Times are seconds of one clock.

    ``by_id_next``: when neither list nor queries were answered, the queries come first the next
    time. A breaker lets one question through to learn whether the system is back, and that must not
    be the list for ever: it may be the list that fails.
    """

    rows: int = 0
    filtered: bool = True
    asked_at: float = float("-inf")
    failures: int = 0
    by_id_next: bool = False

    def wanted(self, watched: int, now: float) -> bool:
        """True when the list is to be asked for now; else each job by its id."""
        since = now - self.asked_at
        if self.by_id_next:
            return False
        if self.failures:
            return since >= min(RETRY_LEAST * 2.0 ** min(self.failures, 20), RETRY_MOST)
        # A filtered list holds our own jobs only: one request for them all (C1). It is long only
        # where somebody floods it with jobs of that name (R9).
        short = self.filtered and self.rows <= ROWS
        return short or list_is_cheaper(watched, self.rows) or since >= PROBE

    def came(self, listing: Listing, now: float) -> None:
        """The list is here; rows of other names in it mean that the filter was ignored."""
        self.rows, self.filtered = listing.rows, not listing.others
        self.asked_at, self.failures = now, 0

    def failed(self, now: float) -> None:
        """The list did not come, though queries by id are answered."""
        self.asked_at, self.by_id_next = now, False
        self.failures += 1
