"""Does a running server outlive its Hub, and does the Hub find it again?"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually


@contextmanager
def away(site: Site) -> Iterator[None]:
    """FirecREST and the issuer cannot be reached."""
    site.firecrest.stop()
    site.issuer.stop()
    try:
        yield
    finally:
        site.issuer.start()
        site.firecrest.start()


def test_a_server_outlives_restarts_of_its_hub(site: Site, alice: Person):
    """R6: a clean restart, two kill -9 in a row, and one while FirecREST and the issuer are away.
    The kernel keeps its memory, and is reachable as soon as the Hub is. S10, R7: a stop then ends
    the job and revokes the token the server had all the time."""
    alice.start()
    kernel = alice.start_kernel()
    alice.run(kernel, "x = 41")
    token = site.api_token("alice")
    job = site.job("alice")

    site.stop_hub()
    assert alice.run(kernel, "x + 1") == "42"  # the proxy and the server need no Hub
    site.start_hub()
    assert alice.run(kernel, "x + 1") == "42"
    assert alice.servers()[""]["ready"]

    site.kill_hub()
    starts = site.hub_log.read_text().count("Running JupyterHub version")
    site.start_hub(wait=False)
    eventually(lambda: site.hub_log.read_text().count("Running JupyterHub version") > starts)
    site.kill_hub()
    site.start_hub()
    assert alice.run(kernel, "x + 1") == "42"
    assert alice.servers()[""]["ready"]

    with away(site):
        site.stop_hub(signal.SIGKILL)
        site.start_hub()
        assert alice.run(kernel, "x + 1") == "42"
        assert alice.servers()[""]["ready"]
    assert alice.run(kernel, "x + 1") == "42"
    assert [unfinished.id for unfinished in site.unfinished()] == [job.id]

    assert site.hub_status(token) == 200
    alice.stop()
    assert site.job("alice").state.startswith("CANCELLED")
    assert site.hub_status(token) == 403


def test_a_server_ended_while_its_hub_was_down_is_shown_as_stopped(site: Site, alice: Person):
    """R1: what happened meanwhile is found out by looking; S10."""
    alice.start()
    token = site.api_token("alice")
    site.kill_hub()
    site.executor.cancel("alice", site.job("alice").id, operator=False)
    eventually(lambda: not site.leftovers(), what="the job's processes have ended")
    site.start_hub()
    alice.wait_until_gone()
    assert site.hub_status(token) == 403
