"""Where tokens come from, and how a user's tokens stay fresh.

Three things, from the outside in:

* :class:`Provider`: an OpenID Connect issuer: discovery, token endpoint, keys, userinfo.
* :class:`TokenStore`: a user's fresh tokens, single-flight, safe for rotating refresh tokens (R4).
* :class:`ServiceAccount`: the Hub's own client-credentials token, which only looks (S5).

Only an authoritative refusal (RFC 6749 section 5.2, ``invalid_grant``) becomes LoginRequired; every
other trouble is ProviderUnavailable and logs nobody out (R5).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar
from urllib.parse import quote

import httpx
import jwt
from traitlets import Unicode
from traitlets.config import Configurable

from .errors import ConfigurationError, LoginRequired, ProviderUnavailable
from .models import Secret, TokenSet

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds of life a token has when it is handed out: FirecREST refuses those with less than 30.
MARGIN = 60.0

_LOGIN_REQUIRED = "Your login has ended at the identity provider. Log in again to continue."
_UNAVAILABLE = "The login service cannot be reached right now. Please try again in a moment."

# Algorithms an issuer may sign with: asymmetric ones only, so that a public key can never be
# mistaken for an HMAC secret (RFC 8725 section 3.1).
_ALGORITHMS = [kind + bits for kind in ("RS", "PS", "ES") for bits in ("256", "384", "512")]

_METADATA_AGE = 3600.0
_KEYS_COOLDOWN = 10.0
# Seconds: of a service token whose answer states no life, and before one that is refused is
# replaced: an API that refuses every token must not cost the issuer one for each request.
_UNSTATED_LIFE = 120.0
_FORGET_COOLDOWN = 60.0
_MAX_ANSWER = 1 << 20


async def _bounded(awaitable: Awaitable[T], seconds: float) -> T:
    """Await under one deadline for the whole of a request: httpx's own are per read."""
    return await asyncio.wait_for(awaitable, seconds)


