"""How does a login end here: forgotten, or ended by somebody else? And what the database does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper, encrypt
from jupyterhub.user import User
from sqlalchemy.exc import OperationalError

from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.errors import LoginRequired
from firecrestspawner.models import TokenSet
from firecrestspawner.oidc import Provider
from firecrestspawner.tokens import Revision, TokenStore, write_tokens
from firecrestspawner.vault import UserVault
from tests.issuer import Held, refreshes
from tests.unit.tokens.issuing import MemoryVault

# -- forgotten, ended, nudged --------------------------------------------------------------------


async def waiting(
    issuer: Issuer, store: TokenStore, vault: MemoryVault, *, logouts: int = 1
) -> tuple[Held, asyncio.Task[TokenSet], list[asyncio.Task[Any]]]:
    """A refresh that the issuer has not answered, and logouts that have looked, and wait for it."""
    held = Held(issuer)
    need = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    forgetting = [asyncio.ensure_future(store.forget(vault)) for _ in range(logouts)]
    for _ in range(5):
        await asyncio.sleep(0)
    return held, need, forgetting


async def test_what_is_forgotten_is_the_latest_and_does_not_come_back(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """S1: a refresh in flight does not put tokens back, and its tokens are those to revoke."""
    held, need, [forgetting] = await waiting(issuer, store, vault)
    held.release()
    last = await need
    assert await forgetting == (last.refresh_token, last.id_token)
    assert vault.state == {}
    with pytest.raises(LoginRequired):
        await store.get(vault)
    assert await store.forget(vault) is None


async def test_a_login_while_a_logout_waits_for_a_refresh_is_not_forgotten(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4: it is another login than the one that was to end."""
    held, need, [forgetting] = await waiting(issuer, store, vault)
    vault.log_in(issuer.log_in("alice"))
    login = vault.tokens
    held.release()
    assert await forgetting is None
    assert await need == vault.tokens == login


async def test_what_has_lost_its_mark_meanwhile_is_forgotten_all_the_same(
    issuer: Issuer, provider: Provider, vault: MemoryVault
) -> None:
    """S1: a hook of the site's, new since the login, makes its own auth_state of a refresh."""

    async def revise(user: Any, state: dict[str, Any], tokens: TokenSet) -> Revision:
        return Revision({name: value for name, value in state.items() if name != "login"})

    store = TokenStore(provider, lambda user: user, revise=revise)
    held, need, [forgetting] = await waiting(issuer, store, vault)
    held.release()
    last = await need
    assert await forgetting == (last.refresh_token, last.id_token)
    assert vault.state == {}


