"""Who acts on a node, with which secrets, HOME and Python, and at what cost?"""

from __future__ import annotations

import ast
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from firecrestspawner import script, singleuser
from tests.unit.singleuser.channel_end import (
    ALIVE,
    API_TOKEN,
    CHANNEL_SECRET,
    FAST,
    RUN,
    SOURCE,
    TICKET_SECRET,
    Hub,
    Launch,
    eventually,
    ticket,
)


@pytest.mark.parametrize(
    "ranks", [{"SLURM_PROCID": "1"}, {"PMIX_RANK": "3", "SLURM_PROCID": "3"}], ids=["srun", "pmix"]
)
def test_other_ranks_of_srun_wait_in_silence_and_leave_when_told(
    hub: Hub, launch: Launch, tmp_path: Path, ranks: dict[str, str]
) -> None:
    file = tmp_path / ".firecrest-x"
    file.write_text("FIRECREST_TICKET=x\n")
    zero = launch(env={"SLURM_PROCID": "0"})
    other = launch(str(file), env=ranks)
    hub.wait("alive", 5)
    # Asleep by now: pause(2) is what it waits in.
    eventually(lambda: "SigCgt" in Path(f"/proc/{other.process.pid}/status").read_text())
    eventually(lambda: waits_for_signals(other.process.pid))
    assert other.process.poll() is None
    assert file.exists(), "only the acting task removes the file"
    other.process.terminate()
    assert other.wait() == (0, "")
    assert len(hub.messages("hello")) == 1
    assert zero.process.poll() is None


