"""How does a restarted Hub go on with the starts that were under way?"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.user import User

from firecrestspawner import cluster as clusters
from firecrestspawner import resume
from firecrestspawner.channel import Exiting, Hello, Line, Ready
from firecrestspawner.errors import LoginRequired, ProviderUnavailable, Unwell
from firecrestspawner.models import JobState
from firecrestspawner.spawner import FirecRESTSpawner
from tests.unit.spawner.scene import Api, Scene, job

NONCE = "a" * 32
#: After so many looks for a job a submit is settled (clusters.SETTLING).
SETTLED = 4


class Proxy:
    def __init__(self) -> None:
        self.routes: set[str] = set()

    async def add_user(self, user: Any, name: str) -> None:
        self.routes.add(f"{user.name}/{name}")

    async def delete_user(self, user: Any, name: str) -> None:
        self.routes.discard(f"{user.name}/{name}")


class Hub:
    """The restarted Hub: of the application, what resume needs. ``serve`` ends its start-up."""

    def __init__(self, scene: Scene) -> None:
        scene.restart()
        self.db = scene.db
        self.users = scene.users
        self.spawner_class = FirecRESTSpawner
        self.authenticator = SimpleNamespace(blocked_users=set[str]())
        self.proxy = Proxy()
        self.log = logging.getLogger("hub")
        self._start_future = asyncio.get_running_loop().create_future()
        resume.take_up(self)

    def serve(self) -> None:
        self._start_future.set_result(None)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(user: User, spawner: Any) -> None:
        spawner._start_pending = False

    monkeypatch.setattr(User, "_wait_up", answers)
    monkeypatch.setattr(clusters, "SETTLING", 0.3)
    monkeypatch.setattr(resume, "LOOKS", (0.4 / SETTLED, 0.4 / SETTLED))


@pytest.fixture
def scene(scene: Scene) -> Scene:
    scene.let_users_spawn()
    return scene


async def begun(scene: Scene, submit: Any = "7") -> Any:
    """A start through User.spawn, whose Hub is killed while it waits; its spawn."""
    scene.api.submits = [submit]
    task = asyncio.ensure_future(scene.user.spawn(""))

    def stored() -> bool:
        state = scene.state() if "" in scene.row.orm_spawners else {}
        return bool(state.get("job_id" if isinstance(submit, str) else "submitted_at"))

    await until(stored)
    spawn = scene.user.spawners[""].spawn
    await kill(task)
    return spawn


async def until(condition: Callable[[], object]) -> None:
    """Wait for it, 10 s at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


async def goes_on(scene: Scene) -> None:
    """Wait until User.spawn has made a token, called start(), and that has revoked the token."""
    await until(lambda: spawner_of(scene)._start_pending and len(tokens(scene)) == 1)


async def kill(*tasks: Any) -> None:
    """As kill -9, but for what asyncio wants to be told: nothing is cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def tokens(scene: Scene) -> list[orm.APIToken]:
    return list(scene.db.query(orm.APIToken).filter(orm.APIToken.note.like("Server at %")))


def spawner_of(scene: Scene) -> Any:
    return scene.user.spawners[""]


async def becomes_ready(scene: Scene, spawn: Any, job_id: str = "7") -> None:
    """The job starts, introduces itself to whichever Hub there is, and its server listens."""
    scene.api.put(job(job_id, JobState.RUNNING))
    spawner = spawner_of(scene)
    await spawner.hear(Hello(spawn.id, spawn.line.ticket_secret, NONCE, job_id), {})
    spawner.spawn.line.prove = lambda raw: None
    await spawner.hear(Ready(spawn.id, ("10.1.0.1",), 20001), {})


async def test_a_queued_start_goes_on_after_two_kills(scene: Scene, api: Api) -> None:
    """R6, R3, S10: one submit, one token, which is the job's; a route in the end."""
    spawn = await begun(scene)
    first = Hub(scene)
    assert spawner_of(scene).pending == "spawn", "before the Hub serves"
    first.serve()
    await goes_on(scene)
    await kill(spawner_of(scene)._spawn_future)
    hub = Hub(scene)
    assert scene.row.orm_spawners[""].server is None, "nothing for init_spawners to knock at"
    hub.serve()
    future = spawner_of(scene)._spawn_future
    await goes_on(scene)
    assert [token.match(spawn.api_token.reveal()) for token in tokens(scene)] == [True]
    await becomes_ready(scene, spawn)
    await asyncio.wait_for(future, 10)
    spawner = spawner_of(scene)
    assert spawner.ready and hub.proxy.routes == {"alice/"}
    assert spawner.api_token == spawn.api_token.reveal()
    assert api.calls.count("submit") == 1
    await scene.user.stop("")
    assert tokens(scene) == [] and api.calls[-1] == "job 7"


