"""What does the monitor conclude, from what, and at what price? In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from firecrestspawner import monitor
from firecrestspawner.errors import (
    BadAnswer,
    Error,
    FirecRESTError,
    Forbidden,
    NotFound,
    ProviderUnavailable,
    Unauthorized,
    Unreachable,
    Unwell,
)
from firecrestspawner.models import Job, JobState, Secret
from firecrestspawner.monitor import SESSIONS, JobMonitor, Watch
from tests.unit.virtual_time import in_virtual_time

NAME = "jhub-0123456789"


def job(job_id: str, state: JobState = JobState.RUNNING, **fields: Any) -> Job:
    defaults: dict[str, Any] = {"name": NAME, "user": "alice", "nodes": "nid001"}
    return Job(id=job_id, state=state, **defaults | fields)


def unauthorized() -> Unauthorized:
    return Unauthorized("Not you.", detail="job 1 on demo: HTTP 401 (expired)")


class Account:
    """A service account; ``given`` counts the tokens it had to fetch."""

    def __init__(self) -> None:
        self.given = 0
        self.error: Error | None = None
        self._token: Secret | None = None

    async def get(self, min_validity: float = 60.0) -> Secret:
        if self.error is not None:
            raise self.error
        if self._token is None:
            await asyncio.sleep(0.01)
            self.given += 1
            self._token = Secret(f"token {self.given}")
        return self._token

    def forget(self, token: Secret) -> None:
        if token == self._token:
            self._token = None


class Cluster:
    """FirecREST as the monitor uses it. ``jobs_by_id`` is the truth; ``listed``, if it is set,
    is what lists say instead. Errors may be set for lists, for all queries by id, or for some.
    """

    def __init__(self) -> None:
        self.jobs_by_id: dict[str, Job] = {}
        self.listed: list[Job] | None = None
        self.list_error: Error | None = None
        self.job_error: Error | None = None
        self.errors: dict[str, Error] = {}
        self.latency = 0.1
        self.asked: list[tuple[float, str, str]] = []
        self.under_way = self.most_at_a_time = 0

    def put(self, *jobs: Job) -> None:
        self.jobs_by_id |= {job.id: job for job in jobs}

    def count(self, what: str = "") -> int:
        return sum(what in ("", asked) for _, asked, _ in self.asked)

    def by_id(self) -> list[str]:
        return [what for _, what, _ in self.asked if what != "list"]

    async def jobs(
        self, token: Secret, system: str, *, name: str, all_users: bool, window: str | None = None
    ) -> list[Job]:
        assert (system, name, all_users) == ("demo", NAME, True)
        await self._serve("list", token)
        if self.list_error is not None:
            raise self.list_error
        return list(self.jobs_by_id.values() if self.listed is None else self.listed)

    async def job(self, token: Secret, system: str, job_id: str) -> Job:
        assert system == "demo"
        self.under_way += 1
        self.most_at_a_time = max(self.most_at_a_time, self.under_way)
        try:
            await self._serve(job_id, token)
        finally:
            self.under_way -= 1
        error = self.errors.get(job_id) or self.job_error
        if error is not None:
            raise error
        if job_id not in self.jobs_by_id:
            raise NotFound("No such job.")
        return self.jobs_by_id[job_id]

    async def _serve(self, what: str, token: Secret) -> None:
        self.asked.append((asyncio.get_running_loop().time(), what, token.reveal()))
        await asyncio.sleep(self.latency)


class Scene:
    """A monitor whose clock is the loop's, with its cluster and its account."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.account = Account()
        self.loop = asyncio.get_running_loop()
        self.monitor = JobMonitor(
            self.cluster,  # type: ignore[arg-type]
            "demo",
            self.account,  # type: ignore[arg-type]
            NAME,
            clock=self.loop.time,
        )

    def watch(self, job_id: str, user: str = "alice", *, settled: bool = True) -> Watch:
        watch = self.monitor.watch(job_id, user)
        watch.starting = not settled
        return watch

    def run(self) -> asyncio.Task[None]:
        """The monitor's own loop, from now on."""
        return asyncio.ensure_future(self.monitor.run())

    async def ticks(self, count: int, apart: float = 30.0) -> None:
        for _ in range(count):
            await self.monitor.tick()
            await asyncio.sleep(apart)


