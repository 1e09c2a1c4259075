"""What can a user achieve whose shell lies, or whose system does not heed the script?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.journeys.puppets import PUPPET, ask
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


# -- forged answers -----------------------------------------------------------------------------


def forging_submits(job_id: str) -> Any:
    """A ~/.bashrc that prints another job's number whenever something is submitted."""

    def forge(operation: str, body: Any) -> Any:
        return {"jobId": job_id} if operation == "submit" else body

    return forge


def test_a_forged_job_number_harms_nobody(stage: Stage) -> None:
    """R10, R7: alice's shell says that her job is bob's; bob's server runs on, and alice's list
    shows which job is hers."""
    bobs, bobs_answer = stage.start(stage.bob, "target")
    with bobs.serving() as port:
        bobs.ready(port, "127.0.0.2")
        assert bobs_answer.result().status_code in (201, 202)
        eventually(lambda: stage.bob.servers()["target"]["ready"])

        stage.site.firecrest.faults.forge("alice", forging_submits(bobs.job_id))
        answer = stage.theatre.ask(stage.alice, "forger")
        alices = stage.theatre.next()
        eventually(lambda: stage.site.state("alice", "forger").get("job_id") == alices.job_id)
        stage.site.firecrest.faults.forge("alice", None)
        assert alices.hello()["verdict"] == "start"
        with alices.serving() as alices_port:
            alices.ready(alices_port, "127.0.0.2")
            assert answer.result().status_code in (201, 202)
            eventually(lambda: stage.alice.servers()["forger"]["ready"])
            stage.alice.stop("forger")
        alices.wait_until_ended()

        assert stage.bob.servers()["target"]["ready"]
        assert bobs.say("alive")["verdict"] == "alive"
        assert [job.id for job in stage.site.unfinished("bob")] == [bobs.job_id]
        stage.bob.stop("target")
    bobs.wait_until_ended()


def test_a_job_that_introduces_itself_corrects_a_forged_number(stage: Stage) -> None:
    """R10: only the script holds the ticket. Whose number it was does not matter any more."""
    stage.site.firecrest.faults.forge("alice", forging_submits("4711"))
    puppet, answer = stage.start(stage.alice, "honest")
    # Not before: a job of bob's that the Hub has seen under that number would have ended the start.
    stage.site.executor.plant("bob", "another-job", id="4711")
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
    assert answer.json()["message"].startswith("Run time cannot be asked for on rested:")
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
