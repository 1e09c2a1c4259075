"""Whose tokens are these, where are they kept, and at what time?"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from dataclasses import replace
from typing import Any

import pytest

from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.models import TokenSet
from firecrestspawner.tokens import (
    begin_login,
    read_tokens,
)


class MemoryVault:
    """One user's auth_state. ``swaps`` are the states that were stored, in their order."""

    def __init__(self, answer: dict[str, Any], *, left: float = 5.0) -> None:
        self.name = "alice"
        self.swaps: list[TokenSet] = []
        self.log_in(answer, left=left)

    def log_in(self, answer: dict[str, Any], *, left: float = 300.0) -> None:
        """What the Hub does at a login: overwrite. ``left``: seconds of the access token."""
        tokens = replace(TokenSet.from_response(answer), expires_at=time.time() + left)
        self._stored: bytes | None = _encoded({**begin_login(tokens), "oauth_user": {"sub": "1"}})

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

    async def save(self, old: bytes | None, new: bytes | None) -> bool:
        return self.swap(old, new)

    def expire(self) -> None:
        """Let the stored access token be about to expire."""
        self._stored = _encoded({**self.state, "expires_at": time.time() + 5})


def _encoded(state: dict[str, Any]) -> bytes:
    return json.dumps(state).encode()


def shown(error: BaseException, log: pytest.LogCaptureFixture) -> str:
    return "\n".join([*traceback.format_exception(error), repr(vars(error)), log.text])


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
