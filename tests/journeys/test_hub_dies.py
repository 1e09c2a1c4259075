"""What does the Hub still know of a job when it is killed just after the submit?"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from firecrestspawner.demo.firecrest import FirecREST
from firecrestspawner.demo.visitor import VisitError
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually


def test_a_hub_killed_once_it_read_the_answer_has_committed_the_id(
    make_site: Callable[..., Site],
):
    """R2: start() has not returned, and neither job nor monitor could tell the id again."""
    site = make_site()
    site.executor.hold()
    site.firecrest.faults.set("list", status=503)
    site.firecrest.faults.set("job", status=503)
    with Person(site, "alice") as alice:
        alice.log_in()
        alice.ask_for_server()
        eventually(lambda: site.state("alice").get("job_id"), timeout=2.0, what="it is committed")
        site.kill_hub()
    (job,) = site.jobs()
    assert (job.state, site.state("alice")["job_id"]) == ("PENDING", job.id)
    site.start_hub()
    assert site.state("alice")["job_id"] == job.id


def test_a_hub_killed_as_the_answer_is_sent_learns_the_id_at_the_latest_from_the_job(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
):
    """R2, R3: what is committed before the submit suffices to know the job when it says hello;
    nothing is submitted again."""
    site = make_site()
    site.executor.hold()
    kill_hub_after_submit(site, monkeypatch)
    with Person(site, "alice") as alice:
        alice.log_in()
        # The proxy says that the Hub is gone; or the page was answered an instant before.
        with pytest.raises(VisitError, match="503"):
            alice.ask_for_server()
            alice.open(alice.hub("home"))
    eventually(lambda: not site.hub.running, what="the Hub is dead")
    assert site.state("alice")["spawn_id"]
    site.start_hub()
    site.executor.release()
    (job,) = site.jobs()
    eventually(lambda: site.state("alice").get("job_id") == job.id, what="the job was recognised")
    eventually(lambda: site.state("alice").get("nonce"), what="its ticket is bound")
    assert [each.id for each in site.jobs()] == [job.id]


def kill_hub_after_submit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the Hub as soon as the answer to a submit was sent."""
    serve = FirecREST.__call__

    async def call(self: FirecREST, scope: Any, receive: Any, send: Any) -> None:
        await serve(self, scope, receive, send)
        if scope["method"] == "POST" and scope["path"].endswith("/jobs"):
            os.kill(site.hub.pid, signal.SIGKILL)

    monkeypatch.setattr(FirecREST, "__call__", call)
