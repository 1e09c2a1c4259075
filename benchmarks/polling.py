"""What does it cost the Hub to know how N servers are?

In one run, against one stand-in: the job monitor (a list a tick); a plain spawner that asks for its
own job with a client a call, as a spawner without a monitor would; and batchspawner, which runs
``squeue`` for each of its servers (here a script that answers at once).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import getpass
import json
import logging
import os
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from batchspawner import SlurmSpawner
from firecrest.v2 import AsyncFirecrest

from benchmarks.cluster import JOB_NAME, Cluster, cluster, user
from benchmarks.measure import Load, load
from firecrestspawner.client import FirecREST
from firecrestspawner.models import Secret
from firecrestspawner.monitor import JobMonitor
from firecrestspawner.service import ServiceAccount

SIZES = (10, 100, 1_000, 10_000)
SYSTEMS = (1, 10)
#: Looks of the monitor that are measured, and polls of the others, which cost milliseconds each.
TICKS = 5
POLLS = 200


class Account(ServiceAccount):
    """A service account that always has a token."""

    async def get(self, min_validity: float = 0) -> Secret:
        return Secret("service")

    async def aclose(self) -> None:
        pass


@dataclass
class Row:
    """One size: costs of a tick, and what a plain poll costs beside it."""

    servers: int
    systems: int
    requests: float
    cpu_ms: float
    stall_ms: float
    notice_s: float
    bytes_each: float
    us_each: float
    plain_us: float
    batch_us: float
    batch_children_us: float

    @property
    def ratio(self) -> float:
        """How often a server costs the plain poll what it costs the monitor."""
        return self.plain_us / self.us_each


def run(rounds: int) -> list[Row]:
    """Print a row for each size; ``rounds`` is how often each is measured, the median counts."""
    logging.getLogger("firecrestspawner").setLevel(logging.ERROR)
    rows = [
        asyncio.run(_measure(servers, systems, max(1, rounds // 3)))
        for systems in SYSTEMS
        for servers in SIZES
        if servers >= systems
    ]
    print("how N servers are, a tick (plain: a client a call; batchspawner: squeue a call)")
    print("                                                   a server:    µs of the Hub's CPU")
    print(
        "  servers  systems  requests  CPU ms  stall ms  notice s     bytes    ours   plain  "
        "batchspawner (its squeue)  plain/ours"
    )
    for row in rows:
        print(
            f"  {row.servers:7}  {row.systems:7}  {row.requests:8.1f}  {row.cpu_ms:6.1f}  "
            f"{row.stall_ms:8.1f}  {row.notice_s:8.2f}  {row.bytes_each:8.0f}  {row.us_each:6.1f}  "
            f"{row.plain_us:6.0f}  {row.batch_us:12.0f} ({row.batch_children_us:10.0f})  "
            f"{row.ratio:10.0f}"
        )
    print("  (goals: one request a system; stalls of 20 ms at most at 1,000 servers, of 50 ms at")
    print("  10,000; plain/ours at least 100 at 1,000)")
    return rows


async def _measure(servers: int, systems: int, rounds: int) -> Row:
    with cluster(servers, systems) as firecrest, _squeue() as squeue:
        client = FirecREST(firecrest.url)
        account = Account()
        monitors = [JobMonitor(client, str(n), account, JOB_NAME) for n in range(systems)]
        tracemalloc.start()
        watches = []
        for number in range(servers):
            watch = monitors[number % systems].watch(str(number), user(str(number)))
            watch.starting = False
            watches.append(watch)
        for monitor in monitors:
            await monitor.tick()
        before_ticks = firecrest.requests()
        gc.collect()
        bytes_each = tracemalloc.get_traced_memory()[0] / servers
        tracemalloc.stop()
        loads = []
        for _ in range(TICKS * rounds):
            async with load() as measured:
                await asyncio.gather(*(monitor.tick() for monitor in monitors))
            loads.append(measured)
        requests = firecrest.requests() - before_ticks
        cpu = sorted(each.cpu for each in loads)[len(loads) // 2]
        began = time.monotonic()
        firecrest.end("0")
        while not watches[0].over:
            await monitors[0].tick()
        notice = time.monotonic() - began
        await client.aclose()
        plain = await _each(POLLS, lambda number: _plain_poll(firecrest, number % servers, systems))
        batch = await _batchspawner(squeue)
    return Row(
        servers=servers,
        systems=systems,
        requests=requests.total() / len(loads),
        cpu_ms=cpu * 1000,
        stall_ms=max(each.stall for each in loads) * 1000,
        notice_s=notice,
        bytes_each=bytes_each,
        us_each=cpu / servers * 1e6,
        plain_us=plain.cpu / POLLS * 1e6,
        batch_us=batch.cpu / POLLS * 1e6,
        batch_children_us=batch.children / POLLS * 1e6,
    )


async def _each(count: int, poll: Callable[[int], Awaitable[Any]]) -> Load:
    async with load() as measured:
        for number in range(count):
            await poll(number)
    return measured


class _Token:
    def get_access_token(self) -> str:
        return "service"


async def _plain_poll(firecrest: Cluster, number: int, systems: int) -> None:
    client = AsyncFirecrest(firecrest.url, authorization=_Token())
    client.disable_client_logging = True
    jobs = await client.job_info(str(number % systems), str(number))
    assert jobs[0]["jobId"] == str(number)
    await client.close_session()


@contextmanager
def _squeue() -> Iterator[str]:
    """A squeue that says at once that the job runs: what is measured is the Hub."""
    with tempfile.TemporaryDirectory() as directory:
        squeue = Path(directory, "squeue")
        squeue.write_text("#!/bin/sh\necho RUNNING nid000001\n")
        squeue.chmod(0o755)
        yield str(squeue)


async def _batchspawner(squeue: str) -> Load:
    command = f"{squeue} -h -j {{job_id}}"
    spawner = SlurmSpawner(exec_prefix="", batch_query_cmd=command, req_keepvars="PATH")
    spawner.user = SimpleNamespace(name=getpass.getuser(), escaped_name="me")
    spawner.job_id = "1"

    async def poll(_number: int) -> None:
        assert await spawner.poll() is None

    return await _each(POLLS, poll)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows there, for docs/performance.md")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}")
    rows = run(arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