async def until(watch: Watch, condition: Callable[[], bool], seconds: float) -> None:
    """Wait for the watch's event until ``condition`` holds; TimeoutError after ``seconds``."""

    async def wait() -> None:
        while not condition():
            watch.changed.clear()
            await watch.changed.wait()

    await asyncio.wait_for(wait(), seconds)


async def settled(scene: Scene, *ids: str) -> list[Watch]:
    """Watches of running jobs, confirmed by id."""
    watches = [scene.watch(job_id) for job_id in ids]
    scene.cluster.put(*(job(job_id) for job_id in ids))
    await scene.monitor.tick()
    assert all(watch.confirmed == job(watch.job_id) for watch in watches)
    return watches


# -- what ends a server -------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in JobState if state.terminal])
@in_virtual_time
async def test_a_terminal_state_confirmed_by_id_is_the_end(state: JobState) -> None:
    """R1."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", state, exit_code=3))
    watch.changed.clear()
    await scene.monitor.tick()
    assert watch.over and watch.changed.is_set()
    assert watch.ended is not None and watch.ended.exit_code == 3


@in_virtual_time
async def test_an_end_is_final() -> None:
    """R1: the record of a job that has ended may change; the job does not come back."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", JobState.COMPLETED))
    await scene.monitor.tick()
    scene.cluster.put(job("1", JobState.RUNNING))
    await scene.monitor.confirm(watch)
    assert watch.ended is not None and watch.ended.state is JobState.COMPLETED


@in_virtual_time
async def test_the_end_is_noticed_within_a_tick() -> None:
    scene = Scene()
    scene.cluster.put(job("1"))
    watch = scene.watch("1")
    scene.run()
    await asyncio.sleep(100)
    assert not watch.over
    scene.cluster.put(job("1", JobState.FAILED))
    await until(watch, lambda: watch.over, scene.monitor.slow + 1)


# -- what proves nothing ------------------------------------------------------------------------

TROUBLES: list[Error] = [
    Unreachable("No answer."),
    Unwell("A 500."),
    BadAnswer("Garbage."),
    Forbidden("A 403.", detail="HTTP 403"),
    unauthorized(),
]


@pytest.mark.parametrize("error", TROUBLES, ids=lambda error: type(error).__name__)
@in_virtual_time
async def test_a_failing_firecrest_ends_no_server(error: Error) -> None:
    """R1."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.list_error = scene.cluster.job_error = error
    scene.run()
    await asyncio.sleep(24 * 3600)
    assert not watch.over and not watch.stranger
    assert scene.cluster.count() > 100, "it gave up"


@pytest.mark.parametrize("error", TROUBLES, ids=lambda error: type(error).__name__)
@in_virtual_time
async def test_an_end_that_cannot_be_confirmed_is_no_end(error: Error) -> None:
    """R1: the list says so, but the query by id fails."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", JobState.COMPLETED))
    scene.cluster.job_error = error
    await scene.ticks(20)
    assert not watch.over
    scene.cluster.job_error = None
    await scene.monitor.tick()
    assert watch.over


@in_virtual_time
async def test_an_issuer_that_is_away_ends_no_server() -> None:
    """R1, R5."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.account.error = ProviderUnavailable("Away.")
    scene.run()
    await asyncio.sleep(24 * 3600)
    assert not watch.over
    scene.account.error = None
    scene.cluster.put(job("1", JobState.COMPLETED))
    await asyncio.sleep(61)
    assert watch.over, "it did not come back by itself"


@in_virtual_time
async def test_an_empty_list_ends_no_server() -> None:
    """R1."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.listed = []
    await scene.ticks(100)
    assert not watch.over


