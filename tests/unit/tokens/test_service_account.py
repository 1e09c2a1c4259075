"""Does the service account cost one token a lifetime, and keep its secret?"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from firecrestspawner.client import as_service
from firecrestspawner.demo.issuer import DEFAULT_CLIENTS, DemoClient, Issuer
from firecrestspawner.errors import (
    ConfigurationError,
    Forbidden,
    ProviderUnavailable,
    Unauthorized,
    Unwell,
)
from firecrestspawner.models import Secret
from firecrestspawner.oauth import TokenClient
from firecrestspawner.service import ServiceAccount
from tests.issuer import INVALID_GRANT, ODD, OUTAGES
from tests.unit import raw_server
from tests.unit.raw_server import RawServer
from tests.unit.tokens.issuing import Clock, service_requests, shown


async def test_fifty_look_ups_share_one_service_token(
    issuer: Issuer, make_account: Callable[..., ServiceAccount]
) -> None:
    """C1."""
    account = make_account()
    got = await asyncio.gather(*(account.get() for _ in range(50)))
    assert service_requests(issuer) == 1
    assert len({token.reveal() for token in got}) == 1


async def test_nobody_waits_for_an_issuer_that_others_have_waited_for_in_vain(
    make_account: Callable[..., ServiceAccount], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R9: with one try after another the last of many would wait for as many deadlines."""
    account, tries = make_account(), 0

    async def hang(url: str, form: Any) -> Any:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.05)
        raise ProviderUnavailable("No answer.")

    monkeypatch.setattr(account._client, "token", hang)
    got = await asyncio.gather(*(account.get() for _ in range(20)), return_exceptions=True)
    assert {type(each) for each in got} == {ProviderUnavailable} and tries == 1
    with pytest.raises(ProviderUnavailable):
        await account.get()
    assert tries == 2, "who comes later tries again"


async def test_a_service_token_is_replaced_in_time(
    issuer: Issuer, make_account: Callable[..., ServiceAccount], clock: Clock
) -> None:
    """C1: one a lifetime, and never one that FirecREST would refuse."""
    account = make_account()
    first = await account.get()
    clock.ahead = 239
    assert await account.get() == first
    clock.ahead = 241
    assert await account.get() != first
    assert service_requests(issuer) == 2


@pytest.mark.parametrize(("lifetime", "used_for"), [(20, 10), (40, 10), (100, 50)])
async def test_short_lived_service_tokens_are_used_as_long_as_they_are_taken(
    issuer: Issuer,
    make_account: Callable[..., ServiceAccount],
    clock: Clock,
    lifetime: float,
    used_for: float,
) -> None:
    """C1: they never have the margin that is asked for; FirecREST wants 30 s, where it can be."""
    issuer.lifetimes.access_token = lifetime
    account = make_account()
    first = await account.get()
    clock.ahead = used_for - 1
    assert await account.get() == first
    clock.ahead = used_for + 1
    assert await account.get() != first
    assert service_requests(issuer) == 2


async def test_a_service_token_of_unstated_life_is_used_more_than_once(
    issuer: Issuer, make_account: Callable[..., ServiceAccount]
) -> None:
    """C1: ``expires_in`` is only recommended (RFC 6749 section 5.1)."""
    body = json.dumps({"access_token": "opaque", "token_type": "Bearer"})
    issuer.faults.set("token", status=200, body=body)
    account = make_account()
    for _ in range(10):
        assert (await account.get()).reveal() == "opaque"
    assert service_requests(issuer) == 1


async def test_a_refused_service_token_is_replaced_once_for_all(
    issuer: Issuer, make_account: Callable[..., ServiceAccount], clock: Clock
) -> None:
    """C1: those who asked with the old one do not throw the new one away."""
    account = make_account()
    old = await account.get()
    clock.ahead = 100

    async def call(token: Secret) -> str:
        await asyncio.sleep(0.01)
        if token == old:
            raise Unauthorized("No.")
        return token.reveal()

    got = await asyncio.gather(*(as_service(account, call) for _ in range(20)))
    assert len(set(got)) == 1
    assert service_requests(issuer) == 2


