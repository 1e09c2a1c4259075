"""Does the demo's issuer behave as a Keycloak realm does, in the ways that its clients notice?"""

from __future__ import annotations

import base64
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from math import ceil

import httpx
import pytest

from firecrestspawner.demo.issuer import DemoClient, Issuer
from tests.unit.issuer_client import (
    CALLBACK,
    HUB,
    SERVICE,
    Form,
    authorize,
    endpoint,
    pkce,
    query_of,
    redeem,
    refresh,
    refusal,
    submit,
    token,
    verified,
)

pytestmark = pytest.mark.unit


@pytest.fixture
def issuer():
    with Issuer() as running:
        yield running


@pytest.fixture
def browser():
    with httpx.Client() as client:
        yield client


@pytest.fixture
def http():
    """A client's own connections: no cookies of the browser."""
    with httpx.Client() as client:
        yield client


def test_a_person_logs_in_with_code_and_pkce_and_gets_keycloaks_claims(issuer, browser, http):
    verifier, challenge = pkce()
    page = authorize(issuer, browser, code_challenge=challenge, code_challenge_method="S256")
    back = query_of(submit(browser, page))
    assert (back["state"], back["iss"]) == ("st", issuer.url)

    answer = redeem(issuer, http, back["code"], code_verifier=verifier).json()
    assert (answer["token_type"], answer["scope"]) == ("Bearer", "openid email profile")
    assert (answer["expires_in"], answer["refresh_expires_in"]) == (300, 1800)
    assert answer["session_state"] == back["session_state"]

    access = verified(issuer, answer["access_token"])
    assert access.header["kid"]
    claims = access.claims
    assert (claims["iss"], claims["typ"], claims["azp"]) == (issuer.url, "Bearer", "jupyterhub")
    assert (claims["aud"], claims["sid"]) == (["account", "firecrest"], back["session_state"])
    assert (claims["preferred_username"], claims["name"]) == ("alice", "Alice Liddell")
    assert claims["groups"] == ["researchers"]
    assert "hpc-user" in claims["realm_access"]["roles"]
    assert "view-profile" in claims["resource_access"]["account"]["roles"]
    assert claims["exp"] - claims["iat"] == 300

    identity = verified(issuer, answer["id_token"]).claims
    half = hashlib.sha256(answer["access_token"].encode()).digest()[:16]
    assert identity["at_hash"] == base64.urlsafe_b64encode(half).rstrip(b"=").decode()
    assert (identity["nonce"], identity["aud"], identity["typ"]) == ("n-1", "jupyterhub", "ID")
    assert (identity["sub"], identity["sid"]) == (claims["sub"], claims["sid"])


def test_the_login_page_is_plain_labelled_and_shows_the_demo_logins(issuer, browser):
    page = authorize(issuer, browser, login_hint='"><b>x')
    form = Form(page)
    assert form.inputs == form.labels == ["username", "password"]
    assert "wonderland" in page.text and '<html lang="en">' in page.text
    assert "<script" not in page.text and "<b>x" not in page.text
    assert "src=" not in page.text and "http" not in page.text.split("<style>")[0]
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("name", "word"), [("alice", "builder"), ("nobody", "wonderland"), ("alice", "")]
)
def test_a_wrong_login_is_asked_for_again(issuer, browser, name, word):
    page = submit(browser, authorize(issuer, browser), name, word)
    assert page.status_code == 200
    assert 'role="alert"' in page.text
    assert not browser.cookies


def test_a_second_login_passes_without_a_password_until_the_session_ends(issuer, browser):
    first = query_of(submit(browser, authorize(issuer, browser)))
    second = query_of(authorize(issuer, browser))
    assert second["code"] != first["code"]
    assert second["session_state"] == first["session_state"]
    assert issuer.end_session("alice") == 1
    assert Form(authorize(issuer, browser)).inputs


def test_the_session_cookie_is_for_the_realm_only_and_not_for_scripts(issuer, browser):
    response = submit(browser, authorize(issuer, browser))
    cookie = response.headers["set-cookie"]
    assert {"HttpOnly", "Path=/realms/demo", "SameSite=Lax"} <= set(cookie.split("; "))
    assert issuer.sessions("alice")[0] not in cookie


def test_prompt_login_asks_again_and_keeps_the_session(issuer, browser):
    first = query_of(submit(browser, authorize(issuer, browser)))
    again = authorize(issuer, browser, prompt="login")
    assert query_of(submit(browser, again))["session_state"] == first["session_state"]
    again = authorize(issuer, browser, prompt="login")
    other = query_of(submit(browser, again, "bob", "builder"))
    assert other["session_state"] == issuer.sessions("bob")[0] != first["session_state"]


