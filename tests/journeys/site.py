"""What can a test look up behind the scenes of the demo's site?"""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from cryptography.fernet import Fernet

from firecrestspawner.demo.cluster import Job
from firecrestspawner.demo.executors import LocalExecutor
from firecrestspawner.demo.hub import READY_TIMEOUT, Demo

T = TypeVar("T")

#: Seconds between two looks at a condition.
LOOK = 0.02
UNFINISHED = ("PENDING", "RUNNING")


def eventually(condition: Callable[[], T | None], timeout: float = 10.0, what: str = "") -> T:
    """What ``condition`` answers once that is true; AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not (met := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what or condition}"
        time.sleep(LOOK)
    return met


class Site(Demo):
    """The demo, its Hub under ``base_url``, and what is stored, queued and running in it."""

    executor: LocalExecutor

    def __init__(self, *, base_url: str = "/", extra_config: str = "", **settings: Any) -> None:
        self.base_url = base_url
        under = f"os.environ['DEMO_URL'] + {base_url!r}"
        prefixed = (
            f"c.JupyterHub.bind_url = {under}\n"
            f"c.FirecRESTAuthenticator.oauth_callback_url = {under} + 'hub/oauth_callback'\n"
        )
        settings.setdefault("log_level", "DEBUG")
        super().__init__(extra_config=prefixed + extra_config, **settings)

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until the Hub answers through the proxy, below its prefix."""

        def answers() -> bool:
            try:
                url = f"{self.url}{self.base_url}hub/health"
                return httpx.get(url, trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        self.hub.wait_until(answers, timeout)

    def log_end(self, lines: int = 80) -> str:
        """The last lines of the Hub's log."""
        return "\n".join(self.hub_log.read_text(errors="replace").splitlines()[-lines:])

    # -- jobs --------------------------------------------------------------------------------

    def jobs(self, user: str | None = None) -> list[Job]:
        """All jobs there ever were, of a user or of everybody, oldest first."""
        return [job for job in self.executor.jobs("alice") if user in (None, job.user)]

    def job(self, user: str) -> Job:
        """The user's newest job."""
        return self.jobs(user)[-1]

    def output_end(self, job: Job, lines: int = 40) -> str:
        """The last lines of what the launcher and the server of ``job`` have written."""
        files = self.executor.metadata(job.user, job.id, operator=True)
        path = self.executor.homes.path_of(files.output) if files else None
        if path is None or not path.exists():
            return "nothing was written"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def unfinished(self, user: str | None = None) -> list[Job]:
        """The jobs that are queued or running."""
        return [job for job in self.jobs(user) if job.state in UNFINISHED]

    def requests(self, since: int = 0) -> list[str]:
        """The operations that FirecREST was asked for, from the ``since``-th on."""
        return [record.operation for record in list(self.firecrest.requests)[since:]]

    def own_requests(self, since: int = 0) -> list[str]:
        """Of these the ones for single servers: without what a tick asks for all of them (C1), and
        without the looks at systems' health, which pages ask for."""
        return [name for name in self.requests(since) if name not in ("list", "systems")]

    # -- the Hub's database ------------------------------------------------------------------

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query, read as anybody could who has the file."""
        address = f"file:{self.database}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=10)) as database:
            return database.execute(sql, values).fetchall()

    def state(self, user: str, server: str = "") -> dict[str, Any]:
        """The stored state of a user's server, but for what its last end was; empty when there is
        none."""
        rows = self.query(
            "SELECT spawners.state FROM spawners JOIN users ON users.id = spawners.user_id"
            " WHERE users.name = ? AND spawners.name = ?",
            user,
            server,
        )
        state: dict[str, Any] = json.loads(rows[0][0] or "{}") if rows else {}
        state.pop("ending", None)
        return state

    def open_seal(self, sealed: str | bytes) -> dict[str, Any]:
        """What the Hub has encrypted, with its key: the value of a ``sealed`` field, or a user's
        ``encrypted_auth_state``."""
        key = bytes.fromhex(self._secrets["JUPYTERHUB_CRYPT_KEY"])
        opened: dict[str, Any] = json.loads(Fernet(base64.urlsafe_b64encode(key)).decrypt(sealed))
        return opened

    def auth_state(self, user: str) -> dict[str, Any]:
        """The user's tokens."""
        rows = self.query("SELECT encrypted_auth_state FROM users WHERE name = ?", user)
        return self.open_seal(rows[0][0])

    def api_token(self, user: str, server: str = "") -> str:
        """The token that the user's server has for the Hub's API."""
        token: str = self.open_seal(self.state(user, server)["sealed"])["api_token"]
        return token

    def hub_status(self, token: str) -> int:
        """What the Hub's API answers to whoever holds ``token``."""
        answer = httpx.get(
            f"{self.hub_url}{self.base_url}hub/api/user",
            headers={"Authorization": f"token {token}"},
            trust_env=False,
        )
        return answer.status_code

    # -- nothing is left ---------------------------------------------------------------------

    def remains(self) -> list[str]:
        """What is left of servers: jobs, processes, routes, states, tokens; in words."""
        found = [f"job {job.id} of {job.user} is {job.state}" for job in self.unfinished()]
        found += [f"process {process}" for process in self.leftovers()]
        found += [f"a route to {path}" for path in self.routes() if "/user/" in path]
        states = self.query("SELECT name, state FROM spawners WHERE state IS NOT NULL")
        # What its user is told of a server's end stays until the next start.
        found += [f"state of server {name!r}: {list(json.loads(state))}"
                  for name, state in states if set(json.loads(state)) - {"ending"}]  # fmt: skip
        notes = self.query("SELECT note FROM api_tokens WHERE note LIKE 'Server at %'")
        found += [f"an API token: {note}" for (note,) in notes]
        return found

    def secrets(self) -> dict[str, str]:
        """The values that the site itself was given: keys and client secrets."""
        environ = self._hub_environ()
        names = ("OAUTH_CLIENT_SECRET", "SA_CLIENT_SECRET", *self._secrets)
        return {name: environ[name] for name in names}
