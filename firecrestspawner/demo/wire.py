"""How do answers get onto the wire, and connections broken on purpose?"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections import Counter
from typing import Any

import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: In the ASGI scope of an answer that FirecREST sends without naming the request.
BARE = "firecrest.bare"


class Held:
    """Sessions of one account, for as long as a call lasts; entering it tells the latency."""

    def __init__(
        self, sessions: Counter[tuple[str, str]], key: tuple[str, str], count: int, latency: float
    ) -> None:
        self._sessions, self._key, self._count, self._latency = sessions, key, count, latency

    def __enter__(self) -> float:
        self._sessions[self._key] += self._count
        return self._latency

    def __exit__(self, *_: object) -> None:
        self._sessions[self._key] -= self._count


def json_response(status: int, body: Any) -> Response:
    """An answer as FirecREST sends it; a body of bytes goes out as it is."""
    if status == 204:
        return Response(status_code=204, media_type="application/json")
    content = body if isinstance(body, bytes) else _compact(body)
    return Response(content, status_code=status, media_type="application/json")


def _compact(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


class Broken(Response):
    """An answer whose connection is closed after it; without an answer it is reset."""

    def __init__(self, answer: Response | None, transport: asyncio.Transport | None) -> None:
        super().__init__()
        self._answer = answer
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._answer is not None:
            scope[BARE] = True
            await self._answer(scope, receive, send)
            if self._transport is not None:
                self._transport.close()
            return
        if self._transport is not None:
            # Linger 0: the peer gets a reset, not an orderly end.
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def tracking(transports: dict[Any, asyncio.Transport]) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, keeping the transport of every client: ASGI has no way to break
    a connection."""

    class Tracking(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._peer = tuple(transport.get_extra_info("peername") or ())
            transports[self._peer] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self._peer, None)
            super().connection_lost(exc)

    return Tracking


class Server(uvicorn.Server):
    """uvicorn on a thread; ``up`` is set once it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()
