"""Which Hub does each of these tests' programs ask?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.notebook.hub_end import HubEnd


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubEnd]:
    monkeypatch.delenv("JUPYTERHUB_PUBLIC_HUB_URL", raising=False)
    with HubEnd() as hub:
        for name, value in hub.environ.items():
            monkeypatch.setenv(name, value)
        yield hub