def test_prompt_none_answers_without_a_page(issuer, browser):
    refused = query_of(authorize(issuer, browser, prompt="none"))
    assert (refused["error"], refused["state"]) == ("login_required", "st")
    submit(browser, authorize(issuer, browser))
    assert "code" in query_of(authorize(issuer, browser, prompt="none"))


@pytest.mark.parametrize("verifier", ["x" * 43, None])
def test_a_wrong_or_missing_verifier_spends_the_code(issuer, browser, http, verifier):
    right, challenge = pkce()
    page = authorize(issuer, browser, code_challenge=challenge, code_challenge_method="S256")
    code = query_of(submit(browser, page))["code"]
    form = {"code_verifier": verifier} if verifier else {}
    refused = redeem(issuer, http, code, **form)
    assert refusal(refused) == (400, "invalid_grant", "PKCE verification failed")
    retried = redeem(issuer, http, code, code_verifier=right)
    assert refusal(retried) == (400, "invalid_grant", "Code not valid")


@pytest.mark.parametrize("method", ["plain", None])
def test_only_s256_challenges_are_taken(issuer, browser, method):
    changes = {"code_challenge": "x" * 43, "code_challenge_method": method}
    assert query_of(authorize(issuer, browser, **changes))["error"] == "invalid_request"


def test_a_code_is_good_once_for_its_client_and_its_redirect_uri(issuer, browser, http):
    code = query_of(submit(browser, authorize(issuer, browser)))["code"]
    assert token(issuer, http, "authorization_code", SERVICE, code=code).status_code == 400
    answer = redeem(issuer, http, code).json()
    assert refusal(redeem(issuer, http, code)) == (400, "invalid_grant", "Code not valid")
    assert refusal(refresh(issuer, http, answer))[1] == "invalid_grant"
    code = query_of(authorize(issuer, browser))["code"]
    elsewhere = redeem(issuer, http, code, redirect_uri=CALLBACK + "/x")
    assert refusal(elsewhere)[:2] == (400, "invalid_grant")


def test_a_code_is_good_for_a_minute(issuer, browser, http):
    code = query_of(submit(browser, authorize(issuer, browser)))["code"]
    issuer.faults.clock_skew = 61
    assert refusal(redeem(issuer, http, code)) == (400, "invalid_grant", "Code is expired")


@pytest.mark.parametrize(
    "uri",
    [
        "https://evil.example.com/hub/oauth_callback",
        "http://127.0.0.1:8000@evil.example.com/",
        "http://127.0.0.1.evil.example.com:80/",
        "http://127.0.0.1:8000\\@evil.example.com/",
        "http://127.0.0.1:8000/hub/../x",
        "http://127.0.0.1:8000/hub/%2e%2e/x",
        "http://127.0.0.1:8000/#x",
        'http://127.0.0.1:8000/"',
        "javascript:alert(1)",
        None,
    ],
)
def test_a_bad_redirect_uri_is_told_to_the_person_and_never_followed(issuer, browser, uri):
    page = authorize(issuer, browser, redirect_uri=uri)
    assert page.status_code == 400
    assert "Invalid parameter: redirect_uri" in page.text
    assert "location" not in page.headers


def test_exact_redirect_uris_match_only_themselves(browser):
    client = DemoClient("app", "s", ("https://app.example.org/cb", "https://b.example.org:*/cb"))
    with Issuer(clients=[client]) as issuer:
        uris = {
            "https://app.example.org/cb": 200,
            "https://app.example.org/cb/x": 400,
            "https://app-example.org/cb": 400,
            "https://b.example.org:1/cb": 400,
        }
        for uri, status in uris.items():
            page = authorize(issuer, browser, client_id="app", redirect_uri=uri)
            assert page.status_code == status, uri


def test_errors_of_a_known_client_go_back_to_it(issuer, browser):
    assert query_of(authorize(issuer, browser, scope="openid x"))["error"] == "invalid_scope"
    wrong_type = authorize(issuer, browser, response_type="token")
    assert query_of(wrong_type)["error"] == "unsupported_response_type"
    assert authorize(issuer, browser, client_id="nobody").status_code == 400
    assert authorize(issuer, browser, response_type='"').status_code == 400


