"""Does the form offer what the user may use, and are Slurm's refusals and limits told in words?"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.journeys.person import Person
from tests.journeys.puppets import ask
from tests.journeys.site import eventually
from tests.services.users import ALICE, BOB
from tests.slurm.cluster import SlurmSite

#: A quality of service with one job at a time.
LONE = "lone"
#: Further partitions, and what each has of its own.
QUEUES = {
    "closed": "State=INACTIVE",
    "others": "AllowGroups=root",
    "second": "AllowAccounts=proj2",
    "secret": "Hidden=YES",
}


@pytest.fixture
def course(site: SlurmSite) -> Iterator[None]:
    """Reservations, one for each user, the quality of service, for alice, and the partitions."""
    administer = site.slurm.administer
    made = {"course": ALICE, "theirs": BOB}
    for name, user in made.items():
        administer(
            *("scontrol", "create", "reservation", f"ReservationName={name}", f"Users={user}"),
            *("StartTime=now+2days", "Duration=60", "NodeCnt=1", "Flags=OVERLAP"),
        )
    for name, what in QUEUES.items():
        administer("scontrol", "create", f"PartitionName={name}", "Nodes=ALL", what)
    administer("sacctmgr", "-i", "-Q", "add", "qos", LONE, "MaxJobsPerUser=1")
    administer("sacctmgr", "-i", "-Q", "modify", "user", ALICE, "set", f"qos+={LONE}")
    yield
    administer("sacctmgr", "-i", "-Q", "modify", "user", ALICE, "set", f"qos-={LONE}")
    administer("sacctmgr", "-i", "-Q", "delete", "qos", LONE)
    for name in made:
        administer("scontrol", "delete", f"ReservationName={name}")
    for name in QUEUES:
        administer("scontrol", "delete", f"PartitionName={name}")


def hints(person: Person) -> dict[str, list[str]]:
    """The values that the form of ``person`` is told, by field."""
    answer = person.api("GET", person.hub("api/firecrest/hints?system=demo"))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert not body.pop("problem")
    assert body.pop("complete") == ["account"]
    return {field: [each["value"] for each in values] for field, values in body.items()}


def test_the_form_offers_what_the_user_may_use(site: SlurmSite, person, course: None):
    """R10: accounts of their own, and no reservation that is for others.

    Whose a partition is FirecREST does not tell, only its state and whether it is hidden.
    """
    told = {name: hints(person(name)) for name in ("alice", "bob")}
    assert told["alice"]["account"] == ["proj1", "proj2"]
    assert told["bob"]["account"] == ["proj2"]
    assert told["alice"]["reservation"] == ["course"]
    assert told["bob"]["reservation"] == ["theirs"]
    for each in told.values():
        assert each["partition"] == sorted([*site.slurm.partitions, *QUEUES.keys() - {"secret"}])
        assert each["constraint"] == ["fast"]


@pytest.mark.parametrize(
    ("options", "slurm_says", "we_say"),
    [
        ({"partition": "nope"}, "invalid partition specified: nope", "There is no such partition."),
        ({"partition": "closed"}, "Required partition not available", "takes no jobs, or none of"),
        ({"partition": "others"}, "User's group not permitted", "takes no jobs, or none of yours."),
        ({"partition": "second", "account": "proj1"}, "account", "may not be charged to that"),
        ({"account": "other"}, "Invalid account", "may not be charged to that account"),
        ({"qos": "nope"}, "Invalid qos specification", "That quality of service is not for you."),
        ({"reservation": "theirs"}, "reservation", "The reservation is not valid, or not for you."),
        ({"reservation": "nope"}, "reservation", "The reservation is not valid, or not for you."),
        ({"constraint": "gold"}, "Invalid feature specification", "No node of the cluster has"),
        ({"nodes": 3}, "Node count specification invalid", "No node of the cluster has"),
        ({"cpus": 99}, "More processors requested than permitted", "No node of the cluster has"),
        ({"memory": "900G"}, "Memory", "No node of the cluster has"),
        ({"gpus": 1}, "Invalid generic resource (gres)", "No node of the cluster has"),
        ({"partition": "debug", "runtime": "2:00:00"}, "time limit", "A limit of your account"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_refusal_of_sbatch_is_told_in_words(
    site: SlurmSite, alice: Person, course: None, options: dict[str, Any], slurm_says: str,
    we_say: str,
):  # fmt: skip
    """In Slurm's and in ours, with the choice beside them; nothing is queued, nothing is left."""
    site.configure("choosy", option_fields=sorted(options))
    answer = ask(alice, "choosy", **options)
    page = alice.look_at(alice.hub("spawn-pending/alice/choosy"))
    assert answer.status_code == 400 and page.status_code >= 400
    for text in (answer.json()["message"], html.unescape(page.text)):
        assert slurm_says in text
    assert we_say in html.unescape(page.text)
    assert site.queue("alice") == []
    assert site.state("alice", "choosy") == {}


def test_a_limit_of_the_quality_of_service_is_told_while_the_job_waits(
    site: SlurmSite, alice: Person, course: None
):
    """The reason's own name, what it means, and what can be done."""
    for server in ("first", "second"):
        site.configure(server, req_qos=LONE)
    alice.start("first")
    alice.ask_for_server("second")
    eventually(
        lambda: "PENDING (QOSMaxJobsPerUserLimit)" in site.queue("alice"), what="the second waits"
    )
    with closing(alice.progress("second")) as progress:
        messages = (str(event["message"]) for event in progress)
        told = next(each for each in messages if "QOSMaxJobsPerUserLimit" in each)
    assert "you have as many jobs, or as much in use, as one user may" in told
    assert "It goes on when another of your jobs ends." in told
    alice.stop("second")
    alice.stop("first")