async def test_of_two_logouts_at_once_the_second_finds_nothing(
    issuer: Issuer, store: TokenStore, vault: MemoryVault, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log tells of no login, as there was none."""
    caplog.set_level("INFO", "firecrestspawner")
    held, need, logouts = await waiting(issuer, store, vault, logouts=2)
    held.release()
    last = await need
    assert await asyncio.gather(*logouts) == [(last.refresh_token, last.id_token), None]
    assert "wins" not in caplog.text


async def test_of_a_login_that_has_ended_the_id_token_is_left(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """There may be a session at the issuer for a logout to end; the refresh token is spent."""
    id_token = vault.tokens.id_token
    issuer.spend_refresh_tokens("alice")
    with pytest.raises(LoginRequired):
        await store.get(vault)
    assert await store.forget(vault) == (None, id_token)
    assert vault.state == {}


async def test_a_session_ended_elsewhere_is_recorded_once(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    assert not await store.end(vault, "logout", applies=lambda state: state["oauth_user"] == {})
    assert "login_ended" not in vault.state
    assert await store.end(vault, "logout")
    ended = dict(vault.state)
    assert not await store.end(vault, "logout") and vault.state == ended
    with pytest.raises(LoginRequired):
        await store.get(vault)
    assert issuer.requests == []


async def test_a_check_asks_the_issuer_also_when_the_token_is_fresh(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    vault.log_in(issuer.log_in("alice"))
    first = await store.renew(vault)
    await asyncio.gather(*(store.renew(vault) for _ in range(20)))
    assert refreshes(issuer) == 2, "those at the same time share one"
    assert vault.tokens != first
    vault.log_in({**issuer.log_in("alice"), "refresh_token": None})
    assert await store.renew(vault) == vault.tokens, "there is nothing to ask with"


async def test_a_check_takes_no_answer_to_what_was_asked_before_it(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """A role may have been taken, a session ended, while the answer was on its way."""
    held = Held(issuer)
    need = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    checks = [asyncio.ensure_future(store.renew(vault)) for _ in range(20)]
    await asyncio.sleep(0)
    held.release()
    before = await need
    now = {tokens.access_token for tokens in await asyncio.gather(*checks)}
    assert len(now) == 1 and before.access_token not in now
    assert refreshes(issuer) == 2


async def test_nothing_is_kept_of_users_who_need_nothing(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R8: locks and flights are bounded by what is under way."""
    for number in range(50):
        vault.name = f"user-{number}"
        await store.get(vault)
    issuer.end_session("alice")
    vault.expire()
    with pytest.raises(LoginRequired):
        await store.get(vault)
    await asyncio.sleep(0)  # a flight is discarded in the round after it has landed
    assert (store._turns, store._flights) == ({}, set())


async def test_who_asks_for_more_than_the_issuer_gives_does_not_cost_a_refresh_each(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    for _ in range(20):
        await store.get(vault, min_validity=3600)
    assert refreshes(issuer) == 1


# -- the Hub's database --------------------------------------------------------------------------


class Database:
    """A Hub's database, in memory, with one user; ``broken``: commits to come that fail."""

    def __init__(self) -> None:
        self._session: Any = orm.new_session_factory("sqlite:///:memory:")()
        row = orm.User(name="alice")
        self._session.add(row)
        self._session.commit()
        self.user = User(row, {}, db=self._session)
        self.broken = 0
        self._commit, self._session.commit = self._session.commit, self._perhaps_commit

    def _perhaps_commit(self) -> None:
        if self.broken:
            self.broken -= 1
            raise OperationalError("UPDATE", {}, Exception("the connection is gone"))
        self._commit()

    def store(self, auth_state: bytes) -> None:
        self.user.encrypted_auth_state = auth_state
        self._commit()

    def stored(self) -> bytes | None:
        """What has been committed."""
        self._session.rollback()
        stored: bytes | None = self.user.encrypted_auth_state
        return stored

    def close(self) -> None:
        self._session.close()
        self._session.get_bind().dispose()


@pytest.fixture
async def database(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(CryptKeeper.instance(), "keys", [os.urandom(32)])
    database = Database()
    tokens = TokenSet.from_response(issuer.log_in("alice") | {"expires_in": 5})
    database.store(await encrypt(write_tokens(tokens)))
    yield database
    database.close()


async def test_a_database_connection_that_broke_does_not_cost_a_login(
    database: Database, provider: Provider
) -> None:
    """R4: the issuer has rotated by then."""
    store = TokenStore(provider, UserVault)
    database.broken = 1
    fresh = await store.get(database.user)
    assert database.stored() == database.user.encrypted_auth_state
    assert await store.get(database.user) == fresh
    database.broken = 2
    with pytest.raises(OperationalError):
        await store.renew(database.user)


async def test_what_is_stored_already_is_not_committed_again(database: Database) -> None:
    """R8: a commit keeps the event loop for milliseconds, and each refresh asks for this."""
    vault, database.broken = UserVault(database.user), 9
    stored = database.user.encrypted_auth_state
    assert vault.swap(stored, stored)
    assert not vault.swap(b"another", b"another")


async def test_a_lost_encryption_key_means_a_login_and_no_crash(
    issuer: Issuer, database: Database, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R5."""
    store = TokenStore(provider, UserVault)
    for keys in ([os.urandom(32)], []):
        monkeypatch.setattr(CryptKeeper.instance(), "keys", keys)
        with pytest.raises(LoginRequired) as caught:
            await store.get(database.user)
        assert "JUPYTERHUB_CRYPT_KEY" in caught.value.detail
        assert not await store.end(database.user, "logout")
    database.store(b"\x00garbage")
    with pytest.raises(LoginRequired):
        await store.get(database.user)
    assert issuer.requests == []
    assert await store.forget(database.user) is None
    assert database.stored() is None
