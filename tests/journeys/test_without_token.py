"""What ends a job that the Hub no longer wants, when it has no token to cancel it with?"""

from __future__ import annotations

import re
from collections.abc import Callable

import psutil

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

#: Seconds an access token lives here: shorter than the spawner's margin, so that every use needs
#: the issuer, and longer than the least that FirecREST accepts.
SHORT_LIFE = 45.0
#: The longest that the Hub leaves between two calls of one server, seconds.
ALIVE = 20.0
HASTY = "c.FirecRESTSpawner.stop_patience = 2\n"


def test_a_server_is_told_that_it_is_not_wanted(make_site: Callable[..., Site]):
    """R7, S10: alice's session is over, so that nobody can cancel her job: the stop leaves a
    tombstone and a revoked token, and the launcher ends the server on the signed verdict."""
    site = make_site(extra_config=HASTY)
    site.issuer.lifetimes.access_token = SHORT_LIFE
    with Person(site, "alice") as alice:
        alice.log_in()
        alice.start()
        token = site.api_token("alice")
        site.issuer.end_session("alice")
        # So that the Hub's patience is over before the launcher calls.
        launcher = launcher_of(site)
        launcher.suspend()
        alice.stop()
        assert said(alice) == [
            "Job 1 on demo, of your server, was stopped but could not be cancelled: it ends itself "
            "within minutes."
        ]
        launcher.resume()
    assert site.hub_status(token) == 403
    assert site.firecrest.count("cancel") == 0
    assert [stone["job_id"] for stone in site.state("alice")["tombstones"]] == ["1"]
    assert [job.id for job in site.unfinished()] == ["1"]

    eventually(lambda: not site.unfinished(), ALIVE, "the job has ended")
    assert (site.job("alice").state, site.job("alice").cancelled_by) == ("COMPLETED", "")
    assert "ended by the Hub" in job_log(site)
    eventually(lambda: not site.remains(), what=f"nothing remains: {site.remains()}")


def test_a_cancelled_job_ends_itself_at_hello(make_site: Callable[..., Site]):
    """R7: nobody could cancel the queued job; when its turn comes, after a restart of the Hub, it
    is told *ended* before anything was started."""
    site = make_site(extra_config=HASTY)
    site.issuer.lifetimes.access_token = SHORT_LIFE
    with Person(site, "alice") as alice:
        alice.log_in()
        site.executor.hold()
        alice.ask_for_server()
        eventually(lambda: site.state("alice").get("job_id"), what="the job is known")
        site.issuer.end_session("alice")
        alice.stop()
        assert "it ends itself as soon as it begins." in said(alice)[0]
    assert [job.state for job in site.jobs()] == ["PENDING"]
    site.kill_hub()
    site.start_hub()
    site.executor.release()
    eventually(lambda: not site.unfinished(), ALIVE, "the job has ended")
    assert (site.job("alice").state, site.job("alice").cancelled_by) == ("COMPLETED", "")
    assert "the Hub no longer wants this server" in job_log(site)
    assert "the server listens" not in job_log(site)
    eventually(lambda: not site.remains(), what=f"nothing remains: {site.remains()}")


def said(person: Person) -> list[str]:
    """What the home page says of jobs that were stopped and may still be there."""
    page = person.look_at(person.hub("home")).text
    _, _, notice = page.partition('id="firecrest-farewells"')
    return re.findall(r"<div>(.*?)</div>", notice.partition("</div>\n    </div>")[0])


def launcher_of(site: Site) -> psutil.Process:
    """The process that started the single-user server, and speaks with the Hub for it."""
    server = next(p for p in site.leftovers() if "jupyterhub-singleuser" in " ".join(p.cmdline()))
    launcher = server.parent()
    assert launcher is not None
    return launcher


def job_log(site: Site) -> str:
    """What alice's job has written."""
    return (site.executor.home_of("alice") / f"jupyter-{site.job('alice').id}.log").read_text()
