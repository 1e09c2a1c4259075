"""How does a client of the demo's issuer turn a user's token into one for another audience?

OAuth 2.0 Token Exchange (RFC 8693), as far as a Keycloak realm offers it to its clients: an access
token for an access token of the same user, with a narrower audience or scope. Authlib has no grant
for it.
"""

from __future__ import annotations

from typing import Any

from authlib.oauth2.rfc6749 import (
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc6749.grants import BaseGrant, TokenEndpointMixin

from firecrestspawner.demo.issuer_sessions import ClientSession

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


class ExchangeGrant(BaseGrant, TokenEndpointMixin):
    """RFC 8693, section 2. The subject token has to be a live one of a user of this realm."""

    GRANT_TYPE = GRANT_TYPE
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    def validate_token_request(self) -> None:
        client = self.authenticate_token_endpoint_client()
        if not client.check_grant_type(GRANT_TYPE):
            raise UnauthorizedClientError("Client not allowed to exchange tokens")
        form = self.request.form
        for name in ("subject_token", "subject_token_type"):
            if not form.get(name):
                raise InvalidRequestError(f"Missing parameter: {name}")
        for name in ("subject_token_type", "requested_token_type"):
            if form.get(name, _ACCESS_TOKEN) != _ACCESS_TOKEN:
                raise InvalidRequestError(f"Parameter '{name}' supports access tokens only")
        claims = self.server.mint.read(form["subject_token"], "Bearer")
        if claims is None or not self.server.mint.is_current(claims) or "sid" not in claims:
            raise InvalidGrantError("Invalid token")
        audience = form.get("audience")
        if audience and audience not in {*self.server.mint.audience, *self.server.clients}:
            # Not repeated: an error's text may not have every character.
            raise InvalidRequestError("Requested audience not available")
        granted = claims["scope"].split()
        asked = form.get("scope", "").split() or granted
        if not set(asked) <= set(granted):
            raise InvalidScopeError()
        self.request.client = client
        self._audience = (audience,) if audience else self.server.mint.audience
        self._scope = " ".join(asked)
        session = self.server.sessions.get(claims["sid"])
        self._chain = ClientSession(session, client.client_id, self._scope)

    def create_token_response(self) -> tuple[int, Any, list[tuple[str, str]]]:
        answer = self.server.mint.answer(
            GRANT_TYPE,
            self.request.client,
            self._chain,
            self._scope,
            include_refresh_token=False,
            audience=self._audience,
        )
        answer["issued_token_type"] = _ACCESS_TOKEN
        answer["scope"] = self._scope
        return 200, answer, self.TOKEN_RESPONSE_HEADER
