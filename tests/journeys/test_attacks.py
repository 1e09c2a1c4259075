"""What can a job, a user or a network achieve that does not play by the rules?"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import httpx
import psutil
import pytest

from firecrestspawner.demo.firecrest import System
from tests.journeys.person import Person
from tests.journeys.puppets import PUPPET, Log, Puppet, Theatre, ask, mac
from tests.journeys.relay import Relay
from tests.journeys.site import Site, eventually

#: An admin who is too generous: the other checks of S8 have to do.
GENEROUS = """
c.FirecRESTSpawner.connect_networks = ["127.0.0.0/8", "0.0.0.0/0", "::/0"]
c.FirecRESTSpawner.systems = ["demo", "rested"]
c.FirecRESTSpawner.hub_connect_url = "{relay}"
"""


class Stage(NamedTuple):
    """A site whose jobs are puppets and reach the Hub through a relay; alice and bob."""

    site: Site
    theatre: Theatre
    relay: Relay
    alice: Person
    bob: Person

    def start(self, person: Person, server: str) -> tuple[Puppet, Future[httpx.Response]]:
        """Begin to start a puppet; its job runs, and has said hello."""
        answer = self.theatre.ask(person, server)
        puppet = self.theatre.next()
        assert puppet.hello()["verdict"] == "start"
        return puppet, answer

    def remains(self) -> list[str]:
        servers = [f"{p.name}'s {list(p.servers())}" for p in (self.alice, self.bob) if p.servers()]
        return servers + [f"job {job.id}" for job in self.site.unfinished()]


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        theatre = stack.enter_context(Theatre())
        relay = stack.enter_context(Relay())
        config = theatre.config + GENEROUS.format(relay=relay.url)
        site = stack.enter_context(Site(extra_config=config))
        relay.target = site.hub_url
        rested = System("rested", site.executor, connection_mode="rest")
        site.firecrest.systems["rested"] = rested
        people = [stack.enter_context(Person(site, name)) for name in ("alice", "bob")]
        for person in people:
            person.log_in()
        yield Stage(site, theatre, relay, *people)


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    yield shared_stage
    # Shown by pytest when the test has failed.
    print(shared_stage.site.log_end(40))
    shared_stage.site.firecrest.faults.clear()
    shared_stage.relay.lose = lambda path, body: False
    shared_stage.site.executor.release()
    # A test that failed must not fail those after it.
    for person in (shared_stage.alice, shared_stage.bob):
        for server in person.servers():
            person.press_stop(server)
    shared_stage.theatre.clear()
    eventually(lambda: not shared_stage.remains(), 20, f"gone are {shared_stage.remains()}")


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
    """S3: an extra field is a 400, and a refused message changes nothing."""
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


# -- forged answers -----------------------------------------------------------------------------


def forging_submits(job_id: str) -> Any:
    """A ~/.bashrc that prints another job's number whenever something is submitted."""

    def forge(operation: str, body: Any) -> Any:
        return {"jobId": job_id} if operation == "submit" else body

    return forge


def test_a_forged_job_number_harms_only_the_forgers_own_start(stage: Stage) -> None:
    """R10: alice's shell says that her job is bob's; bob's server runs on."""
    bobs, bobs_answer = stage.start(stage.bob, "target")
    with bobs.serving() as port:
        bobs.ready(port, "127.0.0.2")
        assert bobs_answer.result().status_code in (201, 202)
        eventually(lambda: stage.bob.servers()["target"]["ready"])

        stage.site.executor.hold()
        stage.site.firecrest.faults.forge("alice", forging_submits(bobs.job_id))
        refused = stage.theatre.ask(stage.alice, "forger").result()
        assert refused.status_code == 502
        assert "belongs to another job" in refused.json()["message"]
        assert "~/.bashrc" in refused.json()["message"]

        assert stage.bob.servers()["target"]["ready"]
        assert bobs.say("alive")["verdict"] == "alive"
        assert [job.id for job in stage.site.unfinished("bob")] == [bobs.job_id]
        # Her true job, which nobody knows the number of, is told that it is not wanted.
        stage.site.firecrest.faults.forge("alice", None)
        stage.site.executor.release()
        unwanted = stage.theatre.next()
        assert unwanted.hello()["verdict"] == "ended"
        unwanted.end()
        stage.bob.stop("target")
    bobs.wait_until_ended()


def test_a_job_that_introduces_itself_corrects_a_forged_number(stage: Stage) -> None:
    """R10: only the script holds the ticket."""
    stage.site.executor.plant("bob", "another-job", id="4711")
    stage.site.firecrest.faults.forge("alice", forging_submits("4711"))
    puppet, answer = stage.start(stage.alice, "honest")
    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.2")
        assert answer.result().status_code in (201, 202), answer.result().text
        eventually(lambda: stage.alice.servers()["honest"]["ready"])
        assert stage.site.state("alice", "honest")["job_id"] == puppet.job_id
        stage.alice.stop("honest")
    puppet.wait_until_ended()
    stage.site.executor.forget("4711")


