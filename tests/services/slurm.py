"""How do the tests get a real Slurm, with accounting and several nodes, on this one host?

    with Slurm() as slurm:
        slurm.run_as(ALICE, ["sbatch", "--wrap", "hostname"])

By hand, for the demo's Slurm executor (root):

    python -m tests.services.slurm up --dir /tmp/cluster    # prints the exports
    python -m tests.services.slurm down --dir /tmp/cluster

Everything lies in one directory: keys, sockets, state, logs and the database. No daemon of the
system is used or touched. Needs root, since slurmd starts jobs as their users.

Addresses are loopback addresses, one for each node; but Slurm's daemons listen on every interface
(bound to one, they take the address of the host's name, not the node's) and rely on munge.
Names of nodes are known to Slurm only: on each of them, `hostname` is this host's.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import TracebackType

from firecrestspawner.demo.children import PORTS, is_free
from tests.services import install, processes
from tests.services.processes import ServiceError, wait_until
from tests.services.slurm_config import PARTITIONS, Layout, Node
from tests.services.slurm_daemons import ACCOUNTS, Daemons, administer
from tests.services.users import OPERATOR, USERS, empty_homes, ensure, public_directory, run_as

_STAMP = "made-by-firecrestspawner-tests"
# unix(7): sun_path holds 108 bytes with the final NUL; the longest is a step's socket.
_LONGEST_DIRECTORY = 107 - len("/spool/nid001/nid001_1234567890.4294967290")
# Below net.ipv4.ip_local_port_range, so that no passing client takes a port before its daemon, and
# below children.PORTS, from which every other service of the tests, side by side, takes its own.
_PORTS = range(7_000, PORTS.start)


class Slurm:
    """A cluster of `nodes` nodes with `cpus` CPUs each, usable once `start()` has returned.

    directory: where everything goes; default: a new one in the temporary directory. It must be
        new, empty or left by a dead run, in one that all users can enter; `stop()` removes it.
    config: slurm.conf settings that replace or join ours, e.g. `{"PrivateData": "jobs"}`.
    detached: the cluster outlives this process, until `down()` is called for its directory.

    Constants: `users`, `operator` (the service account's user), `accounts`, `partitions` (the
    default one first). Once started: `directory`, `env`, `nodes`, `timings`.
    """

    users = USERS
    operator = OPERATOR
    accounts = ACCOUNTS
    partitions = PARTITIONS

    def __init__(
        self,
        directory: Path | None = None,
        *,
        nodes: int = 4,
        cpus: int = 4,
        config: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        self._wanted = directory
        self._nodes, self._cpus = nodes, cpus
        self._config = dict(config or {})
        self._detached = detached
        self._running: Daemons | None = None

    def __enter__(self) -> Slurm:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Bring the cluster up: every node idle, users and accounts known.

        Installs what is missing, and clears away what killed runs have left. Raises ServiceError,
        with the tails of all logs, when a daemon does not come up.
        """
        if self._running:
            raise ServiceError("this Slurm is already started")
        install.install(["slurm"])
        sweep()
        ensure()
        if not processes.services():
            empty_homes()
        layout = _layout(_prepared(self._wanted), self._nodes, self._cpus)
        self._running = Daemons(layout, self._config, detached=self._detached)
        try:
            self._running.start()
        except BaseException as error:
            tails = self.logs()
            self.stop()
            if isinstance(error, ServiceError):
                raise ServiceError(f"{error}\n{tails}") from error
            raise

    def stop(self) -> None:
        """End every daemon, step and job, and remove the directory. Twice is not an error.

        A process that left its job's tree and dropped its environment, too, is not found: without
        cgroups Slurm does not find such a one either. Raises ServiceError when one survives.
        """
        if self._running:
            _clear(self.directory, reap=self._running.reap)
            self._running.collect()
            self._running = None

    @property
    def directory(self) -> Path:
        """Where everything of this cluster lies."""
        return self._daemons.layout.directory

    @property
    def env(self) -> dict[str, str]:
        """What Slurm's commands need in their environment to speak to this cluster."""
        return {"SLURM_CONF": str(self._daemons.layout.slurm_conf)}

    @property
    def nodes(self) -> dict[str, str]:
        """Node name -> its loopback address."""
        return {node.name: node.address for node in self._daemons.layout.nodes}

    @property
    def timings(self) -> dict[str, float]:
        """Seconds that each part of the start took."""
        return self._daemons.timings

    def processes(self) -> set[int]:
        """Process ids of all daemons, steps and jobs of this cluster."""
        return _processes(self.directory)

    def run_as(
        self,
        user: str,
        argv: Sequence[str],
        input: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as `user`, as if on this cluster's login node; see `users.run_as`."""
        merged = self.env | dict(env or {})
        return run_as(user, argv, input=input, env=merged, check=check, timeout=timeout)

    def administer(self, *argv: str) -> str:
        """Standard output of an administrator's command, e.g. `"scontrol", "show", "nodes"`."""
        return administer(self._daemons.layout.slurm_conf, *argv)

    def without_controller(self) -> contextlib.AbstractContextManager[None]:
        """Nobody answers for the cluster; jobs that run go on."""
        return self._daemons.without_controller()

    def state(self, job: str) -> str:
        """The job's state as accounting has it, e.g. `COMPLETED`; "" while unknown there."""
        shown = self.administer("sacct", "-X", "-n", "-P", "-o", "State", "-j", job)
        return shown.strip().split(" ")[0]

    def wait_for(self, job: str, *states: str, within: float = 30.0) -> str:
        """The job's state once it is one of `states`; ServiceError after `within` seconds."""
        seen = ""

        def arrived() -> bool:
            nonlocal seen
            seen = self.state(job)
            return seen in states

        wait_until(arrived, f"job {job} {' or '.join(states)}", within=within)
        return seen

    def logs(self, lines: int = 15) -> str:
        """The last lines of every daemon's log."""
        tails = []
        for log in sorted(self.directory.glob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {log.name}", *tail]))
        return "\n".join(tails)

    @property
    def _daemons(self) -> Daemons:
        if self._running is None:
            raise ServiceError("this Slurm is not started")
        return self._running


def sweep() -> None:
    """End clusters whose starter died without stopping them, and remove their directories."""
    for directory, orphan in processes.services().items():
        if orphan:
            _clear(directory)


def down(directory: Path) -> None:
    """End the cluster in `directory`, whoever started it; ServiceError if there is none."""
    directory = directory.resolve()
    if not (directory / _STAMP).exists():
        raise ServiceError(f"no cluster of ours in {directory}")
    _clear(directory)


def _processes(directory: Path) -> set[int]:
    conf = f"SLURM_CONF={directory / 'slurm.conf'}"

    def in_a_job(entries: Set[str]) -> bool:
        return conf in entries and any(entry.startswith("SLURM_JOB_ID=") for entry in entries)

    return processes.of_service(directory, in_a_job)


def _clear(directory: Path, reap: Callable[[], None] = lambda: None) -> None:
    def left() -> set[int]:
        reap()
        return _processes(directory)

    processes.end(left)
    if (directory / _STAMP).exists():
        shutil.rmtree(directory)


def _prepared(wanted: Path | None) -> Path:
    """The empty, stamped directory of a new cluster, which every user can enter."""
    name = f"fcs-slurm-{secrets.token_hex(4)}"
    directory = (wanted or Path(tempfile.gettempdir(), name)).resolve()
    if len(str(directory)) > _LONGEST_DIRECTORY:
        raise ServiceError(f"{directory}: over {_LONGEST_DIRECTORY} characters, sockets need less")
    if closed := [str(parent) for parent in directory.parents if not parent.stat().st_mode & 1]:
        raise ServiceError(f"{directory}: other users cannot pass through {', '.join(closed)}")
    if (directory / _STAMP).exists():
        if _processes(directory):
            raise ServiceError(f"a cluster is up in {directory}: end it first")
        shutil.rmtree(directory)
    public_directory(directory)
    if any(directory.iterdir()):
        raise ServiceError(f"{directory} is not empty, and not ours to empty")
    (directory / _STAMP).touch()
    return directory


def _layout(directory: Path, nodes: int, cpus: int) -> Layout:
    addresses = [f"127.0.0.{10 + number}" for number in range(1, nodes + 1)]
    controller, database, *ports = _free_ports(2 + nodes)
    return Layout(
        directory=directory,
        host=socket.gethostname().partition(".")[0],
        controller_port=controller,
        database_port=database,
        nodes=tuple(
            Node(f"nid{number:03}", address, port)
            for number, (address, port) in enumerate(zip(addresses, ports, strict=True), start=1)
        ),
        cpus=cpus,
    )


def _free_ports(count: int) -> list[int]:
    """Different ports: slurmctld wants its own on every address."""
    # Random, so that two runs at one time do not walk along the same ports.
    found = [port for port in random.sample(_PORTS, k=100) if is_free(port, "")][:count]
    if len(found) < count:
        raise ServiceError("no free ports")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """up, down or status; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tests.services.slurm", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--dir", type=Path, required=True, dest="directory")
    asked = parser.parse_args(arguments)
    directory = asked.directory.resolve()
    try:
        if asked.action == "up":
            slurm = Slurm(directory, detached=True)
            slurm.start()
            for name, value in slurm.env.items():
                print(f"export {name}={shlex.quote(value)}")
            print(f"# users: {', '.join(slurm.users)}; service account: {slurm.operator}")
            print(f"# nodes: {slurm.nodes}; seconds: {slurm.timings}")
        elif asked.action == "down":
            down(directory)
        else:
            print(administer(directory / "slurm.conf", "sinfo", "-N", "-l"), end="")
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