@in_virtual_time
async def test_a_terminal_row_of_a_list_ends_no_server() -> None:
    """R1, R10: rows of a list pass through everybody's job names."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.listed = [job("1", JobState.COMPLETED)]
    await scene.ticks(20)
    assert not watch.over
    assert watch.confirmed == job("1")


@pytest.mark.parametrize(
    "state",
    [state for state in JobState if not state.terminal],
)
@in_virtual_time
async def test_no_other_state_is_an_end(state: JobState) -> None:
    """R1: nor is RUNNING that turns into PENDING again (FirecREST facts, 10)."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", state, nodes=""))
    await scene.ticks(20)
    assert not watch.over


@pytest.mark.parametrize("changes", [{"user": "mallory"}, {"name": "another"}, {"name": ""}])
@in_virtual_time
async def test_an_end_under_another_name_or_user_is_no_end(changes: dict[str, str]) -> None:
    """R10: a job whose user or name no longer agrees is unknown, never dead."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", JobState.CANCELLED, **changes))
    await scene.ticks(20)
    assert not watch.over and not watch.stranger
    assert watch.confirmed == job("1")


@in_virtual_time
async def test_a_monitor_survives_what_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    """R1: a loop that died would leave every server as it was last seen."""
    scene = Scene()
    scene.cluster.put(job("1"))
    watch = scene.watch("1")
    scene.cluster.list_error = ZeroDivisionError("a fault of ours")  # type: ignore[assignment]
    scene.run()
    await asyncio.sleep(600)
    assert "A look at the jobs on demo failed" in caplog.text
    scene.cluster.list_error = None
    scene.cluster.put(job("1", JobState.COMPLETED))
    await asyncio.sleep(61)
    assert watch.over


# -- absence ------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_that_only_its_own_query_misses_is_absent_in_time() -> None:
    """R1: repeated "no such job" by id, from an account that sees the other users' jobs."""
    scene = Scene()
    gone, _, _ = await settled(scene, "1", "2", "3")
    del scene.cluster.jobs_by_id["1"]
    vanished = scene.loop.time()
    scene.run()
    await until(gone, lambda: gone.absent, 600)
    assert gone.over and gone.ended is None
    assert scene.loop.time() - vanished >= 120
    assert scene.cluster.by_id().count("1") >= 1 + 3


@in_virtual_time
async def test_a_job_is_not_absent_before_the_grace_period() -> None:
    """R1: however often it is asked for."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    del scene.cluster.jobs_by_id["1"]
    for _ in range(50):
        await scene.monitor.confirm(watch)
        await scene.monitor.confirm(other)
        await asyncio.sleep(2)
    assert not watch.absent


@in_virtual_time
async def test_two_answers_do_not_make_a_job_absent() -> None:
    """R1: however long they are apart."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    del scene.cluster.jobs_by_id["1"]
    for _ in range(2):
        await scene.monitor.confirm(watch)
        await scene.monitor.confirm(other)
        await asyncio.sleep(3600)
    assert not watch.absent


@in_virtual_time
async def test_an_account_that_sees_nobody_proves_nothing() -> None:
    """R1: it may have lost its permission; then everything is "no such job"."""
    scene = Scene()
    watches = await settled(scene, "1", "2", "3")
    scene.cluster.jobs_by_id.clear()
    scene.run()
    await asyncio.sleep(24 * 3600)
    assert scene.cluster.by_id().count("1") > 10
    assert not any(watch.over for watch in watches)


