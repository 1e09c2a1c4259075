"""Is anything lost in a few seeded schedules of faults, and would the checker see it?

The harness is tests/chaos; ``make chaos`` plays as many schedules as one likes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest

from firecrestspawner import client, conversation, singleuser, spawn, stored, watch
from firecrestspawner.channel import TIME_IS_UP
from firecrestspawner.errors import FirecRESTError
from tests.chaos.checker import Belief, Snapshot, TrueJob
from tests.chaos.plan import SERVERS, STORIES, Plan, Press, Window, plan
from tests.chaos.world import run

#: So many schedules of each story are played here.
SHORT = 4
#: A broken invariant is found within so many.
BOUND = 60
HOUR = 3600.0


@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_lost_in_a_few_schedules(story: str) -> None:
    """R1, R3, R6, R7."""
    for seed in range(SHORT):
        result = run(plan(seed, story))
        assert not result.violations, "\n".join([f"seed {seed}", *result.journal])


def test_servers_end_before_their_jobs_time_limits() -> None:
    journals = [run(plan(seed, "time limit")).journal for seed in range(SHORT)]
    ended = [line for journal in journals for line in journal if TIME_IS_UP in line]
    limits = [line for journal in journals for line in journal if "is to end: TIMEOUT" in line]
    extended = [line for journal in journals for line in journal if "is extended" in line]
    assert len(ended) > len(limits)
    assert extended


@pytest.mark.parametrize("kind", ["403", "404", "502", "login", "refused"])
def test_no_job_ends_while_a_reverse_proxy_answers_in_the_hubs_place_for_an_hour(kind: str) -> None:
    """R7: no status code, no page and no dead Hub ends a job."""
    begin = 60.0
    hour = Plan(
        seed=0,
        length=begin + HOUR,
        windows=[Window(begin, begin + HOUR, "channel", kind)],
        presses=[Press(0.1, "start", user, server) for user, server in SERVERS],
        peaceful=True,
    )
    result = run(hour)
    assert not result.violations, "\n".join(result.journal)
    during = [line for line in result.journal if begin < float(line.split()[0]) < begin + HOUR]
    assert sum(f"alive: {kind}" in line for line in during) > 100, "they did ask"
    assert not [line for line in during if " slurm " in line], "nothing happens to their jobs"


def test_a_schedule_is_repeated_event_by_event() -> None:
    """Also in another process, with other hashes: a seed is all it takes."""
    seed, story = 5, "killed start"
    here = run(plan(seed, story))
    elsewhere = subprocess.run(
        [sys.executable, "-m", "tests.chaos", f"--seed={seed}", f"--story={story}", "--runs=1"],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert len(here.journal) > 20
    assert "\n".join(here.journal) in elsewhere
    assert "Nothing was lost." in elsewhere


# -- the checker bites -----------------------------------------------------------------------


def submit_again() -> AbstractContextManager[Any]:
    """After an ambiguous answer a second submit is sent (R3)."""
    once = client.FirecREST.submit

    async def submit(*args: Any) -> str:
        try:
            return await once(*args)
        except FirecRESTError as error:
            if not error.ambiguous:
                raise
            return await once(*args)

    return mock.patch.object(client.FirecREST, "submit", submit)


def believe_a_404() -> AbstractContextManager[Any]:
    """One 404 by id is taken for the end (R1)."""
    return mock.patch.multiple(watch, ABSENT_ANSWERS=1, ABSENT_SECONDS=0.0)


def believe_a_list() -> AbstractContextManager[Any]:
    """What a row of a list announces is taken for the end (R1)."""

    def ended(one: Any) -> Any:
        return one.job if one.job is not None and one.job.state.terminal else None

    return mock.patch.object(watch.Watch, "ended", property(ended))


def keep_no_tombstone() -> AbstractContextManager[Any]:
    """Tombstones are not stored (R7)."""
    whole = stored.StoredSpawner.get_state

    def get_state(spawner: Any) -> dict[str, Any]:
        return {name: value for name, value in whole(spawner).items() if name != "tombstones"}

    return mock.patch.object(stored.StoredSpawner, "get_state", get_state)


def believe_a_status() -> AbstractContextManager[Any]:
    """A 403 or a 404 tells a launcher that its server is not wanted (R7)."""
    read = singleuser.Call._read

    def obey(call: Any, status: int, text: bytes) -> None:
        read(call, status, text)
        if call.problem.startswith(("HTTP status 403", "HTTP status 404")):
            call.verdict = "ended"

    return mock.patch.object(singleuser.Call, "_read", obey)


def commit_no_id() -> AbstractContextManager[Any]:
    """The job's id is kept in memory only (R2)."""
    whole = spawn.Spawn.to_state

    def to_state(one: Any, seal: Any) -> dict[str, Any]:
        return {**whole(one, seal), "job_id": ""}

    return mock.patch.object(spawn.Spawn, "to_state", to_state)


