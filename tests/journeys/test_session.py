"""What do the session endpoint and the Hub's pages say when the session at the issuer is over?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

FIELDS = {"valid", "expires_at", "policy", "login_url"}
NOTICE = 'id="firecrest-session"'
REAUTH = "/hub/firecrest/reauth?next="


def ask(person: Person, query: str = "", **headers: str) -> httpx.Response:
    """What the person's browser is answered; with headers, a script of theirs without cookies."""
    path = person.hub(f"api/firecrest/session{query}")
    if headers:
        url = f"{person.url}{path}"
        answer = httpx.get(url, headers=headers, trust_env=False, timeout=30)
    else:
        answer = person._http.get(f"{person.url}{path}", headers=person._xsrf_header(path))
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"].startswith("application/json")
    return answer


def session(person: Person, query: str = "", **headers: str) -> dict[str, Any]:
    answer = ask(person, query, **headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == FIELDS
    return body


def asked_of(site: Site) -> int:
    """What the issuer was asked on behalf of users. After a login the Hub looks for their strays
    as itself, and the issuer's keys are anybody's."""
    seen = site.issuer.requests
    return sum(each.endpoint != "jwks" and each.grant_type != "client_credentials" for each in seen)


def end_session(site: Site, person: Person) -> None:
    """At the issuer; and the Hub gets to know of it."""
    site.issuer.end_session(person.name)
    assert session(person, "?check=1")["valid"] is False


def test_the_session_is_told_from_what_is_stored(
    site: Site, alice: Person, person: Callable[[str], Person]
):
    """S3, S7: to the user's cookie and to the user's own tokens, in four fields; the issuer is not
    asked."""
    asked = asked_of(site)
    body = session(alice)
    assert body["valid"] is True
    assert body["expires_at"] == pytest.approx(time.time() + 1800, abs=60)
    assert body["policy"] == "hub"
    assert body["login_url"] == f"{site.url}{REAUTH}%2Fhub%2Fhome"
    made = alice.api("POST", alice.hub("api/users/alice/tokens"), {}).json()["token"]
    assert session(alice, Authorization=f"token {made}") == body
    assert asked_of(site) == asked
    stored = site.auth_state("alice")
    assert all(stored[kind] not in str(body) for kind in ("access_token", "refresh_token"))


def test_strangers_and_odd_questions_are_refused(site: Site, alice: Person):
    """S3: 403 for who is nobody, 400 for what is not documented."""
    for header in ("token nonsense", "Bearer 1", "Basic YTpi"):
        assert ask(alice, Authorization=header).status_code == 403
    for query in ("?check=2", "?check=", "?check=1&check=1", "?user=bob", "?check=1&next=/"):
        answer = ask(alice, query)
        assert (answer.status_code, answer.json()["status"]) == (400, 400), query
    made = alice.api("POST", alice.hub("api/users/alice/tokens"), {}).json()["token"]
    with httpx.Client(trust_env=False, headers={"Authorization": f"token {made}"}) as client:
        url = f"{site.url}{alice.hub('api/firecrest/session')}"
        assert client.request("GET", url, content=b"{}").status_code == 400
        assert client.post(url, json={}).status_code == 405


def test_asked_to_check_it_says_what_the_issuer_says(site: Site, alice: Person):
    """R5: the end is stored, so that nobody has to ask again."""
    before = site.auth_state("alice")["access_token"]
    assert session(alice, "?check=1")["valid"] is True
    assert site.auth_state("alice")["access_token"] != before
    end_session(site, alice)
    asked = asked_of(site)
    assert session(alice)["valid"] is False
    assert session(alice, "?check=1")["valid"] is False
    assert asked_of(site) == asked


def test_an_issuer_that_says_nothing_is_waited_for_no_longer_than_the_deadline(
    site: Site, alice: Person, bob: Person
):
    """R5, R8: 503 after five seconds, and nothing is concluded; others are served meanwhile."""
    site.issuer.faults.set("token", delay=15)
    began = time.monotonic()
    answer = ask(alice, "?check=1")
    assert 4 < time.monotonic() - began < 9
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert session(alice)["valid"] is True
    began = time.monotonic()
    bob.open(bob.hub("home"))
    assert time.monotonic() - began < 3
    site.issuer.faults.clear()
    eventually(lambda: ask(alice, "?check=1").status_code == 200, 30, "the issuer answers again")


def test_the_home_page_says_so_and_keeps_all_it_has(site: Site, alice: Person):
    """S6: nothing while the session goes on; a notice with the way back here once it has ended.
    The stock page's servers, buttons and table of named servers are all there."""
    alice.start()
    calm = alice.look_at(alice.hub("home")).text
    assert NOTICE not in calm
    end_session(site, alice)
    page = alice.look_at(alice.hub("home"))
    assert page.status_code == 200
    assert NOTICE in page.text and 'role="alert"' in page.text
    assert "Your single sign-on session has ended." in page.text
    assert f'href="{REAUTH}%2Fhub%2Fhome"' in page.text
    for text in (calm, page.text):
        for part in ('id="stop"', 'id="start"', "new-server-btn", "server-table", 'id="logout"',
                     'require(["home"])', "<h1"):  # fmt: skip
            assert part in text, part
    alice.stop()


def test_the_home_page_announces_the_end(site: Site, alice: Person):
    """Ten minutes ahead; without alarm, and with the same link."""
    usual = site.issuer.lifetimes.refresh_token
    site.issuer.lifetimes.refresh_token = 290
    try:
        assert session(alice, "?check=1")["valid"] is True
        page = alice.look_at(alice.hub("home")).text
    finally:
        site.issuer.lifetimes.refresh_token = usual
    assert 'role="status"' in page and 'role="alert"' not in page
    assert "ends in about 5 minutes." in " ".join(page.split())
    assert f'href="{REAUTH}%2Fhub%2Fhome"' in page


def test_the_spawn_form_and_the_pages_of_a_failed_start_show_the_same_link(
    site: Site, alice: Person
):
    """S6: before the start, and wherever a start that needed a login says why it failed."""
    jobs = len(site.jobs("alice"))
    calm = alice.open(alice.hub("spawn/alice/big?next=%2Fhub%2Fhome"))
    end_session(site, alice)
    link = f'href="{REAUTH}%2Fhub%2Fspawn%2Falice%2Fbig"'
    form = alice.look_at(alice.hub("spawn/alice/big?next=%2Fhub%2Fhome")).text
    assert NOTICE in form and link in form
    assert 'id="spawn_form"' in form

    refused = alice.post(calm.form_with("account"))
    assert refused.status_code == 403
    assert link in refused.text and NOTICE not in refused.text
    assert "Error: Your login has ended at the identity provider." in refused.text
    assert refused.text.count(">Log in again</a>") == 1

    failed = alice.look_at(alice.hub("spawn-pending/alice/big"))
    assert link in failed.text and 'id="start"' in failed.text
    events = list(alice.progress("big"))
    assert events[-1]["failed"] and link in events[-1]["html_message"]
    assert len(site.jobs("alice")) == jobs


def test_an_admin_reads_nothing_of_a_login_that_is_not_the_admins(
    site: Site, alice: Person, person: Callable[[str], Person]
):
    """Who starts alice's server cannot log in for her, and need not."""
    admin = person("admin")
    end_session(site, alice)
    page = admin.look_at(admin.hub("spawn/alice")).text
    assert 'id="spawn_form"' in page and NOTICE not in page
    assert NOTICE not in admin.look_at(admin.hub("home")).text
