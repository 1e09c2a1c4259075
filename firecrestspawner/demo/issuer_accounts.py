"""Who may log in at the demo's issuer, and through which clients?"""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from authlib.oauth2.rfc6749 import ClientMixin

#: Client scopes that Keycloak adds to every request, in the order of its answers.
DEFAULT_SCOPES = ("email", "profile")
#: What a client may ask for.
SUPPORTED_SCOPES = ("openid", "email", "profile", "groups", "roles")

_LOOPBACK_ORIGINS = ("http://127.0.0.1", "http://localhost", "http://[::1]")


@dataclass(frozen=True)
class DemoUser:
    """One person of the realm.

    ``name`` is the login and the ``preferred_username`` claim. ``roles`` are realm roles,
    ``client_roles`` maps a client id to roles in it. ``cluster_user``, if given, is a claim of
    that name, for sites whose cluster accounts are named otherwise than their logins.
    A user who is not ``enabled`` can neither log in nor refresh.
    """

    name: str
    password: str = field(repr=False)
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    email: str = ""
    full_name: str = ""
    client_roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    cluster_user: str | None = None
    enabled: bool = True

    @property
    def sub(self) -> str:
        """The user's id: the same for one name at every start, as a realm's database would."""
        return subject(self.name)

    def check_password(self, password: str) -> bool:
        return hmac.compare_digest(self.password.encode(), password.encode())

    def profile(self) -> dict[str, Any]:
        """The claims that say who this is, as in userinfo, ID tokens and access tokens."""
        full_name = self.full_name or self.name.capitalize()
        given, _, family = full_name.partition(" ")
        claims: dict[str, Any] = {
            "sub": self.sub,
            "preferred_username": self.name,
            "name": full_name,
            "given_name": given,
            "family_name": family,
            "email": self.email or f"{self.name}@example.org",
            "email_verified": True,
            "groups": list(self.groups),
        }
        if self.cluster_user is not None:
            claims["cluster_user"] = self.cluster_user
        return claims


@dataclass(frozen=True)
class DemoClient(ClientMixin):
    """One confidential client, with the questions that Authlib asks of it.

    ``redirect_uris`` are exact, or patterns: ``*`` as the port, for loopback hosts only
    (RFC 8252, section 7.3), and ``/*`` at the end of the path. They hold for logging out too.
    ``service_account_roles`` are the realm roles of its own account (client_credentials).
    ``backchannel_logout_url``, if given, is where it wants to be told of ended sessions.
    ``signed_userinfo``: its userinfo answers are signed (``application/jwt``).
    """

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uris: tuple[str, ...] = ()
    grant_types: tuple[str, ...] = ("authorization_code", "refresh_token")
    service_account_roles: tuple[str, ...] = ()
    backchannel_logout_url: str = ""
    signed_userinfo: bool = False

    @property
    def service_account(self) -> str:
        """The user name that Keycloak gives to a client's own account."""
        return f"service-account-{self.client_id}"

    @property
    def client_metadata(self) -> dict[str, Any]:
        return {"post_logout_redirect_uris": UriPatterns(self.redirect_uris)}

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str | None) -> str:
        asked = [name for name in (scope or "").split() if name in SUPPORTED_SCOPES]
        return " ".join(dict.fromkeys([*asked, *DEFAULT_SCOPES]))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in UriPatterns(self.redirect_uris)

    def check_client_secret(self, client_secret: str) -> bool:
        return hmac.compare_digest(self.client_secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and "authorization_code" in self.grant_types

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types


@dataclass(frozen=True)
class UriPatterns:
    """A set of redirect URIs given by patterns: ``uri in UriPatterns(patterns)``."""

    patterns: tuple[str, ...]

    def __contains__(self, uri: object) -> bool:
        return isinstance(uri, str) and any(_matches(uri, pattern) for pattern in self.patterns)


def subject(name: str) -> str:
    """The stable ``sub`` of an account."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:firecrestspawner:demo:{name}"))


def _matches(uri: str, pattern: str) -> bool:
    # What servers and browsers may read differently matches no pattern.
    if not uri.isascii() or not uri.isprintable() or set(uri) & set(' \\"<>^`{|}'):
        return False
    if "/.." in unquote(uri) and uri != pattern:
        return False
    origin, any_port, rest = pattern.partition(":*/")
    regex = re.escape(pattern)
    if any_port and origin in _LOOPBACK_ORIGINS:
        regex = re.escape(origin) + r"(:\d{1,5})?/" + re.escape(rest)
    if pattern.endswith("/*"):
        regex = regex.removesuffix(re.escape("*")) + "[^#]*"
    return re.fullmatch(regex, uri) is not None


_HUB_REDIRECTS = tuple(f"{origin}:*/*" for origin in _LOOPBACK_ORIGINS)

#: alice and bob are users, admin has the role that the demo's Hub asks of its administrators.
DEFAULT_USERS = (
    DemoUser("alice", "wonderland", ("hpc-user",), ("researchers",), full_name="Alice Liddell"),
    DemoUser("bob", "builder", ("hpc-user",), ("engineers",), full_name="Bob Mason"),
    DemoUser(
        "admin",
        "lighthouse",
        ("hpc-user", "jupyterhub-admin"),
        ("operators",),
        full_name="Ada Keeper",
    ),
)

#: The Hub logs people in through the first; its service account is the second.
DEFAULT_CLIENTS = (
    DemoClient(
        "jupyterhub",
        "demo-hub-secret",
        _HUB_REDIRECTS,
        grant_types=(
            "authorization_code",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
    ),
    DemoClient(
        "jupyterhub-service",
        "demo-service-secret",
        grant_types=("client_credentials",),
        service_account_roles=("hpc-service",),
    ),
)
