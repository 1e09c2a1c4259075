"""What is the demo's site like when a real Keycloak logs its users in?"""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import httpx

from firecrestspawner import links
from firecrestspawner.demo.issuer import DEFAULT_CLIENTS, DEFAULT_USERS
from firecrestspawner.demo.visitor import Page
from tests.journeys.person import Person
from tests.journeys.site import Site
from tests.services.keycloak import Keycloak

REALM = Path(__file__).parents[2] / "examples" / "keycloak" / "hpc-realm.json"

#: Seconds of an access token: never more than TokenStore's margin, so that each need refreshes.
LIFETIME = 60


def realm() -> dict[str, Any]:
    """The realm that ships, with what its users and clients log in with, and short tokens."""
    shipped: dict[str, Any] = json.loads(REALM.read_text())
    whole = copy.deepcopy(shipped) | {"accessTokenLifespan": LIFETIME}
    passwords = {user.name: user.password for user in DEFAULT_USERS}
    for user in whole["users"]:
        if user["username"] in passwords:
            user["credentials"] = [{"type": "password", "value": passwords[user["username"]]}]
    secrets = {client.client_id: client.client_secret for client in DEFAULT_CLIENTS}
    for client in whole["clients"]:
        if client["clientId"] in secrets:
            client["secret"] = secrets[client["clientId"]]
    return whole


class KeycloakSite(Site):
    """The demo's site; who logs its users in is ``keycloak``, which knows the Hub's address.

    Its Hub is restarted with other settings by :meth:`configure`.
    """

    def __init__(self, keycloak: Keycloak, port: int) -> None:
        self.keycloak = keycloak
        super().__init__(port=port)
        self._usual = self.extra_config

    def _start_issuer(self, port: int) -> str:
        return self.keycloak.issuer

    def configure(self, extra: str) -> None:
        """Restart the Hub with its usual settings and ``extra``, unless it has them already."""
        if self.extra_config != self._usual + extra:
            self.extra_config = self._usual + extra
            self.restart_hub()

    def spend(self, refresh_token: str) -> int:
        """Use a refresh token as the Hub's client, and lose the answer; its status."""
        client = DEFAULT_CLIENTS[0]
        answer = httpx.post(
            f"{self.issuer_url}/protocol/openid-connect/token",
            data={"grant_type": "refresh_token", "refresh_token": refresh_token},
            auth=(client.client_id, client.client_secret),
            trust_env=False,
        )
        return answer.status_code

    def notebook_token(self, user: str) -> dict[str, Any]:
        """What the user's running server gets when it asks the Hub for a token."""
        answer = httpx.get(
            f"{self.hub_url}/hub/api/firecrest/token",
            headers={"Authorization": f"token {self.api_token(user)}"},
            trust_env=False,
            timeout=30.0,
        )
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body


class Member(Person):
    """A person whose session at Keycloak the tests look at."""

    def session(self, *, check: bool = False) -> dict[str, Any]:
        """What the Hub says of it; ``check``: after it has asked Keycloak."""
        path = self.hub(f"api/firecrest/session{'?check=1' if check else ''}")
        body: dict[str, Any] = self.api("GET", path).json()
        return body

    def log_in_again(self, back_to: str = "home") -> Page:
        """By the link that the pages show, with a password only if Keycloak wants one."""
        target = self.hub(back_to)
        page = self.open(links.reauth(self.hub(""), target))
        if not page.address.startswith(self.url):
            page = self.submit(page.form_with("password"), **self.credentials)
        assert page.address == f"{self.url}{target}"
        return page

    @property
    def credentials(self) -> dict[str, str]:
        """What is typed into Keycloak's form."""
        password = next(user.password for user in DEFAULT_USERS if user.name == self.name)
        return {"username": self.name, "password": password}


def unverified(token: str) -> dict[str, Any]:
    """What a token says, for tests that look into their own tokens."""
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims
