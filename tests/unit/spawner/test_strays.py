"""Which of a user's jobs are cancelled at the next login, and which are not?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jupyterhub import orm
from prometheus_client import REGISTRY
from sqlalchemy import event

from firecrestspawner.channel import Line
from firecrestspawner.errors import LoginRequired, Unreachable
from firecrestspawner.models import JobState
from firecrestspawner.stored import ROWS
from firecrestspawner.strays import MOST, Strays
from tests.unit.spawner.scene import Api, Scene, job


def stored(job_id: str, **fields: Any) -> dict[str, Any]:
    """A state as it is kept of a start."""
    own = {"spawn_id": Line.new().spawn_id, "system": "daint", "user": "alice", "address": ""}
    return {**own, "submitted_at": 1.0, "job_id": job_id, **fields}


def keep(scene: Scene, name: str, state: dict[str, Any]) -> None:
    scene.spawner(name).orm_spawner.state = state
    scene.db.commit()


async def log_in(scene: Scene) -> list[str]:
    """The jobs that are cancelled."""
    before = len(scene.api.calls)
    scene.spawner()
    await Strays(scene.logins, scene.logins).end(scene.user)
    calls = scene.api.calls[before:]
    return [call.removeprefix("cancel ") for call in calls if call.startswith("cancel")]


def counted() -> float:
    """What an admin sees of it on /metrics."""
    labels = {"how": "cancelled"}
    return REGISTRY.get_sample_value("firecrest_orphans_ended_total", labels) or 0.0


async def test_a_job_that_nobody_knows_is_cancelled_as_its_user(scene: Scene, api: Api) -> None:
    """R7, S5: queued or running."""
    api.put(job("1"), job("2", JobState.RUNNING))
    before = counted()
    assert await log_in(scene) == ["1", "2"]
    assert set(api.tokens) == {"alices"}
    assert counted() - before == 2


async def test_whatever_is_somebodys_is_left_alone(scene: Scene, api: Api) -> None:
    """R1, R10: the servers' jobs, other names, other people's, and what is over."""
    api.put(
        job("1", JobState.RUNNING), job("2"), job("3", name="mine"), job("4", user="bob"),
        job("5", JobState.COMPLETED),
    )  # fmt: skip
    keep(scene, "runs", stored("1", address="10.1.0.1"))
    keep(scene, "starts", stored("2"))
    assert await log_in(scene) == []


async def test_another_user_of_the_hub_may_be_the_same_user_of_the_cluster(
    scene: Scene, api: Api
) -> None:
    """R10: their servers are servers of this Hub."""
    twin = orm.User(name="twin")
    scene.db.add(orm.Spawner(name="", user=twin, state=stored("1", address="10.1.0.1")))
    scene.db.commit()
    api.put(job("1", JobState.RUNNING))
    assert await log_in(scene) == []


async def test_a_login_holds_nobody_up(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: of their own jobs their own rows tell; everybody's are not read at once."""
    read: list[Any] = []

    def executed(conn: Any, cursor: Any, sql: str, parameters: Any, *rest: Any) -> None:
        columns, _, where = sql.partition("WHERE")
        if "spawners.state" in columns and "spawners.user_id" not in where:
            read.append(parameters)

    keep(scene, "runs", stored("1", address="10.1.0.1"))
    for number in range(2 * ROWS):
        twin = orm.User(name=f"twin{number}")
        scene.db.add(orm.Spawner(name="", user=twin, state=stored(f"9{number}")))
    scene.db.commit()
    api.put(job("1", JobState.RUNNING))
    event.listen(scene.db.get_bind(), "after_cursor_execute", executed)
    rows = lambda: [len(each) for each in read if len(each) != 1]  # noqa: E731
    assert await log_in(scene) == [] and rows() == []
    api.put(job("90"), job(f"9{2 * ROWS - 1}"), job("8"))
    assert await log_in(scene) == ["8"]
    assert sum(rows()) > 2 * ROWS and max(rows()) <= ROWS


async def test_a_job_with_a_tombstone_ends_by_itself_once_it_runs(scene: Scene, api: Api) -> None:
    """R7: what runs may still be saving; what is queued has nothing to save."""
    api.put(job("1", JobState.RUNNING), job("2"))
    stones = [{"spawn_id": i, "system": "daint", "job_id": i} for i in ("1", "2")]
    keep(scene, "gone", {"tombstones": stones})
    assert await log_in(scene) == ["2"]


@pytest.mark.parametrize("theirs", [{}, {"user": "bob"}, {"system": "eiger"}])
async def test_the_job_of_a_submit_that_is_not_settled_is_left_to_its_start(
    scene: Scene, api: Api, theirs: dict[str, str]
) -> None:
    """R3: it may be any of them. Another user's, or another system's, it cannot be."""
    api.put(job("1"))
    keep(scene, "starts", stored("", **theirs))
    assert await log_in(scene) == (["1"] if theirs else [])


async def test_the_lost_job_of_a_start_that_was_given_up_is_cancelled(
    scene: Scene, api: Api
) -> None:
    """R3, R7: found late, it is not left."""
    api.put(job("1"))
    stone = {"spawn_id": "a", "system": "daint", "job_id": ""}
    keep(scene, "gone", {"tombstones": [stone]})
    assert await log_in(scene) == ["1"]


async def test_a_submit_under_way_is_waited_for(scene: Scene, api: Api) -> None:
    """R3: its job is listed before its number is stored."""
    api.put(job("7"))
    turn = scene.spawner()._cluster("daint").turn("alice")
    async with turn:
        login = asyncio.ensure_future(log_in(scene))
        await asyncio.wait([login], timeout=0.2)
        keep(scene, "starts", stored("7"))
    assert await login == []


async def test_what_is_away_is_nobodys_trouble(scene: Scene, api: Api) -> None:
    """R5, R8: nor is a user who is busy already."""
    api.put(job("1"))
    scene.logins.error = LoginRequired("over")
    assert await log_in(scene) == []
    scene.logins.error = None
    api.list_error = Unreachable("away")
    assert await log_in(scene) == []


async def test_one_login_cancels_a_bounded_number(scene: Scene, api: Api) -> None:
    api.put(*(job(str(number)) for number in range(100, 130)))
    assert len(await log_in(scene)) == MOST