@in_virtual_time
async def test_a_permission_lost_on_the_way_proves_nothing() -> None:
    """R1: one odd answer while the account still saw, then only answers of a blind one."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    hidden = scene.cluster.jobs_by_id.pop("1")
    await scene.monitor.confirm(watch)
    await scene.monitor.confirm(other)
    scene.cluster.jobs_by_id.clear()
    await scene.ticks(20)
    assert not watch.over and not other.over
    scene.cluster.put(hidden)
    await scene.monitor.confirm(watch)
    assert watch.confirmed == job("1") and watch.absent_answers == 0


@in_virtual_time
async def test_an_answer_in_between_starts_the_count_again() -> None:
    """R1."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    for _ in range(10):
        missing = scene.cluster.jobs_by_id.pop("1")
        for _ in range(2):
            await scene.monitor.confirm(watch)
            await scene.monitor.confirm(other)
            await asyncio.sleep(100)
        scene.cluster.put(missing)
        await scene.monitor.confirm(watch)
    assert not watch.absent


@in_virtual_time
async def test_troubles_do_not_count_as_absence() -> None:
    """R1: only "no such job" does; not a 500, nor a refused token."""
    scene = Scene()
    watch, _ = await settled(scene, "1", "2")
    scene.cluster.listed = [job("2")]
    for error in TROUBLES * 4:
        scene.cluster.errors["1"] = error
        await scene.ticks(1, apart=60)
    assert watch.absent_answers == 0 and not watch.over


# -- strangers and forgeries --------------------------------------------------------------------


@in_virtual_time
async def test_a_number_that_is_anothers_job_is_a_stranger() -> None:
    """R10: a ~/.bashrc can print any number at the submit."""
    scene = Scene()
    scene.cluster.put(job("7", JobState.COMPLETED, user="bob"))
    watch = scene.watch("7")
    await scene.monitor.tick()
    assert watch.stranger and watch.changed.is_set()
    assert not watch.over and watch.job is None


@in_virtual_time
async def test_a_job_of_another_name_is_a_stranger_once_its_name_has_had_time_to_appear() -> None:
    """R10: for seconds after a submit slurmdbd calls a job "allocation"."""
    scene = Scene()
    scene.cluster.put(job("7", JobState.PENDING, name="allocation"))
    watch = scene.watch("7")
    await scene.ticks(3)
    assert not watch.stranger and watch.confirmed is None
    await scene.ticks(3, apart=monitor.PLACEHOLDER_SECONDS)
    assert watch.stranger


@in_virtual_time
async def test_a_name_that_appears_late_makes_the_job_ours() -> None:
    """R10."""
    scene = Scene()
    scene.cluster.put(job("7", JobState.PENDING, name="allocation"))
    watch = scene.watch("7")
    await scene.ticks(2)
    scene.cluster.put(job("7", JobState.RUNNING))
    await scene.ticks(2)
    assert not watch.stranger and watch.confirmed is not None


@in_virtual_time
async def test_a_stranger_harms_nobody_but_its_watcher() -> None:
    """R10: alice's forged number is bob's job; bob's own watch goes on."""
    scene = Scene()
    scene.cluster.put(job("7", user="bob"))
    bobs = scene.watch("7", "bob")
    await scene.monitor.tick()
    scene.watch("7", "alice")
    scene.cluster.put(job("7", JobState.COMPLETED, user="bob"))
    await scene.ticks(3)
    assert bobs.ended is not None and not bobs.stranger


@in_virtual_time
async def test_unwatching_a_forged_number_leaves_the_owners_watch_alone() -> None:
    """R10."""
    scene = Scene()
    scene.cluster.put(job("7", user="bob"))
    bobs = scene.watch("7", "bob")
    alices = scene.watch("7", "alice")
    scene.monitor.unwatch(alices)
    scene.cluster.put(job("7", JobState.COMPLETED, user="bob"))
    await scene.ticks(2)
    assert bobs.over


@pytest.mark.parametrize(
    "forged",
    [
        job("1", nodes="evil"),
        job("1", JobState.CANCELLED, nodes="evil"),
        job("1", user="mallory", nodes="evil"),
        job("1", name="x", nodes="evil"),
        job("1", JobState.UNKNOWN, nodes="evil"),
    ],
    ids=["nodes", "end", "user", "name", "state"],
)
@in_virtual_time
async def test_a_forged_row_changes_nothing_that_is_believed(forged: Job) -> None:
    """R10, S8: state and nodes count only from a query by id."""
    scene = Scene()
    watch, other = await settled(scene, "1", "2")
    scene.cluster.listed = [forged, job("2")]
    await scene.ticks(5)
    assert watch.confirmed == job("1") and not watch.over and not watch.stranger
    assert other.confirmed == job("2")