async def test_a_kill_before_the_hub_serves_loses_nothing(scene: Scene) -> None:
    """R6, S10: the server row is gone then, and the stored state suffices. A token that User.spawn
    had made for a start it did not come to is deleted."""
    spawn = await begun(scene)
    [own] = tokens(scene)
    scene.row.new_api_token(note=own.note, scopes=[])
    assert len(tokens(scene)) == 2
    Hub(scene)
    assert [token.match(spawn.api_token.reveal()) for token in tokens(scene)] == [True]
    await kill(spawner_of(scene)._spawn_future)
    Hub(scene).serve()
    future = spawner_of(scene)._spawn_future
    await goes_on(scene)
    await becomes_ready(scene, spawn)
    await asyncio.wait_for(future, 10)
    assert spawner_of(scene).ready


async def test_what_a_job_said_before_the_kill_is_not_forgotten(scene: Scene) -> None:
    """R6: `ready` is said once, and its address had not been accepted yet."""
    spawn = await begun(scene)
    await becomes_ready(scene, spawn)
    Hub(scene).serve()
    await asyncio.wait_for(spawner_of(scene)._spawn_future, 10)
    assert spawner_of(scene).spawn.url == "http://10.1.0.1:20001"


async def test_nothing_is_asked_of_whom_may_be_away(scene: Scene, api: Api) -> None:
    """R6, R5: no token is needed, no hook of the site is run again, no list is fetched."""
    spawn = await begun(scene)
    scene.logins.error = ProviderUnavailable("away")
    scene.config.FirecRESTSpawner.pre_spawn_hook = lambda spawner: 1 / 0
    scene.config.FirecRESTSpawner.auth_state_hook = lambda spawner, auth_state: 1 / 0
    api.list_error = Unwell("away")
    Hub(scene).serve()
    future = spawner_of(scene)._spawn_future
    await goes_on(scene)
    assert not future.done()
    await becomes_ready(scene, spawn)
    await asyncio.wait_for(future, 10)


@pytest.mark.parametrize("serves", [False, True])
async def test_it_can_be_cancelled(scene: Scene, api: Api, serves: bool) -> None:
    """R7, S10: as JupyterHub does it: the future is cancelled, then the server stopped."""
    await begun(scene)
    hub = Hub(scene)
    await asyncio.sleep(0)
    if serves:
        hub.serve()
        await goes_on(scene)
    await kill(spawner_of(scene)._spawn_future)
    await asyncio.sleep(0)
    assert not spawner_of(scene).pending and not hub._start_future.cancelled()
    await scene.user.stop("")
    assert "cancel 7" in api.calls
    assert tokens(scene) == [] and "spawn_id" not in scene.state()


@pytest.mark.parametrize("rounds", range(6))
async def test_it_can_be_cancelled_as_news_of_it_come(scene: Scene, rounds: int) -> None:
    """R7: JupyterHub gives a cancelled start one second to be gone; then its stop is an error."""
    await begun(scene)
    Hub(scene).serve()
    await goes_on(scene)
    spawner = spawner_of(scene)
    spawner._news.set()
    for _ in range(rounds):
        await asyncio.sleep(0)
    spawner._spawn_future.cancel()
    await asyncio.wait([spawner._spawn_future], timeout=1)
    assert not spawner.pending
    await scene.user.stop("")


async def test_a_stop_that_the_kill_interrupted_is_finished(scene: Scene, api: Api) -> None:
    """R7: its tombstone was committed; nobody wants the job to start."""
    await begun(scene)
    spawner = spawner_of(scene)
    spawner.tombstones = [spawner.spawn.tombstone("stopped")]
    spawner._save()
    Hub(scene).serve()
    await asyncio.wait_for(spawner_of(scene)._spawn_future, 10)
    assert "cancel 7" in api.calls and tokens(scene) == [] and "spawn_id" not in scene.state()


