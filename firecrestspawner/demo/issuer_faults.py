"""What goes wrong at the demo's issuer, when a test asks for it?"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flask import Response

#: What a fault may be set for; "*" is any of them.
ENDPOINTS = (
    "discovery",
    "jwks",
    "authorize",
    "token",
    "userinfo",
    "revocation",
    "end_session",
)
#: A held request is let go after this many seconds, so that a failing test does not hang.
HOLD_LIMIT = 30.0


class ConnectionDropped(Exception):
    """The connection is to be reset without an answer."""


@dataclass
class Fault:
    """One misbehaviour; :meth:`Faults.set` says what the fields mean."""

    times: int | None = None
    status: int | None = None
    body: bytes | None = None
    content_type: str = "text/html; charset=utf-8"
    delay: float = 0.0
    hold: threading.Event | None = field(default=None, repr=False)
    reset: bool = False
    after: bool = False
    omit: frozenset[str] = frozenset()


class Faults:
    """The faults in force. Safe to change while requests are under way.

    =================================  ==========================================================
    status, an error                   ``set("token", status=503, times=2)``
    delay                              ``set("token", delay=2.0)``, or ``hold=event``
    no answer                          ``set("*", reset=True)``
    the answer alone is lost           ``set("token", reset=True, after=True, times=1)``
    garbage                            ``set("token", body="<html>Welcome to the hotel's WLAN")``
    an answer that leaves things out   ``set("token", omit=["id_token", "refresh_token"])``
    the wrong time                     ``clock_skew = -300``
    a refresh token that was stolen    ``Issuer.spend_refresh_tokens("alice")``
    a revoked session                  ``Issuer.end_session("alice")``
    all tokens revoked                 ``Issuer.revoke_before_now()``
    no rotation of refresh tokens      ``Issuer.rotation = False``
    an outage                          ``Issuer.stop()``, ``Issuer.start()``
    =================================  ==========================================================

    ``clock_skew``: seconds by which the issuer's own clock is ahead (negative: behind).
    """

    def __init__(self) -> None:
        self.clock_skew = 0.0
        self._faults: dict[tuple[str, str | None], Fault] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def set(
        self,
        endpoint: str,
        *,
        grant_type: str | None = None,
        times: int | None = None,
        status: int | None = None,
        body: str | bytes | None = None,
        content_type: str = "text/html; charset=utf-8",
        delay: float = 0.0,
        hold: threading.Event | None = None,
        reset: bool = False,
        after: bool = False,
        omit: Iterable[str] = (),
    ) -> None:
        """Let requests to ``endpoint`` fail, in place of an earlier fault for the same.

        Parameters
        ----------
        endpoint: one of :data:`ENDPOINTS`, or ``"*"``.
        grant_type: only token requests of this grant type; such a fault goes first.
        times: how many requests; None: until cleared.
        status, body, content_type: answer this (status 200, an empty body, HTML by default).
        delay: wait this many seconds. Alone, it does no other harm.
        hold: wait for this event, at most :data:`HOLD_LIMIT` seconds.
        reset: reset the connection (TCP RST) instead of answering.
        after: let the request have its effect first; the fault then hits the answer only.
        omit: fields to leave out of the answer, which is a JSON object.

        Raises ValueError for an unknown endpoint.
        """
        if endpoint != "*" and endpoint not in ENDPOINTS:
            raise ValueError(f"no such endpoint: {endpoint!r}, only {', '.join(ENDPOINTS)}")
        raw = body.encode() if isinstance(body, str) else body
        left_out = frozenset(omit)
        fault = Fault(times, status, raw, content_type, delay, hold, reset, after, left_out)
        with self._lock:
            self._faults[endpoint, grant_type] = fault

    def clear(self) -> None:
        """Be well again: no faults, the right time."""
        with self._lock:
            self._faults.clear()
            self.clock_skew = 0.0

    def clock(self) -> float:
        """The issuer's own idea of the time, in seconds since the epoch."""
        return time.time() + self.clock_skew

    def around(
        self, endpoint: str, grant_type: str | None, process: Callable[[], Response]
    ) -> Response:
        """Answer a request through ``process``, as far as the faults let it.

        Raises ConnectionDropped.
        """
        fault = self._take(endpoint, grant_type)
        if fault is None:
            return process()
        response = process() if fault.after else None
        self._pause(fault)
        if fault.reset:
            raise ConnectionDropped
        if fault.status is not None or fault.body is not None:
            return Response(fault.body, fault.status or 200, content_type=fault.content_type)
        response = response or process()
        if fault.omit and response.is_json:
            left = {k: v for k, v in response.get_json().items() if k not in fault.omit}
            response.set_data(json.dumps(left))
        return response

    def stopping(self, stopping: bool) -> None:
        """Let go of every held request, so that the server can stop; or begin again."""
        if stopping:
            self._stopping.set()
        else:
            self._stopping.clear()

    def _take(self, endpoint: str, grant_type: str | None) -> Fault | None:
        with self._lock:
            for key in ((endpoint, grant_type), (endpoint, None), ("*", None)):
                fault = self._faults.get(key)
                if fault is None:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        del self._faults[key]
                return fault
        return None

    def _pause(self, fault: Fault) -> None:
        if fault.delay:
            self._stopping.wait(fault.delay)
        if fault.hold is not None:
            deadline = time.monotonic() + HOLD_LIMIT
            while time.monotonic() < deadline and not self._stopping.is_set():
                if fault.hold.wait(0.05):
                    break
