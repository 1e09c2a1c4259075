"""What is left of a login after a logout, at the Hub or at the issuer?"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.journeys.logins import is_logged_in, logged_in
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

SSO = "c.FirecRESTAuthenticator.session_policy = 'sso'\n"
NOTICE = 'id="firecrest-session"'
REFUSED = "Back-channel logout: refused"


def auth_state_is_empty(site: Site) -> bool:
    return site.query("SELECT encrypted_auth_state FROM users WHERE name = 'alice'") == [(None,)]


def back_channel(site: Site) -> str:
    return f"{site.hub_url}{site.base_url}hub/firecrest/backchannel-logout"


@pytest.mark.parametrize("config", ["", SSO], ids=["hub", "sso"])
def test_the_issuers_word_is_heard_at_once(make_site: Callable[..., Site], config: str):
    """R5: of an end that the access token does not know of yet. The policy decides what ends; the
    server and its kernel go on, and its token is good for the Hub."""
    site = make_site(extra_config=config)
    site.issuer.update_client("jupyterhub", backchannel_logout_url=back_channel(site))
    with logged_in(site) as alice:
        alice.start()
        kernel = alice.start_kernel()
        token = site.api_token("alice")
        assert site.issuer.end_session("alice") == 1
        state = site.auth_state("alice")
        assert state["login_ended"] and not state["access_token"] and not state["refresh_token"]
        assert is_logged_in(alice) == (config != SSO)
        assert site.hub_status(token) == 200
        if config != SSO:
            assert NOTICE in alice.look_at(alice.hub("home")).text
            assert alice.run(kernel, "6 * 7") == "42"
        else:
            alice.log_in()
        assert alice.run(kernel, "6 * 7") == "42"
        alice.stop()


def test_the_end_of_another_session_changes_nothing(site: Site, alice: Person):
    """R5: alice has a second session, in another browser say; the Hub's login is not of it."""
    before = site.auth_state("alice")
    site.issuer.log_in("alice")
    _mine, other = site.issuer.sessions("alice")
    answer = httpx.post(
        back_channel(site),
        data={"logout_token": site.issuer.logout_token("alice", sid=other)},
        trust_env=False,
    )
    assert answer.status_code == 200
    assert site.auth_state("alice") == before
    assert is_logged_in(alice)


def test_what_is_no_form_with_one_token_is_refused_with_one_line(site: Site, alice: Person):
    """S3, R8: nothing has changed, and no long body is read."""
    before = site.auth_state("alice")
    token = site.issuer.logout_token("alice")

    def refused() -> int:
        return site.hub_log.read_text().count(REFUSED)

    for content, kind in (
        (b"", "application/x-www-form-urlencoded"),
        (
            f"logout_token={token}&logout_token={token}".encode(),
            "application/x-www-form-urlencoded",
        ),
        (json.dumps({"logout_token": token}).encode(), "application/json"),
        (b"logout_token=\xff\xfe", "application/x-www-form-urlencoded"),
        (b"logout_token=%C0%80.%00.", "application/x-www-form-urlencoded"),
    ):
        lines = refused()
        answer = httpx.post(
            back_channel(site), content=content, headers={"Content-Type": kind}, trust_env=False
        )
        assert answer.status_code == 400
        assert answer.headers["Cache-Control"] == "no-store"
        assert refused() == lines + 1
    with pytest.raises((httpx.HTTPStatusError, httpx.TransportError)):
        httpx.post(
            back_channel(site), data={"logout_token": "x" * 1_000_000}, trust_env=False
        ).raise_for_status()
    assert httpx.get(back_channel(site), trust_env=False).status_code == 405
    assert site.auth_state("alice") == before
    assert is_logged_in(alice)


def test_a_logout_stops_servers_where_the_site_wants_it(make_site: Callable[..., Site]):
    """With the user's own token, which is forgotten only then."""
    site = make_site(extra_config="c.JupyterHub.shutdown_on_logout = True\n")
    with logged_in(site) as alice:
        alice.start()
        alice.look_at(alice.hub("logout"))
        assert not is_logged_in(alice)
    eventually(lambda: not site.unfinished(), what="the job has ended")
    assert site.job("alice").cancelled_by == "alice"
    assert auth_state_is_empty(site)
    assert site.issuer.sessions("alice") == []
    eventually(lambda: not site.remains(), what="nothing remains")


def test_a_logout_ends_the_session_that_a_lost_answer_left(site: Site, alice: Person):
    """The refresh token is spent, so that the login at the Hub has ended; the browser's session at
    the issuer has not, and would log in whoever comes next."""
    site.issuer.spend_refresh_tokens("alice")
    check = alice.api("GET", alice.hub("api/firecrest/session?check=1")).json()
    assert check["valid"] is False
    assert len(site.issuer.sessions("alice")) == 1
    alice.look_at(alice.hub("logout"))
    assert site.issuer.sessions("alice") == []
    assert auth_state_is_empty(site)
    assert not is_logged_in(alice)


def test_a_logout_needs_no_issuer(site: Site, alice: Person):
    """R5, R8: whether it is down or says nothing; the Hub shows its own page."""
    site.issuer.stop()
    try:
        answer = alice.look_at(alice.hub("logout"))
    finally:
        site.issuer.start()
    assert answer.status_code == 200 and str(answer.url).startswith(f"{alice.url}{alice.hub('')}")
    assert auth_state_is_empty(site)
    assert not is_logged_in(alice)


def test_a_logout_waits_for_no_silent_issuer(site: Site, alice: Person):
    """R8."""
    silence = threading.Event()
    site.issuer.faults.set("revocation", hold=silence)
    began = time.monotonic()
    try:
        answer = alice.look_at(alice.hub("logout"))
        took = time.monotonic() - began
    finally:
        silence.set()
    assert answer.status_code == 200 and str(answer.url).startswith(f"{alice.url}{alice.hub('')}")
    assert took < 12
    assert auth_state_is_empty(site)
    assert not is_logged_in(alice)