def test_a_refresh_token_is_rotated_and_its_reuse_takes_the_session_from_its_client(issuer, http):
    first = issuer.log_in("alice")
    second = refresh(issuer, http, first).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["session_state"] == first["session_state"]
    assert "nonce" not in verified(issuer, second["id_token"]).claims
    third = refresh(issuer, http, second).json()

    reused = refresh(issuer, http, first)
    assert refusal(reused) == (400, "invalid_grant", "Maximum allowed refresh token reuse exceeded")
    gone = "Session doesn't have required client"
    assert refusal(refresh(issuer, http, third)) == (400, "invalid_grant", gone)
    headers = {"Authorization": f"Bearer {third['access_token']}"}
    assert http.get(endpoint(issuer, "userinfo_endpoint"), headers=headers).status_code == 401
    # The browser is still logged in (as tests/keycloak sees it): a login needs no password.
    assert issuer.sessions("alice") == [first["session_state"]]


def test_of_many_refreshes_at_once_with_one_token_one_passes(issuer, http):
    answer = issuer.log_in("alice")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: refresh(issuer, http, answer), range(8)))
    assert sorted(r.status_code for r in results) == [200] + [400] * 7
    passed = next(result for result in results if result.status_code == 200)
    assert refresh(issuer, http, passed.json()).status_code == 400


def test_two_browsers_of_one_user_refresh_independently(issuer, http):
    one, two = issuer.log_in("alice"), issuer.log_in("alice")
    assert refresh(issuer, http, one).status_code == 200
    assert refresh(issuer, http, two).status_code == 200


def test_refreshes_are_refused_in_keycloaks_words(issuer, http):
    answer = issuer.log_in("alice")
    garbage = token(issuer, http, "refresh_token", refresh_token="x.y.z")
    assert refusal(garbage) == (400, "invalid_grant", "Invalid refresh token")
    access = token(issuer, http, "refresh_token", refresh_token=answer["access_token"])
    assert refusal(access) == (400, "invalid_grant", "Invalid refresh token")
    issuer.update_user("alice", enabled=False)
    assert refusal(refresh(issuer, http, answer)) == (400, "invalid_grant", "User disabled")
    issuer.update_user("alice", enabled=True)
    issuer.faults.clock_skew = 1801
    assert refusal(refresh(issuer, http, answer)) == (400, "invalid_grant", "Token is not active")


def test_a_client_cannot_refresh_anothers_token(http):
    clients = [DemoClient("a", "sa", (CALLBACK,)), DemoClient("b", "sb", (CALLBACK,))]
    with Issuer(clients=clients) as issuer:
        stolen = issuer.log_in("alice", "a")["refresh_token"]
        refused = token(issuer, http, "refresh_token", ("b", "sb"), refresh_token=stolen)
        assert refusal(refused)[1] == "invalid_grant"
        own = token(issuer, http, "refresh_token", ("a", "sa"), refresh_token=stolen)
        assert own.status_code == 200


def test_a_session_ends_at_its_lifetime_however_often_it_is_refreshed(http):
    with Issuer(session_lifetime=3000) as issuer:
        began = time.time()
        answer = issuer.log_in("alice")

        def left(skew: int) -> range:
            # Whole seconds, of a session that began somewhen since; the machine may be slow.
            return range(3000 - skew - ceil(time.time() - began) - 1, 3000 - skew + 1)

        issuer.faults.clock_skew = 1700
        answer = refresh(issuer, http, answer).json()
        assert answer["refresh_expires_in"] in left(1700)
        issuer.faults.clock_skew = 2900
        answer = refresh(issuer, http, answer).json()
        assert answer["expires_in"] in left(2900)
        issuer.faults.clock_skew = 3001
        assert refusal(refresh(issuer, http, answer))[1] == "invalid_grant"


def test_an_ended_session_is_not_refreshed_but_other_users_are(issuer, http):
    alice, bob = issuer.log_in("alice"), issuer.log_in("bob")
    assert issuer.end_session("alice") == 1
    assert refusal(refresh(issuer, http, alice)) == (400, "invalid_grant", "Session not active")
    assert refresh(issuer, http, bob).status_code == 200


def test_changed_groups_and_roles_show_at_the_next_refresh(issuer, http):
    answer = issuer.log_in("alice")
    issuer.update_user(
        "alice", groups=("new",), client_roles={"jupyterhub": ("boss",)}, cluster_user="al01"
    )
    claims = verified(issuer, refresh(issuer, http, answer).json()["access_token"]).claims
    assert (claims["groups"], claims["cluster_user"]) == (["new"], "al01")
    assert claims["resource_access"]["jupyterhub"] == {"roles": ["boss"]}


