"""Who is given a user's access token by the Hub, which one, and what do all others read?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

ONLY_A_SERVER = "Only a running server may ask, with its own API token."
LOGIN, REFRESH = "authorization_code", "refresh_token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
FIELDS = {"access_token", "token_type", "expires_at", "expires_in", "scope"}


def ask(site: Site, token: str, query: str = "", **sent: str) -> httpx.Response:
    """What whoever holds the Hub's ``token`` is answered. S7 holds whatever that is."""
    headers = httpx.Headers(sent, encoding="latin-1")
    headers["Authorization"] = f"token {token}".strip()
    answer = httpx.get(
        f"{site.url}{site.base_url}hub/api/firecrest/token{query}",
        headers=headers,
        trust_env=False,
        timeout=30,
    )
    assert answer.headers["Cache-Control"] == "no-store", answer
    assert answer.headers["Content-Type"].startswith("application/json")
    return answer


def claims(access_token: str) -> dict[str, Any]:
    read: dict[str, Any] = jwt.decode(access_token, options={"verify_signature": False})
    return read


def refusal(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert body["status"] == answer.status_code
    return answer.status_code, body["message"]


@contextmanager
def running(person: Person, server: str = "") -> Iterator[str]:
    """A server of the person's, as its API token."""
    person.start(server)
    try:
        yield person.site.api_token(person.name, server)
    finally:
        person.stop(server)


def test_a_server_gets_its_users_access_token_and_no_refresh_token_gets_out(
    site: Site, alice: Person
):
    """S7, S1: the stored token while it is fresh, a fresh one for who needs it to live longer; no
    answer and no line of the Hub's log, at level DEBUG, holds a refresh token."""
    refresh_tokens = {site.auth_state("alice")["refresh_token"]}
    with running(alice) as token:
        first = ask(site, token)
        assert first.status_code == 200
        body = first.json()
        assert set(body) == FIELDS
        assert body["token_type"] == "Bearer"
        assert claims(body["access_token"])["preferred_username"] == "alice"
        assert abs(body["expires_at"] - claims(body["access_token"])["exp"]) < 2
        assert body["expires_in"] == pytest.approx(body["expires_at"] - time.time(), abs=3)
        assert "openid" in body["scope"].split()
        assert body["access_token"] == site.auth_state("alice")["access_token"]

        # 300 seconds are all that this issuer gives; one that it has just given is left alone.
        issued = site.auth_state("alice")["issued_at"]
        eventually(lambda: time.time() - issued > 10, 11, "the token is no longer new")
        long = ask(site, token, "?min_validity=86400")
        assert long.json()["access_token"] != body["access_token"]
        assert long.json()["expires_in"] >= 295
        refresh_tokens.add(site.auth_state("alice")["refresh_token"])
        assert len(refresh_tokens) == 2

        # Who keeps asking for more than there is does not cost the issuer a request each time.
        asked = len(site.issuer.requests)
        again = [ask(site, token, "?min_validity=86400.0") for _ in range(5)]
        assert {answer.json()["access_token"] for answer in again} == {long.json()["access_token"]}
        assert len(site.issuer.requests) == asked
        answers = [first, long, *again]
    log = site.hub_log.read_text()
    assert "DEBUG" in log or "[D " in log
    for secret in refresh_tokens:
        assert all(secret not in answer.text + str(answer.headers) for answer in answers)
        assert secret not in log
    assert body["access_token"] not in log


def test_only_a_running_servers_own_token_opens_it(
    site: Site, alice: Person, person: Callable[[str], Person]
):
    """S3: alice's server cannot ask for bob's token, and neither alice's cookie, nor another token
    of hers, nor an admin's gets hers."""
    bob, admin = person("bob"), person("admin")
    made = alice.api("POST", alice.hub("api/users/alice/tokens"), {}).json()["token"]
    admins = admin.api("POST", admin.hub("api/users/admin/tokens"), {}).json()["token"]
    alice.start("other")
    stopped = site.api_token("alice", "other")
    alice.stop("other")
    with running(alice) as token, running(bob) as bobs:
        assert claims(ask(site, bobs).json()["access_token"])["preferred_username"] == "bob"
        assert claims(ask(site, token).json()["access_token"])["preferred_username"] == "alice"
        # There is no way to say whose.
        assert ask(site, token, "?user=bob").status_code == 400

        cookies = alice.look_at(alice.hub("api/firecrest/token"))
        assert refusal(cookies) == (403, ONLY_A_SERVER)
        assert cookies.headers["Cache-Control"] == "no-store"
        others = {
            "a personal token": made,
            "an admin's token": admins,
            "a stopped server's token": stopped,
            "the token of her browser's session on the server": session_token(alice, token),
            "no token": "",
            "something": "0" * 32,
            "the wrong alphabet": "\u00e9" * 32,
        }
        assert site.hub_status(others["the token of her browser's session on the server"]) == 200
        for name, other in others.items():
            answer = ask(site, other)
            assert refusal(answer) == (403, ONLY_A_SERVER), name
        # A cookie beside the server's token changes nothing, in either direction.
        assert ask(site, token, Cookie="_xsrf=1").status_code == 200
        # ...and the token is read from the header alone.
        assert ask(site, "", f"?token={token}").status_code == 403


def session_token(person: Person, api_token: str) -> str:
    """An OAuth token as the person's server gets one for each browser that logs in to it."""
    form = {
        "client_id": f"jupyterhub-user-{person.name}",
        "redirect_uri": person.lab("oauth_callback"),
        "response_type": "code",
    }
    page = person._http.get(
        f"{person.url}{person.hub('api/oauth2/authorize')}", params=form, follow_redirects=False
    )
    assert page.status_code == 302, page.text
    (code,) = parse_qs(urlsplit(page.headers["Location"]).query)["code"]
    answer = httpx.post(
        f"{person.url}{person.hub('api/oauth2/token')}",
        data={**form, "grant_type": "authorization_code", "code": code,
              "client_secret": api_token},
        trust_env=False,
    )  # fmt: skip
    token: str = answer.json()["access_token"]
    return token


def test_a_stopped_servers_token_opens_nothing(site: Site, alice: Person):
    """S10, S3: not after a stop, not after a restart of the Hub between start and stop."""
    with running(alice) as token:
        assert ask(site, token).status_code == 200
    assert refusal(ask(site, token)) == (403, ONLY_A_SERVER)

    with running(alice) as token:
        site.kill_hub()
        site.start_hub()
        assert ask(site, token).status_code == 200
        alice.stop()
        assert refusal(ask(site, token)) == (403, ONLY_A_SERVER)
        site.restart_hub()
        assert refusal(ask(site, token)) == (403, ONLY_A_SERVER)
        # The next server's token does not bring it back.
        alice.start()
        assert refusal(ask(site, token)) == (403, ONLY_A_SERVER)
        assert ask(site, site.api_token("alice")).status_code == 200


def replace_stored_token(site: Site, person: Person) -> None:
    """By one that is too short-lived to be handed out without asking the issuer."""
    site.issuer.lifetimes.access_token = 45
    check = person.api("GET", person.hub("api/firecrest/session?check=1"))
    assert check.json()["valid"] is True
    assert site.auth_state(person.name)["expires_at"] < time.time() + 50


NO_NUMBERS = (
    *("soon", "-1", "nan", "inf", "1e3", "0x10", "", "+5", "%20", "1,5", "%D9%A3", "86401"),
    *("9" * 400, "60%00", "60;61"),
)


def test_what_is_asked_in_any_other_way_is_a_400(site: Site, alice: Person):
    """S3: one argument, once, a number of seconds up to a day; no body, no other method."""
    with running(alice) as token:
        for text in NO_NUMBERS:
            answer = refusal(ask(site, token, f"?min_validity={text}"))
            assert answer == (400, "min_validity is a number of seconds from 0 to 86400."), text
        for query, why in {
            "?min_validity=60&min_validity=60": "An argument is given more than once.",
            "?min_validity=60&audience=other": "There is no such argument.",
            "?_xsrf=1": "There is no such argument.",
        }.items():
            assert refusal(ask(site, token, query)) == (400, why)
        for text in ("0", "0.5", "60", "86400"):
            assert ask(site, token, f"?min_validity={text}").status_code == 200
        url = f"{site.url}{site.base_url}hub/api/firecrest/token"
        headers = {"Authorization": f"token {token}"}
        with httpx.Client(trust_env=False, headers=headers) as client:
            assert client.request("GET", url, content=b"{}").status_code == 400
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                refused = client.request(method, url)
                assert refused.status_code == 405
                assert refused.headers["Cache-Control"] == "no-store"


def test_while_the_issuer_is_away_a_fresh_token_is_still_handed_out(site: Site, alice: Person):
    """R5: 200 for what the stored token can do, 503 and when to come back for what it cannot."""
    with running(alice) as token:
        site.issuer.faults.set("*", status=503)
        assert ask(site, token, "?min_validity=60").status_code == 200
        site.issuer.faults.clear()
        replace_stored_token(site, alice)
        site.issuer.faults.set("*", status=503)
        answer = ask(site, token, "?min_validity=60")
        assert refusal(answer) == (
            503, "The login service cannot be reached right now. Please try again in a moment.",
        )  # fmt: skip
        assert int(answer.headers["Retry-After"]) > 0
        assert "login_url" not in answer.json()
        site.issuer.faults.clear()
        assert ask(site, token, "?min_validity=60").status_code == 200


def test_when_the_session_has_ended_the_answer_says_where_to_log_in(
    make_site: Callable[..., Site],
):
    """R5: 403 with a whole URL, for who reads it is not on the Hub's pages; the server goes on."""
    site = make_site(base_url="/jupyter/")
    with Person(site, "alice") as alice:
        alice.log_in()
        with running(alice) as token:
            replace_stored_token(site, alice)
            site.issuer.end_session("alice")
            answer = ask(site, token)
            body = json.loads(answer.text)
            assert (answer.status_code, body["status"]) == (403, 403)
            assert body["message"].startswith("Your login has ended at the identity provider.")
            assert body["login_url"] == (
                f"{site.url}/jupyter/hub/firecrest/reauth?next=%2Fjupyter%2Fhub%2Fhome"
            )
            assert alice.servers()[""]["ready"]


def test_a_site_may_keep_tokens_from_notebooks(make_site: Callable[..., Site]):
    site = make_site(extra_config="c.FirecRESTSpawner.notebook_tokens = False\n")
    with Person(site, "alice") as alice:
        alice.log_in()
        with running(alice) as token:
            assert refusal(ask(site, token)) == (
                403, "This Hub gives no access tokens to notebooks.",
            )  # fmt: skip
            # Strangers do not learn even that.
            assert refusal(ask(site, "0" * 32)) == (403, ONLY_A_SERVER)


def test_a_site_may_give_notebooks_a_narrower_token(make_site: Callable[..., Site]):
    """S7: what the issuer makes of the user's token is handed out, and asked for once; while it
    makes nothing of it, nothing is handed out, least of all the user's own token."""
    site = make_site(extra_config="c.FirecRESTSpawner.notebook_token_audience = 'firecrest'\n")
    with Person(site, "alice") as alice:
        alice.log_in()
        with running(alice) as token:
            grants = site.issuer.update_client("jupyterhub", grant_types=(LOGIN, REFRESH))
            assert EXCHANGE not in grants.grant_types
            answer = ask(site, token)
            assert answer.status_code == 503 and "access_token" not in answer.text
            site.issuer.update_client("jupyterhub", grant_types=(LOGIN, REFRESH, EXCHANGE))
            for _ in range(3):
                body = ask(site, token).json()
                assert set(body) == FIELDS
                assert claims(body["access_token"])["aud"] == "firecrest"
                assert claims(body["access_token"])["preferred_username"] == "alice"
            assert "account" in claims(site.auth_state("alice")["access_token"])["aud"]
            exchanges = [seen for seen in site.issuer.requests if seen.grant_type == EXCHANGE]
            assert len(exchanges) == 2, "once in vain, and once for all three"


def test_code_in_a_notebook_gets_its_users_token(site: Site, alice: Person):
    """S1, S3: by the class, and by the command that other programs run; nothing but the token."""
    alice.start()
    kernel = alice.start_kernel()
    stored = site.auth_state("alice")["access_token"]
    with_class = "from firecrestspawner.notebook import HubTokenAuth\nHubTokenAuth()"
    assert alice.run(kernel, f"{with_class}.get_access_token()") == repr(stored)
    command = "[sys.executable, '-c', 'import sys; from firecrestspawner.cli import main; "
    command += "sys.exit(main(sys.argv[1:]))', 'token']"
    run = f"import subprocess, sys\nsubprocess.run({command}, capture_output=True, text=True)"
    assert alice.run(kernel, f"{run}.stdout") == repr(f"{stored}\n")
    site.issuer.end_session("alice")
    alice._http.get(f"{alice.url}{alice.hub('api/firecrest/session?check=1')}")
    assert alice.run(kernel, f"{run}.returncode") == "3"
    alice.stop()
