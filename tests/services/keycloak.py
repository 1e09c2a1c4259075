"""How is a real Keycloak started for tests, and stopped again?

    with Keycloak(realm, environ={"HUB_PUBLIC_URL": url}) as keycloak:
        keycloak.issuer                    # http://127.0.0.1:PORT/realms/hpc
        keycloak.realm.end_sessions("alice")

Its data live in memory and end with it. It listens on loopback addresses only.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from firecrestspawner.demo.children import LOOPBACK, Child, DemoError, free_ports
from tests.services.keycloak_distribution import distribution, environment
from tests.services.keycloak_realm import Realm
from tests.services.processes import ServiceError

#: Seconds; some 14 on two idle cores.
START_TIMEOUT = 120.0
_ADMIN = "tests"

# What `kc.sh` would set, without its shell in between: the leash (see Child) holds one process. The
# compiler's first stage and the plain collector are enough for a short life, and spare a core.
_JAVA = (
    *("java", "-Xms64m", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
    "-XX:+ExitOnOutOfMemoryError",
    *(
        f"--add-opens=java.base/java.{package}=ALL-UNNAMED"
        for package in ("util", "util.concurrent", "security", "lang")
    ),
    "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
    "-Dpicocli.disable.closures=true",
    "-Djava.util.concurrent.ForkJoinPool.common.threadFactory="
    "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
)


class Keycloak:
    """A Keycloak with one realm, ready inside the ``with`` block.

    ``realm``: the realm's representation, which may hold ``${NAME:default}`` of ``environ``.
    Raises ServiceError when it cannot be had or does not come up.

    Attributes: ``url``, ``issuer``, ``realm`` (what its administrator can do), ``log``, ``pid``.
    """

    def __init__(self, realm: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._representation = realm
        self._environ = environ
        self._secret = secrets.token_hex(16)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Keycloak:
        with contextlib.ExitStack() as stack:
            self._start(distribution(), stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/{self._representation['realm']}"

    @property
    def pid(self) -> int:
        return self._child.pid

    def log_end(self, lines: int = 40) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _start(self, programs: Path, stack: contextlib.ExitStack) -> None:
        home = Path(tempfile.mkdtemp(prefix="firecrestspawner-keycloak-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        # A home of its own, for realm and temporary files: the programs are shared by all runs.
        for entry in programs.iterdir():
            if entry.name != "data":
                (home / entry.name).symlink_to(entry)
        folder = home / "data" / "import"
        folder.mkdir(parents=True)
        file = folder / f"{self._representation['realm']}-realm.json"
        file.write_text(json.dumps(self._representation))
        self.log = home / "keycloak.log"
        port, management = free_ports(2)
        self.url = f"http://{LOOPBACK}:{port}"
        nursery = ThreadPoolExecutor(1, thread_name_prefix="keycloak-nursery")
        stack.callback(nursery.shutdown)
        self._child = Child("Keycloak", self.log, nursery)
        stack.callback(self._child.stop)
        self._child.start(self._command(home, port, management), self._environment(), home)
        with httpx.Client(trust_env=False, timeout=5.0) as http:
            ready = _answers(http, f"http://{LOOPBACK}:{management}/health/ready")
            try:
                self._child.wait_until(ready, START_TIMEOUT)
            except DemoError as error:
                raise ServiceError(str(error)) from error
        name = self._representation["realm"]
        self.realm = stack.enter_context(Realm(self.url, name, _ADMIN, self._secret))

    def _environment(self) -> dict[str, str]:
        admin = {
            "KC_BOOTSTRAP_ADMIN_CLIENT_ID": _ADMIN,
            "KC_BOOTSTRAP_ADMIN_CLIENT_SECRET": self._secret,
        }
        return {**environment(), **admin, **self._environ}

    def _command(self, home: Path, port: int, management: int) -> list[str]:
        return [
            *_JAVA,
            f"-Dkc.home.dir={home}",
            f"-Djboss.server.config.dir={home / 'conf'}",
            *("-cp", str(home / "lib" / "quarkus-run.jar")),
            "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
            *("start", "--optimized", "--import-realm"),
            # Keycloak's own cluster would listen on every network of this machine.
            "--cache=local",
            f"--hostname={self.url}",
            *("--http-enabled=true", f"--http-host={LOOPBACK}", f"--http-port={port}"),
            f"--http-management-host={LOOPBACK}",
            f"--http-management-port={management}",
            # Not a line for each look at its health.
            "--log-level=info,io.smallrye.health:warn",
        ]


def _answers(http: httpx.Client, url: str) -> Any:
    def answers() -> bool:
        try:
            return http.get(url).status_code == 200
        except httpx.TransportError:
            return False

    return answers
