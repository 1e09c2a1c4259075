"""What can a job, a user or a network achieve that does not play by the rules?"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from tests.journeys.person import Person
from tests.journeys.puppets import Log, ask, mac
from tests.journeys.site import eventually
from tests.journeys.stage import Stage, setting


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Stage]:
    with setting() as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    yield shared_stage
    shared_stage.tidy()


# -- where the Hub connects: S8 -----------------------------------------------------------------


def own_address() -> str:
    """An address of this machine that is not a loopback one."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family is socket.AF_INET and not each.address.startswith("127."):
                return each.address
    pytest.skip("this machine has no other address than loopback ones")


REFUSED = {
    "loopback": ("127.0.0.1", "the Hub's own address"),
    "mapped loopback": ("::ffff:127.0.0.1", "the Hub's own address"),
    "IPv6 loopback": ("::1", "a loopback address"),
    "the Hub's machine": ("", "the Hub's own address"),
    "link-local": ("169.254.169.254", "a link-local address"),
    "mapped link-local": ("::ffff:169.254.169.254", "a link-local address"),
    "IPv6 link-local": ("fe80::1", "a link-local address"),
    "a name that is no node": ("localhost", "it names no address"),
    "everything": ("0.0.0.0", "not the address of one host"),
    "multicast": ("224.0.0.1", "not the address of one host"),
}


