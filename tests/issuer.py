"""Which issuer do tests use, and how is it made to fail?

Fixtures for a conftest.py: ``from tests.issuer import issuer, shared_issuer``. The issuer is the
demo's, in threads of the test's process; firecrestspawner.demo.issuer_faults lists its faults.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from firecrestspawner.demo.issuer import DEFAULT_CLIENTS, DemoClient, Issuer
from tests.unit.issuer_client import wait_until

HUB_SECRET = "demo-hub-secret"
#: A client whose id and secret need the form-encoding of RFC 6749 section 2.3.1.
ODD = DemoClient("od d:client", "s:e+c r&e%t\u00e9", grant_types=("client_credentials",))

INVALID_GRANT = json.dumps({"error": "invalid_grant"})

#: Faults of the token endpoint from which nothing may be concluded about a user's login (R5):
#: ``issuer.faults.set("token", **fault)``.
OUTAGES: dict[str, dict[str, Any]] = {
    **{f"status {code}": {"status": code, "body": "x"} for code in (404, 408, 429, 500, 502, 503)},
    "a refusal with status 500": {"status": 500, "body": INVALID_GRANT},
    "a refusal with status 503": {"status": 503, "body": INVALID_GRANT},
    "another error": {"status": 400, "body": json.dumps({"error": "temporarily_unavailable"})},
    "our own credentials": {"status": 401, "body": json.dumps({"error": "invalid_client"})},
    "a wrong secret": {"status": 401, "body": json.dumps({"error": "unauthorized_client"})},
    "an error without a name": {"status": 400, "body": "{}"},
    "an error page": {"status": 400, "body": "<html>invalid_grant</html>"},
    "success with a page": {"status": 200, "body": "<html>Welcome to the airport's WLAN</html>"},
    "success with nothing": {"status": 200, "body": ""},
    "success with a list": {"status": 200, "body": "[]"},
    "success with a million brackets": {"status": 200, "body": "[" * 1_000_000},
    "success without a token": {"status": 200, "body": json.dumps({"expires_in": 300})},
    "an empty token": {"status": 200, "body": json.dumps({"access_token": ""})},
    "a number for a token": {"status": 200, "body": json.dumps({"access_token": 7})},
    "an endless answer": {"status": 200, "body": b'{"access_token": "' + b"x" * (2 << 20) + b'"}'},
    "a redirect": {"status": 302, "body": ""},
    "a reset": {"reset": True},
}


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    """One issuer for a module's tests: its keys take a while to make."""
    with Issuer(clients=[*DEFAULT_CLIENTS, ODD]) as running:
        yield running


@pytest.fixture
def issuer(shared_issuer: Issuer) -> Iterator[Issuer]:
    """A running issuer without memory of earlier tests; what a test changes is changed back."""
    realm = shared_issuer
    realm._app._seen.clear()
    users, clients = dict(realm._users), dict(realm._clients)
    lifetimes = replace(realm.lifetimes)
    yield realm
    vars(realm.lifetimes).update(vars(lifetimes))
    realm._users.update(users)
    realm._clients.update(clients)
    realm._sessions.not_before = 0.0
    realm.rotation = True
    realm.faults.clear()
    realm.start()


def refreshes(issuer: Issuer) -> int:
    """How many refreshes were asked for."""
    return sum(seen.grant_type == "refresh_token" for seen in issuer.requests)


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
