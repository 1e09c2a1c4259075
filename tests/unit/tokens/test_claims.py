"""Whose claims are believed, and what if the issuer's keys cannot be had?"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.errors import (
    LoginRequired,
    ProviderUnavailable,
)
from firecrestspawner.models import Secret
from firecrestspawner.oidc import Provider
from tests.unit.tokens.issuing import Clock, shown


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
    issuer.faults.set("jwks", **fault)
    with pytest.raises(ProviderUnavailable):
        await provider.claims(sign(issuer))
    issuer.faults.clear()
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
