"""What do user and admin read when a start goes wrong, and what is left of it?"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import pytest

from firecrestspawner.demo.faults import GARBAGE, Fault
from tests.journeys.person import Person
from tests.journeys.puppets import Log, Theatre, ask
from tests.journeys.site import Site, eventually

MARK = "a-secret-that-firecrest-echoes"


class Stage(NamedTuple):
    """A site whose jobs are puppets, and alice in front of it."""

    site: Site
    theatre: Theatre
    alice: Person

    def nothing_runs(self) -> bool:
        return not self.site.unfinished() and not self.alice.servers()


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        theatre = stack.enter_context(Theatre())
        site = stack.enter_context(Site(extra_config=theatre.config))
        alice = stack.enter_context(Person(site, "alice"))
        alice.log_in()
        yield Stage(site, theatre, alice)


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    yield shared_stage
    # Shown by pytest when the test has failed.
    print(shared_stage.site.log_end(40))
    shared_stage.site.firecrest.faults.clear()
    shared_stage.site.executor.release()
    # A test that failed must not fail those after it.
    for server in shared_stage.alice.servers():
        shared_stage.alice.press_stop(server)
    shared_stage.theatre.clear()
    eventually(shared_stage.nothing_runs, 15, "nothing runs")


def is_one_clear_sentence(message: str) -> bool:
    """For people: a capital, a full stop, one line, no Python and no markup."""
    return bool(re.fullmatch(r"[A-Z][^\n<>{}]{15,300}\.", message)) and "Error(" not in message


def refused(stage: Stage, server: str, log: Log, **options: str) -> tuple[int, str, str]:
    """Ask for a server that cannot start: status, the user's message, the admin's line."""
    answer = ask(stage.alice, server, **options)
    message: str = answer.json()["message"]
    assert is_one_clear_sentence(message), message
    assert server not in stage.alice.servers()
    lines = [line for line in log.loud() if "Not starting" in line]
    assert len(lines) == 1, lines
    assert "Traceback" not in log.text
    tokens = stage.site.auth_state("alice")
    for secret in (tokens["access_token"], tokens["refresh_token"], MARK):
        assert secret not in log.text and secret not in answer.text
    return answer.status_code, message, lines[0]


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"system": "nowhere"}, "no system called 'nowhere'"),
        ({"bogus": "1"}, "no option called 'bogus'"),
        ({"memory": "1G"}, "no option called 'memory'"),
        ({"runtime": "for ever"}, "'runtime'"),
        ({"account": "a\n#SBATCH --uid=0"}, "'account'"),
        ({"partition": "$(id)"}, "'partition'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_is_named(
    stage: Stage, options: dict[str, str], words: str
) -> None:
    """S2: and nothing is submitted, stored or left."""
    before = stage.site.firecrest.count("submit")
    log = Log(stage.site)
    status, message, _ = refused(stage, "input", log, **options)
    assert status == 400 and words in message
    assert len(log.loud()) == 1, log.loud()
    assert stage.site.firecrest.count("submit") == before
    assert stage.site.state("alice", "input") == {}


def test_the_user_reads_sbatchs_own_sentence(stage: Stage) -> None:
    log = Log(stage.site)
    status, message, line = refused(stage, "partition", log, partition="nosuch")
    assert status == 400
    assert "invalid partition specified: nosuch" in message
    assert "Invalid partition name specified" in line
    assert len(log.loud()) == 1, log.loud()
    assert stage.site.state("alice", "partition") == {}


def test_the_sentence_is_on_the_form_the_user_sent(stage: Stage) -> None:
    page = stage.alice.open("/hub/spawn/alice/form")
    form = next(form for form in page.forms if form.id == "spawn_form")
    answer = stage.alice._http.post(form.action, data=form.fields | {"partition": "nosuch"})
    assert "Invalid partition name specified" in html.unescape(answer.text)
    assert 'name="partition"' in answer.text, "there is nothing to try again with"
    assert stage.site.state("alice", "form") == {}


# -- a FirecREST that fails ---------------------------------------------------------------------

#: The status the user's browser sees, and some words of the sentence.
CLEAR: dict[str, tuple[dict[str, Any], int, str]] = {
    "400": ({"status": 400}, 400, "did not accept the request"),
    "400 with an echo": (
        {"status": 400, "body": {"message": f"1 validation error: 'script': '{MARK}'"}},
        400,
        "did not accept the request",
    ),
    "401": ({"status": 401, "headers": {"auth-token": MARK}}, 403, "Log out and in again"),
    "403": ({"status": 403}, 403, "not allowed"),
    "404": ({"status": 404}, 404, "nothing by that name"),
    "413": ({"status": 413}, 400, "did not accept the request"),
    "424": ({"status": 424}, 503, "login node"),
    "429": ({"status": 429}, 503, "busy"),
    "503": ({"status": 503}, 503, "unwell"),
}
AMBIGUOUS: dict[str, tuple[dict[str, Any], int, str]] = {
    "408": ({"status": 408}, 503, "too long"),
    "500": ({"status": 500}, 503, "problem"),
    "502": ({"status": 502, "body": f"<html>{MARK}</html>".encode()}, 503, "not available"),
    "reset": ({"reset": True}, 503, "cannot be reached"),
    "garbage": ({"status": 201, "body": GARBAGE}, 502, "cannot be understood"),
    "200 instead of 201": ({"status": 200, "body": {}}, 502, "cannot be understood"),
}


@pytest.mark.parametrize(("fault", "status", "words"), CLEAR.values(), ids=CLEAR.keys())
def test_a_submit_that_is_refused_leaves_nothing(
    stage: Stage, fault: dict[str, Any], status: int, words: str
) -> None:
    """S9, R3: one sentence for the user, one line for the admin, and nothing else."""
    hits = stage.site.firecrest.faults.set("submit", **fault)
    log = Log(stage.site)
    shown, message, line = refused(stage, "refused", log)
    assert shown == status and words in message
    assert "submit to demo" in line
    assert len(log.loud()) == 1, log.loud()
    assert hits.hits == 1
    assert stage.site.state("alice", "refused") == {}
    assert stage.site.unfinished() == []


@pytest.mark.parametrize(("fault", "status", "words"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_a_submit_nobody_can_be_sure_of_leaves_a_tombstone(
    stage: Stage,
    fault: dict[str, Any],
    status: int,
    words: str,
    request: pytest.FixtureRequest,
) -> None:
    """R3, R7: the job was not found, but should it exist, it will be told that it is not wanted."""
    hits = stage.site.firecrest.faults.set("submit", **fault)
    log = Log(stage.site)
    server = f"unsure-{list(AMBIGUOUS).index(request.node.callspec.id)}"
    shown, message, line = refused(stage, server, log)
    assert shown == status and words in message
    assert "submit to demo" in line
    [other] = [said for said in log.loud() if said != line]
    assert "may be there; it ends itself" in other
    assert hits.hits == 1, "submitted twice"
    state = stage.site.state("alice", server)
    assert set(state) == {"tombstones"}
    [stone] = state["tombstones"]
    assert stone["job_id"] == "" and "secret" not in json.dumps({**stone, "sealed": ""})
    assert stage.site.unfinished() == []


def test_what_fails_before_the_submit_is_said_as_clearly(stage: Stage) -> None:
    """S9, R3: the Hub's own look at the list of systems, which it has to have for a first start."""
    stage.site.restart_hub()  # an older list would do instead
    submits = stage.site.firecrest.count("submit")
    for case, (fault, _, _) in (CLEAR | AMBIGUOUS).items():
        if case == "200 instead of 201":
            continue
        hits = stage.site.firecrest.faults.set("systems", **fault)
        log = Log(stage.site)
        status, message, line = refused(stage, "before", log)
        assert hits.hits, case
        # It is not the user whom FirecREST refuses here.
        assert status != 403, case
        assert not re.search(r"\b(you|your)\b", message, re.IGNORECASE), (case, message)
        assert "systems" in line, (case, line)
        assert len(log.loud()) == 1, (case, log.loud())
        assert stage.site.state("alice", "before") == {}, case
        # Something that is answered: after three failures in a row it would not be asked (R9).
        stage.site.firecrest.faults.set("systems", status=400)
        refused(stage, "before", Log(stage.site))
        stage.site.firecrest.faults.clear()
    assert stage.site.firecrest.count("submit") == submits


