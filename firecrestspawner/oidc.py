"""What is said to an OpenID Connect issuer, and how are its answers checked?

* :class:`TokenClient`: one client's conversation with a token endpoint.
* :class:`Provider`: an issuer found by discovery: token endpoint, keys, userinfo.

Only an authoritative refusal (RFC 6749 section 5.2, ``invalid_grant``) becomes LoginRequired; every
other trouble is ProviderUnavailable and logs nobody out (R5).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import jwt

from .errors import ConfigurationError, LoginRequired, ProviderUnavailable
from .models import Secret, TokenSet

log = logging.getLogger(__name__)
T = TypeVar("T")

LOGIN_REQUIRED = "Your login has ended at the identity provider. Log in again to continue."
UNAVAILABLE = "The login service cannot be reached right now. Please try again in a moment."

# Algorithms an issuer may sign with: asymmetric ones only, so that a public key can never be
# mistaken for an HMAC secret (RFC 8725 section 3.1).
_ALGORITHMS = [kind + bits for kind in ("RS", "PS", "ES") for bits in ("256", "384", "512")]

_METADATA_AGE = 3600.0
_KEYS_COOLDOWN = 10.0
_MAX_ANSWER = 1 << 20


async def _bounded(awaitable: Awaitable[T], seconds: float) -> T:
    """Await under one deadline for the whole of a request: httpx's own are per read."""
    return await asyncio.wait_for(awaitable, seconds)


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
                UNAVAILABLE, detail=f"{method} {_bare(url)}: {type(error).__name__}"
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
            raise LoginRequired(LOGIN_REQUIRED, detail="the token endpoint says invalid_grant")
        raise ProviderUnavailable(
            UNAVAILABLE,
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
                UNAVAILABLE, detail=f"discovery at {url} answered {answer.status_code}"
            )
        if str(document.get("issuer", "")).rstrip("/") != self.issuer:
            raise ConfigurationError(
                "The login service is configured wrongly. Please tell the administrators.",
                detail=f"{url} speaks for another issuer: set FirecRESTAuthenticator.issuer to the "
                "value of its 'issuer' field",
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(document.get(name), str):
                raise ProviderUnavailable(UNAVAILABLE, detail=f"{url} names no {name}")
        return document

    async def token(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Ask the discovered token endpoint; errors as TokenClient.token."""
        return await self.client.token((await self.metadata())["token_endpoint"], form)

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        """Exchange the refresh token (RFC 6749 section 6)."""
        if tokens.refresh_token is None:
            raise LoginRequired(LOGIN_REQUIRED, detail="no refresh token is stored")
        answer = await self.token(
            {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token.reveal()}
        )
        return token_set(answer).kept_from(tokens)

    async def userinfo(self, access_token: Secret) -> dict[str, Any]:
        """The userinfo answer (OpenID Connect Core section 5.3), JSON only.

        Raises LoginRequired when the issuer refuses the token, ProviderUnavailable otherwise.
        """
        url = (await self.metadata()).get("userinfo_endpoint")
        if not isinstance(url, str):
            raise ProviderUnavailable(UNAVAILABLE, detail="the issuer names no userinfo_endpoint")
        answer = await self.client.fetch(
            "GET", url, headers={"Authorization": f"Bearer {access_token.reveal()}"}
        )
        body = _json_object(answer)
        if answer.status_code in (401, 403):
            raise LoginRequired(LOGIN_REQUIRED, detail=f"userinfo answered {answer.status_code}")
        if answer.status_code != 200 or body is None:
            raise ProviderUnavailable(UNAVAILABLE, detail=f"userinfo answered {answer.status_code}")
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
                        UNAVAILABLE, detail=f"the issuer's keys: {answer.status_code}"
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
        raise ProviderUnavailable(UNAVAILABLE, detail="the issuer's keys cannot be read") from None


def _find(keys: jwt.PyJWKSet | None, kid: str) -> jwt.PyJWK | None:
    for key in keys.keys if keys else ():
        # A set of one unnamed key serves tokens that name none (RFC 7517 section 4.5).
        if key.key_id == kid or (not kid and len(keys.keys) == 1):  # type: ignore[union-attr]
            return key
    return None


def token_set(answer: Mapping[str, Any], *, now: float | None = None) -> TokenSet:
    """A token endpoint's answer. Raises ProviderUnavailable when it holds no access token."""
    try:
        return TokenSet.from_response(answer, now=now)
    except ValueError:
        raise ProviderUnavailable(
            UNAVAILABLE, detail="the token endpoint's answer holds no access_token"
        ) from None


def _json_object(answer: httpx.Response) -> dict[str, Any] | None:
    if len(answer.content) > _MAX_ANSWER:
        return None
    try:
        body = json.loads(answer.content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _bare(url: str) -> str:
    return url.split("?", 1)[0]


def _quoted(value: str) -> str:
    # RFC 6749 section 2.3.1 has id and secret form-encoded before they are joined; a blank as %20,
    # for some issuers know no "+".
    return quote(value, safe="")
