"""Does the main path work on a real Slurm: log in, start, run a cell, stop, each as themselves?"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from firecrestspawner.demo.slurm_executor import unix_users
from tests.journeys.person import Person
from tests.journeys.site import eventually
from tests.services.slurm import Slurm
from tests.services.users import ALICE
from tests.slurm.cluster import SERVICE, UNIX, SlurmSite, cancelled_by

WHO = "import os, pwd\npwd.getpwuid(os.getuid()).pw_name + ' in ' + os.getcwd()"


def test_two_users_work_side_by_side_as_themselves(site: SlurmSite, alice: Person, bob: Person):
    """R7, S5, S8: the script's {{cmd}} stands bare. Jobs are started and stopped as their users;
    the Hub connects to the node's own address; the service account only looks."""
    before = len(site.firecrest.requests)
    homes = {}
    for person in (alice, bob):
        person.ask_for_server()
    for person in (alice, bob):
        person.wait_until_ready()
        unix = UNIX[person.name]
        homes[person.name] = site.slurm.run_as(unix, ["pwd"]).stdout.strip()
        said = person.run(person.start_kernel(), WHO)
        assert said == f"'{unix} in {homes[person.name]}'"
        state, _, node = site.queue(person.name)[0].partition(" ")
        assert state == "RUNNING"
        target = site.routes()[f"/user/{person.name}"]["target"]
        assert urlsplit(target).hostname == site.slurm.nodes[node]
        (server,) = site.servers_of(site.job_id(person.name))
        assert server.username() == unix
    assert bob.look_at(alice.lab("api/kernels")).status_code == 403

    ended = site.job_id("alice")
    alice.stop()
    site.wait_for_empty_queue("alice")
    assert site.end(ended) == cancelled_by("alice")
    assert bob.run(bob.start_kernel(), "6*7") == "42"
    bob.stop()

    done = {
        (record.username, record.operation) for record in list(site.firecrest.requests)[before:]
    }
    acted = {user for user, operation in done if operation in ("submit", "cancel")}
    assert acted == {"alice", "bob"}
    assert {operation for user, operation in done if user == SERVICE} <= {
        *("systems", "nodes", "list", "job")
    }


def test_a_server_on_slurm_outlives_its_hub(site: SlurmSite, alice: Person):
    """R6, S10: kill -9 of the Hub; the kernel and its variables are still there afterwards."""
    alice.start()
    kernel = alice.start_kernel()
    alice.run(kernel, "kept = 42")
    token = site.api_token("alice")
    site.kill_hub()
    site.start_hub()
    assert alice.run(kernel, "kept") == "42"
    alice.stop()
    assert site.hub_status(token) == 403


def watched(command: Sequence[str | Path], environ: dict[str, str]) -> tuple[int, str]:
    """The exit code of a command and what it said; of one that hangs, where it does."""
    process = subprocess.Popen(
        command,
        env={**environ, "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        said, _ = process.communicate(timeout=60)
    return process.returncode, said


def test_the_demo_goes_through_it_all_on_slurm(slurm: Slurm, tmp_path: Path):
    """``firecrestspawner demo --smoke --executor slurm``, by root: nobody there is called alice."""
    program = Path(sys.executable).with_name("firecrestspawner")
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    began = time.time()
    code, said = watched(
        [program, "demo", "--smoke", "--executor", "slurm", "--directory", tmp_path / "demo"],
        {"PATH": "/usr/local/bin:/usr/bin:/bin", **slurm.env},
    )
    assert code == 0, said
    assert f"Jobs of alice run as the Unix user {unix_users(['alice'])['alice']}." in said
    assert "Everything works" in said
    eventually(lambda: not slurm.administer("squeue", "-h"), what="the queue is empty")
    # A job's log stays where Slurm puts it.
    (log,) = (log for log in home.glob("jupyter-*.log") if log.stat().st_mtime >= began)
    log.unlink()


def test_a_login_without_a_usable_account_runs_as_who_started_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert unix_users([ALICE, "nobody-at-all"]) == {ALICE: ALICE, "nobody-at-all": "root"}
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    python = closed / "python3"
    python.symlink_to("/usr/bin/python3")
    monkeypatch.setattr(sys, "executable", str(python))
    assert unix_users([ALICE]) == {ALICE: "root"}
