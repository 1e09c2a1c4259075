"""Is a job submitted once, found again, and connected to only after the checks?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest

from firecrestspawner import address
from firecrestspawner import cluster as module
from firecrestspawner.client import FirecREST
from firecrestspawner.cluster import Cluster, NodesUnknown, own_addresses, resolve
from firecrestspawner.errors import (
    AddressRefused,
    FirecRESTError,
    OptionsError,
    Unreachable,
    Unwell,
)
from firecrestspawner.isolation import FAILURES, Pass
from firecrestspawner.metrics import JOBS
from firecrestspawner.models import Job, JobRequest, JobState, Listing, Node, Secret, System
from firecrestspawner.monitor import JobMonitor
from firecrestspawner.shared import Shared

T = TypeVar("T")
TOKEN = Secret("token")
REQUEST = JobRequest("/home/alice", Secret("#!/bin/sh\n"))
PORTS = (20000, 20999)


def job(job_id: str, **fields: Any) -> Job:
    values: dict[str, Any] = {"name": "hub", "user": "alice", "state": JobState.RUNNING}
    return Job(id=job_id, **{**values, "nodes": "nid001", **fields})


class Account:
    """A service account that always has a token."""

    async def get(self, min_validity: float = 0) -> Secret:
        return TOKEN


class Api:
    """FirecREST with scripted answers; an exception among them is raised."""

    def __init__(self) -> None:
        self.submit_answer: str | Exception = "7"
        self.list_answer: list[Job] | Exception = []
        self.jobs_by_id: dict[str, Job] = {}
        self.node_list = {"nid001": ("10.1.0.1",)}
        self.features: dict[str, tuple[str, ...]] = {}
        self.calls: list[str] = []
        self.under_way: list[str | None] = []
        self.gate: asyncio.Event | None = None

    async def submit(self, token: Secret, system: str, request: JobRequest) -> str:
        self.calls.append("submit")
        self.under_way.append(request.name)
        if self.gate:
            await self.gate.wait()
        self.under_way.remove(request.name)
        return _give(self.submit_answer)

    async def jobs(self, token: Secret, system: str, **kwargs: Any) -> Listing:
        self.calls.append("list")
        return Listing(_give(self.list_answer))

    async def job(self, token: Secret, system: str, job_id: str) -> Job:
        self.calls.append("job")
        return self.jobs_by_id[job_id]

    async def nodes(self, token: Secret, system: str) -> list[Node]:
        self.calls.append("nodes")
        return [Node(*each, self.features.get(each[0], ())) for each in self.node_list.items()]


def _give(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def cluster(api: Api) -> Cluster:
    async def systems() -> dict[str, System]:
        return {"daint": System("daint")}

    fake: Any = api
    account: Any = Account()
    monitor = JobMonitor(fake, "daint", account, "hub")
    return Cluster(monitor, Shared(systems), frozenset())


LOST: Callable[[], FirecRESTError] = lambda: Unwell("later", ambiguous=True)  # noqa: E731


async def test_a_submit_returns_the_jobs_id(cluster: Cluster, api: Api) -> None:
    assert await cluster.submit(TOKEN, REQUEST, set()) == "7"
    assert api.calls == ["submit"]


async def test_a_lost_answer_leads_to_a_look_and_never_to_a_second_submit(
    cluster: Cluster, api: Api
) -> None:
    """R3."""
    api.submit_answer, api.list_answer = LOST(), [job("8", state=JobState.PENDING)]
    assert await cluster.submit(TOKEN, REQUEST, set()) == "8"
    assert api.calls == ["submit", "list"]


@pytest.mark.parametrize(
    "listed",
    [
        [job("4"), job("9", state=JobState.CANCELLED)],
        [job("8"), job("9")],
        [],
        Unreachable("away"),
    ],
    ids=["known or over", "two", "none", "no list"],
)
async def test_only_the_one_new_job_can_be_the_lost_one(
    cluster: Cluster, api: Api, listed: Any
) -> None:
    """R3: else it introduces itself; the first error is the one told."""
    api.submit_answer, api.list_answer = LOST(), listed
    with pytest.raises(Unwell) as caught:
        await cluster.submit(TOKEN, REQUEST, {"4"})
    assert caught.value.ambiguous
    assert api.calls == ["submit", "list"]


async def test_where_nobody_knows_what_was_there_before_nothing_is_adopted(
    cluster: Cluster, api: Api
) -> None:
    """R3."""
    api.submit_answer, api.list_answer = LOST(), [job("8")]
    with pytest.raises(Unwell):
        await cluster.submit(TOKEN, REQUEST, set(), adopt=False)
    assert api.calls == ["submit"]


async def test_an_answer_that_names_an_earlier_job_is_not_believed(
    cluster: Cluster, api: Api
) -> None:
    """R7, R10: a login shell may print the number of another of the user's jobs."""
    api.submit_answer = "6"
    api.list_answer = [job("6"), job("7", state=JobState.PENDING)]
    assert await cluster.submit(TOKEN, REQUEST, {"6"}) == "7"
    api.list_answer = [job("6")]
    with pytest.raises(FirecRESTError) as caught:
        await cluster.submit(TOKEN, REQUEST, {"6"})
    assert caught.value.ambiguous
    assert "start-up files" in caught.value.message
    assert api.calls == ["submit", "list"] * 2


