"""Is a server given its owner's token as it is, or exchanged, and once?"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from firecrestspawner.errors import LoginRequired
from firecrestspawner.handout import Handout
from firecrestspawner.models import Secret, TokenSet


class Issuer:
    """Stands for TokenStore and Provider: counts what they are asked."""

    def __init__(self, *, life: float = 300.0) -> None:
        self.life = life
        self.number = 1
        self.wanted: list[float] = []
        self.exchanged: list[tuple[str, str, str]] = []

    async def get(self, user: str, min_validity: float) -> TokenSet:
        self.wanted.append(min_validity)
        return TokenSet(Secret(f"{user}'s {self.number}"), time.time() + 300)

    async def exchange(self, access_token: Secret, audience: str, scope: str) -> TokenSet:
        self.exchanged.append((access_token.reveal(), audience, scope))
        await asyncio.sleep(0)
        return TokenSet(Secret(f"narrow {len(self.exchanged)}"), time.time() + self.life)


class Server:
    def __init__(self, audience: str = "", scope: str = "") -> None:
        self.user = "alice"
        self.notebook_token_audience = audience
        self.notebook_token_scope = scope


def handout(issuer: Any) -> Handout:
    return Handout(issuer, issuer)


async def test_without_an_audience_the_token_is_the_users_own() -> None:
    issuer = Issuer()
    tokens = await handout(issuer).get(Server(), 120)
    assert tokens.access_token == Secret("alice's 1")
    assert (issuer.wanted, issuer.exchanged) == ([120], [])


@pytest.mark.parametrize("wish", [{"audience": "firecrest"}, {"scope": "jobs"}])
async def test_an_audience_or_a_scope_is_asked_for_in_exchange(wish: dict[str, str]) -> None:
    issuer = Issuer()
    tokens = await handout(issuer).get(Server(**wish), 60)
    assert tokens.access_token == Secret("narrow 1")
    assert issuer.exchanged == [("alice's 1", wish.get("audience", ""), wish.get("scope", ""))]


@pytest.mark.parametrize("seconds", [60, 3600])
async def test_fifty_kernels_of_a_server_make_one_exchange_and_another_server_its_own(
    seconds: float,
) -> None:
    """Whether the issuer gives as much as they ask for or not."""
    issuer = Issuer()
    one, server, other = handout(issuer), Server("firecrest"), Server("firecrest")
    got = await asyncio.gather(*(one.get(server, seconds) for _ in range(50)))
    assert {tokens.access_token for tokens in got} == {Secret("narrow 1")}
    assert (await one.get(other, 60)).access_token == Secret("narrow 2")


async def test_a_fresh_access_token_is_exchanged_anew() -> None:
    issuer = Issuer()
    one, server = handout(issuer), Server("firecrest")
    await one.get(server, 60)
    issuer.number = 2
    assert (await one.get(server, 60)).access_token == Secret("narrow 2")


async def test_an_exchanged_token_that_ends_too_soon_is_exchanged_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = Issuer(life=100)
    one, server = handout(issuer), Server("firecrest")
    await one.get(server, 60)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 41)
    assert (await one.get(server, 60)).access_token == Secret("narrow 2")


async def test_who_asks_for_more_than_there_is_costs_no_exchange_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = Issuer(life=100)
    one, server = handout(issuer), Server("firecrest")
    for _ in range(3):
        assert (await one.get(server, 3600)).access_token == Secret("narrow 1")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 51)
    assert (await one.get(server, 3600)).access_token == Secret("narrow 2")


async def test_an_ended_session_hands_out_nothing_that_was_exchanged_before() -> None:
    issuer = Issuer()
    one, server = handout(issuer), Server("firecrest")
    await one.get(server, 60)

    async def ended(user: str, min_validity: float) -> TokenSet:
        raise LoginRequired("Log in again.")

    issuer.get = ended  # type: ignore[method-assign]
    with pytest.raises(LoginRequired):
        await one.get(server, 60)
