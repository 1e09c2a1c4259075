"""Do several servers of one user, and those of several users, get on with each other?"""

from __future__ import annotations

from itertools import pairwise

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

WHO = "__import__('os').environ['JUPYTERHUB_USER'] + ':' + __import__('os').environ.get({!r}, '')"


def who(person: Person, server: str = "") -> str | None:
    """The user and the server's name, as a cell in that server sees them."""
    return person.run(person.start_kernel(server), WHO.format("JUPYTERHUB_SERVER_NAME"))


def grants_of_the_service_account(site: Site) -> int:
    """How often the issuer was asked for its token."""
    return sum(seen.grant_type == "client_credentials" for seen in site.issuer.requests)


def test_servers_of_one_user_and_of_two_run_side_by_side(site: Site, alice: Person, bob: Person):
    """R7: stopping one server leaves the others alone; C1: N servers cost one list a tick and one
    token of the service account."""
    granted = grants_of_the_service_account(site)
    alice.ask_for_server()
    alice.ask_for_server("second")
    bob.ask_for_server()
    for person, server in ((alice, ""), (alice, "second"), (bob, "")):
        person.wait_until_ready(server)
    assert who(alice) == "'alice:'"
    assert who(alice, "second") == "'alice:second'"
    assert who(bob) == "'bob:'"
    assert sorted(job.user for job in site.unfinished()) == ["alice", "alice", "bob"]
    assert bob.look_at(alice.lab("api/kernels")).status_code == 403

    # A queued job makes the monitor tick every two seconds.
    site.executor.hold()
    bob.ask_for_server("queued")
    eventually(lambda: site.state("bob", "queued").get("job_id"), what="the job is watched")
    before = len(site.requests())
    # A list that was asked for before the submit does not have the job.
    eventually(lambda: site.requests(before).count("list") >= 2, what="two ticks")
    settled = len(site.requests())
    eventually(lambda: site.requests(settled).count("list") >= 2, what="two more ticks")
    assert set(site.requests(settled)) == {"list"}
    ticks = [record.at for record in list(site.firecrest.requests)[settled:]]
    assert all(later - tick > 1.5 for tick, later in pairwise(ticks)), ticks
    assert grants_of_the_service_account(site) - granted <= 1
    bob.stop("queued")

    alice.stop("second")
    assert sorted(job.user for job in site.unfinished()) == ["alice", "bob"]
    assert alice.run(alice.start_kernel(), "1+1") == "2"
    alice.stop()
    assert bob.run(bob.start_kernel(), "1+1") == "2"
    bob.stop()
