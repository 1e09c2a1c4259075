"""How are the daemons of one cluster started, in which order, and when is each of them ready?"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.services import processes, users
from tests.services.processes import ServiceError, wait_until
from tests.services.slurm_config import (
    CLUSTER,
    DEFAULT_PARTITION,
    Layout,
    slurm_conf_text,
    slurmdbd_conf_text,
)

ACCOUNTS = ("proj1", "proj2")
# user -> accounts, the default one first
MEMBERS: dict[str, tuple[str, ...]] = {
    users.ALICE: ("proj1", "proj2"),
    users.BOB: ("proj2",),
    users.OPERATOR: ("proj1",),
}
_SBIN = "/usr/sbin:/usr/bin:/sbin:/bin"


def administer(slurm_conf: Path, *argv: str) -> str:
    """Standard output of a command run as Slurm's administrator; ServiceError when it fails."""
    try:
        done = subprocess.run(
            argv,
            env={"PATH": _SBIN, "LANG": "C.UTF-8", "SLURM_CONF": str(slurm_conf)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{shlex.join(argv)}: no answer in {error.timeout:g} s") from error
    if done.returncode:
        raise ServiceError(f"{shlex.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Daemons:
    """munged, mariadbd, slurmdbd, slurmctld and one slurmd per node, as children of this process.

    `timings`: seconds that each part of the start took.
    """

    def __init__(self, layout: Layout, config: Mapping[str, str], *, detached: bool) -> None:
        self.layout = layout
        self.timings: dict[str, float] = {}
        self._config = config
        self._marks = processes.marks(layout.directory, detached=detached)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all of them, each when what it needs is ready; ServiceError when one is not."""
        layout = self.layout
        layout.slurm_conf.write_text(slurm_conf_text(layout, self._config))
        layout.slurm_conf.chmod(0o644)
        layout.slurmdbd_conf.touch(mode=0o600)
        layout.slurmdbd_conf.write_text(slurmdbd_conf_text(layout))
        for name in ("state", "spool", *(f"spool/{node.name}" for node in layout.nodes)):
            users.public_directory(layout.directory / name)
        with self._timed("munge"):
            self._start_munge()
        with self._timed("mariadb"):
            self._start_database()
        with self._timed("slurmdbd"):
            self._daemon("slurmdbd", "-D", MYSQL_UNIX_PORT=str(layout.database_socket))
            self._await("slurmdbd", lambda: _accepts(self.layout.database_port))
            self._fill_accounts()
        with self._timed("slurmctld and slurmd"):
            self._daemon("slurmctld", "-D")
            for node in layout.nodes:
                self._daemon(f"slurmd-{node.name}", "-D", "-N", node.name)
            self._await("slurmctld", lambda: _accepts(self.layout.controller_port))
            self._await("slurmctld and slurmd", self._nodes_idle)

    def _start_munge(self) -> None:
        directory = self.layout.munge_socket.parent
        users.public_directory(directory)
        key = directory / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        options = {"key-file": key, "socket": self.layout.munge_socket}
        options |= {f"{name}-file": directory / name for name in ("log", "pid", "seed")}
        self._daemon("munged", "--foreground", *(f"--{k}={v}" for k, v in options.items()))
        self._await("munged", self.layout.munge_socket.exists)

    def _start_database(self) -> None:
        home = self.layout.database_socket.parent
        home.mkdir(mode=0o700)
        shutil.chown(home, "mysql", "mysql")
        # Durability is worth nothing here, so no file operation waits for the disk.
        options = [
            "--no-defaults",
            f"--datadir={home / 'data'}",
            "--user=mysql",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--skip-innodb-doublewrite",
        ]
        log = self.layout.directory / "mariadb-install.log"
        with log.open("wb") as output:
            made = subprocess.run(
                ["mariadb-install-db", *options, "--skip-test-db"],
                env={"PATH": _SBIN},
                cwd=home,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if made.returncode:
            raise ServiceError("mariadb-install-db failed")
        names = (f"--socket={self.layout.database_socket}", f"--pid-file={home / 'pid'}")
        # Small, and the lock timeout that Slurm's accounting guide asks for.
        sizes = ("--innodb-buffer-pool-size=128M", "--innodb-lock-wait-timeout=900")
        self._daemon("mariadbd", *options, *names, *sizes, "--skip-networking")
        self._await("mariadbd", self.layout.database_socket.exists)

    def _fill_accounts(self) -> None:
        add = ("sacctmgr", "-i", "-Q", "add")
        self._administer(*add, "cluster", CLUSTER)
        self._administer(*add, "account", ",".join(ACCOUNTS), "Organization=tests")
        for user, accounts in MEMBERS.items():
            level = ("AdminLevel=Operator",) if user == users.OPERATOR else ()
            names = f"Account={','.join(accounts)}"
            self._administer(*add, "user", user, names, f"DefaultAccount={accounts[0]}", *level)

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """slurmctld is ended; afterwards another one reads its state and takes up its jobs.

        Not by SIGKILL: it would take jobs for pending that began since it last saved its state, and
        start them a second time.
        """
        controller = self._children["slurmctld"]
        controller.terminate()
        controller.wait()
        try:
            yield
        finally:
            self._daemon("slurmctld", "-D")
            self._await("slurmctld", lambda: _accepts(self.layout.controller_port))

    def reap(self) -> None:
        """Collect the exit codes of daemons that have ended, so that none stays as a zombie."""
        for child in self._children.values():
            child.poll()

    def collect(self) -> None:
        """Wait for the exit codes of daemons that were killed: one may take a moment to be gone,
        and cannot be told from one that is until then."""
        for child in self._children.values():
            child.wait(10)

    def _administer(self, *argv: str) -> str:
        return administer(self.layout.slurm_conf, *argv)

    def _nodes_idle(self) -> bool:
        with contextlib.suppress(ServiceError):
            shown = self._administer("sinfo", "-h", "-N", "-p", DEFAULT_PARTITION, "-o", "%T")
            return shown.split() == ["idle"] * len(self.layout.nodes)
        return False

    def _daemon(self, name: str, *options: str, **environment: str) -> None:
        """Start a daemon in the foreground, as our child, writing to its own log."""
        layout = self.layout
        program = name.partition("-")[0]
        env = {"PATH": _SBIN, "LANG": "C.UTF-8", "SLURM_CONF": str(layout.slurm_conf)}
        env |= environment | self._marks
        with (layout.directory / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [program, *options],
                env=env,
                cwd=layout.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                umask=0o022,
                start_new_session=True,  # a Ctrl-C for the tests is not one for the daemons
            )

    def _await(self, name: str, ready: Callable[[], bool], within: float = 60.0) -> None:
        def ready_or_dead() -> bool:
            for child, process in self._children.items():
                if process.poll() is not None:
                    raise ServiceError(f"{child} exited with {process.returncode}")
            return ready()

        wait_until(ready_or_dead, f"{name} ready", within=within)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.timings[part] = round(time.monotonic() - begun, 2)


def _accepts(port: int) -> bool:
    # Slurm's own commands would retry for many seconds, while a daemon may have died long since.
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
