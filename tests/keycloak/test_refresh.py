"""Do a user's tokens stay fresh for hours, with a Keycloak that takes each refresh token once?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from firecrestspawner.errors import LoginRequired
from firecrestspawner.models import Secret
from firecrestspawner.oauth import TokenClient
from firecrestspawner.oidc import Provider
from firecrestspawner.tokens import TokenStore
from tests.keycloak.account import HUB, Account
from tests.keycloak.site import unverified
from tests.services.keycloak import Keycloak

#: An hour of tokens of 60 s, refreshed when half of their life is over, twice.
ROUNDS = 240


@pytest.fixture
def account(keycloak: Keycloak) -> Iterator[Account]:
    """bob, logged in."""
    with Account(keycloak, "bob") as account:
        account.log_in()
        yield account


@pytest.fixture
async def provider(keycloak: Keycloak) -> AsyncIterator[Provider]:
    client = TokenClient(HUB.client_id, Secret(HUB.client_secret))
    provider = Provider(keycloak.issuer, client)
    yield provider
    await provider.aclose()


@pytest.fixture
def store(provider: Provider) -> TokenStore:
    return TokenStore(provider, lambda account: account)


async def test_hundreds_of_refreshes_succeed_with_rotation(
    keycloak: Keycloak, provider: Provider, store: TokenStore, account: Account
):
    """R4: three need a token at the same moment, again and again; a refresh token that was used
    twice, or not saved, would end the session."""
    ids = set()
    for number in range(ROUNDS):
        answers = await asyncio.gather(*(store.get(account) for _ in range(3)))
        tokens = answers[0]
        assert {answer.access_token.reveal() for answer in answers} == {
            tokens.access_token.reveal()
        }
        assert tokens.refresh_token is not None
        ids.add(tokens.refresh_token.reveal())
        if number % 60 == 0:
            claims = await provider.claims(tokens.access_token)
            assert claims["preferred_username"] == "bob"
    assert len(ids) == account.swaps == ROUNDS
    (session,) = [each for each in keycloak.realm.sessions("bob") if each["id"] == account.session]
    assert HUB.client_id in session["clients"].values()


async def test_a_refresh_whose_answer_was_lost_costs_one_login_and_no_password(
    keycloak: Keycloak, store: TokenStore, account: Account
):
    """Keycloak has rotated, and nobody has read what it said: the next refresh is refused. The SSO
    session lives on, so that logging in again is one redirect."""
    lost = account.tokens.refresh_token
    assert lost is not None
    form = {"grant_type": "refresh_token", "refresh_token": lost.reveal()}
    assert account.ask_token(form).status_code == 200
    with pytest.raises(LoginRequired):
        await store.get(account)
    with pytest.raises(LoginRequired):
        await store.get(account)
    account.log_in(password=False)
    await store.get(account)


async def test_the_words_of_refusals_are_those_that_mean_log_in_again(
    keycloak: Keycloak, store: TokenStore, account: Account
):
    """R5: each of Keycloak's refusals is ``invalid_grant``, whatever else it says."""
    spent = account.tokens.refresh_token
    assert spent is not None
    await store.get(account)
    last = account.tokens.refresh_token
    assert last is not None
    said = [
        _refusal(account, token)
        for token in ("garbage", spent.reveal(), last.reveal())
    ]  # fmt: skip
    assert said == [
        "Invalid refresh token",
        "Maximum allowed refresh token reuse exceeded",
        # What was reused costs the client its part in the session; the session is still there.
        "Session doesn't have required client",
    ]
    account.log_in(password=False)
    token = account.tokens.refresh_token
    assert token is not None
    keycloak.realm.end_sessions("bob")
    assert _refusal(account, token.reveal()) == "Session not active"


async def test_who_logs_in_during_a_refresh_keeps_the_logins_tokens(
    store: TokenStore, account: Account
):
    """R4: the login wins, whichever of the two Keycloak serves first."""
    for _ in range(6):
        account.leave()
        refreshes = asyncio.ensure_future(_refresh_until_logged_in(store, account))
        # In a thread of its own: refreshes go on meanwhile.
        await asyncio.to_thread(account.log_in)
        await refreshes
        assert unverified(account.tokens.access_token.reveal())["sid"] == account.session
        await store.get(account)


async def _refresh_until_logged_in(store: TokenStore, account: Account) -> None:
    logins = account.logins
    while account.logins == logins:
        await store.get(account)


def _refusal(account: Account, token: str) -> str:
    answer = account.ask_token({"grant_type": "refresh_token", "refresh_token": token})
    body = answer.json()
    assert (answer.status_code, body["error"]) == (400, "invalid_grant")
    description: str = body["error_description"]
    return description
