"""Whose output does the page show, and what does it cost?"""

from __future__ import annotations

import asyncio

import pytest

from firecrestspawner import reading
from firecrestspawner.causes import UNKNOWN
from firecrestspawner.ending import Ending
from firecrestspawner.output import Output
from firecrestspawner.reading import KEPT, Shelf, Source, source_of
from tests.unit.spawner.scene import Scene
from tests.unit.spawner.test_stop import started

PATH = "/home/alice/jupyter-7.log"


def source(number: int = 7) -> Source:
    return Source(f"s{number}", "daint", str(number), PATH)


async def test_the_job_that_there_is_comes_first(scene: Scene) -> None:
    scene.spawner().ending = Ending(UNKNOWN, "", job_id="6")
    spawner = await started(scene)
    assert source_of(spawner) == (spawner.spawn.id, "daint", "7", PATH)


async def test_a_restarted_hub_knows_where_a_running_server_writes(scene: Scene) -> None:
    spawn_id = (await started(scene)).spawn.id
    scene.restart()
    spawner = scene.spawner()
    spawner.load_state(scene.state())
    assert source_of(spawner) == (spawn_id, "daint", "7", PATH)


async def test_then_the_last_whose_end_is_remembered(scene: Scene) -> None:
    ending = Ending(UNKNOWN, "", "s", "daint", "6", Output("/x"))
    scene.spawner().ending = ending
    assert source_of(scene.spawner()) == ("s", "daint", "6", "/x")
    assert source_of(scene.spawner("other")) is None


async def test_a_refused_start_has_no_output(scene: Scene) -> None:
    scene.spawner().ending = Ending(UNKNOWN, "")
    assert source_of(scene.spawner()) is None


async def test_any_number_of_tabs_makes_one_request(scene: Scene) -> None:
    """C3."""
    scene.api.files = {PATH: "one\n"}
    spawner, shelf = scene.spawner(), Shelf()
    read = await asyncio.gather(*(shelf.get(spawner, source()) for _ in range(5)))
    assert {output.lines for output in read} == {("one",)}
    assert scene.api.tokens == ["alices"]
    await shelf.get(spawner, source(8))
    assert len(scene.api.tokens) == 2


async def test_a_failure_is_shared_too_and_not_for_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner, shelf = scene.spawner(), Shelf()
    assert (await shelf.get(spawner, source())).problem
    scene.api.files = {PATH: "one\n"}
    assert (await shelf.get(spawner, source())).problem
    assert len(scene.api.tokens) == 1
    monkeypatch.setattr(reading, "FRESH", -1.0)
    assert (await shelf.get(spawner, source())).lines == ("one",)


async def test_the_log_of_a_job_whose_number_was_corrected_is_the_one_that_is_read(
    scene: Scene,
) -> None:
    """What a submit printed may be another's number, until the job introduces itself."""
    right = PATH.replace("7", "8")
    scene.api.files = {PATH: "an old job's\n", right: "this one's\n"}
    spawner, shelf = scene.spawner(), Shelf()
    assert (await shelf.get(spawner, source())).lines == ("an old job's",)
    now = await shelf.get(spawner, source()._replace(job_id="8", path=right))
    assert (now.path, now.lines) == (right, ("this one's",))


async def test_few_outputs_are_kept(scene: Scene) -> None:
    spawner, shelf = scene.spawner(), Shelf()
    for number in range(KEPT + 1):
        await shelf.get(spawner, source(number))
    assert len(shelf._kept) == KEPT
