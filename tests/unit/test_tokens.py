"""Are tokens fresh, asked for once, saved before they are used, and believed only if verified?"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from firecrestspawner import tokens as product
from firecrestspawner.client import as_service
from firecrestspawner.demo.issuer import DEFAULT_CLIENTS, DemoClient, Issuer
from firecrestspawner.errors import (
    ConfigurationError,
    Error,
    LoginRequired,
    ProviderUnavailable,
    Unauthorized,
    Unwell,
)
from firecrestspawner.models import Secret, TokenSet
from firecrestspawner.tokens import (
    Provider,
    ServiceAccount,
    TokenClient,
    TokenStore,
    read_tokens,
    write_tokens,
)
from tests.unit import raw_server
from tests.unit.issuer_client import wait_until
from tests.unit.raw_server import RawServer

HUB_SECRET = "demo-hub-secret"
#: A client whose id and secret need the form-encoding of RFC 6749 section 2.3.1.
ODD = DemoClient("od d:client", "s:e+c r&e%t\u00e9", grant_types=("client_credentials",))


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with Issuer(clients=[*DEFAULT_CLIENTS, ODD]) as issuer:
        yield issuer


@pytest.fixture
def issuer(shared_issuer: Issuer) -> Iterator[Issuer]:
    shared_issuer._app._seen.clear()
    lifetime = shared_issuer.lifetimes.access_token
    yield shared_issuer
    shared_issuer.lifetimes.access_token = lifetime
    shared_issuer.faults.clear()
    shared_issuer.start()


@pytest.fixture
async def provider(issuer: Issuer) -> AsyncIterator[Provider]:
    client = TokenClient("jupyterhub", Secret(HUB_SECRET), deadline=5)
    yield Provider(issuer.url, client)
    await client.aclose()


class MemoryVault:
    """One user's auth_state. ``swaps`` are the states that were stored, in their order."""

    def __init__(self, answer: dict[str, Any], *, left: float = 5.0) -> None:
        self.name = "alice"
        self.swaps: list[TokenSet] = []
        self.log_in(answer, left=left)

    def log_in(self, answer: dict[str, Any], *, left: float = 300.0) -> None:
        """What the Hub does at a login: overwrite. ``left``: seconds of the access token."""
        tokens = replace(TokenSet.from_response(answer), expires_at=time.time() + left)
        self._stored = _encoded({**write_tokens(tokens), "oauth_user": {"sub": "1"}})

    @property
    def tokens(self) -> TokenSet:
        return read_tokens(json.loads(self._stored))

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        stored = self._stored
        await asyncio.sleep(0)
        return json.loads(stored), stored

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        await asyncio.sleep(0)
        return _encoded(auth_state)

    def swap(self, old: bytes | None, new: bytes) -> bool:
        if self._stored != old:
            return False
        self._stored = new
        self.swaps.append(self.tokens)
        return True

    def expire(self) -> None:
        """Let the stored access token be about to expire."""
        state = json.loads(self._stored)
        self._stored = _encoded({**state, "expires_at": time.time() + 5})


def _encoded(state: dict[str, Any]) -> bytes:
    return json.dumps(state).encode()


@pytest.fixture
def vault(issuer: Issuer) -> MemoryVault:
    """alice's tokens, which expire in five seconds."""
    return MemoryVault(issuer.log_in("alice"))


@pytest.fixture
def store(provider: Provider) -> TokenStore:
    return TokenStore(provider, lambda vault: vault)


def refreshes(issuer: Issuer) -> int:
    return sum(seen.grant_type == "refresh_token" for seen in issuer.requests)


def shown(error: BaseException, log: pytest.LogCaptureFixture) -> str:
    return "\n".join([*traceback.format_exception(error), repr(vars(error)), log.text])


class Held:
    """Token requests that have had their effect, but whose answers wait for :meth:`release`."""

    def __init__(self, issuer: Issuer, **fault: Any) -> None:
        self._issuer = issuer
        self._before = len(issuer.requests)
        self._event = threading.Event()
        issuer.faults.set("token", hold=self._event, times=1, after=True, **fault)

    async def arrived(self) -> None:
        """Wait until one is there."""
        await asyncio.to_thread(
            wait_until,
            lambda: any(seen.endpoint == "token" for seen in self._issuer.requests[self._before :]),
        )

    def release(self) -> None:
        self._event.set()


# -- users' tokens: R4 --------------------------------------------------------------------------


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
    assert json.loads(vault._stored)["oauth_user"] == {"sub": "1"}, "the rest is lost"


