"""Does a restart lose nothing when the Hub's database is a PostgreSQL?"""

from __future__ import annotations

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually
from tests.journeys.test_restarts import away


def test_running_and_queued_servers_outlive_two_kills(site: Site):
    """R6, R3, S10: the one goes on, the other becomes ready; each has been submitted once, and the
    stops revoke their tokens. Each Hub finds what the one before had committed."""
    with Person(site, "alice") as alice, Person(site, "bob") as bob:
        for person in (alice, bob):
            person.log_in()
        alice.start()
        kernel = alice.start_kernel()
        alice.run(kernel, "x = 41")
        site.executor.hold()
        bob.ask_for_server()
        eventually(lambda: site.state("bob").get("job_id"), what="bob's job is known")
        tokens = [site.api_token(name) for name in ("alice", "bob")]
        site.kill_hub()
        site.start_hub()
        with away(site):
            site.kill_hub()
            site.start_hub()
            assert alice.run(kernel, "x + 1") == "42"
            assert alice.servers()[""]["ready"]
            assert bob.servers()[""]["pending"] == "spawn"
        site.executor.release()
        bob.wait_until_ready()
        assert [site.api_token(name) for name in ("alice", "bob")] == tokens
        assert [job.user for job in site.jobs()] == ["alice", "bob"]
        for person in (alice, bob):
            person.stop()
    assert [site.hub_status(token) for token in tokens] == [403, 403]
    eventually(lambda: not site.remains(), what=f"nothing remains: {site.remains()}")
