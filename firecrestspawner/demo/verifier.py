"""Whose token is this, and would FirecREST accept it?

The order of the checks and the messages are those of FirecREST's authentication; ``aud``, ``iss``
and ``scope`` are not looked at, by it or here.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

#: Seconds of life that a token must still have (FirecREST's ``min_token_ttl``).
LEAST_LIFE = 30
#: An issuer that has changed its keys is asked again, but not for every odd token.
_ASK_AGAIN_AFTER = 2.0


class TokenError(Exception):
    """A refusal: HTTP status, message, and whether the answer's headers echo the token."""

    def __init__(self, status: int, message: str, echo: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.echo = echo


class Verifier:
    """Verifies RS256 access tokens with the keys at ``jwks_url``.

    The keys are fetched when the first token comes, with a deadline of 5 s, and kept.
    """

    def __init__(
        self,
        jwks_url: str,
        claim: str = "preferred_username",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.jwks_url = jwks_url
        self.claim = claim
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._asked = float("-inf")

    def username(self, authorization: str | None) -> str:
        """The cluster user of an ``Authorization`` header. Raises TokenError. May block."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenError(401, "Not authenticated")
        claims = self._verified(token.strip())
        expires = claims.get("exp")
        if isinstance(expires, int | float):
            left = expires - self._clock()
            if left <= 0:
                raise TokenError(401, "Access token expired", echo=True)
            if left < LEAST_LIFE:
                message = f"Access token expires too soon (less than {LEAST_LIFE}s remaining)."
                raise TokenError(401, message, echo=True)
        username = claims.get(self.claim)
        if not isinstance(username, str) or not username:
            raise TokenError(400, f"Authentication token '{self.claim}' claim is missing")
        return username

    def _verified(self, token: str) -> dict[str, Any]:
        try:
            kid = _header(token).get("kid")
        except (ValueError, binascii.Error) as error:
            raise TokenError(401, "Access token is invalid.", echo=True) from error
        keys = self._keys_with(kid)
        if keys is None:
            raise TokenError(401, "Token's public key not found.", echo=True)
        try:
            payload = jws.deserialize_compact(token, keys, algorithms=["RS256"]).payload
            claims = json.loads(payload)
        except (JoseError, ValueError) as error:
            raise TokenError(401, "Access token is invalid.", echo=True) from error
        if not isinstance(claims, dict):
            raise TokenError(401, "Access token is invalid.", echo=True)
        return claims

    def _keys_with(self, kid: object) -> KeySet | None:
        if not isinstance(kid, str):
            return None
        with self._lock:
            if not self._has(kid) and time.monotonic() - self._asked > _ASK_AGAIN_AFTER:
                self._fetch()
            return self._keys if self._has(kid) else None

    def _has(self, kid: str) -> bool:
        return self._keys is not None and any(key.kid == kid for key in self._keys.keys)

    def _fetch(self) -> None:
        try:
            answer = httpx.get(self.jwks_url, timeout=5)
            answer.raise_for_status()
            self._keys = KeySet.import_key_set(answer.json())
        except (httpx.HTTPError, ValueError, KeyError, JoseError):
            # The issuer is down: the next token may try again at once.
            return
        self._asked = time.monotonic()


def _header(token: str) -> dict[str, Any]:
    part = token.split(".", 1)[0]
    header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(header, dict):
        raise ValueError("not a JOSE header")
    return header