async def test_fifty_who_need_a_token_make_one_request(
    issuer: Issuer, store: TokenStore, vault: MemoryVault
) -> None:
    """R4."""
    got = await asyncio.gather(*(store.get(vault) for _ in range(50)))
    assert refreshes(issuer) == 1
    assert {tokens.access_token.reveal() for tokens in got} == {vault.tokens.access_token.reveal()}


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
    """R4: a Hub that shuts down does not lose a rotated token."""
    held = Held(issuer)
    need = asyncio.ensure_future(store.get(vault))
    await held.arrived()
    closing = asyncio.ensure_future(store.aclose())
    held.release()
    await closing
    assert vault.swaps == [await need]


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


# -- who is logged out: R5 ----------------------------------------------------------------------


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


INVALID_GRANT = json.dumps({"error": "invalid_grant"})

OUTAGES: dict[str, dict[str, Any]] = {
    **{f"status {code}": {"status": code, "body": "x"} for code in (404, 408, 429, 500, 502, 503)},
    "a refusal with status 500": {"status": 500, "body": INVALID_GRANT},
    "a refusal with status 503": {"status": 503, "body": INVALID_GRANT},
    "another error": {"status": 400, "body": json.dumps({"error": "temporarily_unavailable"})},
    "our own credentials": {"status": 401, "body": json.dumps({"error": "invalid_client"})},
    "an error without a name": {"status": 400, "body": "{}"},
    "an error page": {"status": 400, "body": "<html>invalid_grant</html>"},
    "success with a page": {"status": 200, "body": "<html>Welcome to the airport's WLAN</html>"},
    "success with nothing": {"status": 200, "body": ""},
    "success with a list": {"status": 200, "body": "[]"},
    "success without a token": {"status": 200, "body": json.dumps({"expires_in": 300})},
    "an empty token": {"status": 200, "body": json.dumps({"access_token": ""})},
    "a number for a token": {"status": 200, "body": json.dumps({"access_token": 7})},
    "an endless answer": {"status": 200, "body": b'{"access_token": "' + b"x" * (2 << 20) + b'"}'},
    "a redirect": {"status": 302, "body": ""},
    "a reset": {"reset": True},
}


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


# -- the service account ------------------------------------------------------------------------


@pytest.fixture
async def make_account(issuer: Issuer) -> AsyncIterator[Callable[..., ServiceAccount]]:
    made = []

    def make(**settings: Any) -> ServiceAccount:
        defaults = {
            "client_id": "jupyterhub-service",
            "client_secret": "demo-service-secret",
            "token_url": f"{issuer.url}/protocol/openid-connect/token",
        }
        made.append(ServiceAccount(**defaults | settings))
        return made[-1]

    yield make
    for account in made:
        await account.aclose()


def service_requests(issuer: Issuer) -> int:
    return sum(seen.grant_type == "client_credentials" for seen in issuer.requests)


