"""Which issuer, vault and store does each of these tests get?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner import oauth, service, shared, tokens
from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.models import Secret
from firecrestspawner.oauth import TokenClient
from firecrestspawner.oidc import Provider
from firecrestspawner.service import ServiceAccount
from firecrestspawner.tokens import TokenStore
from tests.issuer import HUB_SECRET, issuer, shared_issuer
from tests.unit.tokens.issuing import Clock, MemoryVault

__all__ = ["issuer", "shared_issuer"]


@pytest.fixture
async def provider(issuer: Issuer) -> AsyncIterator[Provider]:
    client = TokenClient("jupyterhub", Secret(HUB_SECRET), deadline=5)
    yield Provider(issuer.url, client)
    await client.aclose()


@pytest.fixture
def vault(issuer: Issuer) -> MemoryVault:
    """alice's tokens, which expire in five seconds."""
    return MemoryVault(issuer.log_in("alice"))


@pytest.fixture
def store(provider: Provider) -> TokenStore:
    return TokenStore(provider, lambda vault: vault)


@pytest.fixture
async def make_account(issuer: Issuer) -> AsyncIterator[Callable[..., ServiceAccount]]:
    made = []

    def make(**settings: Any) -> ServiceAccount:
        defaults = {
            "client_id": "jupyterhub-service",
            "client_secret": "demo-service-secret",
            "token_url": f"{issuer.url}/protocol/openid-connect/token",
        }
        made.append(ServiceAccount(**defaults | settings))
        return made[-1]

    yield make
    for account in made:
        await account.aclose()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (oauth, service, shared, tokens):
        monkeypatch.setattr(
            module, "time", SimpleNamespace(monotonic=clock.monotonic, time=clock.time)
        )
    return clock
