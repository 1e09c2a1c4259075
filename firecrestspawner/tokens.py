"""How do a user's tokens stay fresh? One refresh at a time, rotation included (R4)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import LoginRequired, ProviderUnavailable
from .models import TokenSet
from .oidc import LOGIN_REQUIRED, UNAVAILABLE, Provider

log = logging.getLogger(__name__)

#: Seconds of life a token has when it is handed out: FirecREST refuses those with less than 30.
MARGIN = 60.0


class Vault(Protocol):
    """One user's encrypted auth_state: what TokenStore needs of the Hub."""

    name: str

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        """The decrypted auth_state, and the very bytes it was decrypted from."""

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        """Encrypt."""

    def swap(self, old: bytes | None, new: bytes) -> bool:
        """Store and commit ``new`` if ``old`` is still what is stored; does not await."""


def read_tokens(auth_state: Mapping[str, Any]) -> TokenSet:
    """The tokens inside an auth_state. Raises ValueError when there is no access token."""
    tokens = TokenSet.from_response(
        {key: auth_state.get(key) for key in ("access_token", "refresh_token", "id_token", "scope")}
    )
    return TokenSet(
        tokens.access_token,
        _float(auth_state.get("expires_at")),
        tokens.refresh_token,
        _float(auth_state.get("refresh_expires_at")),
        tokens.id_token,
        tokens.scope,
    )


def write_tokens(tokens: TokenSet) -> dict[str, Any]:
    """The auth_state fields of a token set: plain strings, for encryption only."""
    return {
        "access_token": tokens.access_token.reveal(),
        "expires_at": tokens.expires_at,
        "refresh_token": tokens.refresh_token.reveal() if tokens.refresh_token else None,
        "refresh_expires_at": tokens.refresh_expires_at,
        "id_token": tokens.id_token.reveal() if tokens.id_token else None,
        "scope": tokens.scope.split(),
    }


@dataclass(frozen=True)
class Session:
    """A user's session at the issuer, as far as it is known here.

    ``expires_at`` is when it ends unless it is used (Unix seconds), None when the issuer gives its
    sessions no end that it tells.
    """

    valid: bool
    expires_at: float | None


def read_session(auth_state: Mapping[str, Any] | None, *, now: float | None = None) -> Session:
    """What a stored auth_state says of the session; asks nobody."""
    now = time.time() if now is None else now
    try:
        tokens = read_tokens(auth_state or {})
    except ValueError:
        return Session(False, None)
    ends = tokens.expires_at if tokens.refresh_token is None else tokens.refresh_expires_at
    return Session(ends is None or ends > now, ends)


class TokenStore:
    """Fresh tokens for users, one refresh at a time for each (R4)."""

    def __init__(self, provider: Provider, vault_of: Callable[[Any], Vault]) -> None:
        self._provider = provider
        self._vault_of = vault_of
        self._locks: dict[str, asyncio.Lock] = {}
        self._refreshed_at: dict[str, float] = {}
        self._flights: set[asyncio.Task[TokenSet]] = set()

    async def get(self, user: Any, min_validity: float = MARGIN) -> TokenSet:
        """Tokens whose access token lives ``min_validity`` seconds more (at least MARGIN).

        A refresh outlives the caller's cancellation, because the issuer may have rotated the
        refresh token by then. Raises LoginRequired or ProviderUnavailable.
        """
        vault = self._vault_of(user)
        flight = asyncio.ensure_future(self._get(vault, max(min_validity, MARGIN)))
        self._flights.add(flight)
        flight.add_done_callback(self._landed)
        return await asyncio.shield(flight)

    def _landed(self, flight: asyncio.Task[TokenSet]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled():
            flight.exception()  # fetched, so that a cancelled caller leaves no warning behind

    async def _get(self, vault: Vault, min_validity: float) -> TokenSet:
        asked_at = time.monotonic()
        async with self._locks.setdefault(vault.name, asyncio.Lock()):
            # What was refreshed while this one waited is as fresh as the issuer makes them.
            recent = self._refreshed_at.get(vault.name, asked_at) > asked_at
            for _ in range(3):
                state, stored = await vault.load()
                try:
                    tokens = read_tokens(state or {})
                except ValueError:
                    raise LoginRequired(LOGIN_REQUIRED, detail="no tokens are stored") from None
                if recent or not tokens.expires_soon(min_validity):
                    return tokens
                try:
                    fresh = await self._provider.refresh(tokens)
                except LoginRequired:
                    if (await vault.load())[1] == stored:
                        raise
                    continue
                sealed = await vault.seal({**(state or {}), **write_tokens(fresh)})
                if vault.swap(stored, sealed):
                    self._refreshed_at[vault.name] = time.monotonic()
                    return fresh
                log.info("A login of %s during a refresh wins", vault.name)
        raise ProviderUnavailable(UNAVAILABLE, detail=f"{vault.name} keeps logging in")

    async def aclose(self) -> None:
        """Let refreshes under way save what they got, then close the connections."""
        if self._flights:
            await asyncio.wait(self._flights, timeout=5)
        await self._provider.aclose()


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
