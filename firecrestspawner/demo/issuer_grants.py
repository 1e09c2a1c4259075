"""How are Authlib's grants and endpoints tied to the demo realm's sessions and tokens?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.common.urls import add_params_to_uri
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import (
    AuthorizationCodeGrant,
    ClientCredentialsGrant,
    RefreshTokenGrant,
)
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode
from authlib.oidc.rpinitiated import EndSessionEndpoint
from flask import request as http_request

from firecrestspawner.demo.issuer_accounts import SUPPORTED_SCOPES, DemoClient, DemoUser
from firecrestspawner.demo.issuer_backchannel import notify
from firecrestspawner.demo.issuer_exchange import ExchangeGrant
from firecrestspawner.demo.issuer_sessions import (
    CODE_LIFETIME,
    AuthorizationCode,
    ClientSession,
    Session,
    Sessions,
)
from firecrestspawner.demo.issuer_tokens import TokenMint

AUTH_METHODS = ["client_secret_basic", "client_secret_post"]
#: A name of its own: cookies do not tell ports of one host apart.
SESSION_COOKIE = "demo_issuer_session"


class Realm(AuthorizationServer):
    """Authlib's authorization server with the realm's accounts, sessions and tokens."""

    def __init__(
        self,
        users: Mapping[str, DemoUser],
        clients: Mapping[str, DemoClient],
        sessions: Sessions,
        mint: TokenMint,
    ) -> None:
        super().__init__(query_client=clients.get, save_token=lambda token, request: None)
        self.users = users
        self.clients = clients
        self.sessions = sessions
        self.mint = mint
        self.scopes_supported = list(SUPPORTED_SCOPES)
        self.register_token_generator("default", mint.answer)
        self.register_grant(CodeGrant, [S256Only(required=False), IdToken(mint)])
        self.register_grant(RefreshGrant, [IdToken(mint)])
        self.register_grant(ServiceGrant)
        self.register_grant(ExchangeGrant)
        self.register_endpoint(Revocation)
        self.register_endpoint(EndSession)

    def authenticate_client(
        self, request: OAuth2Request, methods: list[str], endpoint: str = "token"
    ) -> DemoClient:
        try:
            client: DemoClient = super().authenticate_client(request, methods, endpoint)
        except (InvalidClientError, UnicodeDecodeError):
            # Keycloak tells a wrong secret from an unknown client by the error code alone.
            basic = http_request.authorization
            given = (basic.username if basic else None) or request.form.get("client_id")
            raise InvalidClientError(
                "Invalid client or Invalid client credentials",
                status_code=401,
                error="unauthorized_client" if given in self.clients else None,
            ) from None
        return client


class CodeGrant(AuthorizationCodeGrant):
    """RFC 6749, section 4.1. Authlib's ``grant_user`` is the browser's session."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    @staticmethod
    def validate_authorization_redirect_uri(request: OAuth2Request, client: DemoClient) -> str:
        # Authlib's own check puts the address into the error, and fails on characters that an
        # error may not have.
        redirect_uri: str | None = request.payload.redirect_uri
        if not redirect_uri or not client.check_redirect_uri(redirect_uri):
            raise InvalidRequestError("Invalid parameter: redirect_uri")
        return redirect_uri

    def create_authorization_response(
        self, redirect_uri: str, grant_user: Session
    ) -> tuple[int, str, list[tuple[str, str]]]:
        status, body, headers = super().create_authorization_response(redirect_uri, grant_user)
        location = dict(headers)["Location"]
        extra = [("session_state", grant_user.sid), ("iss", self.server.mint.issuer)]
        return status, body, [("Location", add_params_to_uri(location, extra))]

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        data = request.payload.data
        record = AuthorizationCode(
            session=request.user,
            client_id=request.client.client_id,
            redirect_uri=request.payload.redirect_uri,
            scope=request.scope,
            nonce=data.get("nonce"),
            code_challenge=data.get("code_challenge"),
            code_challenge_method=data.get("code_challenge_method"),
            expires_at=self.server.sessions.now() + CODE_LIFETIME,
        )
        self.server.sessions.save_code(code, record)

    def query_authorization_code(self, code: str, client: DemoClient) -> AuthorizationCode:
        record: AuthorizationCode = self.server.sessions.take_code(code, client.client_id)
        return record

    def authenticate_user(self, authorization_code: AuthorizationCode) -> ClientSession:
        code = authorization_code
        code.client_session = self.server.sessions.attach(code.session, code.client_id, code.scope)
        return code.client_session

    def delete_authorization_code(self, authorization_code: AuthorizationCode) -> None:
        """It is spent since it was queried: two requests at once must not both have it."""


