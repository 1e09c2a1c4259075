"""Where does the Keycloak that the tests run come from?

From Maven Central, through Maven, so that a mirror in somebody's settings.xml is respected. It is
kept, built for our options (`kc.sh build`), in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.services.processes import ServiceError
from tests.services.users import exclusive

#: The newest release of the year's series; it runs on Java 17 and later, and has the standard token
#: exchange (RFC 8693, "V2").
VERSION = "26.7.3"
JAVA = 17
_SHA256 = "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f"
_GET = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:get"
#: What cannot be told at start-up any more: a database in memory, and its health on a port.
_BUILT_FOR = ("--db=dev-mem", "--health-enabled=true")


def distribution() -> Path:
    """The directory of the built distribution; of two processes at one time, the second waits.

    The first time takes about a minute and a network. Raises ServiceError that says what is
    missing, or what failed.
    """
    _check_java()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(home, "firecrestspawner")
    made = cache / f"keycloak-{VERSION}"
    if not made.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive(cache / ".keycloak.lock"):
            if not made.exists():
                _make(made)
    return made


def environment() -> dict[str, str]:
    """This process's environment, without what would configure another Keycloak or its JVM."""
    foreign = ("KC_", "KEYCLOAK_", "JAVA_", "JDK_JAVA_", "QUARKUS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _check_java() -> None:
    java = shutil.which("java")
    if java is None:
        raise ServiceError(f"there is no java: Keycloak {VERSION} needs {JAVA} or newer")
    said = _run("java", "-version")
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < JAVA:
        first = said.strip().splitlines()[:1]
        raise ServiceError(f"Keycloak {VERSION} needs Java {JAVA} or newer; {java} is {first}")


def _make(made: Path) -> None:
    if shutil.which("mvn") is None:
        raise ServiceError("there is no mvn, with which Keycloak is fetched from Maven Central")
    with tempfile.TemporaryDirectory(prefix="keycloak-", dir=made.parent) as directory:
        with zipfile.ZipFile(_fetch(Path(directory))) as archive:
            archive.extractall(directory)  # the checksum has vouched for its names
        unpacked = Path(directory, f"keycloak-{VERSION}")
        _run("sh", str(unpacked / "bin" / "kc.sh"), "build", *_BUILT_FOR)
        # In one step: who finds the directory, finds it whole.
        unpacked.rename(made)


def _fetch(directory: Path) -> Path:
    artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
    options = (f"-Dartifact={artifact}", "-Dtransitive=false", f"-Dmaven.repo.local={directory}/m2")
    _run("mvn", "--batch-mode", "--quiet", _GET, *options, within=directory)
    (archive,) = directory.glob("m2/org/keycloak/keycloak-quarkus-dist/*/*.zip")
    with archive.open("rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != _SHA256:
        raise ServiceError(f"{archive.name} is not what it was: its SHA-256 is {found}")
    return archive


def _run(*command: str, within: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=within,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def main() -> int:
    """Fetch and build what is missing; print where it is, or why it cannot be had."""
    try:
        print(distribution())
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