def waits_for_signals(pid: int) -> bool:
    """Whether the process catches SIGTERM by now (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"])
def test_other_ranks_of_mpirun_leave_at_once_in_silence(
    hub: Hub, launch: Launch, name: str
) -> None:
    assert launch(env={name: "1"}).wait() == (0, "")
    assert hub.received == []


def test_rank_0_dismisses_the_others_through_the_scheduler(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    scancel = tmp_path / "scancel"
    scancel.write_text('#!/bin/sh\necho "$@" >"$0.called"\n')
    scancel.chmod(0o755)
    hub.start["environment"]["BEHAVIOUR"] = "code 3"
    env = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    launch(env={**env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}).wait()
    assert (tmp_path / "scancel.called").read_text() == "--quiet --signal=TERM 4242.0\n"


def test_a_cleaned_environment_is_made_up_for_by_the_file(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    file = tmp_path / ".firecrest-x"
    file.write_text(f"FIRECREST_TICKET={ticket(hub)}\nFIRECREST_LAUNCHER=x\nSLURM_JOB_ID=7\n")
    launch(str(file), bare=True)
    hub.wait("ready")
    assert hub.wait("hello")["job_id"] == "7"
    assert not file.exists()


def test_of_several_tasks_without_a_rank_the_one_that_gets_the_file_acts(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    file = tmp_path / ".firecrest-x"
    file.write_text(f"FIRECREST_TICKET={ticket(hub)}\n")
    tasks = [launch(str(file), bare=True) for _ in range(4)]
    hub.wait("alive", 5)
    eventually(lambda: all(waits_for_signals(task.process.pid) for task in tasks))
    assert len(hub.messages("hello")) == 1
    for task in tasks:
        task.process.terminate()
    results = sorted(task.wait()[0] for task in tasks)
    assert results == [0, 0, 0, 128 + signal.SIGTERM]


@pytest.mark.parametrize("blob", ["", "nonsense", base64.b64encode(b"{}").decode(), "W10"])
def test_no_ticket_is_one_clear_line(hub: Hub, launch: Launch, blob: str) -> None:
    code, said = launch(env={"FIRECREST_TICKET": blob}).wait()
    assert code == 1
    assert said.startswith("[firecrestspawner] no usable ticket")
    assert said.count("\n") == 1


def test_no_secret_reaches_arguments_children_or_the_log(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    """S1"""
    file = tmp_path / ".firecrest-x"
    file.write_text("leftover")
    job = launch(str(file), env={"SLURM_WAIT": "30", "FIRECREST_WAIT": "1"})
    seen = job.seen()
    hub.wait("alive", 2)
    for pid in (job.process.pid, seen["pid"]):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        for secret in (TICKET_SECRET, CHANNEL_SECRET, API_TOKEN, ticket(hub)):
            assert secret not in arguments
    assert not [name for name in seen["env"] if name.startswith("FIRECREST_")]
    assert "SLURM_WAIT" not in seen["env"], "it would cut short srun in a notebook"
    assert seen["env"]["JUPYTERHUB_API_TOKEN"] == API_TOKEN
    assert TICKET_SECRET not in json.dumps(seen["env"])
    assert not file.exists()
    job.process.terminate()
    _, said = job.wait()
    for secret in (TICKET_SECRET, CHANNEL_SECRET, API_TOKEN, ticket(hub)):
        assert secret not in said


def test_an_unset_home_is_the_accounts(hub: Hub, launch: Launch) -> None:
    job = launch(env={"HOME": ""})
    env = job.seen()["env"]
    assert env["HOME"] == os.path.expanduser("~" + env["USER"])
    assert env["USER"] == env["LOGNAME"]


def test_a_home_that_does_not_exist_is_replaced_by_the_working_directory(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    job = launch(env={"HOME": "/nowhere/alice"})
    env = job.seen()["env"]
    assert env["HOME"] == str(tmp_path)
    assert "JUPYTER_RUNTIME_DIR" not in env


@pytest.mark.parametrize("base", ["TMPDIR", "working directory"])
def test_jupyter_keeps_its_files_elsewhere_when_home_cannot_be_written(
    hub: Hub, launch: Launch, tmp_path: Path, base: str
) -> None:
    (tmp_path / "scratch").mkdir()
    tmpdir = {"TMPDIR": str(tmp_path / "scratch")} if base == "TMPDIR" else {}
    # /proc/self refuses new files even to root, as a read-only or full disk does to all.
    job = launch(env={"HOME": "/proc/self", **tmpdir})
    env = job.seen()["env"]
    runtime = Path(env["JUPYTER_RUNTIME_DIR"])
    assert env["HOME"] == "/proc/self"
    assert runtime.parent.parent == (tmp_path / "scratch" if tmpdir else tmp_path)
    assert runtime.parent.stat().st_mode & 0o777 == 0o700
    assert Path(env["JUPYTER_DATA_DIR"]).parent == runtime.parent
    assert env["JUPYTER_PATH"] == "/proc/self/.local/share/jupyter"
    assert Path(env["JUPYTER_CONFIG_DIR"]).parent == runtime.parent
    assert env["JUPYTER_CONFIG_PATH"] == "/proc/self/.jupyter"
    job.process.terminate()
    job.wait()
    assert not runtime.parent.exists()


def test_a_full_disk_behind_the_log_does_not_end_the_server(hub: Hub, launch: Launch) -> None:
    hub.replies["alive"] = [(502, b""), (502, b""), ALIVE]
    command = [sys.executable, "-c", RUN, str(SOURCE), json.dumps(FAST)]
    job = launch(argv=["/bin/sh", "-c", 'exec "$@" 2>/dev/full', "sh", *command])
    hub.wait("alive", 5)
    assert job.process.poll() is None


def test_the_source_is_python_3_8_and_standard_library_only() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "newer", [None, "import zoneinfo", "'x'.removeprefix('y')", "a = b = {} | {}"]
)
def test_no_name_and_no_syntax_is_newer_than_python_3_8(tmp_path: Path, newer: str | None) -> None:
    """Whether a Python 3.8 is here to run it or not; what is newer would be seen."""
    source = tmp_path / "launcher.py"
    stub = script._STUB.replace("\nexec(", "\n_ = (")
    source.write_text(f"{SOURCE.read_text()}\n{stub}\n{newer or ''}\n")
    vermin = Path(sys.executable).with_name("vermin")
    done = subprocess.run(
        [vermin, "--no-tips", "--violations", "--target=3.8-", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (newer is None), done.stdout + done.stderr


@pytest.mark.parametrize("look", [singleuser.diagnosed, singleuser.tabulated])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_a_listening_socket_is_found_and_no_other(
    look: Callable[[int], set[str]], host: str
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening, socket.socket() as client:
        listening.bind((host, 0))
        port = listening.getsockname()[1]
        assert look(port) == set(), "bound, and not listening yet"
        listening.listen()
        if family == socket.AF_INET:
            client.connect(("127.0.0.1", port))  # its port is the same on the server's side
        assert look(port) == {str(os.fstat(listening.fileno()).st_ino)}


@pytest.mark.parametrize("answer", ["refuses", "has no such protocol"])
def test_a_kernel_that_tells_no_listeners_leaves_its_tables(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    if answer == "refuses":
        monkeypatch.setattr(socket, "AF_NETLINK", 999)
    else:
        monkeypatch.setattr(socket, "IPPROTO_TCP", 250)
    with pytest.raises(OSError, match=r"sock_diag|not supported"):
        singleuser.diagnosed(1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        inode = str(os.fstat(listening.fileno()).st_ino)
        assert singleuser.listeners(listening.getsockname()[1]) == {inode}


def test_a_port_of_which_a_stranger_has_another_address_is_not_chosen() -> None:
    """S11: nobody could tell whom the Hub would reach there."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        assert singleuser.free("127.0.0.2", port), "a server could listen there"
        assert singleuser.choose_port("127.0.0.2", port, port) == 0


def test_a_look_that_takes_long_without_work_is_soon_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node that stands still for seconds does not keep its servers from their users for ten
    times as long."""
    session = object.__new__(singleuser.Session)
    server = SimpleNamespace(process=SimpleNamespace(pid=1), port=1)
    clock = [1000.0]

    def stand_still(_root: int, _inodes: set[str]) -> bool:
        clock[0] += 4.0
        return False

    monkeypatch.setattr(singleuser, "owns", stand_still)
    times = SimpleNamespace(monotonic=lambda: clock[0], thread_time=time.thread_time)
    monkeypatch.setattr(singleuser, "time", times)
    session.look(server)  # type: ignore[arg-type]
    assert 1004.0 < session.look_at < 1005.0