class S256Only(CodeChallenge):
    """RFC 7636 without the method "plain", which protects nothing here."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: CodeGrant, redirect_uri: str) -> None:
        data = grant.request.payload.data
        if data.get("code_challenge") and not data.get("code_challenge_method"):
            raise InvalidRequestError("Missing parameter: code_challenge_method")
        super().validate_code_challenge(grant, redirect_uri)

    def validate_code_verifier(self, grant: CodeGrant, result: None) -> None:
        try:
            super().validate_code_verifier(grant, result)
        except (InvalidRequestError, InvalidGrantError):
            # Authlib calls a missing or malformed verifier an invalid request.
            raise InvalidGrantError("PKCE verification failed") from None


class IdToken(OpenIDCode):
    """Adds the ID token to answers whose scope has "openid"; only a code brings a nonce."""

    def __init__(self, mint: TokenMint) -> None:
        super().__init__()
        self._mint = mint

    def encode_id_token(self, token: dict[str, Any], request: OAuth2Request) -> str:
        code = request.authorization_code
        nonce = code.nonce if code else None
        return self._mint.id_token(token, request.user, request.client, nonce)

    def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
        return False


@dataclass(frozen=True)
class _IssuedToken:
    """A token's claims, with the questions that Authlib asks of a token."""

    claims: dict[str, Any]

    def check_client(self, client: DemoClient) -> bool:
        return bool(self.claims["azp"] == client.client_id)

    def get_scope(self) -> str:
        return str(self.claims["scope"])


class RefreshGrant(RefreshTokenGrant):
    """RFC 6749, section 6; as a rule with rotation: Keycloak's *Revoke Refresh Token*, reuse 0."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> _IssuedToken:
        claims = self.server.mint.read(refresh_token, "Refresh")
        if claims is None:
            raise InvalidGrantError("Invalid refresh token")
        token = _IssuedToken(claims)
        if not token.check_client(self.request.client):
            raise InvalidGrantError(
                "Invalid refresh token. Token client and authorized client don't match"
            )
        if claims["exp"] <= self.server.sessions.now():
            raise InvalidGrantError("Token is not active")
        if claims["iat"] < self.server.sessions.not_before:
            raise InvalidGrantError("Stale token")
        session = self.server.sessions.get(claims["sid"])
        if session is not None and not self.server.users[session.username].enabled:
            raise InvalidGrantError("User disabled")
        return token

    def authenticate_user(self, refresh_token: _IssuedToken) -> ClientSession:
        claims = refresh_token.claims
        rotated: ClientSession = self.server.sessions.rotate(
            claims["sid"], claims["chain"], claims["jti"]
        )
        return rotated

    def revoke_old_credential(self, refresh_token: _IssuedToken) -> None:
        """It is spent since :meth:`authenticate_user`: two requests must not both have it."""


class ServiceGrant(ClientCredentialsGrant):
    """RFC 6749, section 4.4."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS


class Revocation(RevocationEndpoint):
    """RFC 7009. A refresh token takes the session from its client, as in Keycloak."""

    CLIENT_AUTH_METHODS = AUTH_METHODS

    def query_token(self, token_string: str, token_type_hint: str | None) -> _IssuedToken | None:
        for kind in ("Refresh", "Bearer"):
            claims = self.server.mint.read(token_string, kind)
            if claims is not None:
                return _IssuedToken(claims)
        return None

    def revoke_token(self, token: _IssuedToken, request: OAuth2Request) -> None:
        if token.claims["typ"] == "Bearer":
            self.server.mint.revoke(token.claims)
            return
        session = self.server.sessions.get(token.claims["sid"])
        if session is not None:
            self.server.sessions.detach(session, token.claims["azp"])


class EndSession(EndSessionEndpoint):
    """OpenID Connect RP-Initiated Logout 1.0."""

    def get_server_jwks(self) -> Any:
        return self.server.mint.public_keys

    def is_post_logout_redirect_uri_legitimate(self, *args: Any) -> bool:
        # Without an id_token_hint the user is asked first (see the end_session view).
        return True

    def end_session(self, end_session_request: Any) -> None:
        hint = end_session_request.id_token_claims
        sessions: Sessions = self.server.sessions
        cookie = http_request.cookies.get(SESSION_COOKIE)
        session = sessions.get(hint.get("sid")) if hint else sessions.by_cookie(cookie)
        if session is not None:
            sessions.end(session)
            notify(session, self.server.clients, self.server.mint)
