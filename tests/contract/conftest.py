"""What do the contract tests talk to? The stand-in on a cluster like the recorded one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from firecrestspawner.demo.executors import LocalExecutor
from firecrestspawner.demo.firecrest import FirecREST, System
from tests.contract.issuer import Issuer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        mine = Path(__file__).parent in item.path.parents
        # The tests with a real Slurm take longer, and need root.
        if mine and item.get_closest_marker("slurm") is None:
            item.add_marker(pytest.mark.contract)


class Site:
    """A FirecREST with the recorded users (alice, bob; svc sees all) and system (cluster)."""

    def __init__(self, issuer: Issuer, directory: Path, version: str = "2.x.x") -> None:
        self.issuer = issuer
        self.executor = self._cluster(directory / "ssh", "cluster")
        self.rest_executor = self._cluster(directory / "rest", "cluster24")
        self.system = System("cluster", self.executor)
        self.rest = System("c24-rest", self.rest_executor, connection_mode="rest")
        systems = [self.system, self.rest]
        self.firecrest = FirecREST(issuer.jwks_url, systems, operators={"svc"}, version=version)
        self._clients: dict[str | None, httpx.Client] = {}

    @staticmethod
    def _cluster(directory: Path, name: str) -> LocalExecutor:
        return LocalExecutor(
            directory,
            nodes=[(f"nid00{number}", f"127.0.0.{number + 1}") for number in (1, 2, 3, 4)],
            slots=4,
            accounts={"alice": ["proj1", "proj2"], "bob": ["proj2"], "svc": ["svcacct"]},
            users=["alice", "bob", "svc"],
            partitions=["normal", "debug", "bobonly"],
            cluster=name,
            kill_wait=0.5,
        )

    def client(self, user: str | None) -> httpx.Client:
        """A client with a token of ``user``; None sends none."""
        if user not in self._clients:
            headers = {}
            if user is not None:
                headers["Authorization"] = f"Bearer {self.issuer.token(user)}"
            self._clients[user] = httpx.Client(base_url=self.firecrest.url, headers=headers)
        return self._clients[user]

    def submit(self, script: str = "sleep 60", user: str = "alice", **fields: Any) -> str:
        """Submit a script (its #! line is added) over HTTP and return the job id."""
        path = f"/compute/{fields.pop('system', 'cluster')}/jobs"
        job = {"workingDirectory": f"/home/{user}", "script": f"#!/bin/bash\n{script}\n", **fields}
        answer = self.client(user).post(path, json={"job": job})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["jobId"])

    def close(self) -> None:
        """End clients, server and jobs."""
        for client in self._clients.values():
            client.close()
        self.firecrest.close()


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture
def site(issuer: Issuer, tmp_path: Path) -> Iterator[Site]:
    site = Site(issuer, tmp_path)
    site.firecrest.start()
    yield site
    site.close()


@pytest.fixture(scope="module")
def shared_site(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests that leave nothing behind which another could notice."""
    site = Site(issuer, tmp_path_factory.mktemp("site"))
    site.firecrest.start()
    yield site
    site.close()
