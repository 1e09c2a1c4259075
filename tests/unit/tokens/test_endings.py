"""How does a login end here: refused, lost, or denied?"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner import models, oauth
from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.errors import LoginRequired, PermissionDenied, ProviderUnavailable
from firecrestspawner.models import TokenSet
from firecrestspawner.oidc import Provider
from firecrestspawner.tokens import Revision, TokenStore, read_session
from tests.issuer import INVALID_GRANT, Held, refreshes
from tests.unit.tokens.issuing import Clock, MemoryVault


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "firecrestspawner.tokens"]


# -- refused: R5 ---------------------------------------------------------------------------------

REFUSALS: dict[str, Callable[[Issuer], Any]] = {
    "Session not active": lambda issuer: issuer.end_session("alice"),
    "Token is not active": lambda issuer: setattr(issuer.faults, "clock_skew", 1805),
    "Maximum allowed refresh token reuse exceeded": lambda issuer: issuer.spend_refresh_tokens(
        "alice"
    ),
    "Stale token": lambda issuer: issuer.revoke_before_now(),
    "User disabled": lambda issuer: issuer.update_user("alice", enabled=False),
}


@pytest.mark.parametrize(("reason", "refuse"), REFUSALS.items(), ids=REFUSALS.keys())
async def test_a_refusal_is_remembered_and_never_asked_for_again(
    issuer: Issuer,
    store: TokenStore,
    vault: MemoryVault,
    reason: str,
    refuse: Callable[[Issuer], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R5: one request and one log line, whatever is asked how often; a login clears it."""
    caplog.set_level(logging.INFO, "firecrestspawner.tokens")
    id_token = vault.tokens.id_token
    refuse(issuer)
    for _ in range(3):
        with pytest.raises(LoginRequired):
            await store.get(vault)
        with pytest.raises(LoginRequired):
            await store.renew(vault)
    assert refreshes(issuer) == 1
    [line] = said(caplog)
    assert reason in line
    assert abs(vault.state["login_ended"] - time.time()) < 5
    assert not vault.state["access_token"] and not vault.state["refresh_token"]
    assert id_token is not None and vault.state["id_token"] == id_token.reveal()
    assert vault.state["oauth_user"] == {"sub": "1"}
    assert not read_session(vault.state).valid
    issuer.faults.clear()
    issuer.update_user("alice", enabled=True)
    vault.log_in(issuer.log_in("alice"))
    assert await store.get(vault) == vault.tokens
    assert read_session(vault.state).valid


@pytest.mark.parametrize("told", ["invalid_client", "unauthorized_client"])
async def test_a_client_that_is_refused_is_the_deployers_fault(
    issuer: Issuer,
    store: TokenStore,
    vault: MemoryVault,
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R5: nobody is logged out, and the log says once what to look at."""
    issuer.faults.set("token", status=401, body=json.dumps({"error": told}))
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            await store.get(vault)
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert told in line and "'jupyterhub'" in line
    issuer.faults.clear()
    assert await store.get(vault)


async def test_a_lost_answer_costs_one_login_and_never_a_loop(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R5: the issuer has rotated, and takes the second try for a theft. Nobody else notices."""
    bobs = MemoryVault(issuer.log_in("bob"))
    bobs.name = "bob"
    issuer.faults.set("token", reset=True, after=True, times=1)
    with pytest.raises(LoginRequired):
        await store.get(vault)
    asked = refreshes(issuer)
    assert asked == 2
    for _ in range(5):
        with pytest.raises(LoginRequired):
            await store.get(vault)
    assert refreshes(issuer) == asked
    assert not (await store.get(bobs)).expires_soon(60)
    vault.log_in(issuer.log_in("alice"), left=5)
    assert not (await store.get(vault)).expires_soon(60)


async def test_an_answer_that_came_too_late_costs_one_login_and_never_a_loop(
    issuer: Issuer, provider: Provider, store: TokenStore, vault: MemoryVault
) -> None:
    """R5: the issuer has rotated, and said so after the deadline. Nothing is concluded from that;
    the next try is refused, once."""
    await provider.metadata()
    provider.client.deadline = 0.5
    held = Held(issuer)
    with pytest.raises(ProviderUnavailable):
        await store.get(vault)
    held.release()
    provider.client.deadline = 5
    for _ in range(3):
        with pytest.raises(LoginRequired):
            await store.get(vault)
    assert refreshes(issuer) == 2


async def test_ten_minutes_without_an_issuer_cost_nobody_a_login(
    issuer: Issuer,
    store: TokenStore,
    vault: MemoryVault,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R5: all that was known of it grows old meanwhile, and is still good when it comes back."""
    monkeypatch.setattr(oauth, "_BACKOFF", (0.0, 0.0))
    monkeypatch.setattr(models, "time", SimpleNamespace(time=clock.time))
    await store.get(vault)
    before = vault.state
    issuer.stop()
    for clock.ahead in range(300, 901, 60):
        with pytest.raises(ProviderUnavailable):
            await store.get(vault)
        assert vault.state == before
        assert read_session(vault.state).valid
    issuer.faults.clock_skew = clock.ahead
    issuer.start()
    assert not (await store.get(vault)).expires_soon(60)


async def test_a_lost_answer_costs_nothing_without_rotation(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R5."""
    issuer.rotation = False
    issuer.faults.set("token", reset=True, after=True, times=1)
    assert not (await store.get(vault)).expires_soon(60)


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"reset": True}], ids=str)
async def test_trouble_that_passes_is_not_noticed(
    issuer: Issuer, store: TokenStore, vault: MemoryVault, fault: dict[str, Any]
) -> None:
    """R5."""
    issuer.faults.set("token", times=2, **fault)
    assert not (await store.get(vault)).expires_soon(60)
    assert refreshes(issuer) == 3


