"""What do slurm.conf and slurmdbd.conf say for a whole cluster on one host? Pure text, no I/O.

Sources: slurm.conf(5), slurmdbd.conf(5) and "Multiple slurmd support" in Slurm's programmer guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CLUSTER = "testcluster"
DEFAULT_PARTITION, DEBUG_PARTITION = "normal", "debug"
PARTITIONS = (DEFAULT_PARTITION, DEBUG_PARTITION)
#: What the last node alone has.
FEATURE = "fast"


@dataclass(frozen=True)
class Node:
    """A compute node: its name, its own loopback address, and the port of its slurmd."""

    name: str
    address: str
    port: int


@dataclass(frozen=True)
class Layout:
    """Where the daemons of one cluster keep their things, and where they listen."""

    directory: Path
    host: str
    controller_port: int
    database_port: int
    nodes: tuple[Node, ...]
    cpus: int

    @property
    def slurm_conf(self) -> Path:
        return self.directory / "slurm.conf"

    @property
    def slurmdbd_conf(self) -> Path:
        """Slurm looks for it beside slurm.conf."""
        return self.directory / "slurmdbd.conf"

    @property
    def munge_socket(self) -> Path:
        return self.directory / "munge" / "socket"

    @property
    def database_socket(self) -> Path:
        return self.directory / "db" / "socket"


def slurm_conf_text(layout: Layout, overrides: Mapping[str, str]) -> str:
    """The text of slurm.conf; `overrides` replaces or adds settings by name."""
    settings = {**_settings(layout), **overrides}
    lines = [f"{key}={value}" for key, value in settings.items()]
    for node in layout.nodes:
        feature = f" Feature={FEATURE}" if node is layout.nodes[-1] else ""
        lines.append(
            f"NodeName={node.name} NodeHostname={layout.host} NodeAddr={node.address} "
            f"Port={node.port} CPUs={layout.cpus} RealMemory=8000 State=UNKNOWN{feature}"
        )
    lines += [
        f"PartitionName={DEFAULT_PARTITION} Nodes=ALL Default=YES MaxTime=1-0 DefaultTime=1:0:0",
        f"PartitionName={DEBUG_PARTITION} Nodes={layout.nodes[-1].name} MaxTime=30 DefaultTime=10",
    ]
    return "\n".join(lines) + "\n"


def slurmdbd_conf_text(layout: Layout) -> str:
    """The text of slurmdbd.conf; the database's socket is named by MYSQL_UNIX_PORT instead."""
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket}",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": str(layout.database_port),
        "PidFile": str(layout.directory / "slurmdbd.pid"),
        "SlurmUser": "root",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "root",
        "StorageLoc": "slurm_acct_db",
        # How often buffered job records reach the database; sacct reads only from there.
        "CommitDelay": "1",
    }
    return "\n".join(f"{key}={value}" for key, value in settings.items()) + "\n"


def _settings(layout: Layout) -> dict[str, str]:
    directory = layout.directory
    return {
        "ClusterName": CLUSTER,
        "SlurmctldHost": f"{layout.host}(127.0.0.1)",
        "SlurmctldPort": str(layout.controller_port),
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket}",
        "CredType": "cred/munge",
        "StateSaveLocation": str(directory / "state"),
        "SlurmdSpoolDir": str(directory / "spool" / "%n"),
        "SlurmctldPidFile": str(directory / "slurmctld.pid"),
        "SlurmdPidFile": str(directory / "spool" / "%n.pid"),
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": str(layout.database_port),
        "AccountingStoragePass": str(layout.munge_socket),
        "AccountingStorageEnforce": "associations",
        "JobAcctGatherType": "jobacct_gather/none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        # Nodes offer what is written here, whatever the machine has.
        "SlurmdParameters": "config_overrides",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=2,bf_interval=2",
        "MessageTimeout": "10",
        "SlurmctldTimeout": "10",
        # Not smaller: a busy two-core machine must not look like a dead node.
        "SlurmdTimeout": "30",
        "KillWait": "5",
        "ReturnToService": "2",
        "SlurmctldDebug": "verbose",
        "SlurmdDebug": "verbose",
    }
