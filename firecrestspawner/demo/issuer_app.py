"""Which requests does the demo's issuer answer, and how?"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from authlib.oauth2 import OAuth2Error
from flask import Flask, Response, jsonify, request

from firecrestspawner.demo import issuer_pages as pages
from firecrestspawner.demo.issuer_accounts import SUPPORTED_SCOPES
from firecrestspawner.demo.issuer_exchange import GRANT_TYPE as EXCHANGE
from firecrestspawner.demo.issuer_faults import ConnectionDropped, Faults
from firecrestspawner.demo.issuer_grants import AUTH_METHODS, SESSION_COOKIE, Realm
from firecrestspawner.demo.issuer_sessions import Session

log = logging.getLogger("firecrestspawner.demo.issuer")

REALM_PATH = "/realms/demo"
#: The protocol's endpoints, below the issuer's URL, as in Keycloak.
PATHS = {
    "discovery": "/.well-known/openid-configuration",
    "authorize": "/protocol/openid-connect/auth",
    "token": "/protocol/openid-connect/token",
    "jwks": "/protocol/openid-connect/certs",
    "userinfo": "/protocol/openid-connect/userinfo",
    "revocation": "/protocol/openid-connect/revoke",
    "end_session": "/protocol/openid-connect/logout",
}


class Seen(NamedTuple):
    """One request, as far as it may be remembered: no token, no code, no password."""

    endpoint: str
    grant_type: str | None
    client_id: str
    username: str


class IssuerApp(Flask):
    """The realm's endpoints, with every request remembered and passed through the faults."""

    def __init__(self, realm: Realm, faults: Faults) -> None:
        super().__init__(__name__, static_folder=None, template_folder=None)
        self.realm = realm
        self.faults = faults
        self._seen: deque[Seen] = deque(maxlen=1000)
        self._seen_lock = threading.Lock()
        views: dict[str, tuple[Callable[[], Any], list[str]]] = {
            "discovery": (lambda: jsonify(metadata(realm.mint.issuer)), ["GET"]),
            "jwks": (lambda: jsonify(realm.mint.public_keys.as_dict(private=False)), ["GET"]),
            "authorize": (self._authorize, ["GET", "POST"]),
            "token": (realm.create_token_response, ["POST"]),
            "userinfo": (self._userinfo, ["GET", "POST"]),
            "revocation": (lambda: realm.create_endpoint_response("revocation"), ["POST"]),
            "end_session": (self._end_session, ["GET", "POST"]),
        }
        for name, (view, methods) in views.items():
            self.add_url_rule(REALM_PATH + PATHS[name], name, view, methods=methods)

    @property
    def seen(self) -> list[Seen]:
        """The last thousand requests, oldest first."""
        with self._seen_lock:
            return list(self._seen)

    def full_dispatch_request(self) -> Response:
        seen = self._describe()
        with self._seen_lock:
            self._seen.append(seen)
        response = self.faults.around(seen.endpoint, seen.grant_type, super().full_dispatch_request)
        log.info("%s %s: %d", request.method, seen, response.status_code)
        return response

    def handle_exception(self, e: Exception) -> Response:
        if isinstance(e, ConnectionDropped):
            raise e
        return super().handle_exception(e)

    def _describe(self) -> Seen:
        form = request.form
        basic = request.authorization
        named = (unquote(basic.username or "") if basic else "") or request.values.get("client_id")
        client = self.realm.clients.get(named or "")
        grant_type = form.get("grant_type")
        # Somebody may type a password into the wrong field: only known names are repeated.
        username = form["username"] if form.get("username") in self.realm.users else ""
        if grant_type == "client_credentials" and client:
            username = client.service_account
        elif grant_type == "authorization_code":
            username = self.realm.sessions.peek_code(form.get("code", ""))
        elif grant_type == "refresh_token":
            claims = self.realm.mint.read(form.get("refresh_token", ""), "Refresh") or {}
            owners = [u.name for u in self.realm.users.values() if u.sub == claims.get("sub")]
            username = owners[0] if owners else ""
        known = grant_type if grant_type in GRANT_TYPES else None
        return Seen(request.endpoint or "", known, client.client_id if client else "", username)

    def _authorize(self) -> Response:
        session = self.realm.sessions.by_cookie(request.cookies.get(SESSION_COOKIE))
        try:
            grant = self.realm.get_consent_grant(end_user=session)
        except OAuth2Error as error:
            if error.redirect_uri:
                return self._as_response(self.realm.handle_error_response(None, error))
            return pages.error(error.get_error_description() or error.error)
        except ValueError:
            # Authlib puts the response type into the error, where not every character may be.
            return pages.error("Invalid parameter: response_type")
        form, problem = request.form, ""
        if "username" in form:
            session = self._log_in(session)
            problem = "" if session else "Invalid username or password."
        elif {"login", "select_account"} & set(request.values.get("prompt", "").split()):
            session = None
        if session is None:
            users = [user for user in self.realm.users.values() if user.enabled]
            username = form.get("username") or request.args.get("login_hint", "")
            return pages.login(users, request.full_path, username, problem)
        response = self._as_response(
            self.realm.create_authorization_response(grant_user=session, grant=grant)
        )
        response.set_cookie(
            SESSION_COOKIE, session.cookie, path=REALM_PATH, httponly=True, samesite="Lax"
        )
        return response

    def _log_in(self, current: Session | None) -> Session | None:
        user = self.realm.users.get(request.form["username"])
        if user is None or not user.enabled:
            return None
        if not user.check_password(request.form.get("password", "")):
            return None
        if current is not None:
            return self.realm.sessions.confirm(current, user.name)
        return self.realm.sessions.open(user.name)

    def _userinfo(self) -> Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return _bearer_error(401, "invalid_request", "Token not provided")
        claims = self.realm.mint.read(token, "Bearer")
        if claims is None or not self.realm.mint.is_current(claims):
            return _bearer_error(401, "invalid_token", "Token verification failed")
        if "openid" not in claims["scope"].split():
            return _bearer_error(403, "insufficient_scope", "Missing openid scope")
        user = self.realm.users.get(claims["preferred_username"])
        if user is None:
            return jsonify({name: claims[name] for name in ("sub", "preferred_username")})
        client = self.realm.clients.get(claims["azp"])
        if client is not None and client.signed_userinfo:
            signed = self.realm.mint.userinfo(user, client)
            return Response(signed, content_type="application/jwt")
        return jsonify(user.profile())

    def _end_session(self) -> Response:
        try:
            asked = self.realm.validate_endpoint_request("end_session")
        except OAuth2Error:
            return pages.error("Invalid parameter: id_token_hint")
        if request.values.get("post_logout_redirect_uri") and not asked.redirect_uri:
            return pages.error("Invalid redirect uri")
        if asked.needs_confirmation and "confirm" not in request.form:
            return pages.confirm_logout(request.full_path)
        redirect = self.realm.create_endpoint_response("end_session", asked)
        response = self._as_response(redirect) if redirect else pages.logged_out()
        response.delete_cookie(SESSION_COOKIE, path=REALM_PATH)
        return response

    @staticmethod
    def _as_response(answer: Any) -> Response:
        response: Response = answer
        response.headers["Cache-Control"] = "no-store"
        return response


GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials", EXCHANGE)


def metadata(issuer: str) -> Mapping[str, Any]:
    """OpenID Connect Discovery 1.0, section 3."""
    return {
        "issuer": issuer,
        "authorization_endpoint": issuer + PATHS["authorize"],
        "token_endpoint": issuer + PATHS["token"],
        "jwks_uri": issuer + PATHS["jwks"],
        "userinfo_endpoint": issuer + PATHS["userinfo"],
        "revocation_endpoint": issuer + PATHS["revocation"],
        "end_session_endpoint": issuer + PATHS["end_session"],
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANT_TYPES),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": list(SUPPORTED_SCOPES),
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login", "select_account"],
        "authorization_response_iss_parameter_supported": True,
    }


def _bearer_error(status: int, error: str, description: str) -> Response:
    response = jsonify({"error": error, "error_description": description})
    response.status_code = status
    response.headers["WWW-Authenticate"] = (
        f'Bearer realm="demo", error="{error}", error_description="{description}"'
    )
    return response