async def test_a_firecrest_that_refuses_every_token_causes_no_storm(
    issuer: Issuer, make_account: Callable[..., ServiceAccount], clock: Clock
) -> None:
    """C1, R9: as when it cannot load the issuer's keys."""
    account = make_account()
    await account.get()
    clock.ahead = 100

    async def call(token: Secret) -> None:
        raise Unauthorized("No.")

    for _ in range(20):
        with pytest.raises(Unwell):
            await as_service(account, call)
    assert service_requests(issuer) <= 2


async def test_what_is_denied_to_the_account_is_not_said_to_be_denied_to_the_user(
    make_account: Callable[..., ServiceAccount],
) -> None:
    """A 403, or an SSH key that FirecREST has not: no user can mend it."""
    account = make_account()

    async def call(token: Secret) -> None:
        raise Forbidden("You are not allowed to do this.", detail="HTTP 403")

    with pytest.raises(Unwell, match="does not accept the Hub's own account") as caught:
        await as_service(account, call)
    assert caught.value.detail == "the service account is refused: HTTP 403"


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES.keys())
async def test_trouble_with_the_service_account_is_no_users_login(
    issuer: Issuer, make_account: Callable[..., ServiceAccount], fault: dict[str, Any]
) -> None:
    """R5."""
    account = make_account()
    issuer.faults.set("token", content_type="application/json", **fault)
    with pytest.raises(ProviderUnavailable):
        await account.get()
    issuer.faults.clear()
    assert await account.get()


async def test_wrong_credentials_of_the_service_account_are_no_users_login(
    issuer: Issuer,
    make_account: Callable[..., ServiceAccount],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R5, S1."""
    caplog.set_level(logging.DEBUG)
    account = make_account(client_secret="a-wrong-secret")
    with pytest.raises(ProviderUnavailable) as caught:
        await account.get()
    assert "401" in caught.value.detail
    assert "a-wrong-secret" not in shown(caught.value, caplog)
    assert base64.b64encode(b"jupyterhub-service:a-wrong-secret").decode() not in caplog.text
    issuer.faults.set("token", status=400, body=INVALID_GRANT)
    with pytest.raises(ProviderUnavailable):
        await account.get()


def test_an_incomplete_service_account_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SA_CLIENT_ID", "SA_CLIENT_SECRET", "SA_AUTH_TOKEN_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SA_CLIENT_ID", "from-the-environment")
    account = ServiceAccount(client_secret="x")
    assert account.client_id == "from-the-environment"
    with pytest.raises(ConfigurationError) as caught:
        account.check()
    assert "c.ServiceAccount.token_url" in caught.value.detail
    assert "SA_AUTH_TOKEN_URL" in caught.value.detail


@pytest.mark.parametrize("basic", [True, False])
@pytest.mark.parametrize("client", [DEFAULT_CLIENTS[1], ODD], ids=["plain", "odd"])
async def test_both_ways_to_authenticate_work(
    issuer: Issuer, basic: bool, client: DemoClient
) -> None:
    """RFC 6749 section 2.3.1, whatever characters are in id and secret."""
    asking = TokenClient(client.client_id, Secret(client.client_secret), basic=basic)
    try:
        answer = await asking.token(
            f"{issuer.url}/protocol/openid-connect/token", {"grant_type": "client_credentials"}
        )
    finally:
        await asking.aclose()
    assert answer["access_token"]


@pytest.mark.parametrize("basic", [True, False])
async def test_the_secret_goes_only_where_it_belongs(basic: bool) -> None:
    """S1: into the header or the form, never into the address."""
    with RawServer(raw_server.answer("200 OK", b'{"access_token": "t"}')) as server:
        client = TokenClient("me", Secret("swordfish"), basic=basic)
        try:
            await client.token(f"{server.url}/token", {"grant_type": "client_credentials"})
        finally:
            await client.aclose()
        [request] = server.received
    head, _, body = request.partition(b"\r\n\r\n")
    assert (b"swordfish" in body) is not basic
    assert b"swordfish" not in head.splitlines()[0]
    assert (base64.b64encode(b"me:swordfish") in head) is basic
