"""Are hints what FirecREST says of the user, asked rarely, and is their absence no trouble?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from firecrestspawner import entitlements
from firecrestspawner.entitlements import LONGEST, UNKNOWN, Desk, Hint, Hints
from firecrestspawner.errors import Error, LoginRequired, Unreachable
from firecrestspawner.models import Secret

ANSWERS = {
    "userinfo": {"accounts": [{"name": "proj2"}, {"name": "proj1", "default": True}]},
    "partitions": [
        {"name": "normal", "totalNodes": 4, "partition": "UP"},
        {"name": "debug", "totalNodes": 1, "partition": ["UP"]},
        {"name": "down", "totalNodes": 1, "partition": "DOWN"},
    ],
    "reservations": [{"name": "course", "state": "inactive"}, {"name": "now", "state": "ACTIVE"}],
}  # fmt: skip


class Api:
    """FirecREST; an answer that is an error is raised."""

    url = "http://api"

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {**ANSWERS, **answers}
        self.asked: list[tuple[str, str, str]] = []

    async def status(self, token: Secret, system: str, what: str) -> Any:
        self.asked.append((token.reveal(), system, what))
        await asyncio.sleep(0)
        answer = self.answers[what]
        if isinstance(answer, Error):
            raise answer
        return answer


async def hints(
    api: Any, desk: Desk | None = None, user: int = 1, system: str = "daint", features: Any = None
) -> Hints:
    async def token() -> Secret:
        return Secret(f"token of {user}")

    async def counted() -> Any:
        if isinstance(features, Error):
            raise features
        return features

    wanted = {} if features is None else {"features": counted}
    return await (desk or Desk()).get(user, api, system, token, age=60, **wanted)


async def test_what_is_answered_becomes_hints() -> None:
    found = await hints(Api(), features={"gpu": 2, "a100": 1, "no good": 3})
    assert found.account == (Hint("proj1", "your default"), Hint("proj2"))
    assert found.partition == (
        Hint("debug", "1 node", 1),
        Hint("down", "not up, 1 node", 1),
        Hint("normal", "4 nodes", 4),
    )
    assert found.reservation == (Hint("course", "not active now"), Hint("now"))
    assert found.complete == ("account",)
    assert found.constraint == (Hint("a100", "1 node"), Hint("gpu", "2 nodes"))
    assert found.public()["account"][0] == {
        "value": "proj1",
        "label": "your default",
        "nodes": None,
    }


async def test_a_reservation_of_pbs_is_asked_for_as_the_queue_that_it_is() -> None:
    """Answers of FirecREST about an OpenPBS, whose qsub said "Unknown queue" to the name."""
    reservations = [
        {
            "name": "myresv",
            "nodeList": "(node01:ncpus=1)",
            "endTime": 1795874086,
            "startTime": 1795872886,
            "features": None,
            "state": None,
        }
    ]
    partitions = [
        {"name": "workq", "cpus": None, "totalNodes": None, "partition": "UP"},
        {"name": "R94", "cpus": None, "totalNodes": None, "partition": "DOWN"},
    ]
    found = await hints(Api(partitions=partitions, reservations=reservations))
    assert found.reservation == ()
    assert found.partition == (Hint("R94", "not up"), Hint("workq"))


async def test_without_accounts_a_users_groups_are_offered() -> None:
    """FirecREST's UserInfoResponse: ``accounts`` may be null, ``groups`` is a list."""
    groups = [{"id": "1001", "name": "proj7"}, {"id": "100", "name": "users"}]
    for accounts in (None, {"proj7": "no list"}):
        found = await hints(Api(userinfo={"groups": groups, "accounts": accounts}))
        assert found.account == (Hint("proj7", "your group"), Hint("users", "your group"))
        assert found.complete == (), "an account may have another name than a group"
    found = await hints(Api(userinfo={"groups": groups, "accounts": []}))
    assert (found.account, found.complete) == ((), ())


