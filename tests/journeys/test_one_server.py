"""Does the main path work: log in, start, run a cell, stop, and is nothing left of it?"""

from __future__ import annotations

import signal
import time

import psutil

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually


def test_a_server_is_started_used_and_stopped_and_nothing_is_left(site: Site, alice: Person):
    """R7, S10: no job, process, route, stored state or API token outlives the stop."""
    events = alice.start()
    assert [event["progress"] for event in events] == sorted(e["progress"] for e in events)
    assert alice.run(alice.start_kernel(), "6*7") == "42"
    token = site.api_token("alice")
    assert site.hub_status(token) == 200
    assert [job.user for job in site.unfinished()] == ["alice"]
    assert "/user/alice" in site.routes()

    alice.stop()
    assert site.job("alice").state.startswith("CANCELLED")
    assert site.state("alice") == {}
    assert site.hub_status(token) == 403
    eventually(lambda: not site.remains(), what="nothing remains")


def test_a_spawn_costs_at_most_three_requests_of_its_own(site: Site, alice: Person):
    """C2: the list of nodes is the Hub's, asked for once."""
    alice.start()
    alice.stop()
    before = len(site.requests())
    alice.start()
    own = site.own_requests(before)
    assert own[0] == "submit"
    assert own.count("submit") == 1
    assert len(own) <= 3, own
    alice.stop()


def test_a_server_that_ends_by_itself_is_shown_as_stopped_at_once(site: Site, alice: Person):
    """R1: its own ``exiting`` ends a server in the Hub's eyes, here while FirecREST is away; S10:
    such an end revokes the server's token too."""
    alice.start()
    token = site.api_token("alice")
    site.firecrest.faults.set("*", status=503)
    server = next(p for p in site.leftovers() if "jupyterhub-singleuser" in " ".join(p.cmdline()))
    killed = time.monotonic()
    server.send_signal(signal.SIGKILL)
    alice.wait_until_gone(timeout=5.0)
    assert time.monotonic() - killed < 5.0
    assert site.hub_status(token) == 403
    psutil.wait_procs([server], timeout=5)
    job = eventually(lambda: site.job("alice") if not site.unfinished() else None)
    assert (job.state, job.exit_code) == ("FAILED", 128 + signal.SIGKILL)
