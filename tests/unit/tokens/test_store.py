"""Are users' tokens fresh, asked for once, saved before use, and lost only for good reason?"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.app import JupyterHub

from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.errors import (
    ConfigurationError,
    Error,
    LoginRequired,
    ProviderUnavailable,
)
from firecrestspawner.models import Secret, TokenSet
from firecrestspawner.oauth import TokenClient
from firecrestspawner.oidc import Provider
from firecrestspawner.shutdown import before_shutdown
from firecrestspawner.tokens import TokenStore
from tests.issuer import HUB_SECRET, INVALID_GRANT, OUTAGES, Held, refreshes
from tests.unit.tokens.issuing import MemoryVault, shown

# -- users' tokens: R4 ---------------------------------------------------------------------------


async def test_a_fresh_token_costs_no_request(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    vault.log_in(issuer.log_in("alice"), left=61)
    assert await store.get(vault) == vault.tokens
    assert issuer.requests == []


async def test_a_token_that_is_about_to_expire_is_refreshed(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    old = vault.tokens
    fresh = await store.get(vault)
    assert fresh.access_token != old.access_token
    assert not fresh.expires_soon(200)
    assert fresh.id_token is not None
    assert vault.state["oauth_user"] == {"sub": "1"}, "the rest is lost"


async def test_fifty_who_need_a_token_make_one_request(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4."""
    got = await asyncio.gather(*(store.get(vault) for _ in range(50)))
    assert refreshes(issuer) == 1
    assert {tokens.access_token.reveal() for tokens in got} == {vault.tokens.access_token.reveal()}