async def test_a_list_of_accounts_that_was_cut_rules_none_out() -> None:
    accounts = [{"name": f"proj{number}"} for number in range(LONGEST)]
    found = await hints(Api(userinfo={"accounts": accounts}))
    assert len(found.account) == LONGEST and found.complete == ()


async def test_any_number_of_tabs_makes_one_set_of_requests_with_the_users_own_token() -> None:
    """C3, S5."""
    desk, api = Desk(), Api()
    await asyncio.gather(*(hints(api, desk) for _ in range(10)))
    await hints(api, desk)
    assert sorted(api.asked) == sorted(("token of 1", "daint", what) for what in ANSWERS)
    await hints(api, desk, user=2)
    await hints(api, desk, system="eiger")
    assert len(api.asked) == 9


async def test_what_cannot_be_said_leaves_the_rest() -> None:
    found = await hints(Api(userinfo=Unreachable("away")))
    assert (found.account, found.problem) == ((), "")
    assert found.reservation
    found = await hints(Api(), features=Unreachable("away"))
    assert (found.constraint, found.problem) == ((), "")
    assert found.account


async def test_an_api_that_is_away_is_said_to_be_and_asked_again_no_sooner() -> None:
    """C3."""
    away = Unreachable("away")
    desk, api = Desk(), Api(userinfo=away, partitions=away, reservations=away)
    for _ in range(3):
        assert await hints(api, desk) == Hints(problem=UNKNOWN)
    assert len(api.asked) == 3


async def test_without_a_token_the_sentence_says_why_and_nothing_is_asked() -> None:
    async def token() -> Secret:
        raise LoginRequired("Log in again.")

    api: Any = Api()
    found = await Desk().get(1, api, "daint", token, age=60)
    assert found == Hints(problem="Log in again.")
    assert api.asked == []


@pytest.mark.parametrize("odd", [None, 7, "x", {"a": 1}, [None, 7, {"name": 7}, {"name": "a b"}]])
async def test_what_is_not_of_the_apis_form_is_left_out(odd: Any) -> None:
    """S9, R10."""
    hostile = {"name": "<script>", "state": "x"}
    rows = [*odd, hostile, {"name": "ok"}] if isinstance(odd, list) else odd
    found = await hints(Api(userinfo={"accounts": rows}, partitions=rows, reservations=rows))
    names = {hint.value for hint in (*found.account, *found.partition, *found.reservation)}
    assert names == ({"ok"} if isinstance(odd, list) else set())


async def test_a_long_list_is_cut_and_only_so_many_users_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entitlements, "KEPT", 2)
    many = [{"name": f"p{n:04}"} for n in range(1000)]
    desk, api = Desk(), Api(partitions=many)
    assert len((await hints(api, desk)).partition) == entitlements.LONGEST
    for user in (2, 3):
        await hints(api, desk, user=user)
    assert len(desk._kept) == 2
    await hints(api, desk)
    assert len(api.asked) == 12, "the first was forgotten"


async def test_who_asks_now_is_whose_token_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """S5: who asked first may have been deleted, and another made under the same number."""
    desk, api = Desk(), Api()
    await hints(api, desk)
    api.asked.clear()

    async def token() -> Secret:
        return Secret("of the new one")

    await desk.get(1, api, "daint", token, age=-1)  # type: ignore[arg-type]
    assert {asked for asked, *_ in api.asked} == {"of the new one"}


async def test_who_logs_in_again_is_told_at_once() -> None:
    desk, api = Desk(), Api()

    async def none() -> Secret:
        raise LoginRequired("Log in again.")

    assert (await desk.get(1, api, "daint", none, age=60)).problem  # type: ignore[arg-type]
    assert (await hints(api, desk)).account
    # What was said before the session ended is the user's, and kept as long as anything is.
    assert (await desk.get(1, api, "daint", none, age=60)).account  # type: ignore[arg-type]
    assert (await desk.get(1, api, "daint", none, age=-1)).problem  # type: ignore[arg-type]
