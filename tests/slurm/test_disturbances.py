"""What does the Hub show when somebody disturbs the cluster, and is anything else disturbed?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.journeys.person import Person
from tests.journeys.site import LOOK, eventually
from tests.services.processes import ServiceError
from tests.slurm.cluster import SlurmSite

#: Seconds for which the controller is away: longer than any pause between two looks at jobs.
OUTAGE = 120.0


def holds(condition, seconds: float) -> None:
    """Assert that ``condition`` is true at every look for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert condition()
        time.sleep(LOOK)


@pytest.fixture
def drained(site: SlurmSite) -> Iterator[None]:
    """No node takes a new job."""
    nodes = ",".join(site.slurm.nodes)
    site.slurm.administer("scontrol", "update", f"NodeName={nodes}", "State=DRAIN", "Reason=test")
    yield
    site.slurm.administer("scontrol", "update", f"NodeName={nodes}", "State=RESUME")


def test_without_its_controller_the_cluster_keeps_its_servers(
    site: SlurmSite, alice: Person, bob: Person
):
    """R1, R7, R9: slurmctld is away for two minutes. What runs goes on, kernels too; a start says
    in a sentence what is wrong; afterwards all is as before."""
    alice.start()
    job_id = site.job_id("alice")
    kernel = alice.start_kernel()
    alice.run(kernel, "kept = 41")
    with site.slurm.without_controller():
        bob.ask_for_server()
        refused = eventually(
            lambda: [e for e in bob.progress() if e.get("failed")], 60.0, "the start fails"
        )
        assert "The scheduler" in refused[-1]["message"], refused
        holds(lambda: alice.servers()[""]["ready"], OUTAGE)
        assert alice.run(kernel, "kept + 1") == "42"
    assert site.job_id("alice") == job_id
    assert alice.run(kernel, "kept + 2") == "43"
    eventually(lambda: site.queue("alice") == ["RUNNING nid001"], 60.0, "Slurm has it, too")
    # Whatever became of bob's first submit: he has one server in the end, and one job.
    bob.start()
    assert len(site.queue("bob")) == 1
    bob.stop()
    alice.stop(timeout=60.0)


def test_a_drained_node_keeps_its_server_and_the_queue_says_why(
    site: SlurmSite, alice: Person, bob: Person, request: pytest.FixtureRequest
):
    """R1: the server that runs goes on; the next job waits, and its page has Slurm's reason."""
    alice.start()
    request.getfixturevalue("drained")
    bob.ask_for_server()
    said = ""
    with closing(bob.progress()) as progress:
        for event in progress:
            said = event["message"]
            if "DRAINED" in said.upper() or "ReqNodeNotAvail" in said or "Resources" in said:
                break
    assert "waits in the queue" in said
    assert alice.servers()[""]["ready"]
    bob.stop()
    alice.stop()


def test_no_server_is_requeued_and_one_that_an_operator_forces_to_ends_itself(
    site: SlurmSite, alice: Person
):
    """R1, R7: the script says that it cannot be. Where an operator insists, the server says goodbye
    and is over; what runs again under the same number learns that nobody knows it any more."""
    alice.start()
    job_id = site.job_id("alice")
    with pytest.raises(ServiceError, match="disabled"):
        site.slurm.administer("scontrol", "requeue", job_id)
    assert alice.servers()[""]["ready"]
    site.slurm.administer("scontrol", "update", f"JobId={job_id}", "Requeue=1")
    site.slurm.administer("scontrol", "requeue", job_id)
    alice.wait_until_gone(timeout=60.0)
    assert site.state("alice") == {}
    eventually(lambda: site.queue("alice") == ["PENDING (BeginTime)"], 30.0, "it is queued again")
    site.slurm.administer("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    eventually(lambda: not site.queue("alice"), 120.0, "it has ended itself")
    assert site.end(job_id) == "FAILED"
    assert "this Hub does not know the server" in site.log_of("alice", job_id)
