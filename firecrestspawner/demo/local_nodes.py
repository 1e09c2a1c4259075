"""Which nodes has the ``local`` cluster, and which of them does a job get?"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any


class Nodes:
    """Nodes of this machine: (name, loopback address) pairs. ``busy`` names a node per job."""

    def __init__(self, nodes: Sequence[tuple[str, str]]) -> None:
        self._nodes = list(nodes)
        self.names = [name for name, _ in nodes]

    def pick(self, count: int, busy: Sequence[str]) -> list[str]:
        """The ``count`` least busy nodes, in the order of the list."""
        least = sorted(self.names, key=busy.count)[:count]
        return sorted(least, key=self.names.index)

    def rows(self, busy: Sequence[str], partitions: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of ``/status/{system}/nodes``."""
        cpus = os.cpu_count() or 1
        return [
            {
                "sockets": 1,
                "cores": cpus,
                "threads": 1,
                "cpus": cpus,
                "cpuLoad": round(os.getloadavg()[0], 2),
                "freeMemory": 4000,
                "features": "demo",
                "name": name,
                "address": address,
                "hostname": name,
                "state": ["MIXED" if name in busy else "IDLE"],
                "partitions": list(partitions),
                "weight": 1,
                "allocMemory": 4000,
                "allocCpus": min(busy.count(name), cpus),
                "idleCpus": max(cpus - busy.count(name), 0),
            }
            for name, address in self._nodes
        ]

    def partitions(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of ``/status/{system}/partitions``."""
        count = len(self._nodes)
        cpus = count * (os.cpu_count() or 1)
        return [
            {"name": name, "cpus": cpus, "totalNodes": count, "partition": "UP"} for name in names
        ]


def hostlist(names: Sequence[str]) -> str:
    """Slurm's notation for several nodes of one name and number: ``nid[001-003,005]``."""
    parts = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    if len(names) < 2 or not all(parts) or len({part[1] for part in parts if part}) > 1:
        return ",".join(names)
    numbers = [part[2] for part in parts if part]
    runs: list[list[str]] = []
    for number in numbers:
        if runs and int(number) == int(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    prefix = next(part[1] for part in parts if part)
    return f"{prefix}[{','.join(spans)}]"
