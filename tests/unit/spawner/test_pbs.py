"""Does a server start, and end, on a PBS system, with what FirecREST makes of qsub and qstat?

The rows are as FirecREST's source makes them of ``qstat -F json -f -x`` (its model PbsJob, releases
2.5.6 and after): the number up to the dot, one letter, no end, and for nodes what was asked for.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest

from firecrestspawner import channel
from firecrestspawner.client import System
from firecrestspawner.models import Job, JobState, Node
from tests.unit.spawner.scene import NAME, Api, Scene

NODE = "r1i0n3"


def row(letter: str, nodes: str = "None assigned", exit_code: int = 0) -> Job:
    """A job as the API has it."""
    began = int(time.time()) - 5 if letter != "Q" else None
    return Job.from_api(
        {
            "jobId": "1234",
            "name": NAME,
            "status": {"state": letter, "stateReason": None, "exitCode": exit_code},
            "tasks": None,
            "time": {"elapsed": 5, "start": began, "end": None, "limit": 3600},
            "account": "_pbs_project_default",
            "allocationNodes": 1,
            "cluster": "pbs",
            "nodes": nodes,
            "partition": "workq",
            "user": "alice",
            "workingDirectory": "/home/alice",
            "priority": 0,
        }
    )


@pytest.fixture
def pbs(scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch) -> Scene:
    api.described = System("daint", scheduler="pbs")

    async def nodes(token: Any, system: str) -> list[Node]:
        return [Node(NODE, ("10.1.0.3",)), Node("r1i0n4", ("10.1.0.4",))]

    monkeypatch.setattr(api, "nodes", nodes)
    api.submits = ["1234"]
    scene.config.FirecRESTSpawner.req_runtime = "01:00:00"
    return scene


async def say(spawner: Any, kind: str, **fields: Any) -> dict[str, Any]:
    """What the launcher would say, read as the Hub's endpoint reads it."""
    line = spawner.spawn.line
    said: dict[str, Any] = {"message": kind, **fields}
    if kind == "hello":
        said["ticket"] = line.ticket.reveal()
    else:
        said = channel.signed({**said, "spawn_id": line.spawn_id}, line.secret)
    message, raw = channel.parse(json.dumps(said).encode())
    answer: dict[str, Any] = await spawner.hear(message, raw)
    return answer


async def launched(scene: Scene, row_of_the_job: Job) -> tuple[Any, asyncio.Task[str]]:
    """A start whose job has introduced itself, and runs."""
    spawner = scene.spawner()
    named = asyncio.Event()
    name_job = spawner._name_job

    def note(*about: Any) -> None:
        name_job(*about)
        named.set()

    spawner._name_job = note
    start = asyncio.ensure_future(spawner.start())
    await asyncio.wait_for(named.wait(), 10)
    scene.api.put(row_of_the_job)
    await say(spawner, "hello", nonce="a" * 32, job_id="1234.pbs01.example.org")
    return spawner, start


@pytest.mark.parametrize("nodes", ["None assigned", "1:ppn=1"])
async def test_a_server_starts_where_its_job_says_it_is_among_the_systems_nodes(
    pbs: Scene, api: Api, nodes: str
) -> None:
    """S8: PBS's jobs have no node in FirecREST's answers; the system's list has to have it."""
    spawner, start = await launched(pbs, row("R", nodes))
    script = api.requests[0].script.reveal()
    directives = re.findall(r"^#(?:PBS|SBATCH).*", script, re.M)
    assert f"#PBS -N {NAME}" in directives and "#PBS -l walltime=01:00:00" in directives
    assert not [line for line in directives if "SBATCH" in line]
    assert spawner.spawn.job_id == "1234"
    await say(spawner, "ready", addresses=[f"{NODE}.cluster", "10.1.0.3"], port=20001)
    assert await asyncio.wait_for(start, 10) == "http://10.1.0.3:20001"
    assert {call for call in api.calls if call.startswith("job ")} == {"job 1234"}
    told = spawner.overview()
    assert (told.job_id, told.node) == ("1234", f"{NODE}.cluster")
    assert told.left is not None and 3590 <= told.left <= 3595


async def test_a_job_that_claims_to_be_elsewhere_is_not_connected_to(pbs: Scene) -> None:
    """S8"""
    spawner, start = await launched(pbs, row("R"))
    await say(spawner, "ready", addresses=["db.example.org", "10.9.9.9"], port=20001)
    with pytest.raises(Exception) as caught:
        await asyncio.wait_for(start, 10)
    refusal: Any = caught.value
    assert "does not run on nodes of the system" in refusal.jupyterhub_message


async def test_a_job_in_the_queue_is_not_believed_to_be_anywhere(pbs: Scene) -> None:
    """S8: what the scheduler does say has to fit."""
    spawner, start = await launched(pbs, row("Q"))
    await say(spawner, "ready", addresses=[NODE], port=20001)
    await asyncio.wait([start], timeout=0.5)
    assert not start.done() and not spawner.spawn.url
    pbs.api.put(row("R"))
    assert await asyncio.wait_for(start, 10) == "http://10.1.0.3:20001"


@pytest.mark.parametrize(("letter", "exit_code", "status"), [("F", 0, 0), ("F", 271, 143)])
async def test_a_finished_job_ends_its_server(
    pbs: Scene, letter: str, exit_code: int, status: int
) -> None:
    """R1"""
    spawner, start = await launched(pbs, row("R"))
    await say(spawner, "ready", addresses=[NODE], port=20001)
    await asyncio.wait_for(start, 10)
    assert await spawner.poll() is None
    pbs.api.put(row(letter, exit_code=exit_code))
    await spawner._look(spawner.spawn)
    assert await spawner.poll() == status


async def test_a_stop_cancels_by_the_number_that_firecrest_knows(pbs: Scene, api: Api) -> None:
    spawner, start = await launched(pbs, row("R"))
    await say(spawner, "ready", addresses=[NODE], port=20001)
    await asyncio.wait_for(start, 10)
    await spawner.stop()
    assert "cancel 1234" in api.calls


@pytest.mark.parametrize(
    ("exit_code", "state", "status"),
    [
        (0, JobState.COMPLETED, 0),
        (3, JobState.FAILED, 3),
        (137, JobState.FAILED, 137),
        (265, JobState.FAILED, 137),
        (271, JobState.FAILED, 143),
        (-27, JobState.OUT_OF_MEMORY, 1),
        (-29, JobState.TIMEOUT, 1),
        (-1, JobState.FAILED, 1),
    ],
)
def test_how_a_job_ended_is_in_its_exit_status(
    exit_code: int, state: JobState, status: int
) -> None:
    """Of a job that is finished. One that still exits has not ended (R1)."""
    ended = row("F", exit_code=exit_code)
    assert (ended.state, ended.exit_status) == (state, status)
    assert row("E", exit_code=exit_code).state is JobState.RUNNING
