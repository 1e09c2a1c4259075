"""What does the Hub still know of a job when it is killed just after the submit?"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from firecrestspawner.demo.firecrest import FirecREST
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually


def kill_hub_after_submit(site: Site, monkeypatch: pytest.MonkeyPatch, delay: float) -> None:
    """Kill the Hub ``delay`` seconds after the answer to a submit was sent."""
    serve = FirecREST.__call__

    async def call(self: FirecREST, scope: Any, receive: Any, send: Any) -> None:
        await serve(self, scope, receive, send)
        if scope["method"] == "POST" and scope["path"].endswith("/jobs"):
            await asyncio.sleep(delay)
            os.kill(site.hub.pid, signal.SIGKILL)

    monkeypatch.setattr(FirecREST, "__call__", call)


def test_a_hub_killed_once_it_has_the_answer_knows_the_job(
    site: Site, alice: Person, monkeypatch: pytest.MonkeyPatch
):
    """R2, R6: the id is committed though start() has not returned and nobody else told it; the
    queued server is still alice's, and starts when its turn comes."""
    site.executor.hold()
    # The submit's answer is the only one there is.
    site.firecrest.faults.set("list", status=503)
    site.firecrest.faults.set("job", status=503)
    alice.ask_for_server()
    eventually(lambda: site.state("alice").get("job_id"), timeout=2.0, what="the id is committed")
    site.kill_hub()
    assert site.state("alice")["job_id"] == site.job("alice").id

    site.start_hub()
    assert site.state("alice")["job_id"] == site.job("alice").id
    site.firecrest.faults.clear()
    site.executor.release()
    alice.wait_until_ready()
    assert len(site.jobs("alice")) == len({job.id for job in site.jobs("alice")})
    assert [job.id for job in site.unfinished("alice")] == [site.state("alice")["job_id"]]
    alice.stop()


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.05])
def test_a_hub_killed_as_the_answer_is_sent_loses_no_job(
    site: Site, alice: Person, monkeypatch: pytest.MonkeyPatch, delay: float
):
    """R2, R3, R6: whether the Hub read the answer or not, there is one job, and it is alice's."""
    site.executor.hold()
    kill_hub_after_submit(site, monkeypatch, delay)
    before = len(site.jobs("alice"))
    with pytest.raises(Exception, match="disconnect|reset|refused|502|503"):
        alice.ask_for_server()
    eventually(lambda: not site.hub.running)
    monkeypatch.undo()
    assert site.state("alice")["spawn_id"]
    site.start_hub()
    site.executor.release()
    alice.wait_until_ready()
    assert len(site.jobs("alice")) == before + 1
    assert site.state("alice")["job_id"] == site.job("alice").id
    alice.stop()