@pytest.mark.parametrize(("address", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_job_cannot_make_the_hub_connect_to(stage: Stage, address: str, why: str) -> None:
    """S8: not even where the admin allows every network; the user is told, the job is ended."""
    puppet, answer = stage.start(stage.alice, "s8")
    address = address or own_address()
    low, _ = puppet.answer["ports"]
    log = Log(stage.site)
    puppet.ready(low, address)
    refused = answer.result()
    assert refused.status_code == 502
    message = refused.json()["message"]
    assert message.startswith("The server reported an address that the Hub must not connect to")
    assert why in message
    puppet.wait_until_ended()
    eventually(lambda: not stage.remains(), what="the job is gone")
    assert stage.site.state("alice", "s8") == {}
    [line] = log.loud()
    assert "Not starting" in line and address in line


@pytest.mark.parametrize("offset", ["below", "above", "privileged"])
def test_a_job_cannot_choose_a_port_outside_the_range(stage: Stage, offset: str) -> None:
    """S8."""
    puppet, answer = stage.start(stage.alice, "port")
    low, high = puppet.answer["ports"]
    port = {"below": low - 1, "above": high + 1, "privileged": 22}[offset]
    puppet.ready(port, "127.0.0.2")
    assert answer.result().status_code == 502
    assert f"port {port} is outside {low}-{high}" in answer.result().json()["message"]
    puppet.wait_until_ended()


def test_a_job_of_many_addresses_is_reached_at_the_first_that_passes(stage: Stage) -> None:
    """S8: as a node with several networks has them."""
    puppet, answer = stage.start(stage.alice, "many")
    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.1", "fe80::1", "nowhere.example.org", "127.0.0.2", "127.0.0.9")
        assert answer.result().status_code in (201, 202), answer.result().text
        eventually(lambda: stage.alice.servers()["many"]["ready"])
        assert stage.site.state("alice", "many")["address"] == "127.0.0.2"
        stage.alice.stop("many")


def test_a_running_server_cannot_be_moved(stage: Stage) -> None:
    """S8: what was checked once stays; a second *ready* changes nothing."""
    puppet, answer = stage.start(stage.alice, "moved")
    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.2")
        assert answer.result().status_code in (201, 202)
        eventually(lambda: stage.alice.servers()["moved"]["ready"])
        before = stage.site.state("alice", "moved")
        puppet.ready(port, "127.0.0.9")
        puppet.ready(22, "127.0.0.1")
        after = stage.site.state("alice", "moved")
        assert (after["address"], after["port"]) == (before["address"], before["port"])
        route = eventually(lambda: stage.site.routes().get("/user/alice/moved"))
        assert route["target"] == f"http://127.0.0.2:{port}"
        stage.alice.stop("moved")


# -- the job channel: S3, S4 --------------------------------------------------------------------


def test_the_channel_takes_what_is_documented_and_nothing_else(stage: Stage) -> None:
    """S3, S7: an extra field is a 400, and a refused message changes nothing."""
    answer = stage.theatre.ask(stage.alice, "strict")
    puppet = stage.theatre.next()
    malformed: list[dict[str, Any]] = [
        puppet.greeting(debug=True),
        puppet.greeting(nonce="short"),
        puppet.greeting(job_id="1;rm"),
        puppet.greeting(message="hullo"),
        {"message": "hello", "ticket": puppet.ticket},
    ]
    for message in malformed:
        refusal = puppet.post(message)
        assert refusal.status_code == 400, message
        assert puppet.ticket_secret not in refusal.text
    puppet.hello()
    for message in (
        puppet.signed("alive", extra=1),
        puppet.signed("ready", addresses=[], port=80),
        puppet.signed("ready", addresses=["127.0.0.2"], port="80"),
        puppet.signed("exiting", code=0, reason="x" * 201, walltime=None),
    ):
        assert puppet.post(message).status_code == 400, message
    assert puppet.say("alive")["verdict"] == "alive"
    assert httpx.get(puppet.url, trust_env=False).status_code == 405
    puppet.end()
    assert answer.result().status_code >= 400


def test_another_jobs_ticket_and_signature_open_nothing(stage: Stage) -> None:
    """S3, S4: 403, a warning in the log, and no harm to the one who was attacked."""
    alices, alices_answer = stage.start(stage.alice, "victim")
    bobs, bobs_answer = stage.start(stage.bob, "thief")
    log = Log(stage.site)
    attacks = [
        # bob's secret with alice's name, in every message there is
        {**bobs.greeting(), "ticket": f"{alices.spawn_id}.{bobs.ticket_secret}"},
        alices.signed("alive", key=bobs.answer["secret"]),
        alices.signed("ready", key=bobs.answer["secret"], addresses=["127.0.0.9"], port=20000),
        alices.signed("exiting", key=bobs.answer["secret"], code=0, reason="ha", walltime=None),
        # alice's ticket does not sign later messages, nor does an empty key or no signature
        alices.signed("exiting", key=alices.ticket_secret, code=0, reason="ha", walltime=None),
        {**alices.signed("alive"), "mac": ""},
        {**alices.signed("alive"), "mac": mac({}, "")},
        # a signature of something else
        {**alices.signed("alive"), "message": "exiting", "code": 0, "reason": "", "walltime": None},
    ]
    for attack in attacks:
        refusal = bobs.post(attack)
        assert refusal.status_code == 403, attack
        assert "mac" not in refusal.json(), "a refusal proves nothing to anybody"
    warnings = [line for line in log.loud() if "Job channel: refused" in line]
    assert len(warnings) == len(attacks)
    for secret in (alices.ticket_secret, bobs.ticket_secret, alices.answer["secret"]):
        assert secret not in log.text
    for puppet, answer in ((alices, alices_answer), (bobs, bobs_answer)):
        with puppet.serving() as port:
            puppet.ready(port, "127.0.0.2")
            assert answer.result().status_code in (201, 202)
    for person, server in ((stage.alice, "victim"), (stage.bob, "thief")):
        eventually(partial(_is_ready, person, server))
        person.stop(server)


def test_neither_cookies_nor_tokens_of_the_hub_open_the_channel(stage: Stage) -> None:
    """S3: it has its own authentication, and no other."""
    puppet, answer = stage.start(stage.alice, "cookies")
    token = puppet.answer["environment"]["JUPYTERHUB_API_TOKEN"]
    forged = {**puppet.signed("alive"), "mac": "0" * 64}
    headers = {"Authorization": f"token {token}"}
    assert puppet.post(forged, headers=headers).status_code == 403
    cookies = {cookie.name: cookie.value or "" for cookie in stage.alice._http.cookies.jar}
    with httpx.Client(trust_env=False, cookies=cookies) as browser:
        assert browser.post(puppet.url, json=forged).status_code == 403
    puppet.end()
    assert answer.result().status_code >= 400


def test_a_ticket_binds_to_the_first_who_shows_it(stage: Stage) -> None:
    """S4: the same nonce may ask again until the server is ready; any other is refused."""
    puppet, answer = stage.start(stage.alice, "ticket")
    again = puppet.post(puppet.greeting())
    assert again.status_code == 200
    assert again.json() == puppet.answer, "a lost answer must not kill a job"

    log = Log(stage.site)
    thief = puppet.post(puppet.greeting(nonce="f" * 32))
    assert thief.status_code == 403 and puppet.answer["secret"] not in thief.text
    [warning] = log.loud()
    assert warning.startswith("[W") and "ticket has been used" in warning
    assert puppet.ticket_secret not in log.text and "f" * 32 not in log.text

    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.2")
        assert answer.result().status_code in (201, 202)
        eventually(lambda: stage.alice.servers()["ticket"]["ready"])
        log = Log(stage.site)
        late = puppet.post(puppet.greeting())
        assert late.status_code == 403 and "JUPYTERHUB_API_TOKEN" not in late.text
        assert len(log.loud()) == 1
        assert puppet.say("alive")["verdict"] == "alive"
        stage.alice.stop("ticket")
    puppet.wait_until_ended()


def test_a_ticket_is_worth_nothing_after_the_stop(stage: Stage) -> None:
    """S4, R7: what is left of it says *ended* or nothing, never an environment."""
    puppet, answer = stage.start(stage.alice, "spent")
    stage.alice.press_stop("spent")
    puppet.wait_until_ended()
    answer.result()
    eventually(lambda: not stage.remains())
    after = puppet.post(puppet.greeting())
    assert after.status_code in (200, 403)
    assert after.status_code == 403 or after.json()["verdict"] in ("ended", "unknown")
    assert "environment" not in after.text and "secret" not in after.text


def test_an_exit_of_a_running_server_is_believed_at_once(stage: Stage) -> None:
    """R1: signed, it needs nobody's confirmation."""
    puppet, answer = stage.start(stage.alice, "exit")
    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.2")
        assert answer.result().status_code in (201, 202)
        eventually(lambda: stage.alice.servers()["exit"]["ready"])
        puppet.say("exiting", code=3, reason="The server ended with code 3.", walltime=None)
        stage.alice.wait_until_gone("exit", timeout=3)
    puppet.end()


# -- a network that loses answers ---------------------------------------------------------------


def test_a_server_starts_although_answers_are_lost(stage: Stage) -> None:
    """S4, R3: with the real launcher; each kind of message loses its first answer."""
    seen: set[str] = set()

    def lose(path: str, body: bytes) -> bool:
        if not path.endswith("/firecrest/job"):
            return False
        kind = json.loads(body)["message"]
        return kind not in seen and not seen.add(kind)  # type: ignore[func-returns-value]

    stage.relay.lose = lose
    stage.relay.lost.clear()
    before = len(stage.site.jobs())
    answer = ask(stage.alice, "lossy")
    assert answer.status_code in (201, 202), answer.text
    eventually(lambda: stage.alice.servers()["lossy"]["ready"], 30)
    lost = [json.loads(body)["message"] for body in stage.relay.lost]
    assert lost[:2] == ["hello", "ready"]
    assert len(stage.site.jobs()) == before + 1
    stage.alice.stop("lossy")


def _is_ready(person: Person, server: str) -> bool:
    return bool(person.servers()[server]["ready"])
