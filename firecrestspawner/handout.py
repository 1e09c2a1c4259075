"""Which access token is a running server given: how fresh, and for whom?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from .models import Secret, TokenSet
from .oidc import Provider
from .tokens import TokenStore


@dataclass
class _Exchange:
    """The last exchange for one server, and what it was made from."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    source: Secret | None = None
    tokens: TokenSet | None = None
    #: Seconds that tokens from an exchange live.
    life: float = float("inf")


class Handout:
    """Hands the owner's access token to servers, exchanged where the site says so.

    Exchanges for one server wait for each other, so that an access token is exchanged once,
    however many kernels ask.
    """

    def __init__(self, tokens: TokenStore, provider: Provider) -> None:
        self._tokens = tokens
        self._provider = provider
        self._exchanges: WeakKeyDictionary[Any, _Exchange] = WeakKeyDictionary()

    async def get(self, server: Any, min_validity: float) -> TokenSet:
        """A token that lives ``min_validity`` seconds more, or as long as the issuer gives any.

        ``server`` is a spawner. Raises LoginRequired, PermissionDenied or ProviderUnavailable.
        """
        own = await self._tokens.get(server.user, min_validity)
        if not (server.notebook_token_audience or server.notebook_token_scope):
            return own
        last = self._exchanges.setdefault(server, _Exchange())
        async with last.lock:
            # Who asks for more than the issuer gives does not cost it an exchange each time.
            enough = min_validity if min_validity <= last.life else last.life / 2
            tokens = last.tokens
            if tokens is None or last.source != own.access_token or tokens.expires_soon(enough):
                tokens = last.tokens = await self._provider.exchange(
                    own.access_token, server.notebook_token_audience, server.notebook_token_scope
                )
                last.source = own.access_token
                last.life = (tokens.expires_at or float("inf")) - time.time()
            return tokens
