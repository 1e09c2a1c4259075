"""What is in a token of the demo's issuer, and how is one read back?

The claims are those of a Keycloak realm with its default client scopes, a group mapper and an
audience mapper. Access and ID tokens are signed with RS256; refresh tokens are for the issuer
alone, as everywhere, and carry a MAC.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from authlib.oidc.core.util import create_half_hash
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey, RSAKey

from firecrestspawner.demo.issuer_accounts import DemoClient, DemoUser, subject
from firecrestspawner.demo.issuer_sessions import ClientSession, Sessions

#: Realm roles that Keycloak gives to every account of a realm called "demo".
DEFAULT_ROLES = ("default-roles-demo", "offline_access", "uma_authorization")
#: The account console's own roles, which Keycloak gives to every account too.
ACCOUNT_ROLES = ("manage-account", "view-profile")

#: Seconds that a logout token is good for, as Keycloak's.
LOGOUT_TOKEN_LIFETIME = 120


class TokenAnswer(dict[str, Any]):
    """A token endpoint's answer that may pass a logger: Authlib logs it at level DEBUG."""

    def __repr__(self) -> str:
        return f"TokenAnswer({', '.join(self)})"

    __str__ = __repr__


class TokenMint:
    """Makes and reads the realm's tokens. ``issuer`` is set once the port is known."""

    def __init__(
        self,
        users: Mapping[str, DemoUser],
        sessions: Sessions,
        clock: Callable[[], float],
        audience: tuple[str, ...],
    ) -> None:
        self.issuer = ""
        self._users = users
        self._sessions = sessions
        self._clock = clock
        self.audience = audience
        self._key = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
        self._refresh_key = OctKey.generate_key(256)
        self._revoked: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def public_keys(self) -> KeySet:
        return KeySet([RSAKey.import_key(self._key.as_dict(private=False))])

    def answer(
        self,
        grant_type: str,
        client: DemoClient,
        user: ClientSession | None = None,
        scope: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
        audience: tuple[str, ...] = (),
    ) -> TokenAnswer:
        """The token endpoint's answer, but for the ID token (Authlib's token generator).

        ``audience`` is the realm's unless given.
        Authlib's ``user`` is the client's session with the user; None is the client itself.
        """
        scope = client.get_allowed_scope(scope)
        now = self._clock()
        ends = now + self._sessions.lifetimes.access_token
        if user is None:
            claims = self._service_claims(client)
        else:
            claims = self._user_claims(user)
            ends = min(ends, user.session.started + self._sessions.lifetimes.session)
        claims |= self._registered(now, ends, "Bearer", client) | {"scope": scope}
        audience = audience or self.audience
        claims["aud"] = audience[0] if len(audience) == 1 else list(audience)
        answer = TokenAnswer(
            access_token=self._sign(claims),
            expires_in=int(ends - now),
            refresh_expires_in=0,
            token_type="Bearer",
            scope=scope,
        )
        answer["not-before-policy"] = 0
        if user is not None:
            answer["session_state"] = user.session.sid
            if include_refresh_token:
                expires_at = self._sessions.expires_at(user.session)
                answer["refresh_token"] = self._refresh_token(user, client, now, expires_at)
                answer["refresh_expires_in"] = int(expires_at - now)
        return answer

    def id_token(
        self, answer: Mapping[str, Any], user: ClientSession, client: DemoClient, nonce: str | None
    ) -> str:
        """The ID token that goes with an answer (OpenID Connect Core, section 3.1.3.6)."""
        now = self._clock()
        claims = self._users[user.session.username].profile()
        claims |= self._registered(now, now + answer["expires_in"], "ID", client)
        claims |= {
            "aud": client.client_id,
            "auth_time": int(user.session.auth_time),
            "sid": user.session.sid,
            "acr": "1",
            "at_hash": create_half_hash(answer["access_token"], "RS256").decode(),
        }
        if nonce is not None:
            claims["nonce"] = nonce
        return self._sign(claims)

    def userinfo(self, user: DemoUser, client: DemoClient) -> str:
        """A signed userinfo answer (OpenID Connect Core, section 5.3.2)."""
        claims = user.profile() | {"iss": self.issuer, "aud": client.client_id}
        return self._sign(claims | {"iat": int(self._clock())})

    def logout_token(
        self, client: DemoClient, username: str, sid: str, changes: Mapping[str, Any] | None = None
    ) -> str:
        """A logout token (OpenID Connect Back-Channel Logout 1.0, section 2.4).

        ``changes``: claims to be other than they should; None leaves one out.
        """
        now = self._clock()
        claims = self._registered(now, now + LOGOUT_TOKEN_LIFETIME, "Logout", client) | {
            "aud": client.client_id,
            "sub": subject(username),
            "sid": sid,
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
            **(changes or {}),
        }
        return self._sign({name: value for name, value in claims.items() if value is not None})

    def read(self, token: str, kind: str) -> dict[str, Any] | None:
        """The claims of one of our tokens of that ``typ``, whether expired or not; else None."""
        refresh = kind == "Refresh"
        key, algorithm = (self._refresh_key, "HS256") if refresh else (self.public_keys, "RS256")
        try:
            claims = dict(jwt.decode(token, key, algorithms=[algorithm]).claims)
        except (JoseError, ValueError):
            return None
        return claims if claims.get("typ") == kind and claims.get("iss") == self.issuer else None

    def is_current(self, claims: Mapping[str, Any]) -> bool:
        """Whether read claims are neither expired nor revoked, and their client has its session."""
        if claims["exp"] <= self._clock() or claims["jti"] in self._revoked:
            return False
        return "sid" not in claims or self._sessions.has_part(claims["sid"], claims["azp"])

    def revoke(self, claims: Mapping[str, Any]) -> None:
        """Refuse an access token from now on, where the issuer itself is asked about it."""
        with self._lock:
            now = self._clock()
            self._revoked = {j: exp for j, exp in self._revoked.items() if now < exp}
            self._revoked[claims["jti"]] = claims["exp"]

    def _registered(self, now: float, ends: float, kind: str, client: DemoClient) -> dict[str, Any]:
        return {
            "iss": self.issuer,
            "iat": int(now),
            "exp": int(ends),
            "jti": str(uuid.uuid4()),
            "typ": kind,
            "azp": client.client_id,
        }

    def _user_claims(self, user: ClientSession) -> dict[str, Any]:
        account = self._users[user.session.username]
        roles = {"account": ACCOUNT_ROLES, **account.client_roles}
        return {
            **account.profile(),
            "sid": user.session.sid,
            "auth_time": int(user.session.auth_time),
            "acr": "1",
            "realm_access": {"roles": [*DEFAULT_ROLES, *account.roles]},
            "resource_access": {name: {"roles": list(roles[name])} for name in roles},
        }

    def _service_claims(self, client: DemoClient) -> dict[str, Any]:
        return {
            "sub": subject(client.service_account),
            "preferred_username": client.service_account,
            "client_id": client.client_id,
            "clientHost": "127.0.0.1",
            "clientAddress": "127.0.0.1",
            "email_verified": False,
            "acr": "1",
            "realm_access": {"roles": [*DEFAULT_ROLES, *client.service_account_roles]},
            "resource_access": {"account": {"roles": list(ACCOUNT_ROLES)}},
        }

    def _refresh_token(
        self, user: ClientSession, client: DemoClient, now: float, ends: float
    ) -> str:
        claims = self._registered(now, ends, "Refresh", client) | {
            "jti": user.refresh_jti,
            "aud": self.issuer,
            "sub": subject(user.session.username),
            "sid": user.session.sid,
            "scope": user.scope,
            "chain": user.id,
        }
        return jwt.encode({"alg": "HS256"}, claims, self._refresh_key)

    def _sign(self, claims: Mapping[str, Any]) -> str:
        header = {"alg": "RS256", "typ": "JWT", "kid": self._key.kid}
        return jwt.encode(header, dict(claims), self._key)
