"""What does the end of a session at the issuer change at the Hub, and what does it never change?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from firecrestspawner.demo.visitor import Form, Page
from tests.journeys.logins import (
    is_logged_in,
    log_in_silently,
    logged_in,
    personal_token,
    program,
    script,
)
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

#: Seconds; the shortest after which the Hub asks the authenticator about a user again.
ALWAYS = "c.Authenticator.auth_refresh_age = 1\n"
SSO = f"{ALWAYS}c.FirecRESTAuthenticator.session_policy = 'sso'\n"
#: FirecREST would refuse an access token as old as these: each need is a refresh.
SHORT = 60.0
NOTICE = 'id="firecrest-session"'


def as_bob(page: Page) -> Form:
    """The issuer's form, filled in by bob."""
    form = page.form_with("password")
    return replace(form, fields=form.fields | {"username": "bob", "password": "builder"})


def forget_the_server(person: Person) -> None:
    """The browser has not been to the person's servers yet, only to the Hub."""
    jar = person._http.cookies.jar
    for cookie in [each for each in jar if each.path.startswith("/user/")]:
        jar.clear(cookie.domain, cookie.path, cookie.name)


def test_policy_hub_an_ended_session_ends_nothing(make_site: Callable[..., Site]):
    """R5: home says so, the server and its kernel go on, stop works, and the re-login comes back
    to the same page with fresh tokens."""
    site = make_site(access_token_lifetime=SHORT, extra_config=ALWAYS)
    with logged_in(site) as alice:
        alice.start()
        kernel = alice.start_kernel()
        alice.run(kernel, "x = 41")
        site.issuer.end_session("alice")
        eventually(lambda: NOTICE in alice.look_at(alice.hub("home")).text, what="home says so")
        assert is_logged_in(alice)
        assert alice.run(kernel, "x + 1") == "42"
        page = alice.open(alice.hub("firecrest/reauth?next=") + alice.hub("home"))
        page = alice.submit(page.form_with("password"), username="alice", password="wonderland")
        assert page.address == f"{alice.url}{alice.hub('home')}"
        assert NOTICE not in alice.look_at(alice.hub("home")).text
        assert alice.run(kernel, "x + 1") == "42"
        site.issuer.end_session("alice")
        alice.stop()
    eventually(lambda: not site.remains(), what="nothing remains")


def test_policy_sso_an_ended_session_ends_the_hubs_and_no_server(make_site: Callable[..., Site]):
    """R5, R1: the next page asks for a login; the server goes on, and tokens are not touched."""
    site = make_site(access_token_lifetime=SHORT, extra_config=SSO)
    with logged_in(site) as alice:
        alice.start()
        kernel = alice.start_kernel()
        alice.run(kernel, "x = 41")
        server, personal = site.api_token("alice"), personal_token(alice)
        assert is_logged_in(alice)
        site.issuer.end_session("alice")
        eventually(lambda: not is_logged_in(alice), what="a login is asked for")
        assert site.hub_status(server) == 200
        assert script(alice, personal, "api/user") == 200
        assert site.unfinished("alice")
        alice.log_in()
        assert alice.servers()[""]["ready"]
        alice.open_lab()
        assert alice.run(kernel, "x + 1") == "42"
        alice.stop()


@pytest.mark.parametrize("policy", [ALWAYS, SSO], ids=["hub", "sso"])
def test_an_issuer_that_is_away_logs_nobody_out(make_site: Callable[..., Site], policy: str):
    """R5, R8: whatever the policy; a start says in one sentence what is the matter."""
    site = make_site(access_token_lifetime=SHORT, extra_config=policy)
    with logged_in(site) as alice:
        alice.start()
        kernel = alice.start_kernel()
        site.issuer.stop()
        try:
            assert is_logged_in(alice)
            assert alice.run(kernel, "6*7") == "42"
            # As after the five minutes for which a server remembers what the Hub has told it.
            assert site.hub_status(site.api_token("alice")) == 200
            forget_the_server(alice)
            alice.open_lab()
            path = alice.hub("api/users/alice/servers/second")
            answer = alice._http.post(
                f"{alice.url}{path}", json={}, headers=alice._xsrf_header(path)
            )
            assert "The login service cannot be reached right now" in answer.text
        finally:
            site.issuer.start()
        assert is_logged_in(alice)
        assert alice.servers()[""]["ready"]
        alice.stop()


def test_the_back_channel_ends_what_the_policy_says(make_site: Callable[..., Site]):
    """R5: at once, without a question to the issuer; the server goes on. What is no proof of a
    logout is refused, and changes nothing."""
    site = make_site(extra_config=SSO)
    url = f"{site.hub_url}/hub/firecrest/backchannel-logout"

    def send(token: str) -> int:
        answer = httpx.post(url, data={"logout_token": token}, trust_env=False, timeout=30)
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.status_code

    with logged_in(site) as alice:
        alice.start()
        valid = site.issuer.logout_token("alice")
        header, claims, signature = valid.split(".")
        forged = [
            "nonsense",
            f"{header}.{claims}.{signature[:-4]}AAAA",
            f"eyJhbGciOiJub25lIn0.{claims}.",
            site.issuer.logout_token("alice", aud="another"),
            site.issuer.logout_token("alice", iss="https://elsewhere.example"),
            site.issuer.logout_token("alice", nonce="1"),
            site.issuer.logout_token("alice", events={}),
            site.issuer.logout_token("alice", sub=None, sid=None),
            site.issuer.logout_token("alice", jti=None),
            site.issuer.logout_token("alice", exp=1),
        ]
        before = site.hub_log.read_text().count("Back-channel logout: refused")
        assert [send(token) for token in forged] == [400] * len(forged)
        assert site.hub_log.read_text().count("Back-channel logout: refused") == before + len(
            forged
        )
        assert is_logged_in(alice)
        # After a restart nobody has told the Hub yet whose session it is.
        site.restart_hub()
        assert send(valid) == 200
        eventually(lambda: not is_logged_in(alice), what="a login is asked for")
        log_in_silently(alice)
        assert send(valid) == 400
        assert is_logged_in(alice)
        assert alice.servers()[""]["ready"]
        alice.stop()


def test_a_lost_role_ends_access_at_the_next_refresh(make_site: Callable[..., Site]):
    """``allow_all`` does not help; the server goes on. Without the role there is no login, and the
    page says what is missing and whom to ask. A program with a token of the user's starts nothing
    and is told the same."""
    required = (
        "c.FirecRESTAuthenticator.required_permissions = ['profile', 'hpc-user']\n"
        "c.FirecRESTAuthenticator.permission_contact = 'help@example.org'\n"
    )
    site = make_site(access_token_lifetime=SHORT, extra_config=ALWAYS + required)
    site.issuer.update_user("alice", roles=("hpc-user",))
    site.issuer.update_user("bob", roles=())
    with logged_in(site) as alice, Person(site, "bob") as bob:
        alice.start()
        assert is_logged_in(alice)
        token = personal_token(alice)
        site.issuer.update_user("alice", roles=())
        eventually(lambda: not is_logged_in(alice), what="a login is asked for")
        (job,) = site.unfinished("alice")
        answer = program(alice, token, "POST", "api/users/alice/servers/second", json={})
        assert answer.status_code == 403
        assert "hpc-user. Please ask help@example.org" in answer.json()["message"]
        assert [each.id for each in site.jobs("alice")] == [job.id]
        login = bob.open(bob.hub("login")).link_to("/hub/oauth_login")
        answer = bob.post(as_bob(bob.open(login)))
        assert answer.status_code == 403
        assert "hpc-user. Please ask help@example.org" in unescape(answer.text)
        site.issuer.update_user("alice", roles=("hpc-user",))
        log_in_silently(alice)
        assert is_logged_in(alice)
        alice.stop()


def test_a_logout_ends_the_session_at_the_issuer_and_no_server(site: Site, alice: Person):
    """The tokens are revoked and forgotten, whether or not the browser gets to the issuer's own
    page, where it is sent."""
    alice.start()
    id_token = site.auth_state("alice")["id_token"]
    answer = alice._http.get(f"{alice.url}{alice.hub('logout')}", follow_redirects=False)
    target = urlsplit(answer.headers["location"])
    assert target.path.endswith("/logout")
    assert parse_qs(target.query)["id_token_hint"] == [id_token]
    assert site.issuer.sessions("alice") == []
    alice.open(answer.headers["location"])
    assert not is_logged_in(alice)
    assert site.query("SELECT encrypted_auth_state FROM users WHERE name = 'alice'") == [(None,)]
    assert site.unfinished("alice")
    alice.log_in()
    alice.stop()


@pytest.mark.parametrize(
    "target", ["//evil", "/\\evil", "https:evil", "javascript:alert(1)", "/hub/home&x=1", ""]
)
def test_a_re_login_leads_back_to_the_hub_or_nowhere(alice: Person, target: str):
    """S6."""
    answer = alice.look_at(alice.hub(f"firecrest/reauth?next={target}"))
    assert answer.status_code == 400


def test_somebody_else_who_comes_back_from_a_re_login_changes_nothing(site: Site, alice: Person):
    """R4: the tokens stay alice's."""
    before = site.auth_state("alice")
    site.issuer.end_session("alice")
    page = alice.open(alice.hub("firecrest/reauth"))
    answer = alice.post(as_bob(page))
    assert answer.status_code == 403
    assert "as somebody else" in unescape(answer.text)
    assert site.auth_state("alice") == before
    assert is_logged_in(alice)