async def test_without_a_refresh_token_nobody_gets_an_expired_one(
    store: TokenStore, vault: MemoryVault
) -> None:
    """R4: nor does who waited while another was refused."""
    vault.log_in({"access_token": "a", "expires_in": 300}, left=-1)
    got = await asyncio.gather(*(store.get(vault) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in got] == [LoginRequired] * 3


async def test_a_hub_full_of_users_leaves_the_loop_to_others_between_them(issuer: Issuer) -> None:
    """R8: reads and requests of many come one in a round of the loop, their answers a few."""
    rounds = 0
    read: list[int] = []
    asked: list[int] = []
    sealed: list[int] = []

    all_asked = asyncio.Event()

    class AllAtOnce:
        async def refresh(self, tokens: TokenSet) -> TokenSet:
            asked.append(rounds)
            if len(asked) == 50:
                all_asked.set()
            await all_asked.wait()
            return replace(tokens, expires_at=time.time() + 300)

    class Noting(MemoryVault):
        async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
            read.append(rounds)
            return await super().load()

        async def seal(self, auth_state: dict[str, Any]) -> bytes:
            sealed.append(rounds)
            return await super().seal(auth_state)

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    answer = issuer.log_in("alice")
    vaults = [Noting(answer) for _ in range(50)]
    for number, vault in enumerate(vaults):
        vault.name = f"user-{number}"
    provider: Any = AllAtOnce()
    store = TokenStore(provider, lambda vault: vault)
    counting = asyncio.ensure_future(count())
    await asyncio.gather(*(store.get(vault) for vault in vaults))
    counting.cancel()
    for noted, most in ((read, 1), (asked, 1), (sealed, 10)):
        assert len(noted) == 50
        assert max(Counter(noted).values()) <= most


async def test_fifty_who_need_more_than_the_issuer_gives_make_one_request(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4: what has just been refreshed is as fresh as it gets."""
    got = await asyncio.gather(*(store.get(vault, min_validity=3600) for _ in range(50)))
    assert refreshes(issuer) == 1
    assert {tokens.access_token.reveal() for tokens in got} == {vault.tokens.access_token.reveal()}


async def test_a_rotated_refresh_token_is_saved_before_the_access_token_is_used(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4: the issuer takes the old one no more."""
    old = vault.tokens
    fresh = await store.get(vault)
    [saved] = vault.swaps
    assert saved == fresh
    assert saved.refresh_token is not None and saved.refresh_token != old.refresh_token


async def test_refreshes_can_follow_one_another(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4: with an issuer that revokes a refresh token at its first use."""
    seen = set()
    for _ in range(5):
        seen.add((await store.get(vault)).access_token.reveal())
        vault.expire()
    assert len(seen) == 5


async def test_a_login_during_a_refresh_wins(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4."""
    held = Held(issuer)
    need = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    vault.log_in(issuer.log_in("alice"))
    login = vault.tokens
    held.release()
    assert (await need).access_token == login.access_token
    assert vault.tokens == login and vault.swaps == []


async def test_a_login_during_a_refresh_that_is_refused_wins_too(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4: the session that ended was not the one that has just begun."""
    issuer.end_session("alice")
    held = Held(issuer)
    need = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    vault.log_in(issuer.log_in("alice"))
    held.release()
    assert (await need).access_token == vault.tokens.access_token


async def test_a_refresh_outlives_its_caller(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4: the issuer has rotated by then."""
    old = vault.tokens
    held = Held(issuer)
    need = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    need.cancel()
    with pytest.raises(asyncio.CancelledError):
        await need
    held.release()
    saved = await store.get(vault)  # waits for the refresh that goes on
    assert refreshes(issuer) == 1
    assert saved.refresh_token != old.refresh_token
    vault.expire()
    await store.get(vault)  # the issuer still takes what was saved


async def test_one_who_gives_up_takes_nothing_from_the_others(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4."""
    held = Held(issuer)
    needs = [asyncio.ensure_future(store.get(vault)) for _ in range(10)]
    await held.arrived()
    needs[0].cancel()
    held.release()
    got = await asyncio.gather(*needs[1:])
    assert {tokens.access_token.reveal() for tokens in got} == {vault.tokens.access_token.reveal()}


async def test_closing_waits_for_what_a_refresh_has_got(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    held = Held(issuer)
    need = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    closing = asyncio.ensure_future(store.aclose())
    held.release()
    await closing
    assert vault.swaps == [await need]


async def test_a_hub_that_shuts_down_saves_what_a_refresh_has_got(
    issuer: Issuer, store: TokenStore, vault: MemoryVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R4: the issuer has rotated by then. JupyterHub cancels every task, the refresh's, too."""
    held = Held(issuer)
    hub = JupyterHub(cleanup_servers=False, cleanup_proxy=False)
    hub.db = SimpleNamespace(commit=held.release)  # its cleanup's last step
    monkeypatch.setattr(hub, "_stop_event_loop", lambda: None)
    before_shutdown(hub, store.settle)
    asyncio.ensure_future(store.get(vault)).add_done_callback(lambda done: done.exception())
    await held.arrived()
    await hub.shutdown_cancel_tasks()
    assert len(vault.swaps) == 1


async def test_one_users_refresh_does_not_hold_up_anothers(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R9."""
    held = Held(issuer)
    alice = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    bobs = MemoryVault(issuer.log_in("bob"))
    bobs.name = "bob"
    assert not (await asyncio.wait_for(store.get(bobs), 5)).expires_soon(60)
    assert not alice.done()
    held.release()
    await alice


# -- who is logged out: R5 -----------------------------------------------------------------------


async def test_an_ended_session_needs_a_login(
    issuer: Issuer, store: TokenStore, vault: MemoryVault, caplog: pytest.LogCaptureFixture
) -> None:
    """R5; S1: and no token is told to anybody."""
    caplog.set_level(logging.DEBUG)
    before = vault.tokens
    issuer.end_session("alice")
    with pytest.raises(LoginRequired) as caught:
        await store.get(vault)
    assert caught.value.message.endswith(".") and "\n" not in caught.value.detail
    everything = shown(caught.value, caplog)
    assert before.refresh_token is not None
    for secret in (before.access_token, before.refresh_token, Secret(HUB_SECRET)):
        assert secret.reveal() not in everything


async def test_without_a_refresh_token_a_login_is_needed(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    vault.log_in({**issuer.log_in("alice"), "refresh_token": None}, left=5)
    with pytest.raises(LoginRequired):
        await store.get(vault)
    assert refreshes(issuer) == 0


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES.keys())
async def test_an_issuer_in_trouble_logs_nobody_out(
    issuer: Issuer,
    store: TokenStore,
    vault: MemoryVault,
    fault: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R5; S9: nor is what it says quoted."""
    caplog.set_level(logging.DEBUG)
    before = vault.tokens
    issuer.faults.set("token", content_type="application/json", **fault)
    with pytest.raises(ProviderUnavailable) as caught:
        await store.get(vault)
    assert vault.tokens == before
    assert before.refresh_token is not None
    assert before.refresh_token.reveal() not in shown(caught.value, caplog)
    assert "WLAN" not in shown(caught.value, caplog)
    issuer.faults.clear()
    assert not (await store.get(vault)).expires_soon(60)


async def test_an_issuer_that_says_nothing_logs_nobody_out(
    issuer: Issuer, vault: MemoryVault
) -> None:
    """R5, R8: one deadline for a whole request."""
    client = TokenClient("jupyterhub", Secret(HUB_SECRET), deadline=0.3)
    provider = Provider(issuer.url, client)
    store = TokenStore(provider, lambda vault: vault)
    await provider.metadata()
    release = threading.Event()
    issuer.faults.set("token", hold=release)
    began = time.monotonic()
    try:
        with pytest.raises(ProviderUnavailable):
            await store.get(vault)
        assert time.monotonic() - began < 5
    finally:
        release.set()
        await client.aclose()


async def test_an_issuer_that_is_down_logs_nobody_out(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R5: neither before discovery, nor after it; and it comes back by itself."""
    issuer.stop()
    with pytest.raises(ProviderUnavailable):
        await store.get(vault)
    issuer.start()
    await store.get(vault)
    vault.expire()
    issuer.stop()
    with pytest.raises(ProviderUnavailable):
        await store.get(vault)
    issuer.start()
    assert not (await store.get(vault)).expires_soon(60)


@pytest.mark.parametrize("status", [400, 401])
async def test_only_invalid_grant_needs_a_login(
    issuer: Issuer, store: TokenStore, vault: MemoryVault, status: int
) -> None:
    """R5."""
    issuer.faults.set("token", status=status, body=INVALID_GRANT)
    with pytest.raises(LoginRequired):
        await store.get(vault)


@pytest.mark.parametrize("body", ["", "<html>", "[]", "{}", json.dumps({"issuer": 7})])
async def test_a_discovery_document_that_is_none_is_an_outage(
    provider: Provider, issuer: Issuer, body: str
) -> None:
    """R5: nothing is concluded from a document that is not there."""
    issuer.faults.set("discovery", status=503 if body != json.dumps({"issuer": 7}) else 200,
                      body=body)  # fmt: skip
    with pytest.raises(Error) as caught:
        await provider.metadata()
    assert not isinstance(caught.value, LoginRequired)


async def test_a_document_of_another_issuer_is_a_configuration_error(
    provider: Provider, issuer: Issuer
) -> None:
    """OpenID Connect Discovery section 4.3: the issuer must match exactly."""
    body = json.dumps({"issuer": "https://elsewhere.example.org"})
    issuer.faults.set("discovery", status=200, body=body)
    with pytest.raises(ConfigurationError) as caught:
        await provider.metadata()
    assert "FirecRESTAuthenticator.issuer" in caught.value.detail