async def test_who_waits_for_an_issuer_that_is_away_waits_once(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R9: not one after the other."""
    issuer.faults.set("token", status=503)
    got = await asyncio.gather(*(store.get(vault) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(error, ProviderUnavailable) for error in got)
    assert len(set(map(id, got))) == 50, "one exception is raised by many"
    assert refreshes(issuer) == 3


@pytest.mark.parametrize("skew", [-300, 300])
async def test_an_issuer_whose_clock_is_five_minutes_wrong_does_no_harm(
    issuer: Issuer, store: TokenStore, provider: Provider, vault: MemoryVault, skew: int
) -> None:
    """R5: lives are counted from the answer's arrival."""
    issuer.faults.clock_skew = skew
    vault.log_in(issuer.log_in("alice"), left=5)
    for _ in range(3):
        fresh = await store.get(vault)
        assert 290 < (fresh.expires_at or 0) - time.time() <= 300
        assert (await provider.claims(fresh.access_token))["preferred_username"] == "alice"
        asked = refreshes(issuer)
        await store.get(vault)
        assert refreshes(issuer) == asked
        vault.expire()


async def test_a_clock_that_is_set_back_does_not_prolong_a_token(
    issuer: Issuer,
    store: TokenStore,
    vault: MemoryVault,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R4: what was issued in the future is of no known age."""
    await store.get(vault)
    monkeypatch.setattr(models, "time", SimpleNamespace(time=clock.time))
    clock.ahead = -300
    await store.get(vault)
    assert refreshes(issuer) == 2
    await store.get(vault)
    assert refreshes(issuer) == 2


async def test_what_a_refresh_omits_is_kept(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4: RFC 6749 section 6, OpenID Connect Core section 12.2."""
    issuer.rotation = False
    before = vault.tokens
    left_out = ["refresh_token", "refresh_expires_in", "id_token", "scope"]
    issuer.faults.set("token", omit=left_out)
    fresh = await store.get(vault)
    assert fresh.access_token != before.access_token
    for name in ("refresh_token", "refresh_expires_at", "id_token", "scope"):
        assert getattr(vault.tokens, name) == getattr(before, name) is not None
    assert vault.tokens == fresh


async def test_an_invalid_grant_of_unknown_wording_is_not_quoted(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """S9."""
    body = json.loads(INVALID_GRANT) | {"error_description": "token eyJabc is bad"}
    issuer.faults.set("token", status=400, body=json.dumps(body))
    with pytest.raises(LoginRequired) as caught:
        await store.get(vault)
    assert "eyJ" not in caught.value.detail


class Recovering:
    """An issuer that is away at first, and then refuses."""

    def __init__(self) -> None:
        self.answers: list[Exception] = [ProviderUnavailable("away"), LoginRequired("ended")]

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        await asyncio.sleep(0)
        raise self.answers.pop(0)


async def test_an_outage_is_shared_by_those_who_waited_for_it_alone(vault: MemoryVault) -> None:
    """R5: who waits for the next try is told what came of that."""
    store = TokenStore(Recovering(), lambda vault: vault)  # type: ignore[arg-type]
    first = [asyncio.ensure_future(store.get(vault)) for _ in range(20)]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    later = [asyncio.ensure_future(store.get(vault)) for _ in range(5)]
    told = await asyncio.gather(*first, *later, return_exceptions=True)
    assert [type(error) for error in told] == 20 * [ProviderUnavailable] + 5 * [LoginRequired]


# -- denied --------------------------------------------------------------------------------------


class Judge:
    """A ``revise`` that answers, or raises, ``verdict``."""

    def __init__(self) -> None:
        self.verdict: Any = None
        self.states: list[dict[str, Any]] = []

    async def __call__(self, user: Any, state: dict[str, Any], fresh: TokenSet) -> Any:
        assert user.tokens == fresh, "what was rotated is not saved yet"
        self.states.append(state)
        await asyncio.sleep(0)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict(state) if callable(self.verdict) else self.verdict


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def judging(provider: Provider, judge: Judge) -> TokenStore:
    return TokenStore(provider, lambda vault: vault, judge)


async def test_what_follows_from_a_refresh_is_saved_and_then_applied(
    judging: TokenStore, judge: Judge, vault: MemoryVault
) -> None:
    """R4: the rotated token first; the Hub's rows right after, under the same lock."""
    applied = []
    judge.verdict = lambda state: Revision(
        {**state, "groups": ["a"]}, lambda: applied.append(vault.state["groups"])
    )
    fresh = await judging.get(vault)
    assert applied == [["a"]]
    assert vault.swaps == [fresh, fresh]
    await judging.get(vault)
    assert len(judge.states) == 1, "only a refresh is looked at"


async def test_who_is_denied_gets_no_token_until_a_later_refresh(
    issuer: Issuer,
    judging: TokenStore,
    judge: Judge,
    vault: MemoryVault,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R4: the tokens are kept, and the issuer is not asked at each need."""
    caplog.set_level(logging.INFO, "firecrestspawner.tokens")
    judge.verdict = PermissionDenied("You need the role hpc-user.")
    for _ in range(3):
        with pytest.raises(PermissionDenied, match="hpc-user"):
            await judging.get(vault)
    assert refreshes(issuer) == 1 and len(said(caplog)) == 1
    assert vault.state["denied"] == "You need the role hpc-user."
    vault.expire()
    judge.verdict = ProviderUnavailable("away")
    with pytest.raises(PermissionDenied, match="hpc-user"):
        await judging.get(vault)
    vault.expire()
    judge.verdict = None
    assert await judging.get(vault) == vault.tokens
    assert "denied" not in vault.state
    assert all("denied" not in state for state in judge.states)


async def test_what_cannot_be_looked_at_is_kept(
    judging: TokenStore, judge: Judge, vault: MemoryVault
) -> None:
    """R5: an issuer that is away takes nobody's groups."""
    judge.verdict = ProviderUnavailable("away")
    assert await judging.get(vault) == vault.tokens


async def test_a_session_that_ends_while_it_is_looked_at_has_ended(
    judging: TokenStore, judge: Judge, vault: MemoryVault
) -> None:
    judge.verdict = LoginRequired("ended")
    with pytest.raises(LoginRequired):
        await judging.get(vault)
    assert vault.state["login_ended"]


@pytest.mark.parametrize(
    "verdict",
    [
        PermissionDenied("no"),
        LoginRequired("ended"),
        lambda s: Revision({**s, "x": 1}),
        lambda s: Revision(s, lambda: pytest.fail("the login's groups are newer")),
        None,
    ],
)
async def test_a_login_while_a_user_is_looked_at_wins(
    issuer: Issuer, provider: Provider, vault: MemoryVault, verdict: Any
) -> None:
    """R4."""
    judge = Judge()
    judge.verdict = verdict

    async def revise(user: Any, state: dict[str, Any], fresh: TokenSet) -> Any:
        try:
            return await judge(user, state, fresh)
        finally:
            vault.log_in(issuer.log_in("alice"))

    store = TokenStore(provider, lambda vault: vault, revise)
    assert await store.get(vault) == vault.tokens
    assert not {"denied", "x", "login_ended"} & vault.state.keys()
    assert refreshes(issuer) == 1
