"""Does a server start, and end, on a PBS system, with what FirecREST makes of qsub and qstat?

The rows are as FirecREST makes them of an OpenPBS's ``qstat -F json -f -x`` (see
tests/unit/test_pbs_rows.py): the number up to the dot, one letter, no end. Its nodes have no
address, only names.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest

from firecrestspawner import causes, channel, cluster, endings, output
from firecrestspawner.errors import StartTimedOut
from firecrestspawner.models import Job, Node, System
from tests.unit.spawner.scene import NAME, Api, Scene

NODE = "r1i0n3"


def row(letter: str, nodes: str = "", exit_code: int = 0) -> Job:
    """A job as the API has it."""
    nodes = nodes or ("None assigned" if letter == "Q" else NODE)
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
        return [Node(NODE, (NODE,)), Node("r1i0n4", ("r1i0n4",))]

    async def resolve(name: str) -> list[str]:
        return {NODE: ["10.1.0.3"], "r1i0n4": ["10.1.0.4"]}[name]

    monkeypatch.setattr(api, "nodes", nodes)
    monkeypatch.setattr(cluster, "resolve", resolve)
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


@pytest.mark.parametrize("nodes", [NODE, f"{NODE},{NODE}"])
@pytest.mark.parametrize(
    "addresses", [[f"{NODE}.cluster", "10.1.0.3"], ["10.1.0.3"]], ids=["names", "a number"]
)
async def test_a_server_starts_on_the_node_that_pbs_gave_its_job(
    pbs: Scene, api: Api, nodes: str, addresses: list[str]
) -> None:
    """S8"""
    spawner, start = await launched(pbs, row("R", nodes))
    script = api.requests[0].script.reveal()
    directives = re.findall(r"^#(?:PBS|SBATCH).*", script, re.M)
    assert f"#PBS -N {NAME}" in directives and "#PBS -l walltime=01:00:00" in directives
    assert not [line for line in directives if "SBATCH" in line]
    assert spawner.spawn.job_id == "1234"
    await say(spawner, "ready", addresses=addresses, port=20001)
    assert await asyncio.wait_for(start, 10) == "http://10.1.0.3:20001"
    assert {call for call in api.calls if call.startswith("job ")} == {"job 1234"}
    told = spawner.overview()
    assert (told.job_id, told.node) == ("1234", NODE)
    assert told.left is not None and 3590 <= told.left <= 3595


@pytest.mark.parametrize("elsewhere", ["10.9.9.9", "10.1.0.4"])
async def test_a_job_that_claims_to_be_elsewhere_is_not_connected_to(
    pbs: Scene, elsewhere: str
) -> None:
    """S8: not on another node of the system either."""
    spawner, start = await launched(pbs, row("R"))
    await say(spawner, "ready", addresses=["db.example.org", elsewhere], port=20001)
    with pytest.raises(Exception) as caught:
        await asyncio.wait_for(start, 10)
    refusal: Any = caught.value
    assert "not in the system's networks" in refusal.jupyterhub_message


async def test_a_job_in_the_queue_is_not_believed_to_be_anywhere(pbs: Scene) -> None:
    """S8: what was asked for with ``-l nodes`` is no node."""
    spawner, start = await launched(pbs, row("Q", "1:ppn=1"))
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


async def test_a_log_that_pbs_has_not_delivered_yet_is_waited_for(pbs: Scene, api: Api) -> None:
    """C2: it comes with the job's end, after the server's own word, and is not looked for before;
    and it names the cause."""
    api.files = {}
    spawner, start = await launched(pbs, row("R"))
    log = spawner.spawn.log
    await say(spawner, "exiting", code=1, reason="exited with code 1", walltime=None)
    await asyncio.wait([start], timeout=0.3)
    assert not start.done() and not api.reading.is_set()
    api.files[log] = "ModuleNotFoundError: No module named 'jupyterhub'\n"
    api.put(row("F", exit_code=1))
    with pytest.raises(Exception) as caught:
        await asyncio.wait_for(start, 10)
    refusal: Any = caught.value
    assert causes.NO_MODULE.text in refusal.jupyterhub_message
    assert [call for call in api.calls if call.startswith("tail")] == [f"tail {log}"]


async def test_of_a_job_that_goes_on_pbs_is_about_to_deliver_nothing(
    pbs: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C2: a start that took too long has what is there, if the site has logs written in place."""
    monkeypatch.setattr(output, "DEADLINE", 60.0)
    spawner, start = await launched(pbs, row("R"))
    await spawner._look(spawner.spawn)
    late = await asyncio.wait_for(endings.failed(spawner, StartTimedOut("Too long.")), 10)
    assert late.message.startswith("Too long.")
    assert api.reading.is_set()
    start.cancel()
    await asyncio.wait([start])


async def test_a_log_that_never_comes_is_not_waited_for_long(
    pbs: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8"""
    monkeypatch.setattr(endings, "READING", 0.05)
    monkeypatch.setattr(output, "DEADLINE", 0.1)
    api.files = {}
    spawner, start = await launched(pbs, row("R"))
    await say(spawner, "exiting", code=1, reason="exited with code 1", walltime=None)
    with pytest.raises(Exception, match="exited with code 1"):
        await asyncio.wait_for(start, 10)
    known = spawner.last_end()
    assert known is not None and known.output.problem == output.NOT_THERE
