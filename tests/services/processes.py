"""Which processes belong to a service that we started, and how do we end every one of them?

Daemons are started with two marks in their environment: the service's directory, and the process
that asked for them. The marks are inherited by what daemons start, survive the loss of every pid
file, and are readable in /proc by root; so an old run that was killed can be found and swept.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path

SERVICE_MARK = "FIRECRESTSPAWNER_TESTS_SERVICE"
OWNER_MARK = "FIRECRESTSPAWNER_TESTS_OWNER"
# The value of OWNER_MARK for a service meant to outlive the process that started it.
DETACHED = "detached"


class ServiceError(RuntimeError):
    """A test service could not be installed, started, used or stopped; says why."""


def can_mount() -> bool:
    """Whether this process may mount (capabilities(7): CAP_SYS_ADMIN is number 21)."""
    status = Path("/proc/self/status").read_text()
    return bool(int(re.findall(r"CapEff:\s*([0-9a-f]+)", status)[0], 16) >> 21 & 1)


def marks(directory: Path, *, detached: bool) -> dict[str, str]:
    """The environment marks for daemons of the service in `directory`, started by this process."""
    owner = DETACHED if detached else f"{os.getpid()}:{_started(os.getpid())}"
    return {SERVICE_MARK: str(directory), OWNER_MARK: owner}


def of_service(
    directory: Path, also: Callable[[Set[str]], bool] = lambda entries: False
) -> set[int]:
    """The living processes of the service in `directory`: marked ones and their descendants.

    `also`: whether a process with these environment entries (`KEY=value`) belongs as well: jobs
    get their environment from their submitter, not from our daemons. Zombies do not count. This
    process and its ancestors are never included.
    """
    own = f"{SERVICE_MARK}={directory}"
    parents = _parents()
    found = set()
    for pid in parents:
        entries = _environ(pid)
        if own in entries or also(entries):
            found.add(pid)
    grew = True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grew = bool(children)
    return found - _ancestry(parents)


def services() -> dict[Path, bool]:
    """Directories of the services that have living processes; True where the starter has died.

    A service that was started to outlive its starter is never called an orphan.
    """
    found = {}
    for pid in _parents():
        entries = dict(entry.partition("=")[::2] for entry in _environ(pid))
        if directory := entries.get(SERVICE_MARK):
            starter, _, started = entries.get(OWNER_MARK, DETACHED).partition(":")
            orphan = starter != DETACHED and str(_started(int(starter))) != started
            found[Path(directory)] = orphan
    return found


def end(find: Callable[[], Set[int]], *, within: float = 10.0) -> None:
    """Kill all processes that `find` names, until it names none.

    SIGKILL at once: whoever calls this throws the service's files away too. `find` must reap this
    process's own children. Raises ServiceError if one is left after `within` seconds.
    """
    deadline = time.monotonic() + within
    while left := find():
        if time.monotonic() > deadline:
            names = ", ".join(f"{pid} ({_command(pid)})" for pid in sorted(left))
            raise ServiceError(f"processes that SIGKILL does not end: {names}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def wait_until(ready: Callable[[], bool], what: str, *, within: float) -> None:
    """Return once `ready()` is true; ServiceError that names `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not ready():
        if time.monotonic() > deadline:
            raise ServiceError(f"{what}: not within {within:g} s")
        time.sleep(0.05)


def _ancestry(parents: Mapping[int, int]) -> set[int]:
    line, pid = set(), os.getpid()
    while pid and pid not in line:
        line.add(pid)
        pid = parents.get(pid, 0)
    return line


def _parents() -> dict[int, int]:
    """Parent of every living process (state Z and X left out)."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))) and fields[0] not in "ZX":
            parents[int(name)] = int(fields[1])
    return parents


def _started(pid: int) -> int | None:
    """Start time in clock ticks since boot: with the pid it names one process for good."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _stat(pid: int) -> list[str] | None:
    # proc(5): the command, in parentheses, may itself hold blanks and parentheses.
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _environ(pid: int) -> set[str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return set()
    return set(raw.decode(errors="replace").split("\0"))


def _command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "gone"
    return raw.replace(b"\0", b" ").decode(errors="replace").strip() or "no command line"