async def test_one_that_cannot_be_finished_leaves_one_tombstone(scene: Scene) -> None:
    """The home page says it once."""
    await begun(scene)
    spawner = spawner_of(scene)
    spawner.tombstones = [spawner.spawn.tombstone("stopped")]
    spawner._save()
    scene.logins.error = LoginRequired("over")
    Hub(scene).serve()
    await asyncio.wait_for(spawner_of(scene)._spawn_future, 10)
    assert [stone["job_id"] for stone in scene.state()["tombstones"]] == ["7"]


async def test_a_blocked_users_start_is_stopped(scene: Scene, api: Api) -> None:
    """As JupyterHub does with servers that run."""
    await begun(scene)
    hub = Hub(scene)
    hub.authenticator.blocked_users.add("alice")
    hub.serve()
    await asyncio.wait_for(spawner_of(scene)._spawn_future, 10)
    assert "cancel 7" in api.calls and tokens(scene) == []


async def test_a_start_that_did_not_submit_begins_anew(scene: Scene, api: Api) -> None:
    """R3, S10: what was to be submitted is forgotten, its token too."""
    old = await begun(scene)
    state = scene.state() | {"submitted_at": 0.0, "job_id": ""}
    scene.row.orm_spawners[""].state = state
    scene.db.commit()
    api.submits = ["8"]
    Hub(scene).serve()
    future = spawner_of(scene)._spawn_future
    await until(lambda: scene.state().get("job_id"))
    spawn = spawner_of(scene).spawn
    assert spawn.id != old.id and spawn.job_id == "8"
    assert [token.match(spawn.api_token.reveal()) for token in tokens(scene)] == [True]
    await becomes_ready(scene, spawn, "8")
    await asyncio.wait_for(future, 10)


async def test_the_time_in_the_queue_counts_from_the_submit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the job has time to introduce itself, however long the Hub was away."""
    await begun(scene)
    seen = []

    async def spy(user: User, name: str) -> None:
        spawner = user.spawners[name]
        seen.append(spawner.start_timeout)
        spawner.spawn = None
        raise LookupError("seen")

    monkeypatch.setattr(User, "spawn", spy)
    scene.config.FirecRESTSpawner.start_timeout = 5000
    for age in (1000, 6000):
        state = scene.state() | {"submitted_at": time.time() - age}
        scene.row.orm_spawners[""].state = state
        scene.db.commit()
        Hub(scene).serve()
        with pytest.raises(LookupError):
            await spawner_of(scene)._spawn_future
    assert 3990 <= seen[0] <= 4000 and seen[1] == resume.GRACE
    assert spawner_of(scene).start_timeout == 5000


# --- a submit whose answer nobody read ------------------------------------------------------


def forget_the_answer(scene: Scene) -> None:
    """As if the Hub had been killed before it read it."""
    scene.row.orm_spawners[""].state = scene.state() | {"job_id": "", "submitted_at": time.time()}
    scene.db.commit()


async def test_its_job_is_the_new_one_of_the_users_list(scene: Scene, api: Api) -> None:
    """R3: a job that another start has is none of its."""
    spawn = await begun(scene)
    forget_the_answer(scene)
    scene.spawner("other").orm_spawner.state = {
        "spawn_id": Line.new().spawn_id, "system": "daint", "user": "alice", "job_id": "5",
        "submitted_at": 1.0, "address": "10.1.0.1",
    }  # fmt: skip
    scene.db.commit()
    api.put(job("5", JobState.RUNNING), job("4", JobState.COMPLETED))
    hub = Hub(scene)
    hub.serve()
    await until(lambda: scene.state()["job_id"])
    assert scene.state()["job_id"] == "7" and api.calls.count("submit") == 1
    assert spawner_of(scene).spawn.id == spawn.id
    await kill(spawner_of(scene)._spawn_future)


async def test_while_two_jobs_could_be_its_it_waits_for_its_word(scene: Scene, api: Api) -> None:
    """R3: and the job's own word decides."""
    spawn = await begun(scene)
    forget_the_answer(scene)
    api.put(job("6"))
    Hub(scene).serve()
    future = spawner_of(scene)._spawn_future
    await until(lambda: api.calls.count("list") > SETTLED)
    assert scene.state()["job_id"] == "" and not future.done()
    await becomes_ready(scene, spawn)
    await asyncio.wait_for(future, 10)
    assert scene.state()["job_id"] == "7"


