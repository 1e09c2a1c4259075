"""Whose tokens are these, where are they kept, and what can go wrong with their issuer?"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import traceback
from dataclasses import replace
from typing import Any

import pytest

from firecrestspawner.demo.issuer import DemoClient, Issuer
from firecrestspawner.models import TokenSet
from firecrestspawner.tokens import (
    read_tokens,
    write_tokens,
)
from tests.unit.issuer_client import wait_until

HUB_SECRET = "demo-hub-secret"
#: A client whose id and secret need the form-encoding of RFC 6749 section 2.3.1.
ODD = DemoClient("od d:client", "s:e+c r&e%t\u00e9", grant_types=("client_credentials",))


class MemoryVault:
    """One user's auth_state. ``swaps`` are the states that were stored, in their order."""

    def __init__(self, answer: dict[str, Any], *, left: float = 5.0) -> None:
        self.name = "alice"
        self.swaps: list[TokenSet] = []
        self.log_in(answer, left=left)

    def log_in(self, answer: dict[str, Any], *, left: float = 300.0) -> None:
        """What the Hub does at a login: overwrite. ``left``: seconds of the access token."""
        tokens = replace(TokenSet.from_response(answer), expires_at=time.time() + left)
        self._stored: bytes | None = _encoded({**write_tokens(tokens), "oauth_user": {"sub": "1"}})

    @property
    def state(self) -> dict[str, Any]:
        """What is stored; empty once it has been forgotten."""
        return json.loads(self._stored) if self._stored else {}

    @property
    def tokens(self) -> TokenSet:
        return read_tokens(self.state)

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        stored = self._stored
        await asyncio.sleep(0)
        return (json.loads(stored) if stored else None), stored

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        await asyncio.sleep(0)
        return _encoded(auth_state)

    def swap(self, old: bytes | None, new: bytes | None) -> bool:
        if self._stored != old:
            return False
        self._stored = new
        if self.state.get("access_token"):
            self.swaps.append(self.tokens)
        return True

    def expire(self) -> None:
        """Let the stored access token be about to expire."""
        self._stored = _encoded({**self.state, "expires_at": time.time() + 5})


def _encoded(state: dict[str, Any]) -> bytes:
    return json.dumps(state).encode()


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


def service_requests(issuer: Issuer) -> int:
    return sum(seen.grant_type == "client_credentials" for seen in issuer.requests)


class Clock:
    """Takes the place of the module ``time`` in the product's modules about tokens."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def time(self) -> float:
        return time.time() + self.ahead
