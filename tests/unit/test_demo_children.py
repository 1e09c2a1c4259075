"""Are the demo's processes started, watched and never left behind?"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from firecrestspawner.demo import children
from firecrestspawner.demo.children import Child, DemoError

SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('here', flush=True); time.sleep(60)",
]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with ThreadPoolExecutor(1) as nursery:
        child = Child("sleeper", tmp_path / "log", nursery)
        yield child
        child.stop(signal.SIGKILL)


def start(child: Child, argv: list[str]) -> None:
    """Start it, and wait until it has said so."""
    child.start(argv, os.environ, child.log.parent)
    child.wait_until(lambda: "here" in child.log.read_text(), timeout=10)


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_stops_on_request_and_can_start_again(child: Child) -> None:
    start(child, SLEEPER)
    assert child.stop() == -signal.SIGTERM
    assert not child.running
    start(child, SLEEPER)
    assert child.running


def test_a_child_that_will_not_stop_is_killed(child: Child) -> None:
    start(child, DEAF)
    assert child.stop(timeout=0.2) == -signal.SIGKILL


def test_a_child_is_not_started_twice(child: Child) -> None:
    start(child, SLEEPER)
    with pytest.raises(DemoError, match="already running"):
        child.start(SLEEPER, os.environ, child.log.parent)


def test_a_child_that_ends_early_is_reported_with_its_last_words(child: Child) -> None:
    child.start([sys.executable, "-c", "raise SystemExit('no luck')"], os.environ, Path.cwd())
    with pytest.raises(DemoError, match="no luck"):
        child.wait_until(lambda: False, timeout=10)


def test_a_child_that_does_not_answer_is_reported_in_time(child: Child) -> None:
    start(child, SLEEPER)
    with pytest.raises(DemoError, match="did not answer"):
        child.wait_until(lambda: False, timeout=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's prctl(2)")
def test_children_die_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    source = f"""
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from firecrestspawner.demo.children import Child
child = Child("sleeper", Path("log"), ThreadPoolExecutor(1))
child.start({SLEEPER!r}, os.environ, Path.cwd())
child.wait_until(lambda: "here" in child.log.read_text(), timeout=10)
print(child.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        assert not gone(pid)
        demo.kill()
    assert eventually(lambda: gone(pid))


def test_processes_are_found_by_mark_and_by_place_and_ended(child: Child) -> None:
    environ = os.environ | {children.MARK: "the-test's-own"}
    child.start(DEAF, environ, child.log.parent)
    child.wait_until(lambda: "here" in child.log.read_text(), timeout=10)
    [by_mark] = children.carrying("the-test's-own")
    [by_place] = children.inside(child.log.parent)
    assert by_mark.pid == by_place.pid == child.pid
    children.end([by_mark], patience=0.2)
    assert not child.running
    assert children.carrying("the-test's-own") == []


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    [port] = children.free_ports(1)
    assert children.is_free(port)
    with socket.create_server((children.LOOPBACK, port)):
        assert not children.is_free(port)


def test_free_ports_are_different_and_out_of_the_way_of_outgoing_connections() -> None:
    ports = children.free_ports(5)
    assert len(set(ports)) == 5
    assert all(port in children.PORTS for port in ports)
