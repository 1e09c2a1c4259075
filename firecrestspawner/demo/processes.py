"""How does a job's process come to life, and how is everything it started found and ended?

Run as a program, this file is the guardian: it outlives the process that started it by a moment,
to end the jobs that a killed demo would leave behind. It imports nothing of the package, so that
it can be run by its path.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import psutil

#: Every process of a job inherits this variable: its value is ``<executor>/<job id>/``. Kernels
#: start sessions of their own, so that a session id alone would not find them.
MARKER = "FIRECREST_DEMO_JOB"

_PAUSE = 0.02


def start(
    script: str,
    *,
    env: Mapping[str, str],
    cwd: Path,
    output: Path,
    error: Path | None,
    spool: Path,
) -> subprocess.Popen[bytes]:
    """Run a batch script as leader of its own session.

    The script is read from an unlinked file, so that no other user can ever open it by name.
    Raises OSError if the interpreter, the directory or an output file cannot be used.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(tempfile.TemporaryFile(dir=spool))
        source.write(script.encode())
        source.seek(0)
        stdout = stack.enter_context(_append(output))
        stderr = stdout if error is None else stack.enter_context(_append(error))
        interpreter = shlex.split(script.split("\n", 1)[0][2:])
        return subprocess.Popen(
            [*interpreter, f"/dev/fd/{source.fileno()}"],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[source.fileno()],
            start_new_session=True,
        )


def _append(path: Path) -> BinaryIO:
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def find(marker: str, session: int | None = None) -> list[psutil.Process]:
    """The living processes that carry ``marker`` (a prefix of MARKER's value), or sit in
    ``session`` although they have wiped their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            in_session = session is not None and os.getsid(process.pid) == session
            if in_session or process.environ().get(MARKER, "").startswith(marker):
                found.append(process)
    return found


def end(marker: str, session: int | None = None, patience: float = 5.0) -> None:
    """SIGTERM to all processes of a job; SIGKILL to what is left after ``patience`` seconds.

    Gives up on processes that survive SIGKILL for ten seconds: no signal will ever reach them.
    """
    _signal(find(marker, session), signal.SIGTERM)
    deadline = time.monotonic() + patience
    while (left := find(marker, session)) and time.monotonic() < deadline + 10:
        if time.monotonic() > deadline:
            _signal(left, signal.SIGKILL)
        time.sleep(_PAUSE)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


class Guardian:
    """A process that ends the jobs of one executor as soon as this process is gone.

    It waits for the end of a pipe that only this process holds open, so that SIGKILL counts too.
    """

    def __init__(self, marker: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, marker],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Let it clean up and go; returns when it has."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
