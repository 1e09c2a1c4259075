"""How are the demo's proxy and Hub started, watched, and never left behind?

Each gets a session of its own (Ctrl-C at the terminal reaches the demo alone, which then stops
them in order) and a *leash*: on Linux the kernel kills it when the demo dies, however that
happens. Jobs are the executor's concern.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

LOOPBACK = "127.0.0.1"

# Below the kernel's default range for outgoing connections (32768...), so that no passing
# connection takes a port while the process that owns it is being restarted.
PORTS = range(10_000, 32_000)

# Every child, and what it starts, carries this variable: its value is the demo's own.
MARK = "FIRECREST_DEMO"

# A child is told to die with its parent by itself, after the fork: preexec_fn is unsafe in a
# process with threads, and this one has some. 1 is PR_SET_PDEATHSIG, 9 SIGKILL; the parent may
# have died before the call, hence the look at it afterwards.
_LEASH = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it."""


class Child:
    """One process of the demo: started, stopped or killed, and started again.

    ``nursery`` is the thread that starts it. The leash is tied to the *thread* that forked
    (prctl(2), PR_SET_PDEATHSIG), so that thread must live as long as the demo does.
    """

    def __init__(self, name: str, log: Path, nursery: ThreadPoolExecutor) -> None:
        self.name = name
        self.log = log
        self._nursery = nursery
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; :class:`DemoError` when it was never started."""
        if self._process is None:
            raise DemoError(f"the {self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self, argv: Sequence[str], environ: Mapping[str, str], directory: Path) -> None:
        """Start ``argv``, its output appended to the log; ``environ`` is the whole of it."""
        if self.running:
            raise DemoError(f"the {self.name} is already running")
        self._process = self._nursery.submit(self._spawn, argv, environ, directory).result()

    def stop(self, with_signal: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send the signal, wait ``timeout`` seconds, then kill; the exit code as Popen has it."""
        if self._process is None:
            return 0
        if self.running:
            self._process.send_signal(with_signal)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait ``timeout`` seconds for ``ready``; an error quotes the end of the log."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.running:
                raise DemoError(f"the {self.name} ended; {self._log_end()}")
            if time.monotonic() > deadline:
                raise DemoError(
                    f"the {self.name} did not answer in {timeout:.0f} s; {self._log_end()}"
                )
            time.sleep(0.05)

    def _spawn(
        self, argv: Sequence[str], environ: Mapping[str, str], directory: Path
    ) -> subprocess.Popen[bytes]:
        # -I -S: the leash needs nothing but the standard library, and takes no time to start.
        leash = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid())]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*leash, *argv],
                env=dict(environ),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log_end(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"the end of {self.log}:", *text.splitlines()[-lines:]])


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """``count`` different ports of :data:`PORTS` that nobody listens on now."""
    candidates = random.sample(PORTS, k=1_000)
    found = [port for port in candidates[: 10 * count] if is_free(port, host)][:count]
    if len(found) < count:
        raise DemoError("there is no free port on this machine")
    return found


def free_port_range(size: int, hosts: Iterable[str]) -> tuple[int, int]:
    """The ends (both included) of ``size`` consecutive ports of which the first is free."""
    hosts = list(hosts)
    for low in random.sample(PORTS[:-size], k=100):
        if all(is_free(low, host) for host in hosts):
            return low, low + size - 1
    raise DemoError("there is no free range of ports on this machine")


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on ``port`` of ``host``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def carrying(mark: str) -> list[psutil.Process]:
    """Processes that have :data:`MARK` set to ``mark`` in their environment, this one excepted."""

    def looks_so(process: psutil.Process) -> bool:
        return process.environ().get(MARK) == mark

    return _processes(looks_so)


def inside(directory: Path) -> list[psutil.Process]:
    """Processes whose working directory is ``directory`` or below it, this one excepted."""

    def looks_so(process: psutil.Process) -> bool:
        return Path(process.cwd() or "/").is_relative_to(directory)

    return _processes(looks_so)


def _processes(looks_so: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        # Gone meanwhile, or another user's and hidden from us: none of ours.
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and looks_so(process)
            ):
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process], patience: float = 3.0) -> None:
    """SIGTERM, ``patience`` seconds, SIGKILL."""
    alive = list(processes)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(alive, timeout=patience)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=patience)