def test_a_job_cannot_introduce_itself_as_anothers(stage: Stage) -> None:
    """R10: bob's number in alice's hello; the Hub asks with its own account."""
    bobs, bobs_answer = stage.start(stage.bob, "impersonated")
    answer = stage.theatre.ask(stage.alice, "impersonator")
    puppet = stage.theatre.next()
    reply = puppet.post(puppet.greeting(job_id=bobs.job_id))
    puppet.answer = reply.json()
    low, _ = puppet.answer["ports"]
    # The Hub may have found out already, and ended the start.
    puppet.post(puppet.signed("ready", addresses=["127.0.0.2"], port=low))
    assert answer.result().status_code == 502, answer.result().text
    assert "another job" in answer.result().json()["message"]
    with bobs.serving() as port:
        bobs.ready(port, "127.0.0.2")
        assert bobs_answer.result().status_code in (201, 202)
        eventually(lambda: stage.bob.servers()["impersonated"]["ready"])
        stage.bob.stop("impersonated")
    # The impersonator's own job is still there: it ends itself at its next word.
    assert puppet.say("alive")["verdict"] == "ended"
    puppet.end()


def test_forged_nodes_lead_the_hub_nowhere(stage: Stage) -> None:
    """R10, S8: alice's shell redefines sacct; where the Hub connects it does not ask her."""

    def forge(operation: str, body: Any) -> Any:
        if operation in ("list", "job"):
            for job in body["jobs"]:
                job |= {"nodes": "evil.example.com", "user": "bob", "name": "x"}
        return body

    stage.site.firecrest.faults.forge("alice", forge)
    puppet, answer = stage.start(stage.alice, "nodes")
    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.2")
        assert answer.result().status_code in (201, 202), answer.result().text
        eventually(lambda: stage.alice.servers()["nodes"]["ready"])
        stage.alice.stop("nodes")


def test_a_job_on_a_node_that_is_not_the_systems_is_refused(stage: Stage) -> None:
    """S8: as its owner may forge it with a newline in the job's name."""
    stage.site.executor.hold()
    answer = stage.theatre.ask(stage.alice, "foreign")
    eventually(lambda: stage.site.unfinished("alice"))
    stage.site.executor.release()
    puppet = stage.theatre.next()
    stage.site.executor.alter(puppet.job_id, nodes="evil.example.com")
    low, _ = puppet.hello()["ports"]
    puppet.ready(low, "127.0.0.2")
    assert answer.result().status_code == 502, answer.result().text
    assert "does not run on nodes of the system" in answer.result().json()["message"]
    puppet.wait_until_ended()


def test_a_list_poisoned_by_one_user_hides_no_other_users_server(stage: Stage) -> None:
    """R9: a finished job called a|b makes everybody's list a 500."""
    stage.site.executor.plant("alice", "a|b", id="666", state="COMPLETED")
    try:
        puppet, answer = stage.start(stage.bob, "poisoned")
        with puppet.serving() as port:
            puppet.ready(port, "127.0.0.2")
            assert answer.result().status_code in (201, 202), answer.result().text
            eventually(lambda: stage.bob.servers()["poisoned"]["ready"])
            stage.bob.stop("poisoned")
        puppet.wait_until_ended()
    finally:
        stage.site.executor.forget("666")


# -- systems that ignore directives -------------------------------------------------------------


def test_what_a_rest_system_would_ignore_is_refused(stage: Stage) -> None:
    """FirecREST facts, 5: a time limit that counts for nothing is not promised."""
    before = stage.site.firecrest.count("submit")
    answer = ask(stage.alice, "rest", system="rested", runtime="01:00:00")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("'Run time' cannot be asked for on rested:")
    assert "'rest' mode" in answer.json()["message"]
    assert stage.site.firecrest.count("submit") == before
    assert stage.site.state("alice", "rest") == {}


def test_what_the_api_has_fields_for_is_sent_through_them(stage: Stage) -> None:
    """FirecREST facts, 5: the job has its name, HOME and USER although it inherits nothing."""
    answer = stage.theatre.ask(
        stage.alice, "fields", system="rested", partition="debug", account="demo"
    )
    puppet = stage.theatre.next()
    submits = [r for r in stage.site.firecrest.requests if r.operation == "submit"]
    job = submits[-1].body["job"]
    assert (job["partition"], job["account"], job["constraints"]) == ("debug", "demo", "puppet")
    assert job["env"] == {"HOME": "/home/alice", "USER": "alice"}
    row = stage.site.job("alice")
    assert (row.partition, row.account, row.name) == ("debug", "demo", job["name"])
    puppet.hello()
    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.2")
        assert answer.result().status_code in (201, 202), answer.result().text
        eventually(lambda: stage.alice.servers()["fields"]["ready"])
        stage.alice.stop("fields")
    puppet.wait_until_ended()


def test_slurmrestds_own_sentence_reaches_the_user(stage: Stage) -> None:
    answer = ask(stage.alice, "restpart", system="rested", partition="nosuch", **PUPPET)
    assert answer.status_code == 400
    assert "Invalid partition name specified" in answer.json()["message"]
    assert stage.site.state("alice", "restpart") == {}


def _is_ready(person: Person, server: str) -> bool:
    return bool(person.servers()[server]["ready"])
