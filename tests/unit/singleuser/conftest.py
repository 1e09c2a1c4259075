"""Which Hub and which launcher process does each of these tests get?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.unit.singleuser.channel_end import (
    API_TOKEN,
    FAST,
    RUN,
    SERVER,
    SOURCE,
    Hub,
    Job,
    Launch,
    eventually,
    ticket,
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.start = {
        "environment": {
            "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:0/user/alice/",
            "JUPYTERHUB_API_TOKEN": API_TOKEN,
            "SEEN": str(tmp_path / "seen.json"),
        },
        "command": [sys.executable, "-c", SERVER],
        "ports": [0, 0],
        "grace": 10,
    }
    yield hub
    hub.close()


@pytest.fixture
def launch(hub: Hub, tmp_path: Path) -> Iterator[Launch]:
    jobs: list[Job] = []

    def start(
        *arguments: str,
        env: Mapping[str, str] | None = None,
        pace: Mapping[str, float] | None = None,
        python: str = sys.executable,
        argv: list[str] | None = None,
        bare: bool = False,
        **times: int,
    ) -> Job:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": "4242",
            "FIRECREST_TICKET": ticket(hub, **times),
            "FIRECREST_LAUNCHER": "packed",
            "SEEN": str(tmp_path / "seen.json"),
        }
        command = argv or [python, "-c", RUN, str(SOURCE), json.dumps({**FAST, **(pace or {})})]
        process = subprocess.Popen(
            [*command, *arguments],
            env=dict(env or {}) if bare else {**variables, **(env or {})},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        jobs.append(Job(process, tmp_path / "seen.json"))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:
            job.process.terminate()
            try:
                job.process.wait(5)
            except subprocess.TimeoutExpired:
                job.process.kill()
        job.process.communicate()
        if job.seen_path.exists():
            pid = json.loads(job.seen_path.read_text())["pid"]
            eventually(partial(_gone, pid))


def _gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
