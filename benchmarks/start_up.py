"""How long does a Hub with N running servers take to start, and what does it ask FirecREST?

Most of it is JupyterHub's own: it knocks at every server, and gives the proxy a route to each.
"""

from __future__ import annotations

import time

import httpx

from tests.journeys.crowd import crowd
from tests.journeys.site import Site, eventually

SIZES = (10, 100, 1_000, 10_000)
#: Seconds within which the largest is up.
PATIENCE = 900.0
#: Seconds after the last server is served in which requests count.
AFTERWARDS = 5.0


def run() -> None:
    """Print a line for each size, with a FirecREST that answers, and with one that does not."""
    print("a start of the Hub with N running servers")
    print("  servers  FirecREST     answers a browser  all servers served  requests")
    for servers in SIZES:
        for answers in (True, False):
            _measure(servers, answers)
    print("  (goals: at most two requests; it waits for none of them)")


def _measure(servers: int, answers: bool) -> None:
    with crowd(servers) as (site, firecrest):
        if not answers:
            firecrest.hold()
        before = firecrest.requests().total()
        began = time.monotonic()
        site.start_hub(wait=False)
        site.wait_ready(PATIENCE)
        ready = time.monotonic() - began
        eventually(lambda: _served(site) == servers, PATIENCE, "all servers are served")
        served = time.monotonic() - began
        assert httpx.get(f"{site.url}/hub/health", trust_env=False).is_success
        time.sleep(AFTERWARDS)
        requests = firecrest.requests().total() - before
        firecrest.release()
    word = "answers" if answers else "is silent"
    print(f"  {servers:7}  {word:<11}  {ready:17.1f} s  {served:16.1f} s  {requests:8}")


def _served(site: Site) -> int:
    return sum(path.startswith("/user/") for path in site.routes())


if __name__ == "__main__":
    run()
