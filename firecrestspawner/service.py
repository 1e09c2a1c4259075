"""Whose token does the Hub look at jobs with? Its own client-credentials account's (S5)."""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from traitlets import Bool, TraitError, Unicode, validate
from traitlets.config import Configurable

from .errors import ConfigurationError, LoginRequired, ProviderUnavailable
from .models import Secret, TokenSet
from .oauth import UNAVAILABLE, TokenClient, token_set
from .tokens import MARGIN

# Seconds: of a service token whose answer states no life, and before one that is refused is
# replaced: an API that refuses every token must not cost the issuer one for each request.
_UNSTATED_LIFE = 120.0
_FORGET_COOLDOWN = 60.0


class ServiceAccount(Configurable):
    """The Hub's own account at the issuer (client credentials, RFC 6749 section 4.4).

    It looks at jobs, and starts and stops those only of users who hold ``role``.
    """

    client_id = Unicode(help="Client id of the service account. Environment: SA_CLIENT_ID.").tag(
        config=True
    )
    client_secret = Unicode(
        help="Client secret of the service account. Environment: SA_CLIENT_SECRET."
    ).tag(config=True)
    token_url = Unicode(
        help="The token endpoint the service account uses. Environment: SA_AUTH_TOKEN_URL. "
        "Example: ``https://sso.example.org/realms/hpc/protocol/openid-connect/token``"
    ).tag(config=True)
    scope = Unicode(
        help="Scopes to ask for, separated by spaces; empty for the client's defaults."
    ).tag(config=True)
    basic_auth = Bool(
        True,
        help="Authenticate with ``client_secret_basic`` (RFC 6749 section 2.3.1); with "
        "``client_secret_post`` where False.",
    ).tag(config=True)

    role = Unicode(
        help="A role of JupyterHub. The servers of users to whom ``JupyterHub.load_roles`` gives "
        "it are started and stopped as the service account, and so run as its cluster user; empty "
        "for nobody's. Example: ``service-account``"
    ).tag(config=True)

    @validate("role")
    def _role_is_one_of_its_own(self, proposal: dict[str, Any]) -> str:
        # JupyterHub gives these to people and servers by itself (roles.get_default_roles).
        if proposal["value"] in ("user", "admin", "server", "token"):
            raise TraitError(
                f"ServiceAccount.role: {proposal['value']!r} is given to people by JupyterHub "
                "itself; name a role such as 'service-account'"
            )
        return proposal["value"]

    _ENVIRONMENT: ClassVar = {
        "client_id": "SA_CLIENT_ID",
        "client_secret": "SA_CLIENT_SECRET",
        "token_url": "SA_AUTH_TOKEN_URL",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, variable in self._ENVIRONMENT.items():
            if not getattr(self, name):
                setattr(self, name, os.environ.get(variable, ""))
        self._client = TokenClient(
            self.client_id, Secret(self.client_secret), basic=self.basic_auth
        )
        self._tokens: TokenSet | None = None
        self._fetched_at = 0.0
        self._lifetime = 0.0
        self._failure: ProviderUnavailable | None = None
        self._failed_at = 0.0
        self._lock = asyncio.Lock()

    def check(self) -> None:
        """Raise ConfigurationError, naming what to set, unless the account is configured."""
        for name, variable in self._ENVIRONMENT.items():
            if not getattr(self, name):
                raise ConfigurationError(
                    "The Hub is not fully configured. Please tell the administrators.",
                    detail=f"set c.ServiceAccount.{name} (or the environment variable {variable})",
                )

    def acts_for(self, roles: Iterable[Any]) -> bool:
        """Whether who holds these roles of JupyterHub's starts and stops as this account (S5).

        A role counts only if load_roles defines it, not if an authenticator does.
        """
        return bool(self.role) and any(
            role.name == self.role and not role.managed_by_auth for role in roles
        )

    async def get(self, min_validity: float = MARGIN) -> Secret:
        """An access token that lives ``min_validity`` seconds more; single-flight (C1).

        Raises ProviderUnavailable; a refusal of the account's credentials is one, too: no user
        can do anything about it. Who waited for a try that failed does not make another: of N the
        last would wait for N deadlines (R9).
        """
        asked_at = time.monotonic()
        async with self._lock:
            # Monotonic time: the Hub's clock may be set while it runs.
            now = time.monotonic()
            tokens = self._tokens
            if tokens is None or tokens.expires_soon(self._margin(min_validity), now=now):
                if self._failure is not None and self._failed_at >= asked_at:
                    raise copy.copy(self._failure)  # one object would collect all tracebacks
                try:
                    tokens = self._tokens = await self._fetch(now)
                except ProviderUnavailable as error:
                    self._failure, self._failed_at = copy.copy(error), time.monotonic()
                    raise
                self._failure = None
                self._fetched_at = now
                self._lifetime = (tokens.expires_at or now) - now
            return tokens.access_token

    def _margin(self, min_validity: float) -> float:
        # An issuer may give tokens that never have `min_validity` seconds left. Those are used for
        # half their life (C1), but no longer than FirecREST takes them: until 30 s before the end.
        accepted = min(self._lifetime - 10, 35)
        return min(min_validity, max(self._lifetime / 2, accepted))

    async def _fetch(self, now: float) -> TokenSet:
        form = {"grant_type": "client_credentials"}
        if self.scope:
            form["scope"] = self.scope
        try:
            answer = await self._client.token(self.token_url, form)
        except LoginRequired as error:
            raise ProviderUnavailable(UNAVAILABLE, detail=error.detail) from None
        tokens = token_set(answer, now=now)
        if tokens.expires_at is None:
            # RFC 6749 section 5.1 only recommends expires_in.
            tokens = replace(tokens, expires_at=now + _UNSTATED_LIFE)
        return tokens

    def forget(self, token: Secret) -> None:
        """Drop ``token``, which FirecREST refused, unless it has been replaced or is new (C1)."""
        current = self._tokens
        if (
            current is not None
            and current.access_token == token
            and time.monotonic() - self._fetched_at > _FORGET_COOLDOWN
        ):
            self._tokens = None

    async def aclose(self) -> None:
        await self._client.aclose()