@in_virtual_time
async def test_a_forged_row_of_a_queued_job_gives_it_no_node() -> None:
    """R10, S8."""
    scene = Scene()
    scene.cluster.put(job("1", JobState.PENDING, nodes=""))
    scene.cluster.listed = [job("1", JobState.RUNNING, nodes="evil")]
    watch = scene.watch("1")
    await scene.ticks(3)
    assert watch.confirmed is not None and watch.confirmed.nodes == ""


@in_virtual_time
async def test_a_renamed_job_is_believed_again_when_it_agrees() -> None:
    """R10."""
    scene = Scene()
    [watch] = await settled(scene, "1")
    scene.cluster.put(job("1", name="renamed"))
    await scene.ticks(3)
    scene.cluster.put(job("1", JobState.COMPLETED))
    await scene.ticks(3)
    assert watch.over


# -- lists that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Unwell("Poisoned."), BadAnswer("Garbage."), Unreachable("-")])
@in_virtual_time
async def test_without_a_list_every_job_is_asked_for_by_id(error: FirecRESTError) -> None:
    """R9: one job called a|b breaks the whole list for everybody."""
    scene = Scene()
    ids = [str(number) for number in range(40)]
    watches = await settled(scene, *ids)
    scene.cluster.list_error = error
    scene.cluster.put(job("17", JobState.FAILED))
    before = len(scene.cluster.asked)
    await scene.monitor.tick()
    assert watches[17].over
    assert [watch.job_id for watch in watches if watch.over] == ["17"]
    assert sorted(what for _, what, _ in scene.cluster.asked[before:]) == sorted(["list", *ids])


@in_virtual_time
async def test_never_more_than_four_are_asked_for_at_a_time() -> None:
    """R9: sshd's MaxSessions serves about five; the callers' own look-ups count, too."""
    scene = Scene()
    watches = await settled(scene, *(str(number) for number in range(40)))
    scene.cluster.list_error = Unwell("Poisoned.")
    await asyncio.gather(
        scene.monitor.tick(), *(scene.monitor.confirm(watch) for watch in watches[:10])
    )
    assert SESSIONS == 4
    assert scene.cluster.most_at_a_time == 4


@in_virtual_time
async def test_the_list_comes_back_by_itself() -> None:
    """R9, C1: and then one request per tick is enough again."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(20)))
    scene.cluster.list_error = Unwell("Poisoned.")
    scene.run()
    await asyncio.sleep(600)
    scene.cluster.list_error = None
    await asyncio.sleep(61)
    before = len(scene.cluster.asked)
    await asyncio.sleep(600)
    assert {what for _, what, _ in scene.cluster.asked[before:]} == {"list"}
    assert scene.monitor.snapshot_at is not None
    assert scene.loop.time() - scene.monitor.snapshot_at <= scene.monitor.slow + 1


@in_virtual_time
async def test_one_failing_query_does_not_hide_the_others() -> None:
    """R9."""
    scene = Scene()
    watches = await settled(scene, *(str(number) for number in range(10)))
    scene.cluster.list_error = Unwell("Poisoned.")
    scene.cluster.errors["3"] = Unwell("A 500.")
    scene.cluster.put(*(job(str(number), JobState.COMPLETED) for number in range(10)))
    await scene.monitor.tick()
    assert [watch.job_id for watch in watches if not watch.over] == ["3"]


# -- the price ----------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 500])
@in_virtual_time
async def test_any_number_of_servers_costs_one_request_per_tick(servers: int) -> None:
    """C1."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(servers)))
    before, began = len(scene.cluster.asked), scene.loop.time()
    scene.run()
    await asyncio.sleep(3600)
    asked = [what for _, what, _ in scene.cluster.asked[before:]]
    assert set(asked) == {"list"}
    ticks = (scene.loop.time() - began) / scene.monitor.slow
    assert 0.9 * ticks <= len(asked) <= ticks + 1
    assert scene.account.given == 1


