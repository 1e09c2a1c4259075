"""What can be seen of this package on the Hub's own /metrics?

The Hub answers there with prometheus_client's default registry, which these belong to. Labels are
systems, and words of this package: no user, no job.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "firecrest_requests",
    "Requests to FirecREST, by what came of them: ok, or the reason of the failure",
    ["system", "operation", "outcome"],
)
REFRESHES = Counter(
    "firecrest_token_refreshes",
    "Refreshes of users' tokens, by what came of them",
    ["outcome"],
)
TICKS = Histogram(
    "firecrest_tick_duration_seconds",
    "How long one look at all jobs of a system took",
    ["system"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
)
SNAPSHOT_AGE = Gauge(
    "firecrest_snapshot_age_seconds",
    "Seconds since a system last gave its list of jobs; NaN before the first",
    ["system"],
)
JOBS = Gauge("firecrest_jobs", "Jobs of servers of this Hub, by state", ["system", "state"])
BREAKER = Gauge(
    "firecrest_breaker_state",
    "Whether a system is asked: 0 yes, 1 one call at a time, 2 not for now",
    ["system"],
)
ORPHANS = Counter(
    "firecrest_orphans_ended",
    "Jobs that belonged to no server any more, by what ended them: told (by their Hub, over the "
    "job channel), cancelled (at their user's login)",
    ["how"],
)


def observe(gauge: Gauge, value: Callable[[], float], **labels: str) -> None:
    """Have ``gauge`` read from memory whenever somebody looks at /metrics."""
    gauge.labels(**labels).set_function(value)
