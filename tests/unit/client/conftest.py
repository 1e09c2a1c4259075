"""Which site does each of these tests get?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from firecrestspawner.client import FirecREST
from tests.unit.client.api import Site


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    shared.standin.faults.clear()
    for job in shared.executor.jobs("alice"):
        if job.state == "PENDING":
            shared.executor.cancel("alice", job.id, operator=True)


@pytest.fixture
async def firecrest(site: Site) -> AsyncIterator[FirecREST]:
    client = FirecREST(site.standin.url, deadline=5)
    yield client
    await client.aclose()
