"""What does an OAuth 2.0 client say to its token endpoint, and what follows from the answer?

A refusal of the grant (``invalid_grant``, RFC 6749 section 5.2) becomes LoginRequired; every other
trouble is ProviderUnavailable and logs nobody out (R5).
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import logging
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx

from .deadline import in_time
from .errors import LoginRequired, ProviderUnavailable
from .models import Secret, TokenSet

log = logging.getLogger(__name__)
T = TypeVar("T")

LOGIN_REQUIRED = "Your login has ended at the identity provider. Log in again to continue."
UNAVAILABLE = "The login service cannot be reached right now. Please try again in a moment."

#: Seconds for one request with the tries that follow it. Generous: a refresh that is given up may
#: have rotated the refresh token, which costs the user a login.
DEADLINE = 15.0
#: Seconds before the second and the third try, each half as long to half as long again, so that
#: those who were refused together do not come back together.
_BACKOFF = (0.25, 0.75)

#: A Hub full of users may need tokens at the same moment: after a restart, or a morning's login.
_CONNECTIONS = 250
#: Seconds for which one that is idle is kept.
_IDLE = 30.0
#: Bytes of an answer's body that are read.
_MAX_ANSWER = 1 << 20

#: The client itself is refused: nothing that a user can do helps (RFC 6749 section 5.2; Keycloak
#: says ``unauthorized_client`` to a wrong secret).
_DEPLOYERS_FAULT = ("invalid_client", "unauthorized_client")
#: Why a refresh is refused, as Keycloak words it; other words are not repeated (S9).
_KNOWN_REASONS = (
    "Session not active",
    "Token is not active",
    "Maximum allowed refresh token reuse exceeded",
    "Stale token",
    "Session doesn't have required client",
    "Offline user session not found",
    "User disabled",
    "User not found",
    "Invalid refresh token",
)


@functools.cache
def _tls(verify: bool) -> ssl.SSLContext:
    """One for all clients: reading the authorities' certificates takes tens of milliseconds.

    The authorities are those that FirecREST's client believes, too (httpx: ``SSL_CERT_FILE``,
    ``SSL_CERT_DIR``, else certifi's).
    """
    return httpx.create_ssl_context(verify=verify)


@dataclass(frozen=True)
class Answer:
    """What an issuer said: HTTP status, media type (lower case), and the body, which is cut off
    once it is longer than _MAX_ANSWER."""

    status: int
    kind: str
    body: bytes = field(repr=False)


class TokenClient:
    """One client's conversation with one issuer, over a shared connection pool.

    Parameters
    ----------
    deadline: seconds for one request, answer and repetitions included.
    basic: ``client_secret_basic`` when true, else ``client_secret_post`` (RFC 6749 section 2.3.1).
    verify: whether the issuer's certificate is checked.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: Secret,
        *,
        basic: bool = True,
        deadline: float = DEADLINE,
        verify: bool = True,
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.basic = basic
        self.deadline = deadline
        self._tls = _tls(verify)
        self._session: aiohttp.ClientSession | None = None
        self._refused = ""

    def _http(self) -> aiohttp.ClientSession:
        # aiohttp and not httpx, which costs three times as much CPU for each of many at once.
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._tls,
                limit=_CONNECTIONS,
                keepalive_timeout=_IDLE,
                # The system's, as for everything else: c-ares does not know all of its sources.
                resolver=aiohttp.ThreadedResolver(),
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # fetch() has the deadline
            )
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """One request under a deadline. Raises ProviderUnavailable when no answer comes.

        The deadline, in seconds, is for the whole of it. Redirects are not followed.
        """
        seconds = self.deadline if deadline is None else deadline
        try:
            return await in_time(self._exchange(method, url, headers, body), seconds)
        # ValueError: what is no address.
        except (aiohttp.ClientError, ValueError, asyncio.TimeoutError, OSError) as error:
            # Its kind says enough; its request holds the token.
            raise ProviderUnavailable(
                UNAVAILABLE, detail=f"{method} {bare(url)}: {type(error).__name__}"
            ) from None

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: bytes | None
    ) -> Answer:
        async with self._http().request(
            method, url, headers=headers, data=body, proxy=_proxy(url), allow_redirects=False
        ) as answer:
            read = bytearray()
            async for chunk in answer.content.iter_any():
                read += chunk
                if len(read) > _MAX_ANSWER:
                    break
            return Answer(answer.status, answer.content_type, bytes(read))

    async def post(
        self, url: str, form: Mapping[str, str], *, deadline: float | None = None
    ) -> Answer:
        """POST a form as this client. Raises ProviderUnavailable when no answer comes."""
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        if self.basic:
            pair = f"{_quoted(self.client_id)}:{_quoted(self.client_secret.reveal())}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            secret = self.client_secret.reveal()
            form = {**form, "client_id": self.client_id, "client_secret": secret}
        body = urlencode(form).encode()
        return await self.fetch("POST", url, headers=headers, body=body, deadline=deadline)

    async def token(
        self, url: str, form: Mapping[str, str], *, again: bool = False
    ) -> dict[str, Any]:
        """Ask for tokens (RFC 6749 sections 4.1.3, 4.4.2, 6).

        ``again``: the request is safe to repeat, and is tried up to three times within the
        deadline. Raises LoginRequired on ``invalid_grant``, ProviderUnavailable on everything else.
        """
        ends = time.monotonic() + self.deadline
        pauses = [pause * random.uniform(0.5, 1.5) for pause in _BACKOFF]  # noqa: S311 - no secret
        while True:
            pause = pauses.pop(0) if again and pauses else float("inf")
            answer = None
            try:
                answer = await self.post(url, form, deadline=ends - time.monotonic())
            except ProviderUnavailable:
                if time.monotonic() + pause >= ends:
                    raise
            if answer is not None and (not _may_pass(answer) or time.monotonic() + pause >= ends):
                return self._read(url, answer)
            await asyncio.sleep(pause)

    def _read(self, url: str, answer: Answer) -> dict[str, Any]:
        body = json_object(answer)
        if answer.status == 200 and body is not None:
            self._refused = ""
            return body
        code = str((body or {}).get("error", ""))[:60]
        if answer.status in (400, 401) and code == "invalid_grant":
            said = str((body or {}).get("error_description", ""))
            reason = next((f" ({known})" for known in _KNOWN_REASONS if known in said), "")
            raise LoginRequired(
                LOGIN_REQUIRED, detail=f"the token endpoint says invalid_grant{reason}"
            )
        detail = f"the token endpoint {bare(url)} answered {answer.status} {code!r}"
        if code in _DEPLOYERS_FAULT and self._refused != code:
            # Once, not for each user and page.
            self._refused = code
            log.error(
                "%s: look at id, secret and allowed grants of the client %r", detail, self.client_id
            )
        raise ProviderUnavailable(UNAVAILABLE, detail=detail)


def _may_pass(answer: Answer) -> bool:
    return answer.status in (408, 429) or answer.status >= 500


def token_set(answer: Mapping[str, Any], *, now: float | None = None) -> TokenSet:
    """A token endpoint's answer. Raises ProviderUnavailable when it holds no access token."""
    try:
        return TokenSet.from_response(answer, now=now)
    except ValueError:
        raise ProviderUnavailable(
            UNAVAILABLE, detail="the token endpoint's answer holds no access_token"
        ) from None


def json_object(answer: Answer) -> dict[str, Any] | None:
    """The JSON object an answer holds, else None."""
    if len(answer.body) > _MAX_ANSWER:
        return None
    try:
        body = json.loads(answer.body)
    # RecursionError: brackets, a million of them.
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


@functools.lru_cache(maxsize=32)
def _proxy(url: str) -> str | None:
    """The proxy that the environment names for an address (``https_proxy``, ``no_proxy``...)."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def bare(url: str) -> str:
    """An address without its query, for the log."""
    return url.split("?", 1)[0]


def _quoted(value: str) -> str:
    # RFC 6749 section 2.3.1 has id and secret form-encoded before they are joined; a blank as %20,
    # for some issuers know no "+".
    return quote(value, safe="")
