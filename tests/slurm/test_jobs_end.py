"""Is it true what the Hub shows when a job is refused, waits, is cancelled, or runs out of time?"""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import closing, suppress

import psutil
import pytest

from tests.journeys.person import Person
from tests.journeys.site import eventually
from tests.services.users import BOB
from tests.slurm.cluster import UNIX, SlurmSite, cancelled_by, script, words


@pytest.fixture
def busy(site: SlurmSite) -> Iterator[None]:
    """All nodes are bob's."""
    command = ["sbatch", "--parsable", "--output=/dev/null", "--nodes=2", "--exclusive"]
    filler = site.slurm.run_as(BOB, [*command, "--wrap=sleep 600"]).stdout.strip()
    eventually(lambda: site.queue("bob") == ["RUNNING nid[001-002]"], what="bob has all nodes")
    yield
    site.slurm.run_as(BOB, ["scancel", filler])
    site.wait_for_empty_queue("bob")


@pytest.mark.parametrize(
    ("user", "option", "value", "slurm_says"),
    [
        ("alice", "partition", "nope", "invalid partition specified: nope"),
        ("bob", "account", "proj1", "Invalid account or account/partition combination specified"),
    ],
)
def test_what_sbatch_refuses_is_told_in_its_words(
    site: SlurmSite, person, user: str, option: str, value: str, slurm_says: str
):
    """On the page and in the progress; nothing is queued, nothing is left."""
    somebody = person(user)
    # A server of its own, for its form remembers the choice.
    form = somebody.open(somebody.hub(f"spawn/{user}/refused")).form_with(option)
    form.fields[option] = value
    answer = somebody.post(form)
    pending = somebody.look_at(somebody.hub(f"spawn-pending/{user}/refused"))
    assert answer.status_code in (200, 400) and pending.status_code in (400, 500)
    for page in (answer, pending):
        assert slurm_says in html.unescape(page.text)
    assert site.queue(user) == []
    assert site.state(user, "refused") == {}


def test_a_held_job_is_cancelled_from_the_hub(site: SlurmSite, alice: Person):
    """R7, S5: the page says that it is held; after the stop it will never start."""
    site.configure("held", batch_script=script("--hold"))
    alice.ask_for_server("held")
    job_id = site.job_id("alice", "held")
    events = []
    with closing(alice.progress("held")) as progress:
        for event in progress:
            events.append(event)
            if "it is held (JobHeldUser)" in event["message"]:
                alice.press_stop("held")
    assert any("it is held" in message for message in words(events)), events
    assert events[-1]["failed"]
    alice.wait_until_gone("held")
    assert site.queue("alice") == []
    assert site.end(job_id) == cancelled_by("alice")


def test_a_job_without_free_nodes_is_cancelled_from_the_hub(
    site: SlurmSite, alice: Person, busy: None
):
    """R7: it leaves the queue, and nobody else's job does."""
    alice.ask_for_server()
    job_id = site.job_id("alice")
    eventually(lambda: site.queue("alice") == ["PENDING (Resources)"], what="it waits")
    alice.stop()
    site.wait_for_empty_queue("alice")
    assert site.queue("bob") == ["RUNNING nid[001-002]"]
    assert site.end(job_id) == cancelled_by("alice")


def test_a_held_job_that_is_released_becomes_a_server(site: SlurmSite, alice: Person):
    """The bar never goes back, whatever sacct and squeue say in turn."""
    site.configure("turn", batch_script=script("--hold"))
    alice.ask_for_server("turn")
    site.slurm.run_as(UNIX["alice"], ["scontrol", "release", site.job_id("alice", "turn")])
    events = alice.wait_until_ready("turn")
    percents = [event["progress"] for event in events]
    assert percents == sorted(percents), events
    alice.stop("turn")


def test_a_job_cancelled_from_outside_is_shown_as_stopped(site: SlurmSite, alice: Person):
    """R1, S10: by its own goodbye."""
    alice.start()
    token, job_id = site.api_token("alice"), site.job_id("alice")
    site.slurm.run_as(UNIX["alice"], ["scancel", job_id])
    alice.wait_until_gone(timeout=10.0)
    assert site.end(job_id) == cancelled_by("alice")
    assert "stopped by SIGTERM" in site.log_of("alice", job_id)
    assert site.hub_status(token) == 403
    assert site.state("alice") == {}


def test_a_job_that_dies_without_a_word_is_shown_as_stopped(site: SlurmSite, alice: Person):
    """R1, S10: by what Slurm says of it to the service account."""
    alice.start()
    token, job_id = site.api_token("alice"), site.job_id("alice")
    for process in site.leftovers():
        with suppress(psutil.NoSuchProcess):  # a child may go with its parent
            if process.username() == UNIX["alice"]:
                process.kill()
    alice.wait_until_gone(timeout=30.0)
    assert site.end(job_id) == "FAILED"
    assert site.hub_status(token) == 403
    assert site.state("alice") == {}


def test_a_job_at_its_time_limit_is_shown_as_stopped(site: SlurmSite, alice: Person):
    """R1, S10: the server gets Slurm's SIGTERM, saves, and says goodbye."""
    site.configure("left", walltime_grace=0)
    alice.start("left")
    token, job_id = site.api_token("alice", "left"), site.job_id("alice", "left")
    # Limits are whole minutes, looked at every half a minute: this one is over now.
    site.slurm.administer("scontrol", "update", f"JobId={job_id}", "EndTime=now")
    alice.wait_until_gone("left", timeout=60.0)
    assert site.end(job_id) == "TIMEOUT"
    assert site.hub_status(token) == 403
    assert "stopped by SIGTERM" in site.log_of("alice", job_id)


@pytest.mark.timeout(240)
def test_a_server_ends_before_its_jobs_limit_wherever_that_has_been_moved(
    site: SlurmSite, alice: Person
):
    """Of a minute that became two, a tenth is left for saving."""
    site.configure("extended", batch_script=script("--time=1"))
    alice.start("extended")
    job_id = site.job_id("alice", "extended")
    site.slurm.administer("scontrol", "update", f"JobId={job_id}", "TimeLimit=2")
    alice.wait_until_gone("extended", timeout=150.0)
    assert site.end(job_id) == "COMPLETED"
    columns = ("-X", "-n", "-P", "-o", "ElapsedRaw,TimelimitRaw", "-j", job_id)
    elapsed, limit = map(int, site.slurm.administer("sacct", *columns).strip().split("|"))
    assert limit == 2
    assert 100 <= elapsed < 120
    assert "ended by the Hub: the job's time is nearly over" in site.log_of("alice", job_id)
