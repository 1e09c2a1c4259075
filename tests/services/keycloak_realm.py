"""What does an administrator do to a Keycloak realm? (Admin REST API)"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import httpx


class Realm:
    """The realm ``name`` of the Keycloak at ``url``, for its administrating client."""

    def __init__(self, url: str, name: str, client_id: str, client_secret: str) -> None:
        self._http = httpx.Client(
            base_url=url, trust_env=False, timeout=30.0, auth=_Bearer(url, client_id, client_secret)
        )
        self._path = f"/admin/realms/{name}"

    def __enter__(self) -> Realm:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    # -- sessions ----------------------------------------------------------------------------

    def sessions(self, username: str) -> list[dict[str, Any]]:
        """The user's SSO sessions: ``id``, and ``clients`` that take part in it."""
        found: list[dict[str, Any]] = self._get(f"{self._user_path(username)}/sessions")
        return found

    def end_sessions(self, username: str) -> int:
        """End the user's SSO sessions one by one, as the console does; how many there were."""
        sessions = self.sessions(username)
        for session in sessions:
            self._ask("DELETE", f"/sessions/{session['id']}")
        return len(sessions)

    # -- users -------------------------------------------------------------------------------

    def take_role(self, username: str, role: str) -> None:
        """Take a realm role from the user."""
        self._ask("DELETE", self._roles_path(username), json=[self._get(f"/roles/{role}")])

    def give_role(self, username: str, role: str) -> None:
        """Give the user a realm role."""
        self._ask("POST", self._roles_path(username), json=[self._get(f"/roles/{role}")])

    @contextmanager
    def without_role(self, username: str, role: str) -> Iterator[None]:
        """The user has not got the realm role inside the block, and has it again after it."""
        self.take_role(username, role)
        try:
            yield
        finally:
            self.give_role(username, role)

    @contextmanager
    def member(self, username: str, group: str) -> Iterator[None]:
        """The user is one of the group inside the block."""
        (found,) = self._get("/groups", search=group, exact="true")
        path = f"{self._user_path(username)}/groups/{found['id']}"
        self._ask("PUT", path)
        try:
            yield
        finally:
            self._ask("DELETE", path)

    def users(self) -> dict[str, dict[str, Any]]:
        """The people by name, each with ``credentials``: what they could log in with."""
        people: list[dict[str, Any]] = self._get("/users")
        return {
            user["username"]: user
            | {"credentials": self._get(f"/users/{user['id']}/credentials")}
            for user in people
        }  # fmt: skip

    # -- settings ----------------------------------------------------------------------------

    def client(self, client_id: str) -> dict[str, Any]:
        """A client's representation."""
        (found,) = self._get("/clients", clientId=client_id)
        client: dict[str, Any] = found
        return client

    @contextmanager
    def attributes(self, client_id: str, **changed: str) -> Iterator[None]:
        """A client's attributes are others inside the block (``__`` is a dot of their names)."""
        client = self.client(client_id)
        named = {name.replace("__", "."): value for name, value in changed.items()}
        path = f"/clients/{client['id']}"
        self._ask("PUT", path, json={**client, "attributes": client["attributes"] | named})
        try:
            yield
        finally:
            # An attribute ends when it is empty, not when it is missing.
            restored = dict.fromkeys(named, "") | client["attributes"]
            self._ask("PUT", path, json={**client, "attributes": restored})

    @contextmanager
    def audience(self, client_id: str, target: str) -> Iterator[None]:
        """Inside the block the client's access tokens are for the client ``target``, too."""
        mapper = {
            "name": f"audience {target}",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": {"included.client.audience": target, "access.token.claim": "true"},
        }
        path = f"/clients/{self.client(client_id)['id']}/protocol-mappers/models"
        made = self._ask("POST", path, json=mapper).headers["Location"].rpartition("/")[2]
        try:
            yield
        finally:
            self._ask("DELETE", f"{path}/{made}")

    @contextmanager
    def settings(self, **changed: Any) -> Iterator[None]:
        """The realm's settings are others inside the block."""
        before = self._get("")
        self._ask("PUT", "", json=changed)
        try:
            yield
        finally:
            self._ask("PUT", "", json={name: before[name] for name in changed})

    # -- requests ----------------------------------------------------------------------------

    def _user_path(self, username: str) -> str:
        (user,) = self._get("/users", username=username, exact="true")
        return f"/users/{user['id']}"

    def _roles_path(self, username: str) -> str:
        return f"{self._user_path(username)}/role-mappings/realm"

    def _get(self, path: str, **query: str) -> Any:
        return self._ask("GET", path, params=query).json()

    def _ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        answer = self._http.request(method, self._path + path, **kwargs)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        return answer


class _Bearer(httpx.Auth):
    """A new token for each request: they live for a minute, and a test may take longer."""

    requires_response_body = True

    def __init__(self, url: str, client_id: str, client_secret: str) -> None:
        self._url = f"{url}/realms/master/protocol/openid-connect/token"
        self._form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": client_secret,
        }

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        answer = yield httpx.Request("POST", self._url, data=self._form)
        request.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield request
