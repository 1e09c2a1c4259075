"""Does the home page know of a server what the spawner knows, and ask nobody for it?"""

from __future__ import annotations

from typing import Any

from firecrestspawner import pages
from firecrestspawner.models import JobState
from tests.unit.spawner.scene import Scene, job


async def submitted(scene: Scene, name: str, job_id: str) -> Any:
    """A spawner of that name, whose job is submitted."""
    scene.api.submits = [job_id]
    spawner = scene.spawner(name)
    spawn, request, token = await spawner._prepare()
    await spawner._submit_once(spawn, request, token)
    return spawner


async def test_each_server_that_has_a_job_is_told_of_from_memory(scene: Scene) -> None:
    """C3"""
    scene.spawner("idle")
    assert pages.servers(scene.user) == []
    second, first = await submitted(scene, "second", "8"), await submitted(scene, "", "7")
    monitor = second._cluster("daint").monitor
    second._watch.listed(
        job("8", JobState.RUNNING, elapsed=60, limit=600), monitor.clock(), monitor.fast
    )
    first.spawn.line.ended = "The server was stopped from the Hub."
    calls = list(scene.api.calls)
    told = pages.servers(scene.user)
    assert scene.api.calls == calls
    assert [(each.name, each.system, each.job_id, each.state) for each in told] == [
        ("", "daint", "7", "stopping"),
        ("second", "daint", "8", "starting"),
    ]
    assert told[1].node == "nid001"
    assert told[1].left is not None and 530 < told[1].left <= 540
    assert told[1].soon, "under the fifteen minutes of the default"
    second.walltime_warnings = [5]
    assert not pages.servers(scene.user)[1].soon
