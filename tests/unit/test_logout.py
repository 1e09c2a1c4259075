"""Which logout tokens prove that the issuer has ended a session, and how often?"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from firecrestspawner import logout
from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.errors import LogoutTokenError, ProviderUnavailable
from firecrestspawner.logout import LogoutTokens
from firecrestspawner.models import Secret
from firecrestspawner.oauth import TokenClient
from firecrestspawner.oidc import Provider
from firecrestspawner.sessions import Origins

EVENT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(shared_issuer: Issuer) -> Iterator[Issuer]:
    yield shared_issuer
    shared_issuer.faults.clear()
    shared_issuer.start()


@pytest.fixture
async def tokens(issuer: Issuer) -> AsyncIterator[LogoutTokens]:
    client = TokenClient("jupyterhub", Secret("demo-hub-secret"), deadline=5)
    yield LogoutTokens(Provider(issuer.url, client), "jupyterhub")
    await client.aclose()


def unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}."


def with_the_public_key_as_secret(token: str) -> str:
    """RFC 8725 section 2.1: what an issuer publishes taken for an HMAC key."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, "k" * 32, "HS256")


FORGED: dict[str, Callable[[Issuer], str]] = {
    "nonsense": lambda issuer: "nonsense",
    "nothing": lambda issuer: "",
    "no ASCII": lambda issuer: "é.é.é",
    "a surrogate": lambda issuer: "\udcff",
    "no signature": lambda issuer: unsigned(issuer.logout_token("alice")),
    "an HMAC": lambda issuer: with_the_public_key_as_secret(issuer.logout_token("alice")),
    "another client's": lambda issuer: issuer.logout_token("alice", aud="another"),
    "a second client's": lambda issuer: issuer.logout_token("alice", "jupyterhub-service"),
    "another issuer's": lambda issuer: issuer.logout_token("alice", iss="https://elsewhere"),
    "an ID token": lambda issuer: issuer.log_in("alice")["id_token"],
    "an access token": lambda issuer: issuer.log_in("alice")["access_token"],
    "a nonce": lambda issuer: issuer.logout_token("alice", nonce=""),
    "expired": lambda issuer: issuer.logout_token("alice", exp=1),
    "no end": lambda issuer: issuer.logout_token("alice", exp=None),
    "an odd end": lambda issuer: issuer.logout_token("alice", exp="soon"),
    "from the future": lambda issuer: issuer.logout_token("alice", iat=4102444800),
    "without a time": lambda issuer: issuer.logout_token("alice", iat=None),
    "without an id": lambda issuer: issuer.logout_token("alice", jti=None),
    "an odd id": lambda issuer: issuer.logout_token("alice", jti=["x"]),
    "an empty id": lambda issuer: issuer.logout_token("alice", jti=""),
    "no event": lambda issuer: issuer.logout_token("alice", events=None),
    "another event": lambda issuer: issuer.logout_token("alice", events={"urn:other": {}}),
    "odd events": lambda issuer: issuer.logout_token("alice", events=[EVENT]),
    "an odd event": lambda issuer: issuer.logout_token("alice", events={EVENT: True}),
    "nobody": lambda issuer: issuer.logout_token("alice", sub=None, sid=None),
    "an odd user": lambda issuer: issuer.logout_token("alice", sub=["alice"]),
    "an odd session": lambda issuer: issuer.logout_token("alice", sid=7),
}


@pytest.mark.parametrize("kind", FORGED)
async def test_what_is_no_proof_is_refused(issuer: Issuer, tokens: LogoutTokens, kind: str) -> None:
    with pytest.raises(LogoutTokenError) as refusal:
        await tokens.redeem(FORGED[kind](issuer))
    assert refusal.value.status == 400
    assert tokens._spent == {}


