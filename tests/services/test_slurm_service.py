"""Does the Slurm that the other tests rely on behave like one, and leave nothing behind?"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import install
from tests.services.interpreter import interpreter
from tests.services.processes import ServiceError, wait_until
from tests.services.slurm import Slurm, sweep
from tests.services.users import ALICE, BOB, OPERATOR

# The first test pays for installing packages and making the interpreter, on a fresh machine.
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if os.geteuid() != 0:
        pytest.skip("a Slurm whose jobs run as their users needs root")
    with Slurm(config={"PrivateData": "jobs"}) as running:
        yield running


def submit(slurm: Slurm, user: str, script: str, *options: str) -> str:
    argv = ["sbatch", "--parsable", "--output=%j.out", *options]
    return slurm.run_as(user, argv, f"#!/bin/bash\n{script}\n").stdout.strip()


def output(slurm: Slurm, user: str, job: str) -> str:
    return slurm.run_as(user, ["cat", f"{job}.out"]).stdout


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if os.path.exists(f"/proc/{pid}/exe") and _has_memory(pid)}


def _has_memory(pid: int) -> bool:
    # A zombie has none: it waits for init, and is no process of ours any more.
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@pytest.mark.parametrize(("user", "account"), [(ALICE, "proj1"), (BOB, "proj2")])
def test_jobs_run_as_their_users_and_are_accounted(slurm: Slurm, user: str, account: str) -> None:
    job = submit(slurm, user, "id -un; echo $HOME")
    assert slurm.wait_for(job, "COMPLETED", "FAILED") == "COMPLETED"
    home = slurm.run_as(user, ["pwd"]).stdout
    assert output(slurm, user, job) == f"{user}\n{home}"
    # Accounting may learn of a short job's end before it is told how the job began.
    columns = ("sacct", "-X", "-n", "-P", "-o", "User,Account,Partition", "-j", job)
    expected = f"{user}|{account}|normal"
    wait_until(lambda: slurm.administer(*columns).strip() == expected, expected, within=20)


def test_an_account_of_others_is_refused(slurm: Slurm) -> None:
    argv = ["sbatch", "--account=proj1", "--wrap=true"]
    refused = slurm.run_as(BOB, argv, check=False)
    assert refused.returncode != 0
    assert "Invalid account" in refused.stderr


def test_srun_starts_a_task_on_each_of_two_nodes(slurm: Slurm) -> None:
    script = "srun --label bash -c 'echo $SLURMD_NODENAME $SLURM_CPUS_ON_NODE'"
    job = submit(slurm, ALICE, script, "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4")
    assert slurm.wait_for(job, "COMPLETED", "FAILED") == "COMPLETED"
    names = sorted(slurm.nodes)[:2]
    lines = sorted(output(slurm, ALICE, job).splitlines())
    assert lines == [f"{rank}: {name} 4" for rank, name in enumerate(names)]


def test_the_first_partition_is_the_default_one(slurm: Slurm) -> None:
    shown = slurm.administer("sinfo", "-h", "-o", "%P").split()
    assert sorted(shown) == sorted([f"{slurm.partitions[0]}*", *slurm.partitions[1:]])


def test_each_node_has_its_own_loopback_address(slurm: Slurm) -> None:
    shown = slurm.administer("sinfo", "-h", "-N", "-p", "normal", "-o", "%N %o").splitlines()
    assert dict(line.split() for line in shown) == slurm.nodes
    assert len(set(slurm.nodes.values())) == 4
    assert all(address.startswith("127.") for address in slurm.nodes.values())


def test_the_operator_sees_all_jobs_and_a_user_only_their_own(slurm: Slurm) -> None:
    job = submit(slurm, ALICE, "true", "--hold")
    seen = {
        user: slurm.run_as(user, ["squeue", "-h", "-o", "%i"]).stdout.split()
        for user in (ALICE, BOB, OPERATOR)
    }
    slurm.run_as(ALICE, ["scancel", job])
    assert job in seen[ALICE]
    assert job in seen[OPERATOR]
    assert job not in seen[BOB]
    assert slurm.wait_for(job, "CANCELLED") == "CANCELLED"


def test_jobs_find_a_jupyterhub_of_our_version(slurm: Slurm) -> None:
    programs = interpreter().bin
    job = submit(slurm, BOB, f"{programs}/jupyterhub-singleuser --version")
    assert slurm.wait_for(job, "COMPLETED", "FAILED", within=60) == "COMPLETED"
    shown = output(slurm, BOB, job).strip()
    assert shown.endswith(importlib.metadata.version("jupyterhub"))


def test_stop_ends_jobs_that_hide_and_the_same_object_starts_again(slurm: Slurm) -> None:
    other = Slurm(nodes=1)
    for _ in range(2):
        with other:
            before = other.processes()
            # One child keeps its place, the other leaves the job's session and process tree.
            submit(other, ALICE, "setsid --fork sleep 1000\nsleep 1000")
            wait_until(lambda: _sleepers(other) == 2, "both of the job's children", within=20)
            directory, pids = other.directory, other.processes()
            assert len(before) >= 5  # munged, mariadbd, slurmdbd, slurmctld, slurmd
            assert alive(pids) == pids
        assert alive(pids) == set()
        assert not directory.exists()
    assert alive(slurm.processes()), "the other cluster was none of its business"


def _sleepers(slurm: Slurm) -> int:
    commands = [Path(f"/proc/{pid}/cmdline") for pid in slurm.processes()]
    return sum(path.exists() and path.read_bytes() == b"sleep\x001000\x00" for path in commands)


def test_what_a_killed_run_leaves_is_swept_away(slurm: Slurm) -> None:
    script = (
        "from tests.services.slurm import Slurm\n"
        "slurm = Slurm(nodes=1)\n"
        "slurm.start()\n"
        "print(slurm.directory, *slurm.processes(), flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        directory, *numbers = run.stdout.readline().split()
        run.kill()
    pids = set(map(int, numbers))
    assert alive(pids) == pids
    sweep()
    assert alive(pids) == set()
    assert not Path(directory).exists()
    assert alive(slurm.processes()), "a living run was swept away"


def test_a_daemon_that_does_not_start_is_named_with_its_log(slurm: Slurm, tmp_path: Path) -> None:
    broken = Slurm(nodes=1, config={"SelectType": "select/of_no_kind"})
    with pytest.raises(ServiceError, match=r"(?s)slurmctld exited.*select/of_no_kind"):
        broken.start()
    with pytest.raises(ServiceError, match="not started"):
        broken.processes()


def test_by_hand_up_status_and_down(slurm: Slurm) -> None:
    directory = Path(f"/tmp/fcs-by-hand-{os.getpid()}")  # noqa: S108 - short, and open to users
    up = _by_hand("up", directory)
    try:
        assert f"export SLURM_CONF={directory}/slurm.conf" in up.stdout.splitlines(), up.stderr
        assert "idle" in _by_hand("status", directory).stdout
        again = _by_hand("up", directory)
        assert again.returncode == 1
        assert "end it first" in again.stderr
    finally:
        down = _by_hand("down", directory)
    assert down.returncode == 0, down.stderr
    assert not directory.exists()
    assert "no cluster" in _by_hand("down", directory).stderr


def _by_hand(action: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.services.slurm", action, "--dir", str(directory)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_directory_with_anything_else_in_it_is_not_touched(slurm: Slurm) -> None:
    directory = Path(slurm.run_as(ALICE, ["mktemp", "-d"]).stdout.strip())
    (directory / "thesis.tex").touch()
    with pytest.raises(ServiceError, match="not ours to empty"):
        Slurm(directory).start()
    assert (directory / "thesis.tex").exists()
    (directory / "thesis.tex").unlink()
    directory.rmdir()


def test_nothing_is_installed_when_all_is_there(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_apt", lambda *words: pytest.fail(f"apt-get {words}"))
    assert install.install(["slurm"]) == []


def test_without_root_the_missing_packages_are_named(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(install.TIERS, "slurm", ("munge", "no-such-package"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ServiceError, match="cannot install no-such-package: this needs root"):
        install.install(["slurm"])


def test_a_package_that_debian_lacks_is_reported_in_apts_words(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(install.TIERS, "slurm", ("munge", "no-such-package"))
    monkeypatch.setattr(install, "_update", lambda: None)
    with pytest.raises(ServiceError, match="Unable to locate package no-such-package"):
        install.install(["slurm"])


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(ServiceError, match="no such tier: slum; there are slurm"):
        install.install(["slum"])
