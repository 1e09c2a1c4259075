"""Which Unix users do the tests act as, and how is a command run as one of them?

The accounts are created when absent and kept: removing one would pull the ground from under
another test run on the same machine. That is why their homes lie outside any run's directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.services.processes import ServiceError

BASE = Path("/opt/firecrestspawner-tests")
HOMES = BASE / "home"
ALICE, BOB, OPERATOR = "fcsalice", "fcsbob", "fcsvc"
USERS = (ALICE, BOB)
PATH = "/usr/local/bin:/usr/bin:/bin"


def ensure(names: Sequence[str] = (*USERS, OPERATOR)) -> None:
    """Create the accounts that are absent, and the homes that are.

    Raises ServiceError without root or when useradd refuses.
    """
    if os.geteuid() != 0:
        raise ServiceError("making test users needs root")
    for directory in (BASE, HOMES):
        public_directory(directory)
    with exclusive(BASE / ".users.lock"):  # useradd gives up where another one holds its lock
        for name in names:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                _useradd(name)
                entry = pwd.getpwnam(name)
            _make_home(entry)


def public_directory(path: Path) -> None:
    """Make the directory unless it is there; every user may enter it, whatever our umask."""
    path.mkdir(exist_ok=True)
    path.chmod(0o755)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process is in an `exclusive` block with this lock file."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def empty_homes(names: Sequence[str] = (*USERS, OPERATOR)) -> None:
    """Remove what earlier tests left in the homes that are ours (a .bashrc, Jupyter's settings)."""
    for name in names:
        entry = pwd.getpwnam(name)
        if Path(entry.pw_dir).parent == HOMES:
            # A process of an earlier test may still write there: what remains is no failure.
            shutil.rmtree(entry.pw_dir, ignore_errors=True)
            _make_home(entry)


def run_as(
    user: str,
    argv: Sequence[str],
    *,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` as `user`, in their home, with a login-like environment plus `env`.

    Raises ServiceError, with what it wrote to standard error, when it fails and `check` is set;
    subprocess.TimeoutExpired after `timeout` seconds.
    """
    entry = pwd.getpwnam(user)
    done = subprocess.run(
        list(argv),
        input=input or "",
        env=login_environment(user) | dict(env or {}),
        cwd=entry.pw_dir,
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        umask=0o022,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if check and done.returncode:
        raise ServiceError(f"{argv[0]} as {user} exited {done.returncode}: {done.stderr.strip()}")
    return done


def login_environment(user: str) -> dict[str, str]:
    """What a login shell of `user` starts from; nothing of the caller's own environment."""
    entry = pwd.getpwnam(user)
    return {
        "HOME": entry.pw_dir,
        "USER": user,
        "LOGNAME": user,
        "SHELL": entry.pw_shell,
        "PATH": PATH,
        "LANG": "C.UTF-8",
    }


def _useradd(name: str) -> None:
    command = ["useradd", "--no-create-home", "--user-group", "--shell", "/bin/bash"]
    done = subprocess.run(
        [*command, "--home-dir", str(HOMES / name), name],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"useradd {name}: {done.stderr.strip()}")


def _make_home(entry: pwd.struct_passwd) -> None:
    home = Path(entry.pw_dir)
    if not home.exists():
        public_directory(home)
        os.chown(home, entry.pw_uid, entry.pw_gid)