async def test_a_token_counts_once(issuer: Issuer, tokens: LogoutTokens) -> None:
    token = issuer.logout_token("alice", sub="me", sid="s")
    answers = await asyncio.gather(
        *(tokens.redeem(token) for _ in range(5)), return_exceptions=True
    )
    assert answers.count(("me", "s")) == 1
    assert sum(isinstance(each, LogoutTokenError) for each in answers) == 4


async def test_either_user_or_session_is_enough(issuer: Issuer, tokens: LogoutTokens) -> None:
    assert await tokens.redeem(issuer.logout_token("alice", sub="me", sid=None)) == ("me", "")
    assert await tokens.redeem(issuer.logout_token("alice", sub=None, sid="s")) == ("", "s")


async def test_while_the_keys_cannot_be_had_nothing_is_concluded(
    issuer: Issuer, tokens: LogoutTokens
) -> None:
    """R5: and the token is not spent."""
    token = issuer.logout_token("alice")
    issuer.faults.set("jwks", status=503)
    with pytest.raises(ProviderUnavailable):
        await tokens.redeem(token)
    issuer.faults.clear()
    assert await tokens.redeem(token)


async def test_no_more_than_so_many_are_remembered(
    issuer: Issuer, tokens: LogoutTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: the newest of those that are still good."""
    monkeypatch.setattr(logout, "_REMEMBERED", 4)
    kept = [issuer.logout_token("alice") for _ in range(9)]
    for token in kept:
        await tokens.redeem(token)
        assert len(tokens._spent) <= 4
    with pytest.raises(LogoutTokenError):
        await tokens.redeem(kept[-1])


# --- what ends ------------------------------------------------------------------------------


class Vault:
    """A user's auth_state, which another login replaces between two looks."""

    state: dict[str, Any]

    def __init__(self, user: Any) -> None:
        pass

    async def load(self) -> tuple[dict[str, Any], bytes]:
        return self.state, b""


@pytest.mark.parametrize(("sid", "ends"), [("old", 1), ("new", 0)])
@pytest.mark.parametrize("policy", ["hub", "sso"])
async def test_another_login_meanwhile_is_not_ended(
    monkeypatch: pytest.MonkeyPatch, sid: str, ends: int, policy: str
) -> None:
    """R4: the token is about the session "old"; what is stored by now decides."""
    stored = {"id_token": jwt.encode({"sub": "me", "sid": sid}, "k" * 32, "HS256")}
    ended: list[Any] = []
    asked: list[bool] = []

    async def end(user: Any, why: str, *, applies: Callable[[Any], bool]) -> bool:
        asked.append(applies(stored))
        return asked[-1]

    monkeypatch.setattr(Vault, "state", stored, raising=False)
    monkeypatch.setattr(logout, "UserVault", Vault)
    monkeypatch.setattr(logout, "end", ended.append)
    authenticator = SimpleNamespace(
        user_auth_state_key="userinfo", session_policy=policy, token_store=SimpleNamespace(end=end)
    )
    await logout.end_login(authenticator, "alice", "me", "old")
    assert asked == [bool(ends)]
    assert len(ended) == (ends if policy == "sso" else 0)


@pytest.mark.parametrize(("left", "found"), [(None, []), (b"of another login", [7])])
async def test_where_another_login_comes_from_is_remembered(
    left: bytes | None, found: list[int]
) -> None:
    """R4: a logout that waited for a refresh forgets what it was about, and no more."""
    user = SimpleNamespace(id=7, name="alice", encrypted_auth_state=b"old")
    origins = Origins("userinfo")

    async def forget(user: Any) -> None:
        origins.note(7, {"id_token": jwt.encode({"sub": "me", "sid": "new"}, "k" * 32, "HS256")})
        user.encrypted_auth_state = left

    authenticator: Any = SimpleNamespace(
        token_store=SimpleNamespace(forget=forget), origins=origins
    )
    assert await logout._forget(authenticator, user) is None
    origins._complete = True  # the database knows no more
    assert await origins.meant_by("me", "new", None) == found