def test_a_firecrest_that_is_down_is_said_to_be(stage: Stage) -> None:
    """R3: nothing was sent, so nothing is left."""
    stage.site.firecrest.stop()
    try:
        log = Log(stage.site)
        status, message, line = refused(stage, "down", log)
    finally:
        stage.site.firecrest.start()
    assert status == 503 and "cannot be reached" in message
    assert "ConnectError" in line
    assert stage.site.state("alice", "down") == {}


def test_an_issuer_that_is_down_is_said_to_be(stage: Stage) -> None:
    """R5: the user is not logged out by it."""
    stage.site.issuer.lifetimes.access_token = 45
    stage.site.issuer.faults.set("token", status=503)
    stage.site.executor.hold()
    try:
        with Person(stage.site, "bob") as bob:
            stage.site.issuer.faults.clear()
            bob.log_in()  # with a token that is too short-lived to be used
            stage.site.issuer.faults.set("token", status=503)
            answer = ask(bob, "issuer")
            assert answer.status_code == 503
            assert is_one_clear_sentence(answer.json()["message"])
            assert "login service" in answer.json()["message"]
            assert bob.model()["name"] == "bob"
    finally:
        stage.site.issuer.faults.clear()
        stage.site.issuer.lifetimes.access_token = 300


# -- lost answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [fault for fault, _, _ in AMBIGUOUS.values()], ids=AMBIGUOUS)
def test_a_job_whose_submits_answer_was_lost_is_found_and_adopted(
    stage: Stage, fault: dict[str, Any]
) -> None:
    """R3: one submit, one job, one server."""
    before = len(stage.site.jobs("alice"))
    hits = stage.site.firecrest.faults.set("submit", processed=True, **fault)
    answer = stage.theatre.ask(stage.alice, "lost")
    puppet = stage.theatre.next()
    assert puppet.hello()["verdict"] == "start"
    with puppet.serving() as port:
        assert puppet.ready(port, "127.0.0.2")["verdict"] == "alive"
        assert answer.result().status_code in (201, 202), answer.result().text
        eventually(lambda: stage.alice.servers()["lost"]["ready"])
        assert [job.id for job in stage.site.jobs("alice")[before:]] == [puppet.job_id]
        assert stage.site.state("alice", "lost")["job_id"] == puppet.job_id
        assert hits.hits == 1
        stage.alice.stop("lost")
    puppet.wait_until_ended()


