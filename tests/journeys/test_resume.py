"""Does a server that was still starting when its Hub died become ready all the same?"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from firecrestspawner.demo.cluster import Job, JobRequest
from firecrestspawner.demo.firecrest import FirecREST
from firecrestspawner.demo.visitor import VisitError
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually
from tests.journeys.test_restarts import away, start_and_kill


def queued(site: Site, person: Person) -> Job:
    """A job that waits in the queue, its number committed."""
    site.executor.hold()
    person.ask_for_server()
    eventually(lambda: site.state(person.name).get("job_id"), what="the job is known")
    return site.job(person.name)


def server_tokens(site: Site, name: str) -> int:
    """How many API tokens there are for servers of a user."""
    rows = site.query(
        "SELECT api_tokens.id FROM api_tokens JOIN users ON users.id = api_tokens.user_id"
        " WHERE users.name = ? AND api_tokens.note LIKE 'Server at %'",
        name,
    )
    return len(rows)


def is_pending(person: Person) -> bool:
    page = person.look_at(person.hub(f"spawn-pending/{person.name}"))
    return page.status_code == 200 and "progress" in page.text


@contextmanager
def watched(site: Site) -> Iterator[list[str]]:
    """The operations that FirecREST is asked for meanwhile."""
    before = len(site.firecrest.requests)
    asked: list[str] = []
    yield asked
    asked += site.requests(before)


def test_a_queued_server_becomes_ready_after_two_kills(site: Site, alice: Person):
    """R6, R3, S10: it keeps its job and its token, its page and its progress go on; a browser is
    let in; a stop revokes the token."""
    job = queued(site, alice)
    token = site.api_token("alice")
    with watched(site) as asked:
        site.kill_hub()
        start_and_kill(site)
        site.start_hub()
        assert is_pending(alice)
        with closing(alice.progress()) as events:
            message = next(str(event["message"]) for event in events if "waits" in event["message"])
        assert f"Job {job.id} waits in the queue of demo" in message
        site.kill_hub()
        site.start_hub()
        eventually(lambda: server_tokens(site, "alice") == 1, what="no token is left unused")
        assert site.hub_status(token) == 200
        site.executor.release()
        assert alice.wait_until_ready()[-1]["ready"]
    assert "submit" not in asked and "cancel" not in asked
    assert (site.api_token("alice"), server_tokens(site, "alice")) == (token, 1)
    alice.open_lab()
    kernel = alice.start_kernel()
    assert alice.run(kernel, "6 * 7") == "42"
    alice.stop()
    assert [each.id for each in site.jobs("alice")][-1] == job.id
    assert site.job("alice").state.startswith("CANCELLED")
    assert site.hub_status(token) == 403


def test_a_queued_server_outlives_a_clean_restart(site: Site, alice: Person):
    """R6: JupyterHub cancels start() when it shuts down; that cancels no job."""
    job = queued(site, alice)
    site.restart_hub()
    assert is_pending(alice)
    site.executor.release()
    alice.wait_until_ready()
    assert site.job("alice").id == job.id
    alice.stop()


def test_a_start_is_cancelled_from_the_pending_page_after_a_restart(site: Site, alice: Person):
    """R7, S10: job, state and token are gone (the fixture looks)."""
    queued(site, alice)
    token = site.api_token("alice")
    site.kill_hub()
    site.start_hub()
    events = []
    with closing(alice.progress()) as progress:
        for event in progress:
            events.append(event)
            if len(events) == 1:
                assert alice.press_stop().status_code < 300
    assert events[-1].get("failed") and "cancelled" in events[-1]["message"].lower(), events
    alice.wait_until_gone()
    assert site.job("alice").state.startswith("CANCELLED")
    assert site.hub_status(token) == 403
    site.executor.release()
    assert alice.start()[-1]["ready"], "the next start is like any other"
    alice.stop()


def test_a_queued_server_waits_for_firecrest_and_issuer(site: Site, alice: Person):
    """R6, R5: both are away when the Hub starts, while the job starts, and when it is ready."""
    job = queued(site, alice)
    with away(site):
        site.stop_hub(signal.SIGKILL)
        site.start_hub()
        assert is_pending(alice)
        site.executor.release()
        eventually(lambda: site.state("alice").get("reported"), 30, "the job has said where it is")
        site.kill_hub()
        site.start_hub()
        assert is_pending(alice)
    alice.wait_until_ready()
    assert site.job("alice").id == job.id
    alice.stop()


def test_a_job_that_ended_while_its_hub_was_down_is_told_to_its_user(site: Site, alice: Person):
    """R1: the pending page says what has become of it; no state and no token is left."""
    job = queued(site, alice)
    site.kill_hub()
    site.executor.cancel("alice", job.id, False)
    site.start_hub()
    events = list(alice.progress())
    assert events[-1].get("failed")
    assert f"Job {job.id} was cancelled before its server was ready." in events[-1]["message"]
    page = alice.look_at(alice.hub("spawn-pending/alice"))
    assert "was cancelled before its server was ready" in page.text


# --- a submit whose answer nobody read ------------------------------------------------------


@pytest.fixture
def hasty(make_site: Callable[..., Site]) -> Site:
    """A site whose Hub waits only seconds for a job to appear in a list."""
    quick = "import firecrestspawner.cluster\nfirecrestspawner.cluster.SETTLING = 5.0\n"
    return make_site(extra_config=quick)


@pytest.fixture
def member(hasty: Site) -> Iterator[Person]:
    with Person(hasty, "alice") as alice:
        alice.log_in()
        yield alice


def kill_at_submit(site: Site, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 the Hub once FirecREST has done what it was asked for, before it answers."""
    serve = FirecREST.__call__

    async def call(self: FirecREST, scope: Any, receive: Any, send: Any) -> None:
        async def killing(message: Any) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(site.hub.pid, signal.SIGKILL)
            await send(message)

        submits = scope["method"] == "POST" and scope["path"].endswith("/jobs")
        await serve(self, scope, receive, killing if submits else send)

    with monkeypatch.context() as patch:
        patch.setattr(FirecREST, "__call__", call)
        with pytest.raises(VisitError, match="503"):
            person.ask_for_server()
            person.open(person.hub("home"))
        eventually(lambda: not site.hub.running, what="the Hub is dead")
    state = site.state(person.name)
    assert state["submitted_at"] and not state["job_id"]


