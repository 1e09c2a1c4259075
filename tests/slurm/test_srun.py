"""Behind srun, is there one server whatever the tasks, and nothing left of it afterwards?"""

from __future__ import annotations

import shlex
import signal

import pytest

from tests.journeys.person import Person
from tests.journeys.site import eventually
from tests.slurm.cluster import UNIX, SlurmSite, script

SEVERAL = ("--nodes=2", "--ntasks=4")


def goes_round(site: SlurmSite, alice: Person, server: str) -> str:
    """Start, run a cell; the job's number."""
    alice.start(server)
    assert alice.run(alice.start_kernel(server), "6*7") == "42"
    job_id = site.job_id("alice", server)
    assert len(site.servers_of(job_id)) == 1
    return job_id


def is_over(site: SlurmSite) -> None:
    """No process of the step is left on any node, nor Slurm's own for it."""
    eventually(lambda: not site.leftovers(), what="the step is gone")
    site.wait_for_empty_queue("alice")


def test_one_task(site: SlurmSite, alice: Person):
    """R7."""
    site.configure("srun", batch_script=script(command="srun {{cmd}}"))
    job_id = goes_round(site, alice, "srun")
    assert list(site.tasks_of(job_id)) == [0]
    alice.stop("srun")
    is_over(site)


def test_of_several_tasks_on_two_nodes_one_acts_and_none_is_left(site: SlurmSite, alice: Person):
    """R7, S4: the others wait in silence, until the stop."""
    site.configure("tasks", batch_script=script(*SEVERAL, command="srun {{cmd}}"))
    job_id = goes_round(site, alice, "tasks")
    tasks = site.tasks_of(job_id)
    assert sorted(tasks) == [0, 1, 2, 3]
    assert set(tasks.values()) == set(site.slurm.nodes)
    (server,) = site.servers_of(job_id)
    assert server.environ()["SLURM_PROCID"] == "0"
    alice.stop("tasks")
    is_over(site)
    # What tasks say goes to the job's log: rank 0 alone spoke.
    assert site.log_of("alice", job_id).count("the server listens on port") == 1


def test_the_other_tasks_end_with_a_server_that_ends_by_itself(site: SlurmSite, alice: Person):
    """R1: the job does not wait for tasks that have nothing to do."""
    site.configure("tasks", batch_script=script(*SEVERAL, command="srun {{cmd}}"))
    alice.start("tasks")
    job_id = site.job_id("alice", "tasks")
    (server,) = site.servers_of(job_id)
    server.send_signal(signal.SIGKILL)
    alice.wait_until_gone("tasks", timeout=5.0)
    is_over(site)
    assert site.end(job_id) == "FAILED"


@pytest.mark.parametrize(
    ("server", "directives", "command"),
    [
        ("directive", ["--export=NONE"], "{{cmd}}"),
        ("step", ["--export=NONE"], "srun --export=NONE {{cmd}}"),
        ("steps", [*SEVERAL, "--export=NONE"], "srun --export=NONE {{cmd}}"),
    ],
)
def test_a_clean_environment_does_not_hide_the_ticket(
    site: SlurmSite, alice: Person, server: str, directives: list[str], command: str
):
    """S4: without variables one task claims the script's file, and removes it."""
    # Without PATH slurmstepd finds no program by its name alone, and neither does the launcher.
    cmd, python = [str(site.jupyter.bin / "jupyterhub-singleuser")], "/usr/bin/python3"
    batch_script = script(*directives, command=command)
    site.configure(server, batch_script=batch_script, cmd=cmd, python=python)
    job_id = goes_round(site, alice, server)
    assert "FIRECREST" not in str(site.servers_of(job_id)[0].environ())
    hidden = site.slurm.run_as(UNIX["alice"], ["ls", "-A"]).stdout.split()
    assert not [name for name in hidden if name.startswith(".firecrest")]
    alice.stop(server)
    is_over(site)


STEP = "SLURM_STEP_ID"
#: Apptainer as far as it matters here: a clean environment, and no image at all.
APPTAINER = """\
shift
while [[ $1 == -* ]]; do case $1 in --bind | --pwd) shift 2 ;; *) shift ;; esac; done
shift
exec env -i PATH="$PATH" HOME="$HOME" "$@"
"""


def test_the_script_for_containers_gives_the_server_a_step_that_others_may_share(
    site: SlurmSite, alice: Person
):
    """S4: srun and its options are real, the container is not. A step that a notebook starts does
    not wait for the server's to end."""
    words = "'#!/bin/bash' " + shlex.quote(APPTAINER)
    site.configure(
        "contained",
        batch_script="slurm-apptainer",
        req_image="/apps/jupyter.sif",
        req_cpus="1",
        req_prologue="mkdir -p bin; printf '%s\\n' " + words + " >bin/apptainer\n"
        "chmod +x bin/apptainer; PATH=$PWD/bin:$PATH",
    )
    alice.start("contained")
    assert alice.run(alice.start_kernel("contained"), "6*7") == "42"
    job_id = site.job_id("alice", "contained")
    said = alice.run(alice.start_kernel("contained"), "sorted(__import__('os').environ)")
    assert said is not None and "SLURM_JOB_ID" not in said, "the environment was clean"
    step = ["srun", f"--jobid={job_id}", "--ntasks=1", "--immediate=20", "printenv", STEP]
    assert site.slurm.run_as(UNIX["alice"], step).stdout.strip() == "1", "the server's is step 0"
    alice.stop("contained")
    is_over(site)
