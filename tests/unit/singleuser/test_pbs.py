"""Does PBS, which knows a job's processes by their session, know the server?

An OpenPBS counts, limits, suspends and kills what is in the session of the script's login shell,
and nothing else (src/resmom/linux/mom_mach.c, and seen on 23.06.06).
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.unit.singleuser.channel_end import Hub, Launch, eventually


@pytest.mark.parametrize(
    ("env", "same"), [({"PBS_JOBID": "7.pbs01"}, True), ({}, False)], ids=["PBS", "Slurm"]
)
def test_a_server_is_in_the_session_that_pbs_knows(
    hub: Hub, launch: Launch, env: dict[str, str], same: bool
) -> None:
    """Its group is its own anyway: that is how it is ended with all its children."""
    job = launch(env=env)
    hub.wait("ready")
    server = job.seen()["pid"]
    assert os.getpgid(server) == server
    assert (os.getsid(server) == os.getsid(job.process.pid)) is same


def test_a_signal_that_reaches_the_server_as_well_is_a_stop_from_outside(
    hub: Hub, launch: Launch
) -> None:
    """Whichever of the two is quicker: that of the scheduler is the reason."""
    job = launch(env={"PBS_JOBID": "7.pbs01"})
    hub.wait("ready")
    server = job.seen()["pid"]
    # The launcher is to see both at once.
    job.process.send_signal(signal.SIGSTOP)
    eventually(lambda: _state(job.process.pid) == "T")
    job.process.send_signal(signal.SIGTERM)
    os.kill(server, signal.SIGTERM)
    eventually(lambda: _state(server) == "Z")
    job.process.send_signal(signal.SIGCONT)
    assert hub.wait("exiting")["reason"] == "stopped by SIGTERM"
    assert job.wait()[0] == 128 + signal.SIGTERM


def _state(pid: int) -> str:
    """The letter of proc(5), field 3."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