class Clock:
    """Takes the place of the module ``time`` in the product's tokens module."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(
        product, "time", SimpleNamespace(monotonic=clock.monotonic, time=clock.time)
    )
    return clock


async def test_fifty_look_ups_share_one_service_token(
    issuer: Issuer, make_account: Callable[..., ServiceAccount]
) -> None:
    """C1."""
    account = make_account()
    got = await asyncio.gather(*(account.get() for _ in range(50)))
    assert service_requests(issuer) == 1
    assert len({token.reveal() for token in got}) == 1


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


async def test_short_lived_service_tokens_are_used_for_half_their_life(
    issuer: Issuer, make_account: Callable[..., ServiceAccount], clock: Clock
) -> None:
    """C1: they never have the margin that is asked for."""
    issuer.lifetimes.access_token = 40
    account = make_account()
    first = await account.get()
    clock.ahead = 19
    assert await account.get() == first
    clock.ahead = 21
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


# -- claims -------------------------------------------------------------------------------------


def sign(issuer: Issuer, *, key: Any = None, header: dict[str, Any] | None = None,
         **changes: Any) -> Secret:  # fmt: skip
    """A token as the issuer would make it, but for what is changed; None leaves a claim out."""
    own = issuer._mint._key
    claims = {"iss": issuer.url, "preferred_username": "alice", "exp": int(time.time()) + 300}
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    full = {"alg": "RS256", "kid": own.kid, **(header or {})}
    full = {name: value for name, value in full.items() if value is not None}
    return Secret(jwt.encode(full, claims, key or own, algorithms=["RS256", "HS256"]))


async def test_the_issuers_own_tokens_verify(issuer: Issuer, provider: Provider) -> None:
    claims = await provider.claims(Secret(issuer.log_in("alice")["access_token"]))
    assert claims["preferred_username"] == "alice"
    assert (await provider.claims(sign(issuer)))["preferred_username"] == "alice"


def unsigned(issuer: Issuer) -> Secret:
    """``alg: none`` (RFC 8725 section 3.2)."""
    parts = sign(issuer).reveal().split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"%s"}' % issuer._mint._key.kid.encode())
    return Secret(f"{header.decode().rstrip('=')}.{parts[1]}.")


def signed_with_the_public_key(issuer: Issuer) -> Secret:
    """The public key as an HMAC secret (RFC 8725 section 3.1)."""
    public = issuer._mint._key.as_pem(private=False)
    parts = [
        json.dumps({"alg": "HS256", "kid": issuer._mint._key.kid}).encode(),
        json.dumps({"iss": issuer.url, "exp": int(time.time()) + 300}).encode(),
    ]
    import hashlib
    import hmac

    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = base64.urlsafe_b64encode(hmac.digest(public, text, hashlib.sha256)).rstrip(b"=")
    return Secret((text + b"." + mac).decode())


def tampered(issuer: Issuer) -> Secret:
    header, _, signature = sign(issuer).reveal().split(".")
    payload = sign(issuer, preferred_username="root").reveal().split(".")[1]
    return Secret(f"{header}.{payload}.{signature}")


STRANGER = RSAKey.generate_key(2048)

FORGERIES: dict[str, Callable[[Issuer], Secret]] = {
    "alg none": unsigned,
    "HS256 with the public key": signed_with_the_public_key,
    "HS256": lambda issuer: sign(issuer, key=OctKey.import_key("x" * 32), header={"alg": "HS256"}),
    "another payload": tampered,
    "another key under the same name": lambda issuer: sign(issuer, key=STRANGER),
    "an unknown key": lambda issuer: sign(issuer, key=STRANGER, header={"kid": "unknown"}),
    "another issuer": lambda issuer: sign(issuer, iss="https://elsewhere.example.org"),
    "no issuer": lambda issuer: sign(issuer, iss=None),
    "expired": lambda issuer: sign(issuer, exp=int(time.time()) - 301),
    "no expiry": lambda issuer: sign(issuer, exp=None),
    "not yet valid": lambda issuer: sign(issuer, nbf=int(time.time()) + 400),
    "no JWT": lambda issuer: Secret("opaque"),
    "nothing": lambda issuer: Secret(""),
    "half a JWT": lambda issuer: Secret(sign(issuer).reveal().rpartition(".")[0]),
    "not text": lambda issuer: Secret("\udcff.\u00e9.x"),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_token_that_does_not_verify_says_nothing(
    issuer: Issuer,
    provider: Provider,
    forge: Callable[[Issuer], Secret],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R10, S1."""
    caplog.set_level(logging.DEBUG)
    token = forge(issuer)
    with pytest.raises(LoginRequired) as caught:
        await provider.claims(token)
    if len(token.reveal()) > 20:
        assert token.reveal() not in shown(caught.value, caplog)


async def test_a_little_clock_skew_is_forgiven(issuer: Issuer, provider: Provider) -> None:
    assert await provider.claims(sign(issuer, exp=int(time.time()) - 290))


async def test_the_issuers_keys_are_fetched_once(issuer: Issuer, provider: Provider) -> None:
    """C1: and unknown names of keys cause no storm."""
    await asyncio.gather(*(provider.claims(sign(issuer)) for _ in range(20)))
    for number in range(20):
        with pytest.raises(LoginRequired):
            await provider.claims(sign(issuer, header={"kid": f"unknown-{number}"}))
    assert sum(seen.endpoint == "jwks" for seen in issuer.requests) == 1


async def test_new_keys_of_the_issuer_are_found(
    issuer: Issuer, provider: Provider, clock: Clock
) -> None:
    await provider.claims(sign(issuer))
    issuer._mint._key = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
    clock.ahead = 11
    assert await provider.claims(sign(issuer))


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "body": "x"},
        {"status": 200, "body": "<html>"},
        {"status": 200, "body": "{}"},
        {"status": 200, "body": json.dumps({"keys": []})},
        {"status": 200, "body": json.dumps({"keys": [{"kty": "RSA"}]})},
        {"status": 200, "body": json.dumps({"keys": 7})},
        {"status": 200, "body": json.dumps({"keys": [7]})},
        {"reset": True},
    ],
    ids=lambda fault: str(fault),
)
async def test_keys_that_cannot_be_had_are_an_outage(
    issuer: Issuer, provider: Provider, fault: dict[str, Any]
) -> None:
    """R5: nobody is logged out, and it comes back by itself."""
    issuer.faults.set("jwks", times=1, **fault)
    with pytest.raises(ProviderUnavailable):
        await provider.claims(sign(issuer))
    assert await provider.claims(sign(issuer))


async def test_userinfo_tells_a_refusal_from_an_outage(issuer: Issuer, provider: Provider) -> None:
    """R5."""
    token = Secret(issuer.log_in("alice")["access_token"])
    assert (await provider.userinfo(token))["preferred_username"] == "alice"
    with pytest.raises(LoginRequired):
        await provider.userinfo(Secret("nonsense"))
    for fault in ({"status": 500}, {"status": 200, "body": "<html>"}, {"reset": True}):
        issuer.faults.set("userinfo", **fault)
        with pytest.raises(ProviderUnavailable):
            await provider.userinfo(token)
