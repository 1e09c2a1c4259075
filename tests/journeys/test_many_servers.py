"""What does a Hub with very many running servers ask when it starts, and does it wait for it?"""

from __future__ import annotations

import re

import httpx
import pytest

from tests.journeys.crowd import crowd
from tests.journeys.site import Site, eventually

SERVERS = 300


def running(site: Site) -> int:
    """The servers that the Hub has put back into its proxy."""
    return sum(path.startswith("/user/") for path in site.routes())


def known(site: Site) -> int:
    """The jobs of which the Hub knows that they run."""
    metrics = httpx.get(f"{site.hub_url}/hub/metrics", trust_env=False, timeout=10).text
    (value,) = re.findall(r'^firecrest_jobs{state="running",system="0"} (\S+)$', metrics, re.M)
    return int(float(value))


@pytest.mark.timeout(300)
def test_a_start_with_many_running_servers_costs_two_requests_and_waits_for_neither():
    """R6, R8, C1: the Hub serves, and all servers are there, while FirecREST has not answered; then
    a list tells of all of them, and nobody is asked for by id."""
    with crowd(SERVERS) as (site, firecrest):
        before = firecrest.requests().total()
        firecrest.hold()
        site.start_hub()
        eventually(lambda: running(site) == SERVERS, 120, "all servers are served")
        assert httpx.get(f"{site.url}/hub/health", trust_env=False, timeout=10).is_success
        firecrest.release()
        eventually(lambda: known(site) == SERVERS, 60, "the Hub knows all jobs from a list")
        assert firecrest.requests().total() - before <= 2
        assert running(site) == SERVERS