def at_shutdown(close: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Have ``close`` awaited when the Hub shuts down; the caller keeps the task.

    The Hub has no hook for plugins, but it cancels every task, and that is the sign.
    """

    async def keep() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await close()

    return asyncio.ensure_future(keep())


class TokenClient:
    """One client's conversation with one token endpoint, over a shared connection pool.

    Parameters
    ----------
    deadline: seconds for one request, answer included.
    basic: ``client_secret_basic`` when true, else ``client_secret_post`` (RFC 6749 section 2.3.1).
    """

    def __init__(
        self,
        client_id: str,
        client_secret: Secret,
        *,
        basic: bool = True,
        deadline: float = 10.0,
        verify: bool = True,
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.basic = basic
        self.deadline = deadline
        self._verify = verify
        self._http: httpx.AsyncClient | None = None

    @property
    def http(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(verify=self._verify, timeout=self.deadline)
        return self._http

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def fetch(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        """One request under the deadline. Raises ProviderUnavailable when no answer comes."""
        try:
            return await _bounded(self.http.request(method, url, **kwargs), self.deadline)
        except (httpx.HTTPError, httpx.InvalidURL, asyncio.TimeoutError, OSError) as error:
            # Its kind says enough; its request holds the token.
            raise ProviderUnavailable(
                _UNAVAILABLE, detail=f"{method} {_bare(url)}: {type(error).__name__}"
            ) from None

    async def token(self, url: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Ask for tokens (RFC 6749 sections 4.1.3, 4.4.2, 6).

        Raises LoginRequired on ``invalid_grant``, ProviderUnavailable on everything else.
        """
        form = dict(form)
        headers = {"Accept": "application/json"}
        auth = None
        if self.basic:
            auth = httpx.BasicAuth(_quoted(self.client_id), _quoted(self.client_secret.reveal()))
        else:
            form |= {"client_id": self.client_id, "client_secret": self.client_secret.reveal()}
        kwargs: dict[str, Any] = {"data": form, "headers": headers}
        if auth is not None:
            kwargs["auth"] = auth
        answer = await self.fetch("POST", url, **kwargs)
        body = _json_object(answer)
        if answer.status_code == 200 and body is not None:
            return body
        code = str((body or {}).get("error", ""))[:60]
        if answer.status_code in (400, 401) and code == "invalid_grant":
            raise LoginRequired(_LOGIN_REQUIRED, detail="the token endpoint says invalid_grant")
        raise ProviderUnavailable(
            _UNAVAILABLE,
            detail=f"the token endpoint {_bare(url)} answered {answer.status_code} {code!r}",
        )


class Provider:
    """An OpenID Connect issuer, found by discovery (OpenID Connect Discovery 1.0 section 4)."""

    def __init__(self, issuer: str, client: TokenClient) -> None:
        self.issuer = issuer.rstrip("/")
        self.client = client
        self._metadata: dict[str, Any] | None = None
        self._metadata_at = 0.0
        self._keys: jwt.PyJWKSet | None = None
        self._keys_at = 0.0
        self._lock = asyncio.Lock()

    async def metadata(self) -> dict[str, Any]:
        """The issuer's discovery document; a stale one is used while the issuer is away.

        Raises ProviderUnavailable when there has never been one, ConfigurationError when the
        document speaks for another issuer.
        """
        async with self._lock:
            if self._metadata is not None and time.monotonic() - self._metadata_at < _METADATA_AGE:
                return self._metadata
            try:
                self._metadata = await self._discover()
                self._metadata_at = time.monotonic()
            except ProviderUnavailable as error:
                if self._metadata is None:
                    raise
                log.warning("Using the issuer's earlier discovery document: %s", error.detail)
            return self._metadata

    async def _discover(self) -> dict[str, Any]:
        url = f"{self.issuer}/.well-known/openid-configuration"
        answer = await self.client.fetch("GET", url)
        document = _json_object(answer)
        if answer.status_code != 200 or document is None:
            raise ProviderUnavailable(
                _UNAVAILABLE, detail=f"discovery at {url} answered {answer.status_code}"
            )
        if str(document.get("issuer", "")).rstrip("/") != self.issuer:
            raise ConfigurationError(
                "The login service is configured wrongly. Please tell the administrators.",
                detail=f"{url} speaks for another issuer: set FirecRESTAuthenticator.issuer to the "
                "value of its 'issuer' field",
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(document.get(name), str):
                raise ProviderUnavailable(_UNAVAILABLE, detail=f"{url} names no {name}")
        return document

    async def token(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Ask the discovered token endpoint; errors as TokenClient.token."""
        return await self.client.token((await self.metadata())["token_endpoint"], form)

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        """Exchange the refresh token (RFC 6749 section 6)."""
        if tokens.refresh_token is None:
            raise LoginRequired(_LOGIN_REQUIRED, detail="no refresh token is stored")
        answer = await self.token(
            {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token.reveal()}
        )
        return _token_set(answer).kept_from(tokens)

    async def userinfo(self, access_token: Secret) -> dict[str, Any]:
        """The userinfo answer (OpenID Connect Core section 5.3), JSON only.

        Raises LoginRequired when the issuer refuses the token, ProviderUnavailable otherwise.
        """
        url = (await self.metadata()).get("userinfo_endpoint")
        if not isinstance(url, str):
            raise ProviderUnavailable(_UNAVAILABLE, detail="the issuer names no userinfo_endpoint")
        answer = await self.client.fetch(
            "GET", url, headers={"Authorization": f"Bearer {access_token.reveal()}"}
        )
        body = _json_object(answer)
        if answer.status_code in (401, 403):
            raise LoginRequired(_LOGIN_REQUIRED, detail=f"userinfo answered {answer.status_code}")
        if answer.status_code != 200 or body is None:
            raise ProviderUnavailable(
                _UNAVAILABLE, detail=f"userinfo answered {answer.status_code}"
            )
        return body

    async def claims(self, token: Secret) -> dict[str, Any]:
        """The claims of an access token, after verifying signature, issuer and times (RFC 9068).

        Five minutes of clock skew are forgiven. Raises LoginRequired for a token that does not
        verify, ProviderUnavailable when the issuer's keys cannot be had.
        """
        try:
            header = jwt.get_unverified_header(token.reveal())
            key = await self._key(str(header.get("kid", "")))
            return jwt.decode(
                token.reveal(),
                key=key,
                algorithms=_ALGORITHMS,
                issuer=(await self.metadata())["issuer"],
                leeway=300,
                options={"verify_aud": False, "require": ["exp", "iss"]},
            )
        # ValueError: text that cannot even be encoded.
        except (jwt.PyJWTError, ValueError) as error:
            raise LoginRequired(
                "The login service issued a token that cannot be verified. Log in again; if that "
                "does not help, tell the administrators.",
                detail=f"an access token does not verify: {type(error).__name__}",
            ) from None

    async def _key(self, kid: str) -> jwt.PyJWK:
        """The issuer's key ``kid``; keys are fetched anew when it is not among the known ones."""
        metadata = await self.metadata()
        async with self._lock:
            found = _find(self._keys, kid)
            if found is None and time.monotonic() - self._keys_at > _KEYS_COOLDOWN:
                answer = await self.client.fetch("GET", metadata["jwks_uri"])
                body = _json_object(answer)
                if answer.status_code != 200 or body is None:
                    raise ProviderUnavailable(
                        _UNAVAILABLE, detail=f"the issuer's keys: {answer.status_code}"
                    )
                self._keys = _key_set(body)
                self._keys_at = time.monotonic()
                found = _find(self._keys, kid)
        if found is None:
            raise jwt.InvalidKeyError("no such key")
        return found

    async def aclose(self) -> None:
        await self.client.aclose()


def _key_set(body: dict[str, Any]) -> jwt.PyJWKSet:
    try:
        return jwt.PyJWKSet.from_dict(body)
    # Others than PyJWT's own come from entries that are no objects.
    except (jwt.PyJWTError, TypeError, AttributeError, ValueError):
        raise ProviderUnavailable(_UNAVAILABLE, detail="the issuer's keys cannot be read") from None


def _find(keys: jwt.PyJWKSet | None, kid: str) -> jwt.PyJWK | None:
    for key in keys.keys if keys else ():
        # A set of one unnamed key serves tokens that name none (RFC 7517 section 4.5).
        if key.key_id == kid or (not kid and len(keys.keys) == 1):  # type: ignore[union-attr]
            return key
    return None


class Vault(Protocol):
    """One user's encrypted auth_state: what TokenStore needs of the Hub."""

    name: str

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        """The decrypted auth_state, and the very bytes it was decrypted from."""

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        """Encrypt."""

    def swap(self, old: bytes | None, new: bytes) -> bool:
        """Store and commit ``new`` if ``old`` is still what is stored; does not await."""


def read_tokens(auth_state: Mapping[str, Any]) -> TokenSet:
    """The tokens inside an auth_state. Raises ValueError when there is no access token."""
    tokens = TokenSet.from_response(
        {key: auth_state.get(key) for key in ("access_token", "refresh_token", "id_token", "scope")}
    )
    return TokenSet(
        tokens.access_token,
        _float(auth_state.get("expires_at")),
        tokens.refresh_token,
        _float(auth_state.get("refresh_expires_at")),
        tokens.id_token,
        tokens.scope,
    )


def write_tokens(tokens: TokenSet) -> dict[str, Any]:
    """The auth_state fields of a token set: plain strings, for encryption only."""
    return {
        "access_token": tokens.access_token.reveal(),
        "expires_at": tokens.expires_at,
        "refresh_token": tokens.refresh_token.reveal() if tokens.refresh_token else None,
        "refresh_expires_at": tokens.refresh_expires_at,
        "id_token": tokens.id_token.reveal() if tokens.id_token else None,
        "scope": tokens.scope.split(),
    }


class TokenStore:
    """Fresh tokens for users, one refresh at a time for each (R4)."""

    def __init__(self, provider: Provider, vault_of: Callable[[Any], Vault]) -> None:
        self._provider = provider
        self._vault_of = vault_of
        self._locks: dict[str, asyncio.Lock] = {}
        self._refreshed_at: dict[str, float] = {}
        self._flights: set[asyncio.Task[TokenSet]] = set()

    async def get(self, user: Any, min_validity: float = MARGIN) -> TokenSet:
        """Tokens whose access token lives ``min_validity`` seconds more (at least MARGIN).

        A refresh outlives the caller's cancellation, because the issuer may have rotated the
        refresh token by then. Raises LoginRequired or ProviderUnavailable.
        """
        vault = self._vault_of(user)
        flight = asyncio.ensure_future(self._get(vault, max(min_validity, MARGIN)))
        self._flights.add(flight)
        flight.add_done_callback(self._landed)
        return await asyncio.shield(flight)

    def _landed(self, flight: asyncio.Task[TokenSet]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled():
            flight.exception()  # fetched, so that a cancelled caller leaves no warning behind

    async def _get(self, vault: Vault, min_validity: float) -> TokenSet:
        asked_at = time.monotonic()
        async with self._locks.setdefault(vault.name, asyncio.Lock()):
            # What was refreshed while this one waited is as fresh as the issuer makes them.
            recent = self._refreshed_at.get(vault.name, asked_at) > asked_at
            for _ in range(3):
                state, stored = await vault.load()
                try:
                    tokens = read_tokens(state or {})
                except ValueError:
                    raise LoginRequired(_LOGIN_REQUIRED, detail="no tokens are stored") from None
                if recent or not tokens.expires_soon(min_validity):
                    return tokens
                try:
                    fresh = await self._provider.refresh(tokens)
                except LoginRequired:
                    if (await vault.load())[1] == stored:
                        raise
                    continue
                sealed = await vault.seal({**(state or {}), **write_tokens(fresh)})
                if vault.swap(stored, sealed):
                    self._refreshed_at[vault.name] = time.monotonic()
                    return fresh
                log.info("A login of %s during a refresh wins", vault.name)
        raise ProviderUnavailable(_UNAVAILABLE, detail=f"{vault.name} keeps logging in")

    async def aclose(self) -> None:
        """Let refreshes under way save what they got, then close the connections."""
        if self._flights:
            await asyncio.wait(self._flights, timeout=5)
        await self._provider.aclose()


class ServiceAccount(Configurable):
    """The Hub's own account at the issuer (client credentials, RFC 6749 section 4.4).

    It looks at jobs and never starts or stops any.
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
        self._client = TokenClient(self.client_id, Secret(self.client_secret))
        self._tokens: TokenSet | None = None
        self._fetched_at = 0.0
        self._lifetime = 0.0
        self._lock = asyncio.Lock()

    def check(self) -> None:
        """Raise ConfigurationError, naming what to set, unless the account is configured."""
        for name, variable in self._ENVIRONMENT.items():
            if not getattr(self, name):
                raise ConfigurationError(
                    "The Hub is not fully configured. Please tell the administrators.",
                    detail=f"set c.ServiceAccount.{name} (or the environment variable {variable})",
                )

    async def get(self, min_validity: float = MARGIN) -> Secret:
        """An access token that lives ``min_validity`` seconds more; single-flight (C1).

        Raises ProviderUnavailable; a refusal of the account's credentials is one, too: no user
        can do anything about it.
        """
        async with self._lock:
            # Monotonic time: the Hub's clock may be set while it runs.
            now = time.monotonic()
            tokens = self._tokens
            if tokens is None or tokens.expires_soon(self._margin(min_validity), now=now):
                tokens = self._tokens = await self._fetch(now)
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
            raise ProviderUnavailable(_UNAVAILABLE, detail=error.detail) from None
        tokens = _token_set(answer, now=now)
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


def _token_set(answer: Mapping[str, Any], *, now: float | None = None) -> TokenSet:
    try:
        return TokenSet.from_response(answer, now=now)
    except ValueError:
        raise ProviderUnavailable(
            _UNAVAILABLE, detail="the token endpoint's answer holds no access_token"
        ) from None


def _json_object(answer: httpx.Response) -> dict[str, Any] | None:
    if len(answer.content) > _MAX_ANSWER:
        return None
    try:
        body = json.loads(answer.content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _bare(url: str) -> str:
    return url.split("?", 1)[0]


def _quoted(value: str) -> str:
    # RFC 6749 section 2.3.1 has id and secret form-encoded before they are joined; a blank as %20,
    # for some issuers know no "+".
    return quote(value, safe="")