def test_the_job_of_an_unanswered_submit_is_found_in_the_users_list(
    hasty: Site, member: Person, monkeypatch: pytest.MonkeyPatch
):
    """R3, R6: it is adopted while it still waits in the queue; nothing is submitted again."""
    hasty.executor.hold()
    kill_at_submit(hasty, member, monkeypatch)
    hasty.start_hub()
    (job,) = hasty.jobs()
    eventually(lambda: hasty.state("alice").get("job_id") == job.id, what="it is found")
    hasty.executor.release()
    member.wait_until_ready()
    member.stop()
    assert [each.id for each in hasty.jobs()] == [job.id]
    eventually(lambda: not hasty.remains(), what="nothing remains")


def test_the_job_of_an_unanswered_submit_introduces_itself(
    hasty: Site, member: Person, monkeypatch: pytest.MonkeyPatch
):
    """R3, R6: nobody has a token to list the user's jobs with, and the list fails."""
    hasty.executor.hold()
    kill_at_submit(hasty, member, monkeypatch)
    hasty.firecrest.faults.set("list", status=503, user="alice")
    hasty.start_hub()
    (job,) = hasty.jobs()
    hasty.executor.release()
    member.wait_until_ready()
    assert hasty.state("alice")["job_id"] == job.id
    member.stop()
    assert [each.id for each in hasty.jobs()] == [job.id]


def test_a_submit_that_never_arrived_is_given_up_once_that_is_certain(
    hasty: Site, member: Person, monkeypatch: pytest.MonkeyPatch
):
    """R3, S10: the user is told, and may start again."""
    hasty.firecrest.faults.set("submit", status=503)
    kill_at_submit(hasty, member, monkeypatch)
    hasty.firecrest.faults.clear()
    looked = threading.Event()
    hasty.firecrest.faults.set("list", user="alice", until=looked)
    hasty.start_hub()
    assert is_pending(member), "nothing is certain before the list has come"
    looked.set()
    *_, last = member.progress()
    assert last.get("failed")
    assert "The Hub was restarted before your job reached the cluster." in last["message"]
    assert hasty.jobs() == []
    assert server_tokens(hasty, "alice") == 0
    member.start()
    member.stop()
    assert len(hasty.jobs()) == 1


def test_a_start_that_had_not_submitted_yet_leaves_nothing(hasty: Site, member: Person):
    """R3, S10: not even the token that JupyterHub made for it."""
    gate = threading.Event()
    held = hasty.firecrest.faults.set("systems", until=gate)
    hasty.restart_hub()  # which knows no systems yet: pages ask for them, too

    def ask() -> None:
        with contextlib.suppress(VisitError):
            member.ask_for_server()

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: server_tokens(hasty, "alice") == 1, 30, "the start is under way")
    eventually(lambda: held.hits, what="the Hub asks for the systems")
    hasty.kill_hub()
    asking.join()
    gate.set()
    hasty.firecrest.faults.clear()
    hasty.start_hub()
    eventually(lambda: not member.servers(), what="the Hub has seen that nothing runs")
    assert hasty.remains() == []
    member.start()
    member.stop()
    assert len(hasty.jobs()) == 1


# --- jobs that nobody wants any more --------------------------------------------------------


def submit_by_hand(site: Site, user: str) -> str:
    """The number of a new job under the name of this Hub's jobs."""
    script = f"#!/bin/bash\n#SBATCH --job-name={site.jobs()[0].name}\nsleep 600\n"
    return site.executor.submit(user, JobRequest(script=script, working_directory="/"))


def test_at_the_next_login_a_job_without_a_server_is_cancelled(hasty: Site, member: Person):
    """R7: with the user's token. Servers of theirs, and other people's jobs, go on."""
    member.start()
    hasty.executor.hold()
    stray, theirs = (submit_by_hand(hasty, user) for user in ("alice", "bob"))
    with Person(hasty, "alice") as again:
        again.log_in()

        def left() -> set[str]:
            return {job.id for job in hasty.unfinished("alice")}

        eventually(lambda: left() == {"1"}, what="the stray is gone")
    assert [job.id for job in hasty.unfinished("bob")] == [theirs]
    assert [job.cancelled_by for job in hasty.jobs() if job.id == stray] == ["alice"]
    hasty.executor.cancel("bob", theirs, False)
    member.stop()