def test_a_client_gets_a_token_for_its_own_account_by_either_method(issuer, http):
    form = {"client_id": SERVICE[0], "client_secret": SERVICE[1]}
    basic = token(issuer, http, "client_credentials", SERVICE)
    post = token(issuer, http, "client_credentials", None, **form)
    for answer in (basic.json(), post.json()):
        assert "refresh_token" not in answer and "id_token" not in answer
        assert answer["refresh_expires_in"] == 0
        claims = verified(issuer, answer["access_token"]).claims
        assert claims["preferred_username"] == "service-account-jupyterhub-service"
        assert "hpc-service" in claims["realm_access"]["roles"]
        assert "sid" not in claims


def test_bad_clients_are_told_apart_from_bad_grants(issuer, http):
    words = "Invalid client or Invalid client credentials"
    wrong = token(issuer, http, "client_credentials", (SERVICE[0], "wrong"))
    assert refusal(wrong) == (401, "unauthorized_client", words)
    unknown = token(issuer, http, "client_credentials", ("nobody", "x"))
    assert refusal(unknown) == (401, "invalid_client", words)
    assert token(issuer, http, "client_credentials", None).status_code == 401
    not_allowed = token(issuer, http, "client_credentials", HUB)
    assert refusal(not_allowed)[:2] == (400, "unauthorized_client")
    odd = token(issuer, http, "password", HUB)
    assert (odd.status_code, odd.json()["error"]) == (400, "unsupported_grant_type")


def test_userinfo_answers_for_a_live_session_only(issuer, http):
    answer = issuer.log_in("bob")
    url = endpoint(issuer, "userinfo_endpoint")
    bearer = {"Authorization": f"Bearer {answer['access_token']}"}
    info = http.get(url, headers=bearer).json()
    assert (info["preferred_username"], info["groups"]) == ("bob", ["engineers"])
    assert info["sub"] == verified(issuer, answer["access_token"]).claims["sub"]
    assert http.get(url).status_code == 401
    limited = {"Authorization": f"Bearer {issuer.service_token()['access_token']}"}
    assert http.get(url, headers=limited).status_code == 403
    issuer.faults.clock_skew = 300
    assert refusal(http.get(url, headers=bearer))[:2] == (401, "invalid_token")
    issuer.faults.clear()
    assert http.get(url, headers=bearer).status_code == 200
    issuer.end_session("bob")
    assert refusal(http.get(url, headers=bearer))[:2] == (401, "invalid_token")


def test_revoking_a_refresh_token_ends_the_session(issuer, http):
    answer = issuer.log_in("alice")
    url = endpoint(issuer, "revocation_endpoint")
    form = {"token": answer["refresh_token"], "token_type_hint": "refresh_token"}
    assert http.post(url, data=form, auth=(HUB[0], "wrong")).status_code == 401
    assert http.post(url, data=form, auth=HUB).status_code == 200
    assert refusal(refresh(issuer, http, answer)) == (400, "invalid_grant", "Session not active")
    assert http.post(url, data={"token": "unknown"}, auth=HUB).status_code == 200


def test_revoking_an_access_token_leaves_the_session(issuer, http):
    answer = issuer.log_in("alice")
    form = {"token": answer["access_token"]}
    assert http.post(endpoint(issuer, "revocation_endpoint"), data=form, auth=HUB).is_success
    bearer = {"Authorization": f"Bearer {answer['access_token']}"}
    assert http.get(endpoint(issuer, "userinfo_endpoint"), headers=bearer).status_code == 401
    assert refresh(issuer, http, answer).status_code == 200


def test_logging_out_with_an_id_token_ends_the_session_and_returns(issuer, browser, http):
    answer = redeem(issuer, http, query_of(submit(browser, authorize(issuer, browser)))["code"])
    parameters = {
        "id_token_hint": answer.json()["id_token"],
        "post_logout_redirect_uri": "http://127.0.0.1:8000/hub/",
        "state": "bye",
    }
    url = endpoint(issuer, "end_session_endpoint")
    out = browser.get(url, params=parameters)
    assert out.headers["location"] == "http://127.0.0.1:8000/hub/?state=bye"
    assert not browser.cookies
    assert refusal(refresh(issuer, http, answer.json()))[2] == "Session not active"
    evil = browser.get(url, params=parameters | {"post_logout_redirect_uri": "https://evil.org/"})
    forged = browser.get(url, params=parameters | {"id_token_hint": "x.y.z"})
    assert (evil.status_code, forged.status_code) == (400, 400)


def test_logging_out_without_an_id_token_asks_first(issuer, browser):
    submit(browser, authorize(issuer, browser))
    url = endpoint(issuer, "end_session_endpoint")
    page = browser.get(url)
    assert issuer.sessions("alice")
    done = browser.post(Form(page).url, data={"confirm": "yes"})
    assert "logged out" in done.text
    assert issuer.sessions("alice") == []
