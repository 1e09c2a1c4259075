"""How does code in a notebook use the user's own token, with pyfirecrest and with httpx?

::

    from firecrest.v2 import Firecrest
    from firecrestspawner.notebook import HubTokenAuth

    client = Firecrest("https://api.example.org/firecrest/v2", authorization=HubTokenAuth())

Standard library only, like :mod:`.hub_token`; where httpx is installed, a HubTokenAuth is an
``httpx.Auth``, too.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .hub_token import AccessToken, Flight, HubTokenError, LoginRequired, Refused, TryLater, told

if TYPE_CHECKING:
    import httpx

    _Auth = httpx.Auth
else:
    try:
        from httpx import Auth as _Auth
    except ImportError:
        _Auth = object

#: Seconds of life that FirecREST wants to see in a token (30), and a little for the way there.
_ACCEPTED = 35.0

__all__ = ["HubTokenAuth", "HubTokenError", "LoginRequired", "Refused", "TryLater"]


class HubTokenAuth(_Auth):
    """Fresh access tokens of the server's user, from the Hub.

    An ``authorization`` for pyfirecrest's clients (v1 and v2, sync and async) and an ``auth`` for
    httpx's. May be shared by threads and event loops. Tokens are kept in memory only.

    Parameters
    ----------
    min_validity: seconds that a token has to live when it is handed out. Where the issuer makes
        no tokens that live twice as long, each is used for a quarter of its life at least.

    Whatever asks for a token raises HubTokenError: LoginRequired, TryLater or Refused.
    """

    def __init__(self, min_validity: float = 60.0) -> None:
        if not (math.isfinite(min_validity) and min_validity >= 0):
            raise ValueError(f"min_validity is no number of seconds: {min_validity!r}")
        self.min_validity = min_validity
        self._lock = threading.Lock()
        self._token: AccessToken | None = None
        self._flight: Flight | None = None

    def __repr__(self) -> str:
        return f"HubTokenAuth(min_validity={self.min_validity:g})"

    def get_access_token(self) -> str:
        """A token; blocks for at most half a minute when the Hub has to be asked."""
        found = self._find()
        return found if isinstance(found, str) else found.result().access_token

    async def aget_access_token(self) -> str:
        """A token, without blocking the event loop (asyncio)."""
        found = self._find()
        if isinstance(found, str):
            return found
        landed = asyncio.wrap_future(found.future)
        try:
            # Not wait_for(): until Python 3.12 it loses a cancellation that comes with the token.
            await asyncio.wait([landed], timeout=found.remaining())
        finally:
            landed.cancel()  # unless it has come; the flight itself goes on for others
        if landed.cancelled():
            raise found.give_up()
        return told(landed.result()).access_token

    def auth_headers(self) -> Mapping[str, str]:
        """The request headers: to be read at once, or awaited, as pyfirecrest's two clients do."""
        return _Headers(self)

    # -- httpx -------------------------------------------------------------------------------

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx. A 401 is answered once with another token from the Hub."""
        token = self.get_access_token()
        response = yield _signed(request, token)
        if response.status_code == 401 and _can_be_sent_again(request):
            self._drop(token)
            yield _signed(request, self.get_access_token())

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """As :meth:`sync_auth_flow`."""
        token = await self.aget_access_token()
        response = yield _signed(request, token)
        if response.status_code == 401 and _can_be_sent_again(request):
            self._drop(token)
            yield _signed(request, await self.aget_access_token())

    # -- the cache ---------------------------------------------------------------------------

    def _find(self) -> str | Flight:
        """The token in memory while it is fresh; else the request under way, or a new one."""
        with self._lock:
            token = self._token
            if token is not None and token.left() > self._margin(token):
                return token.access_token
            if self._flight is None or self._flight.future.done():
                # Twice: what lives shorter than that is as fresh as the issuer makes them.
                self._flight = Flight(2 * self.min_validity, self._keep)
            return self._flight

    def _margin(self, token: AccessToken) -> float:
        # Of an issuer whose tokens are short each is used for a while, but never until FirecREST
        # refuses it.
        return min(self.min_validity, max(_ACCEPTED, 0.75 * (token.expires_in or 0.0)))

    def _keep(self, token: AccessToken) -> None:
        with self._lock:
            self._token = token

    def _drop(self, refused: str) -> None:
        with self._lock:
            if self._token is not None and self._token.access_token == refused:
                self._token = None


class _Headers(Mapping[str, str]):
    """One header whose value is fetched when it is read; awaited, it becomes a dict."""

    def __init__(self, auth: HubTokenAuth) -> None:
        self._auth = auth

    def __getitem__(self, name: str) -> str:
        if name != "Authorization":
            raise KeyError(name)
        return f"Bearer {self._auth.get_access_token()}"

    def __iter__(self) -> Iterator[str]:
        return iter(("Authorization",))

    def __len__(self) -> int:
        return 1

    def __await__(self) -> Generator[Any, None, dict[str, str]]:
        return self._fetch().__await__()

    async def _fetch(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {await self._auth.aget_access_token()}"}


def _signed(request: httpx.Request, token: str) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {token}"
    return request


def _can_be_sent_again(request: httpx.Request) -> bool:
    """False for a body that was read while it was sent: from a generator or a file."""
    try:
        return request.content is not None
    except RuntimeError:  # httpx.RequestNotRead
        return False
