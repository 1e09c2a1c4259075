"""Does the demo's issuer fail, start and stop as it is told to, and keep its secrets?"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from firecrestspawner.demo.issuer import DemoClient, DemoUser, Issuer
from tests.unit.issuer_client import (
    HUB,
    SERVICE,
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
    wait_until,
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


def test_a_fault_is_answered_as_often_as_asked(issuer, http):
    answer = issuer.log_in("alice")
    issuer.faults.set("token", status=503, times=2)
    assert [refresh(issuer, http, answer).status_code for _ in range(3)] == [503, 503, 200]
    issuer.faults.set("token", grant_type="client_credentials", body="<html>garbage")
    service = token(issuer, http, "client_credentials", SERVICE)
    assert (service.status_code, service.text) == (200, "<html>garbage")
    assert refresh(issuer, http, answer).status_code == 400
    issuer.faults.clear()
    assert token(issuer, http, "client_credentials", SERVICE).json()["access_token"]
    with pytest.raises(ValueError, match="no such endpoint"):
        issuer.faults.set("tokens", status=503)


def test_a_reset_before_processing_leaves_the_refresh_token_good(issuer, http):
    answer = issuer.log_in("alice")
    issuer.faults.set("token", reset=True, times=1)
    with pytest.raises(httpx.ReadError):
        refresh(issuer, http, answer)
    assert refresh(issuer, http, answer).status_code == 200


def test_a_lost_answer_has_spent_the_refresh_token(issuer, http):
    answer = issuer.log_in("alice")
    issuer.faults.set("token", reset=True, after=True, times=1)
    with pytest.raises(httpx.ReadError):
        refresh(issuer, http, answer)
    assert refusal(refresh(issuer, http, answer))[2].startswith("Maximum allowed")


def test_a_held_request_waits_while_others_pass(issuer, http):
    answer, gate = issuer.log_in("alice"), threading.Event()
    issuer.faults.set("token", grant_type="refresh_token", hold=gate, times=1)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(refresh, issuer, http, answer)
        wait_until(lambda: any(r.grant_type == "refresh_token" for r in issuer.requests))
        assert token(issuer, http, "client_credentials", SERVICE).status_code == 200
        assert not held.done()
        gate.set()
        assert held.result(10).status_code == 200


def test_a_delay_is_waited_for_and_stopping_the_issuer_cuts_it_short(issuer, http):
    issuer.faults.set("jwks", delay=0.2, times=1)
    url, begun = endpoint(issuer, "jwks_uri"), time.monotonic()
    assert http.get(url).status_code == 200
    assert time.monotonic() - begun >= 0.2
    issuer.faults.set("jwks", delay=60, times=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(http.get, url, timeout=30)
        wait_until(lambda: sum(r.endpoint == "jwks" for r in issuer.requests) == 2)
        issuer.stop()
        assert time.monotonic() - begun < 20
        assert waiting.exception(10) is not None or waiting.result().status_code == 200


def test_the_issuers_clock_can_be_wrong(issuer):
    issuer.faults.clock_skew = -3600
    claims = verified(issuer, issuer.log_in("alice")["access_token"]).claims
    assert claims["exp"] < time.time() - 3000


def test_an_outage_keeps_port_keys_and_sessions(issuer, http):
    answer, url = issuer.log_in("alice"), issuer.url
    issuer.stop()
    with pytest.raises(httpx.ConnectError):
        http.get(url)
    issuer.start()
    assert issuer.url == url
    assert verified(issuer, answer["access_token"]).claims["iss"] == url
    assert refresh(issuer, http, answer).status_code == 200


def test_connections_are_kept_alive(issuer, http):
    url = endpoint(issuer, "jwks_uri")
    streams = set()
    for _ in range(3):
        with http.stream("GET", url) as response:
            streams.add(response.extensions["network_stream"].get_extra_info("client_addr"))
            response.read()
    assert len(streams) == 1


def test_requests_are_remembered_by_who_made_them(issuer, browser, http):
    submit(browser, authorize(issuer, browser), "alice", "a-wrong-word")
    code = query_of(submit(browser, authorize(issuer, browser)))["code"]
    refresh(issuer, http, redeem(issuer, http, code).json())
    token(issuer, http, "client_credentials", SERVICE)
    seen = [tuple(r) for r in issuer.requests if r.endpoint != "discovery"]
    assert seen == [
        ("authorize", None, "jupyterhub", ""),
        ("authorize", None, "jupyterhub", "alice"),
        ("authorize", None, "jupyterhub", ""),
        ("authorize", None, "jupyterhub", "alice"),
        ("token", "authorization_code", "jupyterhub", "alice"),
        ("token", "refresh_token", "jupyterhub", "alice"),
        ("token", "client_credentials", SERVICE[0], "service-account-jupyterhub-service"),
    ]


def test_no_secret_reaches_a_log_or_a_repr(issuer, browser, http, caplog):
    """S1: not even at level DEBUG, where the libraries log what they issue."""
    caplog.set_level(logging.DEBUG)
    verifier, challenge = pkce()
    page = authorize(issuer, browser, code_challenge=challenge, code_challenge_method="S256")
    code = query_of(submit(browser, page))["code"]
    first = redeem(issuer, http, code, code_verifier=verifier).json()
    second = refresh(issuer, http, first).json()
    service = token(issuer, http, "client_credentials", SERVICE).json()
    token(issuer, http, "client_credentials", (SERVICE[0], "wrong-secret"))
    names = ("access_token", "refresh_token", "id_token")
    answers = [
        answer[name] for answer in (first, second, service) for name in names & answer.keys()
    ]
    hidden = [code, verifier, "wonderland", "wrong-secret", HUB[1], SERVICE[1], *answers]
    # httpx, the client here, logs the addresses it asks for; the issuer does not.
    lines = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    assert any("Issue token" in line for line in lines)
    assert [word for word in hidden if any(word in line for line in lines)] == []
    assert "wonder" not in repr(DemoUser("alice", "wonderland"))
    assert "demo-hub" not in repr(DemoClient("jupyterhub", "demo-hub-secret"))


def test_it_listens_on_loopback_only():
    with pytest.raises(ValueError, match="loopback only"):
        Issuer(host="0.0.0.0")


def test_it_runs_in_a_process_of_its_own_and_ends_at_sigterm(http):
    command = [sys.executable, "-m", "firecrestspawner.demo.issuer", "--access-token-lifetime", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            found = http.get(f"{url}/.well-known/openid-configuration").json()
            answer = http.post(
                found["token_endpoint"], data={"grant_type": "client_credentials"}, auth=SERVICE
            )
            assert (found["issuer"], answer.json()["expires_in"]) == (url, 7)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
