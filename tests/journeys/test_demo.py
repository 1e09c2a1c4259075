"""Does the command that people type show a whole site, and leave nothing of it behind?"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from firecrestspawner.demo import smoke
from firecrestspawner.demo.children import inside
from firecrestspawner.demo.issuer import DEFAULT_USERS
from firecrestspawner.demo.visitor import Visitor

# Each of them starts a whole site from nothing, goes through it, and ends it.
pytestmark = pytest.mark.timeout(300)

STEPS = (
    *("log in", "start a server", "open JupyterLab", "run 6*7 in a kernel"),
    *("stop the server", "look for what is left"),
)
#: Somebody who is not root and owns nothing, on every Linux.
ORDINARY = "nobody"
#: Root's own Python may lie where only root can enter: whoever stands for an ordinary user may look
#: into every directory, and write to none but their own (capabilities(7)).
SETPRIV = (
    *("setpriv", "--reuid", ORDINARY, "--regid", "65534", "--clear-groups"),
    *("--bounding-set=-all,+dac_read_search", "--inh-caps=+dac_read_search"),
    "--ambient-caps=+dac_read_search",
)


def users() -> list[str]:
    """Whoever runs the tests, and, if that is root, somebody who is not."""
    return ["root", "an ordinary user"] if os.geteuid() == 0 else ["an ordinary user"]


@pytest.fixture
def home() -> Iterator[Path]:
    """Where the demo's own files go, and from where its processes start."""
    folder = Path(tempfile.mkdtemp(prefix="fcs-demo-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def demo(home: Path, user: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``firecrestspawner demo`` of ``user``, killed if it is still there in the end."""
    program = str(Path(sys.executable).with_name("firecrestspawner"))
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home)}
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0 and user != "root":
        account = pwd.getpwnam(ORDINARY)
        os.chown(home, account.pw_uid, account.pw_gid)
        prefix = SETPRIV
    with subprocess.Popen(
        [*prefix, program, "demo", *arguments],
        env=environ,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def what_is_left(home: Path) -> list[str]:
    """Of a demo that has ended: files of its own, and processes."""
    found = [str(path) for path in home.glob("firecrestspawner-*")]
    return found + [str(process) for process in inside(home)]


def command(process: psutil.Process) -> str:
    """What it was called with; nothing of one that has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended. Once its parent is gone, too, it is init that reaps it: in a
    container that may take its time."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("user", users())
def test_the_smoke_test_goes_through_it_all(home: Path, user: str):
    """R7: as root, as in a container, and as an ordinary user."""
    with demo(home, user, "--smoke") as process:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
    assert re.findall(r"^ok    (.*) \([0-9.]+ s\)$", said, re.M) == list(STEPS)
    assert re.search(r"^Everything works \([0-9.]+ s\)\.$", said, re.M)
    assert what_is_left(home) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_at_a_signal_a_site_at_work_ends_with_all_its_processes(home: Path, number: signal.Signals):
    """Ctrl-C, or a service manager's stop, while a server runs."""
    with demo(home, users()[0], "--port", "0") as process:
        assert process.stdout is not None
        welcome = ""
        while "Ctrl-C" not in welcome:
            line = process.stdout.readline()
            assert line, welcome
            welcome += line
        [url] = re.findall(r"JupyterHub +(http://127\.0\.0\.1:\d+)$", welcome, re.M)
        with Visitor(url) as visitor:
            alice = next(user for user in DEFAULT_USERS if user.name == "alice")
            assert f"{alice.name} (password: {alice.password})" in welcome
            smoke.log_in(visitor, alice.name, alice.password)
            smoke.start(visitor, alice.name)
            family = psutil.Process(process.pid).children(recursive=True) + inside(home)
            names = " ".join(command(each) for each in family)
            for part in ("configurable-http-proxy", "-m jupyterhub", "jupyterhub-singleuser"):
                assert part in names, names
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert [each for each in family if runs(each)] == []
    assert what_is_left(home) == []