def test_a_queued_job_whose_submits_answer_was_lost_is_found_and_adopted(stage: Stage) -> None:
    """R3: by the job name in the user's own list; the job itself says nothing yet."""
    stage.site.executor.hold()
    stage.site.firecrest.faults.set("submit", processed=True, reset=True)
    stage.theatre.ask(stage.alice, "queued")
    job_id = eventually(lambda: stage.site.state("alice", "queued").get("job_id"))
    assert [job.id for job in stage.site.unfinished()] == [job_id]
    stage.alice.stop("queued")
    assert stage.site.job("alice").state.startswith("CANCELLED")
    assert stage.site.state("alice", "queued") == {}


def test_a_job_that_cannot_be_found_either_ends_itself(stage: Stage) -> None:
    """R3, R7: the user starts another meanwhile; only that one gets an environment."""
    site = stage.site
    site.executor.hold()
    site.firecrest.faults.set("submit", processed=True, reset=True, times=1)
    site.firecrest.faults.set("list", status=500, user="alice")
    first = stage.theatre.ask(stage.alice, "again").result()
    assert first.status_code == 503 and is_one_clear_sentence(first.json()["message"])
    assert set(site.state("alice", "again")) == {"tombstones"}
    [lost] = site.unfinished("alice")

    site.firecrest.faults.clear()
    second = stage.theatre.ask(stage.alice, "again")
    eventually(lambda: len(site.unfinished("alice")) == 2)
    site.executor.release()
    puppets = {puppet.job_id: puppet for puppet in (stage.theatre.next(), stage.theatre.next())}
    unwanted = puppets.pop(lost.id)
    answer = unwanted.hello()
    assert answer["verdict"] == "ended" and "environment" not in answer
    unwanted.end()
    [wanted] = puppets.values()
    assert wanted.hello()["verdict"] == "start"
    with wanted.serving() as port:
        wanted.ready(port, "127.0.0.2")
        assert second.result().status_code in (201, 202)
        eventually(lambda: stage.alice.servers()["again"]["ready"])
        assert site.state("alice", "again")["job_id"] == wanted.job_id
        assert "tombstones" not in site.state("alice", "again"), "the lost job was told"
        stage.alice.stop("again")
    eventually(lambda: not site.state("alice", "again").get("tombstones"))


def test_a_running_server_outlives_every_fault_of_firecrest(stage: Stage) -> None:
    """R1."""
    answer = stage.theatre.ask(stage.alice, "lasting")
    puppet = stage.theatre.next()
    puppet.hello()
    with puppet.serving() as port:
        puppet.ready(port, "127.0.0.2")
        assert answer.result().status_code in (201, 202)
        eventually(lambda: stage.alice.servers()["lasting"]["ready"])
        # A second, queued server makes the monitor look every two seconds.
        stage.site.executor.hold()
        stage.theatre.ask(stage.alice, "hurry")
        eventually(lambda: stage.site.state("alice", "hurry").get("job_id"))
        for status in (500, 404):
            listed = stage.site.firecrest.faults.set("list", status=status)
            asked = stage.site.firecrest.faults.set("job", status=status)
            # A list that fails is not asked for at every look.
            eventually(partial(_hit, 3, listed, asked), 30.0)
            assert asked.hits, "nobody asked by id"
            assert stage.alice.servers()["lasting"]["ready"]
        assert puppet.say("alive")["verdict"] == "alive"
        stage.site.firecrest.faults.clear()
        stage.alice.stop("hurry")
        stage.alice.stop("lasting")
    puppet.wait_until_ended()


def _hit(times: int, *faults: Fault) -> bool:
    return sum(fault.hits for fault in faults) >= times