async def test_a_clear_refusal_needs_no_look(cluster: Cluster, api: Api) -> None:
    api.submit_answer = Unreachable("away")
    with pytest.raises(Unreachable):
        await cluster.submit(TOKEN, REQUEST, set())
    assert api.calls == ["submit"]


async def settle(cluster: Cluster, jobs: set[str], *ago: float, wanted: bool = True) -> Any:
    now = time.time()
    return await cluster.settle(TOKEN, jobs, [now - each for each in ago], wanted=lambda: wanted)


async def test_without_lost_answers_there_is_nothing_to_ask(cluster: Cluster, api: Api) -> None:
    """C2, R3: neither a running server's job nor an ended one's is new."""
    cluster.monitor.watch("5", "alice").confirmed = job("5")
    assert await settle(cluster, {"4"}) == ({"4", "5"}, True)
    assert api.calls == []


async def test_whoever_claims_numbers_to_come_has_no_start_of_others_refused(
    cluster: Cluster, api: Api
) -> None:
    """R10: a job introduces itself by any number, and a job's name can forge rows of the list."""
    cluster.monitor.watch("7", "mallory")
    cluster.monitor.snapshot = {"7": job("7")}
    known, adopt = await settle(cluster, set())
    assert await cluster.submit(TOKEN, REQUEST, known, adopt=adopt) == "7"


async def test_a_job_that_was_listed_before_the_submit_is_not_the_lost_one(
    cluster: Cluster, api: Api
) -> None:
    """R3: nor one that somebody has."""
    cluster.monitor.watch("5", "alice")
    cluster.monitor.snapshot = {"6": job("6")}
    api.submit_answer, api.list_answer = LOST(), [job("5"), job("6"), job("8")]
    known, adopt = await settle(cluster, set())
    assert await cluster.submit(TOKEN, REQUEST, known, adopt=adopt) == "8"


async def test_a_lost_job_is_known_once_it_is_listed(
    cluster: Cluster, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: also one that the monitor has listed already; but no job that has ended."""
    monkeypatch.setattr(module, "SETTLING", 1000.0)
    cluster.monitor.snapshot = {"6": job("6")}
    api.list_answer = [job("4"), job("6")]
    assert await asyncio.wait_for(settle(cluster, {"4"}, 1.0), 5) == ({"4", "6"}, True)
    api.list_answer = [job("4"), job("6", state=JobState.COMPLETED)]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(settle(cluster, {"4"}, 1.0), 0.1)


async def test_a_lost_job_is_waited_for_only_as_long_as_it_may_appear(
    cluster: Cluster, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3, R8."""
    monkeypatch.setattr(module, "SETTLING", 0.2)
    api.list_answer = [job("4")]
    assert await asyncio.wait_for(settle(cluster, {"4"}, 0.0), 5) == ({"4"}, True)
    assert api.calls.count("list") >= 2
    monkeypatch.setattr(module, "SETTLING", 1000.0)
    assert await asyncio.wait_for(settle(cluster, {"4"}, 0.0, wanted=False), 5) == ({"4"}, True)
    assert await asyncio.wait_for(settle(cluster, {"4"}, -5000.0), 5) == ({"4"}, True), (
        "a clock set back"
    )


async def test_without_the_users_list_nobody_can_say(cluster: Cluster, api: Api) -> None:
    """R3: the start goes on, and would adopt nothing."""
    api.list_answer = Unreachable("away")
    assert await settle(cluster, {"4"}, module.SETTLING + 1) == ({"4"}, False)


async def test_the_submits_of_one_user_are_kept_apart_and_anothers_do_not_wait(
    cluster: Cluster, api: Api
) -> None:
    """R3, R9."""
    api.gate = asyncio.Event()

    async def start(user: str, number: int) -> str:
        async with cluster.turn(user):
            return await cluster.submit(TOKEN, replace(REQUEST, name=f"{user}'s {number}"), set())

    starts = [
        asyncio.ensure_future(start(user, number))
        for user, number in (("alice", 1), ("alice", 2), ("bob", 1))
    ]
    await asyncio.wait(starts, timeout=0.05)
    assert api.under_way == ["alice's 1", "bob's 1"]
    api.gate.set()
    assert await asyncio.gather(*starts) == ["7"] * 3


async def locate(cluster: Cluster, *addresses: str, **fields: Any) -> tuple[str, int]:
    watch = cluster.monitor.watch("7", "alice")
    watch.confirmed = fields.pop("confirmed", None)
    return await cluster.locate(watch, addresses, 20005, networks=(), ports=PORTS)


async def test_a_confirmed_job_costs_no_further_query(cluster: Cluster, api: Api) -> None:
    """C2: its nodes are known; the node list is the system's, not the spawn's."""
    assert await locate(cluster, "nid001", confirmed=job("7")) == ("10.1.0.1", 20005)
    assert await locate(cluster, "nid001", confirmed=job("7")) == ("10.1.0.1", 20005)
    assert api.calls == ["nodes"]


async def test_an_unconfirmed_job_is_asked_for_by_id_first(cluster: Cluster, api: Api) -> None:
    """S8, R10."""
    api.jobs_by_id["7"] = job("7")
    assert await locate(cluster, "nid001") == ("10.1.0.1", 20005)
    assert api.calls == ["job", "nodes"]


async def test_the_features_of_nodes_are_counted_in_the_list_that_all_share(
    cluster: Cluster, api: Api
) -> None:
    """C2."""
    api.features = {"nid001": ("gpu", "gpu"), "nid002": ("gpu", "a100")}
    api.node_list["nid002"] = ("10.1.0.2",)
    assert await cluster.features() == {"gpu": 2, "a100": 1}
    assert await locate(cluster, "nid001", confirmed=job("7")) == ("10.1.0.1", 20005)
    assert api.calls == ["nodes"]


async def test_the_nodes_of_a_large_system_hold_nobody_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: to read the features of 10,000 nodes takes a tenth of a second."""
    words = ",".join(f"feature{number}" for number in range(15))
    rows = [{"name": f"nid{n}", "address": "10.1.0.1", "features": words} for n in range(10_000)]
    firecrest = FirecREST("http://127.0.0.1:1")

    async def answered(*args: Any) -> Any:
        return rows

    monkeypatch.setattr(firecrest, "_call", answered)
    cluster.firecrest = firecrest
    asked = asyncio.ensure_future(cluster.features())
    rounds = 0
    while not asked.done():
        await asyncio.sleep(0)
        rounds += 1
    assert asked.result()["feature7"] == 10_000
    assert rounds > 5, "it was read in one go"
    await firecrest.aclose()


async def test_a_strangers_job_is_not_connected_to(cluster: Cluster, api: Api) -> None:
    """R10."""
    api.jobs_by_id["7"] = job("7", user="bob")
    with pytest.raises(AddressRefused):
        await locate(cluster, "nid001")


async def test_a_job_without_nodes_has_to_wait(cluster: Cluster, api: Api) -> None:
    api.jobs_by_id["7"] = job("7", nodes="")
    with pytest.raises(NodesUnknown):
        await locate(cluster, "nid001")


async def test_an_unknown_system_is_the_users_mistake(cluster: Cluster) -> None:
    cluster.name = cluster.title = "nowhere"
    with pytest.raises(OptionsError, match="nowhere"):
        await cluster.system()


async def test_a_systems_trouble_is_told_in_a_sentence_from_memory(api: Api) -> None:
    """R9"""
    described = System("daint", unhealthy=("ssh", "scheduler", "teapot"))
    systems: Shared[dict[str, System]] = Shared(lambda: _now({"daint": described}))
    fake, account = FirecREST("http://api"), cast(Any, Account())
    cluster = Cluster(JobMonitor(fake, "daint", account, "hub"), systems, frozenset())
    assert cluster.trouble == ""
    await systems.get(300)
    assert cluster.trouble == "daint has trouble with its login node and scheduler and services."
    for account in range(FAILURES):
        fake.guard("daint").breaker.failed(account, Pass.CALL)
    assert cluster.trouble == "daint does not answer at the moment."


async def _now(value: T) -> T:
    return value


async def test_a_list_is_fetched_once_for_all_who_ask_and_kept_while_its_source_is_away() -> None:
    """C3."""
    answers: list[Any] = [1, Unreachable("away")]
    asked = 0

    async def fetch() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return _give(answers.pop(0))

    cached = Shared(fetch)
    assert await asyncio.gather(*(cached.get(300) for _ in range(5))) == [1] * 5
    assert asked == 1
    assert await cached.get(max_age=-1) == 1
    assert asked == 2


def test_the_hubs_own_addresses_hold_this_hosts_loopback() -> None:
    """S8."""
    own = own_addresses(["127.0.0.9", "no.such.host.invalid"])
    assert {address.numeric("127.0.0.1"), address.numeric("127.0.0.9")} <= own


async def test_a_name_that_does_not_resolve_has_no_addresses() -> None:
    assert await resolve("no.such.host.invalid") == []
    assert "127.0.0.1" in await resolve("localhost")


async def test_the_jobs_are_counted_once_for_all_their_states(cluster: Cluster) -> None:
    """R8: with ten thousand of them each count holds the loop for ten milliseconds."""
    monitor, looks = cluster.monitor, 0

    class Watches(dict[Any, None]):
        def __iter__(self) -> Any:
            nonlocal looks
            looks += 1
            return super().__iter__()

    now = 0.0
    monitor.clock = lambda: now
    module._show(monitor)
    for number, state in enumerate([JobState.RUNNING, JobState.RUNNING, JobState.PENDING]):
        monitor.watch(str(number), "alice").hint = job(str(number), state=state)
    monitor.watch("9", "alice")

    def shown() -> dict[str, float]:
        (family,) = JOBS.collect()
        return {
            each.labels["state"]: each.value
            for each in family.samples
            if each.labels["system"] == "daint" and each.value
        }

    monitor.watches = Watches(monitor.watches)
    assert shown() == {"running": 2, "pending": 1, "unknown": 1} and looks == 1
    monitor.watches.clear()
    now += 2 * module.COUNT_AGE
    assert shown() == {} and looks == 2