@pytest.mark.parametrize("age", [0, 1000])
async def test_an_earlier_start_that_was_given_up_may_still_get_its_job(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, age: int
) -> None:
    """R3: so the one job of the list may be that start's, until such jobs would be listed."""
    monkeypatch.setattr(clusters, "SETTLING", 100.0)
    await begun(scene)
    forget_the_answer(scene)
    lost = {"spawn_id": "a", "system": "daint", "job_id": "", "submitted_at": time.time() - age}
    scene.spawner("other").orm_spawner.state = {"tombstones": [lost | {"until": 0, "ended": ""}]}
    scene.db.commit()
    Hub(scene).serve()
    await until(lambda: scene.state()["job_id"] or scene.api.calls.count("list") > SETTLED)
    assert scene.state()["job_id"] == ("7" if age else "")
    await kill(spawner_of(scene)._spawn_future)


async def test_two_starts_that_look_for_their_jobs_do_not_guess(scene: Scene, api: Api) -> None:
    """R3: one of them may have been submitted in vain."""
    await begun(scene)
    forget_the_answer(scene)
    scene.spawner("other").orm_spawner.state = scene.state() | {"spawn_id": "b"}
    scene.db.commit()
    Hub(scene).serve()
    await until(lambda: api.calls.count("list") > 2 * SETTLED)
    assert [scene.state(name)["job_id"] for name in ("", "other")] == ["", ""]
    await kill(*(scene.user.spawners[name]._spawn_future for name in ("", "other")))


async def test_without_a_token_it_waits_for_its_word(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """R3, R6: the session at the issuer is over."""
    caplog.set_level(logging.INFO)
    spawn = await begun(scene)
    forget_the_answer(scene)
    scene.logins.error = LoginRequired("over")
    Hub(scene).serve()
    future = spawner_of(scene)._spawn_future
    await until(lambda: caplog.text.count("not looking for its job") > SETTLED)
    assert not future.done()
    await becomes_ready(scene, spawn)
    await asyncio.wait_for(future, 10)


async def test_once_its_list_is_certain_to_lack_it_it_is_given_up(scene: Scene, api: Api) -> None:
    """R3, S10: with a tombstone, in case that it appears all the same."""
    await begun(scene)
    forget_the_answer(scene)
    del api.jobs_by_id["7"]
    Hub(scene).serve()
    with pytest.raises(Exception) as refusal:
        await asyncio.wait_for(spawner_of(scene)._spawn_future, 10)
    assert "before your job reached the cluster" in refusal.value.jupyterhub_message  # type: ignore[attr-defined]
    assert api.calls.count("submit") == 1 and tokens(scene) == []
    assert [stone["job_id"] for stone in scene.state()["tombstones"]] == [""]


async def test_another_key_cancels_what_can_never_start(scene: Scene, api: Api) -> None:
    """R7, S10: its environment cannot be opened."""
    await begun(scene)
    scene.new_key()
    Hub(scene).serve()
    with pytest.raises(Exception) as refusal:
        await asyncio.wait_for(spawner_of(scene)._spawn_future, 10)
    assert "has lost what your job needs" in refusal.value.jupyterhub_message  # type: ignore[attr-defined]
    assert "cancel 7" in api.calls and tokens(scene) == []


# --- servers that run -----------------------------------------------------------------------


@pytest.fixture
async def restored(scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The spawner of a server that ran before this Hub did, and whose port answers nobody."""
    spawn = await begun(scene)
    spawner = spawner_of(scene)
    await spawner.hear(Hello(spawn.id, spawn.line.ticket_secret, NONCE, "7"), {})
    spawn.address, spawn.port = "127.0.0.1", 1
    spawner._save()
    row = scene.row.orm_spawners[""].server
    row.ip, row.port = spawn.address, spawn.port
    scene.db.commit()
    api.put(job("7", JobState.RUNNING))
    monkeypatch.setattr("firecrestspawner.stored.KNOCK", 0.2)
    Hub(scene)
    return spawner_of(scene)


async def test_a_running_server_that_does_not_answer_is_kept(restored: Any) -> None:
    """R1, R6: after a restart; JupyterHub would stop it after http_timeout."""
    answer = await restored.server.wait_up(http=True, timeout=30, extra_path="api")
    assert answer.headers == {}


async def test_one_that_is_over_is_not(restored: Any) -> None:
    """R1."""
    restored.spawn.line.prove = lambda raw: None
    await restored.hear(Exiting(restored.spawn.id, 1, "killed", None), {})
    with pytest.raises(TimeoutError):
        await restored.server.wait_up(http=True, timeout=30, extra_path="api")
