"""What does a user see of a start that fails for real, and how do they go on from there?"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from firecrestspawner.demo.visitor import Page, VisitError
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

#: While there is this file in their home, a user's environment lacks jupyterhub-singleuser.
BROKEN = "broken"
CONFIG = f"""
c.FirecRESTSpawner.req_prologue = '[ ! -e {BROKEN} ] || PATH=/usr/bin:/bin'
c.FirecRESTSpawner.cmd = ["jupyterhub-singleuser"]
import sys
c.FirecRESTSpawner.python = sys.executable
"""
SAID = "jupyterhub-singleuser not found on the node"


@pytest.fixture
def visit(make_site: Callable[..., Site]) -> Iterator[Callable[[str], Person]]:
    """Makes people who are logged in on a site where an environment can be broken."""
    site = make_site(extra_config=CONFIG)
    with ExitStack() as stack:

        def log_in(name: str) -> Person:
            person = stack.enter_context(Person(site, name))
            person.log_in()
            return person

        yield log_in


def shown(page: str, name: str) -> str:
    """The text of the element called ``name``."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)</(?:pre|p|b|div)>', page, re.DOTALL)
    assert found is not None, page
    return html.unescape(found[1])


def cause(page: str) -> str:
    """The name of the cause that a page of a server that does not run gives."""
    found = re.search(r'data-cause="([^"]*)"', page)
    return found[1] if found else ""


def assert_cancelled(person: Person, job_id: str) -> None:
    """That is what the page in place of their server says."""
    page = person.look_at(person.hub(f"user/{person.name}/lab")).text
    assert cause(page) == "cancelled" and shown(page, "firecrest-job") == job_id


def end_is_stored(site: Site) -> bool:
    """Whether the end of alice's default server is."""
    (row,) = site.query(
        "SELECT spawners.state FROM spawners JOIN users ON users.id = spawners.user_id"
        " WHERE users.name = 'alice' AND spawners.name = ''"
    )
    return "ending" in json.loads(row[0] or "{}")


def tails(site: Site) -> int:
    return site.requests().count("tail")


def test_a_start_without_its_command_is_explained_and_begun_again(
    visit: Callable[[str], Person],
) -> None:
    """C2, C3, S5: the page has cause, job and last lines; one button starts again with the same
    choices. Nobody but the user reads the output, and its page costs one request in some seconds.
    """
    alice = visit("alice")
    site = alice.site
    home = site.executor.home_of("alice")
    (home / BROKEN).touch()
    with suppress(VisitError):  # the form is shown again where the start fails within a second
        alice.ask_for_server("big", runtime="01:00:00")
    eventually(lambda: site.jobs("alice"), what="a job")
    alice.wait_until_gone("big")
    job = site.job("alice")

    answer = alice.look_at(alice.hub("spawn-pending/alice/big"))
    page = answer.text
    assert answer.status_code == 500 and cause(page) == "missing-command"
    assert shown(page, "firecrest-job") == job.id
    assert f"[firecrestspawner] {SAID}" in shown(page, "firecrest-lines")
    own = site.own_requests()
    assert own.count("tail") == 1, "reading the page costs nothing"
    assert len(own) <= 3, own

    output = alice.hub("firecrest/output?server=big")
    assert output in html.unescape(page)
    read = [alice.look_at(output) for _ in range(3)]
    assert tails(site) == 2
    assert all(each.headers["cache-control"] == "no-store" for each in read)
    assert SAID in shown(read[0].text, "firecrest-lines")

    admin = visit("admin")
    assert admin.look_at(output).status_code == 404
    seen = admin.look_at(admin.hub("spawn-pending/alice/big"))
    assert cause(seen.text) == "missing-command" and "firecrest-lines" not in seen.text

    # A Hub that was restarted says the same, but for the lines: it reads them again when asked.
    site.stop_hub()
    site.start_hub()
    answer = alice.look_at(alice.hub("user/alice/big/lab"))
    page = answer.text
    assert cause(page) == "missing-command" and shown(page, "firecrest-job") == job.id
    assert SAID in html.unescape(page) and "firecrest-lines" not in page
    assert output in html.unescape(page) and tails(site) == 2
    assert SAID in shown(alice.look_at(output).text, "firecrest-lines")

    (home / BROKEN).unlink()
    retry = Page(str(answer.url), page).form_with("runtime")
    assert (retry.id, retry.fields["runtime"]) == ("firecrest-retry", "01:00:00")
    answer = alice.post(retry)
    assert answer.status_code == 200, answer.text
    alice.wait_until_ready("big")
    assert site.job("alice").id != job.id
    (options,) = site.query("SELECT user_options FROM spawners WHERE name = 'big'")
    assert "01:00:00" in options[0]
    assert "the server listens on port" in shown(alice.look_at(output).text, "firecrest-lines")
    alice.stop("big")


def test_a_server_that_ended_while_its_hub_was_down_is_said_to_have(
    site: Site, alice: Person
) -> None:
    """With the scheduler's word for it: that of the launcher has found nobody. A second restart
    forgets nothing, a new start does."""
    alice.start()
    job = site.job("alice")
    site.kill_hub()
    site.executor.cancel("alice", job.id, False)
    eventually(lambda: not site.unfinished(), what="the job has ended")
    site.start_hub()
    alice.wait_until_gone()
    assert_cancelled(alice, job.id)
    site.kill_hub()
    site.start_hub()
    assert_cancelled(alice, job.id)
    assert end_is_stored(site)
    alice.start()
    alice.stop()
    assert cause(alice.look_at(alice.hub("user/alice/lab")).text) == ""
    assert not end_is_stored(site)


def test_a_start_that_ends_while_its_hub_is_down_is_explained(site: Site, alice: Person) -> None:
    """It waited in the queue, is taken up again, and is told as the failed start that it is."""
    site.executor.hold()
    alice.ask_for_server()
    eventually(lambda: site.state("alice").get("job_id"), what="the job is submitted")
    job = site.job("alice")
    site.kill_hub()
    site.executor.cancel("alice", job.id, False)
    site.start_hub()
    alice.wait_until_gone()
    assert_cancelled(alice, job.id)
    site.stop_hub()
    site.start_hub()
    assert_cancelled(alice, job.id)


def test_a_server_that_was_cancelled_from_outside_is_said_to_have_been(
    site: Site, alice: Person
) -> None:
    """So is one that is shut down from inside; one that its user stops is no news."""
    alice.start()
    job = site.job("alice")
    site.executor.cancel("alice", job.id, False)
    alice.wait_until_gone()
    page = alice.look_at(alice.hub("spawn-pending/alice")).text
    # The launcher's goodbye, or the scheduler's word for it if that was seen before.
    assert cause(page) in ("stopped", "cancelled") and shown(page, "firecrest-job") == job.id
    output = alice.look_at(alice.hub("firecrest/output"))
    assert "stopped by SIGTERM" in shown(output.text, "firecrest-lines")

    alice.start()
    alice.open_lab()
    alice.api("POST", alice.lab("api/shutdown"))
    alice.wait_until_gone()
    assert cause(alice.look_at(alice.hub("user/alice/lab")).text) == "shut-down"

    alice.start()
    alice.stop()
    assert cause(alice.look_at(alice.hub("user/alice/lab")).text) == ""
