"""What is the demo's site like when a real Keycloak logs its users in?"""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

from firecrestspawner.demo.issuer import DEFAULT_CLIENTS, DEFAULT_USERS
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


def unverified(token: str) -> dict[str, Any]:
    """What a token says, for tests that look into their own tokens."""
    body = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims
