"""How does a test hold a user's tokens itself, without a Hub?"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from firecrestspawner.demo.issuer import DEFAULT_CLIENTS, DEFAULT_USERS
from firecrestspawner.demo.visitor import Visitor
from firecrestspawner.models import TokenSet
from firecrestspawner.tokens import read_tokens, write_tokens
from tests.services.keycloak import Keycloak

HUB = DEFAULT_CLIENTS[0]


class Account(Visitor):
    """``name``'s browser at Keycloak, and the tokens that the Hub's client gets for it.

    It is a vault, too (see tokens.Vault). ``session`` is the SSO session's id; ``logins`` and
    ``swaps``: how often tokens were stored by a login, and replaced.
    """

    def __init__(self, keycloak: Keycloak, name: str) -> None:
        super().__init__(keycloak.url)
        self.name = name
        self.session = ""
        self.logins = 0
        self.swaps = 0
        self._endpoints = f"{keycloak.issuer}/protocol/openid-connect"
        client = keycloak.realm.client(HUB.client_id)
        (self._callback,) = client["redirectUris"]
        self._stored = b""

    def leave(self) -> None:
        """Another browser: the SSO session goes on without it."""
        self._http.cookies.clear()

    def log_in(self, *, password: bool = True) -> None:
        """Authorization Code with PKCE.

        Without ``password`` the browser must be in a session already.
        """
        verifier = secrets.token_urlsafe(40)
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "client_id": HUB.client_id,
            "response_type": "code",
            "scope": "openid profile email",
            "redirect_uri": self._callback,
            "state": secrets.token_urlsafe(8),
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        if not password:
            query["prompt"] = "none"
        location = self._through_the_pages(f"{self._endpoints}/auth?{urlencode(query)}")
        answer = parse_qs(urlsplit(location).query)
        assert answer["state"] == [query["state"]]
        assert "code" in answer, answer
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"][0],
            "redirect_uri": self._callback,
            "code_verifier": verifier,
        }
        tokens: dict[str, Any] = self.ask_token(form).raise_for_status().json()
        stored = write_tokens(TokenSet.from_response(tokens, now=time.time()))
        self._stored = json.dumps(stored).encode()
        self.logins += 1
        self.session = str(tokens["session_state"])

    def ask_token(self, form: dict[str, str]) -> httpx.Response:
        """What Keycloak's token endpoint answers to the Hub's client."""
        auth = (HUB.client_id, HUB.client_secret)
        return self._http.post(f"{self._endpoints}/token", data=form, auth=auth)

    def _through_the_pages(self, address: str) -> str:
        """Where Keycloak sends the browser with its answer: nobody need listen there."""
        answer = self._http.get(address, follow_redirects=False)
        if answer.status_code == 200:
            form = self._page(answer).form_with("password")
            password = next(user.password for user in DEFAULT_USERS if user.name == self.name)
            fields = form.fields | {"username": self.name, "password": password}
            answer = self._http.post(form.action, data=fields, follow_redirects=False)
        assert answer.status_code == 302, answer.text[:500]
        return answer.headers["location"]

    # -- a vault -----------------------------------------------------------------------------

    @property
    def tokens(self) -> TokenSet:
        """What is stored."""
        return read_tokens(self.auth_state)

    @property
    def auth_state(self) -> dict[str, Any]:
        """All that is stored."""
        state: dict[str, Any] = json.loads(self._stored)
        return state

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        return self.auth_state, self._stored

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        return json.dumps(auth_state).encode()

    def swap(self, old: bytes | None, new: bytes | None) -> bool:
        if self._stored != old:
            return False
        self._stored = new or b"{}"
        self.swaps += 1
        return True

    async def save(self, old: bytes | None, new: bytes | None) -> bool:
        return self.swap(old, new)