def believe_a_list_about_time() -> AbstractContextManager[Any]:
    """A server is ended on the word of a list that its time is over (R1, R7)."""

    async def due(spawner: Any, spawn: Any) -> bool:
        seconds = spawner._due(spawn)
        return seconds is not None and seconds <= 0

    return mock.patch.object(conversation.ConversingSpawner, "_is_time_up", due)


@pytest.mark.parametrize(
    ("broken", "story", "seen"),
    [
        (submit_again, "lost submit", "is submitted 2 times"),
        (believe_a_404, "blind", "and its job"),
        (believe_a_list, "blind", "and its job"),
        (keep_no_tombstone, "vain stop", "is an orphan"),
        (believe_a_status, "bad proxy", "nobody asked for that"),
        (commit_no_id, "killed start", "the Hub"),
        (believe_a_list_about_time, "time limit", "s left"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_invariant_is_found(
    broken: Callable[[], AbstractContextManager[Any]], story: str, seen: str
) -> None:
    """The checker bites: whatever is broken on purpose, some schedule shows it."""
    with broken():
        for seed in range(BOUND):
            if found := run(plan(seed, story)).violations:
                assert seen in "\n".join(found)
                return
    pytest.fail(f"{broken.__name__} was not found in {BOUND} schedules")


READY = Belief("alice", "", "ready", "spawn", "7", "10.1.0.1:20007")
LIVE = TrueJob("7", "alice", "spawn", True, "10.1.0.1:20007", "token")


def snapshot(**changes: Any) -> Snapshot:
    whole: dict[str, Any] = {
        "jobs": [LIVE],
        "beliefs": [READY],
        "routes": frozenset({("alice", "", "10.1.0.1:20007")}),
        "tokens": [("alice", "")],
        "valid": frozenset({"token"}),
    }
    return Snapshot(**whole | changes)


def test_truth_and_belief_that_agree_do_not_differ() -> None:
    assert not snapshot().differences()
    assert not snapshot(jobs=[], beliefs=[], routes=frozenset(), tokens=[]).remains()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beliefs": []}, "is an orphan"),
        ({"beliefs": [READY, Belief("bob", "", "ready", "other", "7", "")]}, "several servers"),
        ({"jobs": []}, "has no job"),
        ({"jobs": [TrueJob("8", "alice", "spawn", True, "10.1.0.1:20007")]}, "takes '7'"),
        ({"jobs": [TrueJob("7", "alice", "spawn", True, "")]}, "listens at nowhere"),
        ({"beliefs": [Belief("alice", "", "stop", "spawn", "7")]}, "is pending stop"),
        ({"routes": frozenset()}, "does not lead"),
        ({"routes": frozenset({("bob", "", "10.1.0.1:1")})}, "which is not there"),
        ({"tokens": []}, "API tokens"),
        ({"tokens": [("alice", ""), ("alice", "")]}, "API tokens"),
        ({"valid": frozenset()}, "does not accept"),
    ],
)
def test_what_differs_is_said(changes: dict[str, Any], said: str) -> None:
    assert said in "\n".join(snapshot(**changes).differences())


def test_what_remains_is_said() -> None:
    assert snapshot().remains() == ["job 7 of alice", "alice's server '': ready"]
