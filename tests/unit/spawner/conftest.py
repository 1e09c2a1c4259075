"""Which FirecREST and which Hub does each of these tests get?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from firecrestspawner import cluster
from tests.unit.spawner.scene import Api, Scene


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api()
    monkeypatch.setattr(cluster, "FirecREST", lambda url: api)
    return api


@pytest.fixture
async def scene(api: Api) -> AsyncIterator[Scene]:
    scene = Scene(api)
    yield scene
    await scene.aclose()
