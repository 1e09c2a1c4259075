"""Does a running server outlive its Hub, and does the Hub find it again?"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil

from firecrestspawner.demo.hub import READY_TIMEOUT
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually
from tests.journeys.test_session import ask, session


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
    start_and_kill(site)
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


def test_a_login_outlives_a_clean_restart_in_the_middle_of_its_refresh(site: Site, alice: Person):
    """R4: the issuer has taken the refresh token, and the answer with the next is on its way."""
    asked, answer = len(site.issuer.requests), threading.Event()
    site.issuer.faults.set("token", hold=answer, times=1, after=True)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(ask, alice, "?check=1")  # whatever becomes of the page
        eventually(
            lambda: any(seen.endpoint == "token" for seen in site.issuer.requests[asked:]),
            what="the issuer is asked",
        )
        stopped = pool.submit(site.stop_hub)
        eventually(lambda: "initiating shutdown" in site.log_end(), what="the Hub shuts down")
        answer.set()
        assert stopped.result(30) == 0
    site.start_hub()
    assert session(alice, "?check=1")["valid"] is True


def test_a_server_that_ended_while_its_hub_was_down_is_shown_as_stopped(
    make_site: Callable[..., Site],
):
    """R1, S10: what happened meanwhile is found out by looking."""
    # That nobody answers proves nothing; so often the Hub asks its spawner, which looks.
    site = make_site(extra_config="c.Spawner.poll_interval = 5\n")
    with Person(site, "alice") as alice:
        alice.log_in()
        alice.start()
        token = site.api_token("alice")
        site.kill_hub()
        for process in site.leftovers():
            with suppress(psutil.NoSuchProcess):  # a child may go with its parent
                process.kill()
        eventually(lambda: not site.unfinished(), what="the job has ended")
        site.start_hub()
        alice.wait_until_gone()
    assert site.hub_status(token) == 403
    eventually(lambda: not site.remains(), what="nothing remains")


def test_a_server_that_does_not_answer_after_a_restart_is_kept(site: Site, alice: Person):
    """R1, R6: its node is busy, or the network down; JupyterHub itself would stop it. Nothing about
    it delays the Hub, and it is reachable once it answers."""
    alice.start()
    kernel = alice.start_kernel()
    alice.run(kernel, "x = 41")
    silent = [p for p in site.leftovers() if "jupyterhub-singleuser" in " ".join(p.cmdline())]
    for process in silent:
        process.suspend()
    try:
        site.kill_hub()
        site.start_hub()
        assert "does not answer" in site.hub_log.read_text()
        assert alice.servers()[""]["ready"]
    finally:
        for process in silent:
            process.resume()
    assert alice.run(kernel, "x + 1") == "42"
    alice.stop()


def start_and_kill(site: Site) -> None:
    """kill -9 a Hub that has hardly begun."""
    beginning = "Running JupyterHub version"
    before = site.hub_log.read_text().count(beginning)
    site.start_hub(wait=False)
    eventually(lambda: site.hub_log.read_text().count(beginning) > before, READY_TIMEOUT, beginning)
    site.kill_hub()
