"""Is a Keycloak that cannot be had refused in words that say why?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services import keycloak_distribution
from tests.services.processes import ServiceError

pytestmark = [pytest.mark.keycloak, pytest.mark.timeout(600)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of the test's own, and a cache that holds nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_java_it_says_so(programs: Path):
    with pytest.raises(ServiceError, match="there is no java"):
        keycloak_distribution.distribution()


def test_a_java_that_is_too_old_is_named(programs: Path):
    _program(programs / "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    with pytest.raises(ServiceError, match=r'needs Java 17 or newer; .*openjdk version "11'):
        keycloak_distribution.distribution()


def test_without_maven_it_says_so(programs: Path):
    _program(programs / "java", """echo 'openjdk version "21.0.1" 2023-10-17' >&2""")
    with pytest.raises(ServiceError, match="there is no mvn"):
        keycloak_distribution.distribution()


def test_what_maven_says_is_told_and_nothing_half_made_is_left(programs: Path, tmp_path: Path):
    _program(programs / "java", """echo 'openjdk version "21.0.1" 2023-10-17' >&2""")
    _program(programs / "mvn", "echo 'no route to host'; exit 1")
    with pytest.raises(ServiceError, match="no route to host"):
        keycloak_distribution.distribution()
    left = [path.name for path in (tmp_path / "cache" / "firecrestspawner").iterdir()]
    assert left == [".keycloak.lock"]


def test_an_archive_that_is_another_one_is_not_used(programs: Path, tmp_path: Path):
    """Its checksum is known here, whatever a mirror says."""
    _program(programs / "java", """echo 'openjdk version "21.0.1" 2023-10-17' >&2""")
    where = "m2/org/keycloak/keycloak-quarkus-dist/1"
    _program(programs / "mvn", f"/bin/mkdir -p {where}; echo forged > {where}/forged.zip")
    with pytest.raises(ServiceError, match="is not what it was"):
        keycloak_distribution.distribution()
