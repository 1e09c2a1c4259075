"""What does a user lose when the Hub is killed while it refreshes their tokens?"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.journeys.site import eventually
from tests.keycloak.site import KeycloakSite, Member

#: How often the Hub is killed, and seconds that it lives after the first refresh at most.
KILLS = 6
LONGEST = 0.3


def test_a_hub_killed_while_it_refreshes_asks_for_one_login_at_most(
    site: KeycloakSite, alice: Member
):
    """R4, R6: at random points, with a Keycloak that takes each refresh token once. Where its
    answer was lost, one login is asked for, which brings the session back; no server is lost."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    alice.start()
    (job,) = site.unfinished("alice")
    logins = 0
    for _ in range(KILLS):
        with _refreshing(alice) as refreshed:
            assert refreshed.wait(20), "no refresh succeeds"
            # Not a wait for anything: where in the next refreshes the Hub dies is left to chance.
            threading.Event().wait(chance.uniform(0.0, LONGEST))
            site.kill_hub()
        site.start_hub()
        if not alice.session(check=True)["valid"]:
            logins += 1
            # Keycloak was not asked for nothing: the end is stored, and told without it.
            assert not alice.session()["valid"]
            alice.log_in_again()
            assert alice.session(check=True)["valid"]
        assert [each.id for each in site.unfinished("alice")] == [job.id]
        assert alice.servers()[""]["ready"]
    print(f"{logins} of {KILLS} kills cost a login")
    alice.open_lab()
    alice.stop()


@contextmanager
def _refreshing(person: Member) -> Iterator[threading.Event]:
    """Inside, the person's tokens are refreshed again and again; the event: one succeeded."""
    refreshed, done = threading.Event(), threading.Event()
    token = person.api("POST", person.hub("api/users/alice/tokens"), {}).json()["token"]
    url = f"{person.url}{person.hub('api/firecrest/session?check=1')}"

    def refresh() -> None:
        with httpx.Client(trust_env=False, headers={"Authorization": f"token {token}"}) as http:
            while not done.is_set():
                # The Hub may be dead, or dying; or not be quite there yet.
                with contextlib.suppress(httpx.TransportError):
                    answer = http.get(url)
                    if answer.status_code == 200 and answer.json()["valid"]:
                        refreshed.set()

    threads = [threading.Thread(target=refresh) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield refreshed
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_who_is_asked_to_log_in_is_asked_once(site: KeycloakSite, alice: Member):
    """R4: the sure case. The Hub's refresh token was spent by somebody whose answer got lost, as by
    a Hub that died; Keycloak refuses it, once. One login without a password, and all is well."""
    alice.start()
    stored = site.auth_state("alice")["refresh_token"]
    assert site.spend(stored) == 200
    assert not alice.session(check=True)["valid"]
    log = site.hub_log.read_text()
    for _ in range(3):
        assert not alice.session(check=True)["valid"]
    assert "has ended" not in site.hub_log.read_text()[len(log) :], "the issuer was asked again"
    alice.log_in_again()
    assert alice.session(check=True)["valid"]
    assert alice.servers()[""]["ready"]
    alice.stop()
    eventually(lambda: not site.remains(), what=f"gone are {site.remains()}")