@in_virtual_time
async def test_a_change_costs_one_more_by_id() -> None:
    """C1."""
    scene = Scene()
    await settled(scene, *(str(number) for number in range(100)))
    before = len(scene.cluster.asked)
    scene.cluster.put(job("5", JobState.COMPLETED), job("6", JobState.SUSPENDED))
    await scene.ticks(10)
    asked = [what for _, what, _ in scene.cluster.asked[before:]]
    assert sorted(asked) == sorted(["list"] * 10 + ["5", "6"])


@in_virtual_time
async def test_queued_jobs_cost_nothing_by_id() -> None:
    """C1."""
    scene = Scene()
    for number in range(100):
        scene.cluster.put(job(str(number), JobState.PENDING, nodes=""))
        scene.watch(str(number), settled=False)
    await scene.ticks(10, apart=2)
    assert scene.cluster.by_id() == []


@in_virtual_time
async def test_nothing_is_asked_while_nothing_is_watched() -> None:
    """C1."""
    scene = Scene()
    scene.run()
    await asyncio.sleep(3600)
    assert scene.cluster.asked == []
    scene.cluster.put(job("1"))
    watch = scene.watch("1")
    await asyncio.wait_for(watch.changed.wait(), 2)
    scene.monitor.unwatch(watch)
    await asyncio.sleep(60)
    before = len(scene.cluster.asked)
    await asyncio.sleep(3600)
    assert len(scene.cluster.asked) == before


@in_virtual_time
async def test_many_who_are_in_a_hurry_share_a_tick() -> None:
    """C1: a course of 200 that starts at once."""
    scene = Scene()
    scene.run()
    await asyncio.sleep(10)
    for number in range(200):
        scene.cluster.put(job(str(number), JobState.PENDING, nodes=""))
        scene.watch(str(number), settled=False)
        await asyncio.sleep(0.005)
    assert scene.cluster.count("list") <= 1 + 1.0 / 0.2


@in_virtual_time
async def test_ticks_are_quick_only_while_something_starts() -> None:
    """C1."""
    scene = Scene()
    scene.cluster.put(job("1"))
    watch = scene.watch("1", settled=False)
    scene.run()
    await asyncio.sleep(60)
    assert scene.cluster.count("list") > 20
    watch.starting = False
    await asyncio.sleep(3)
    before = scene.cluster.count("list")
    await asyncio.sleep(300)
    assert scene.cluster.count("list") - before <= 11


@in_virtual_time
async def test_a_refused_token_is_replaced_once() -> None:
    """C1: the issuer may have changed its keys."""
    scene = Scene()
    await settled(scene, "1")
    refused = iter([unauthorized(), None])
    serve = scene.cluster._serve

    async def refuse_the_first(what: str, token: Secret) -> None:
        await serve(what, token)
        if token.reveal() == "token 1" and (error := next(refused, None)):
            raise error

    scene.cluster._serve = refuse_the_first  # type: ignore[method-assign]
    await scene.monitor.tick()
    assert scene.cluster.asked[-1][1:] == ("list", "token 2")


@in_virtual_time
async def test_what_a_user_is_shown_is_the_newest_of_list_and_query() -> None:
    scene = Scene()
    scene.cluster.put(job("1", JobState.PENDING, nodes="", reason="Resources"))
    watch = scene.watch("1", settled=False)
    await scene.monitor.tick()
    assert watch.job is not None and watch.job.reason == "Resources"
    scene.cluster.put(replace(job("1", JobState.PENDING, nodes=""), reason="Priority"))
    await scene.monitor.tick()
    assert watch.job.reason == "Priority"
