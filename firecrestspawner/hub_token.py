"""How does a program inside a server ask its Hub for the user's access token?

:func:`fetch` sends ``GET $JUPYTERHUB_API_URL/firecrest/token`` with the server's own
``JUPYTERHUB_API_TOKEN``. Standard library only: on a cluster this package is installed without what
a Hub needs. Requests go straight to the Hub, as the launcher's and the server's own do: no proxy
variables, and no redirects, as one could carry the server's token elsewhere.

::

    HubTokenError               no token; its text is one sentence, without secrets
    ├── LoginRequired           the single sign-on session is over: log in again at ``url``
    ├── TryLater                nothing is concluded: ask again after ``retry_after`` seconds
    └── Refused                 asking again does not help
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

#: Seconds for one request, name look-up and answer included: the Hub may ask the issuer first.
DEADLINE = 30.0
#: Seconds to wait where the Hub does not say for how long.
PATIENCE = 10
_LONGEST_PATIENCE = 3600
_MAX_ANSWER = 1 << 18  # bytes
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750 section 2.1


class HubTokenError(Exception):
    """There is no token now; the text says why."""


class LoginRequired(HubTokenError):
    """The single sign-on session is over. ``url``: where to log in again; "" where unknown."""

    def __init__(self, url: str = "") -> None:
        super().__init__(
            "The single sign-on session has ended. Log in again: "
            + (url or "on the Hub's home page.")
        )
        self.url = url


class TryLater(HubTokenError):
    """The Hub, the issuer or the way there is in trouble. ``retry_after``: seconds."""

    def __init__(self, retry_after: int = PATIENCE, why: str = "No token can be had now.") -> None:
        super().__init__(f"{why} Try again in {retry_after} seconds.")
        self.retry_after = retry_after


class Refused(HubTokenError):
    """This program gets no token: it runs in no server of a Hub, or the Hub said no."""


@dataclass(frozen=True)
class AccessToken:
    """What the Hub answered. ``expires_at`` is the Hub's clock's (Unix seconds).

    ``expires_in``: seconds from ``asked_at`` (monotonic) on. Both None: the issuer does not say.
    """

    access_token: str = field(repr=False)
    expires_at: float | None
    expires_in: float | None
    scope: str
    asked_at: float = field(repr=False)

    def left(self) -> float:
        """Seconds of life; 0 where nobody knows."""
        if self.expires_in is None:
            return 0.0
        return self.asked_at + self.expires_in - time.monotonic()

    def to_json(self) -> dict[str, Any]:
        """The documented fields of the Hub's answer."""
        return {
            "access_token": self.access_token,
            "token_type": "Bearer",
            "expires_at": self.expires_at,
            "expires_in": self.expires_in,
            "scope": self.scope,
        }


def fetch(min_validity: float) -> AccessToken:
    """Ask for a token that lives ``min_validity`` seconds more, if the issuer makes such.

    Blocks for at most DEADLINE seconds. Raises HubTokenError.
    """
    return Flight(min_validity).result()


class Flight:
    """One request in a thread of its own, which several threads and event loops may wait for.

    ``keep`` is given the token before anybody else, a late one as well. ``future`` holds an
    AccessToken or the HubTokenError, as a value: an exception that several raise would carry the
    stack of each.
    """

    def __init__(
        self, min_validity: float, keep: Callable[[AccessToken], None] | None = None
    ) -> None:
        self.future: Future[AccessToken | HubTokenError] = Future()
        self.future.set_running_or_notify_cancel()  # who stops waiting does not cancel it
        self._keep = keep
        self._connection: http.client.HTTPConnection | None = None
        self._started = time.monotonic()
        self._min_validity = min_validity
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except RuntimeError:  # the user is at the limit of processes
            self._land(TryLater(PATIENCE, "No thread can be started."))

    def remaining(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._started + DEADLINE - time.monotonic())

    def result(self) -> AccessToken:
        """Wait for the token. Raises HubTokenError."""
        try:
            return told(self.future.result(self.remaining()))
        except FutureTimeoutError:
            raise self.give_up() from None

    def give_up(self) -> TryLater:
        """End the request, and say what its waiters are told: the deadline has passed."""
        late = TryLater(PATIENCE, f"The Hub did not answer within {DEADLINE:g} seconds.")
        self._land(late)
        connection = self._connection
        with contextlib.suppress(OSError, AttributeError):  # not connected, or closed by now
            connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        return late

    def _land(self, outcome: AccessToken | HubTokenError) -> None:
        if self._keep is not None and isinstance(outcome, AccessToken):
            self._keep(outcome)
        with contextlib.suppress(InvalidStateError):  # the deadline came first
            self.future.set_result(outcome)

    def _run(self) -> None:
        try:
            outcome = self._exchange()
        except HubTokenError as error:
            outcome = error
        except OSError as error:
            outcome = TryLater(PATIENCE, f"The Hub cannot be reached: {_problem(error)}.")
        except Exception as error:
            # Whatever else a broken answer provokes: its waiters must be told something, and its
            # text may quote the request.
            outcome = TryLater(
                PATIENCE, f"The Hub's answer cannot be read ({type(error).__name__})."
            )
        self._land(outcome)

    def _exchange(self) -> AccessToken | HubTokenError:
        url, token = _environment()
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=DEADLINE)
        self._connection = connection
        query = urlencode({"min_validity": math.ceil(self._min_validity)})
        path = f"{parts.path.rstrip('/')}/firecrest/token?{query}"
        headers = {"Authorization": f"token {token}", "Accept": "application/json"}
        try:
            asked_at = time.monotonic()
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read(_MAX_ANSWER + 1)
        finally:
            connection.close()
        answer = _json_object(body)
        if response.status == 200:
            return _token(answer, asked_at)
        return _refusal(response.status, answer, response.getheader("Retry-After"), token)


def told(outcome: AccessToken | HubTokenError) -> AccessToken:
    """What a flight brought. Raises it when it is a HubTokenError."""
    if isinstance(outcome, HubTokenError):
        raise outcome.with_traceback(None)
    return outcome


def _environment() -> tuple[str, str]:
    """The Hub's API and the server's token. Raises Refused, naming what is missing."""
    url = os.environ.get("JUPYTERHUB_API_URL", "")
    token = os.environ.get("JUPYTERHUB_API_TOKEN", "")
    missing = [
        name
        for name, value in (("JUPYTERHUB_API_URL", url), ("JUPYTERHUB_API_TOKEN", token))
        if not value
    ]
    if missing:
        raise Refused(
            f"{' and '.join(missing)} must be set: this works inside a server that a JupyterHub "
            "started."
        )
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not _graphic(url):
        raise Refused("JUPYTERHUB_API_URL is no address such as https://hub.example.org/hub/api.")
    if not _graphic(token):
        raise Refused("JUPYTERHUB_API_TOKEN is no token.")
    return url, token


def _token(answer: Mapping[str, Any] | None, asked_at: float) -> AccessToken | HubTokenError:
    """An answer with status 200."""
    strange = TryLater(PATIENCE, "What answered in place of the Hub sent no token.")
    if answer is None:
        return strange
    token, kind = answer.get("access_token"), answer.get("token_type")
    expires_at, expires_in = answer.get("expires_at"), answer.get("expires_in")
    scope = answer.get("scope") or ""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return strange
    if not isinstance(kind, str) or kind.lower() != "bearer" or not isinstance(scope, str):
        return strange
    if not _seconds(expires_at) or not _seconds(expires_in):
        return strange
    if expires_in is not None and expires_in <= 0:
        return TryLater(PATIENCE, "The token that the Hub sent has expired.")
    return AccessToken(token, expires_at, expires_in, scope, asked_at)


def _refusal(
    status: int, answer: Mapping[str, Any] | None, retry_after: str | None, secret: str
) -> HubTokenError:
    """An answer with another status. Only the Hub's own refusals, JSON, are believed."""
    if status in (401, 403) and answer is not None and isinstance(answer.get("login_url"), str):
        return LoginRequired(_login_url(answer["login_url"]))
    if status in (400, 401, 403, 404, 405) and answer is not None:
        said = answer.get("message")
        why = said if isinstance(said, str) else ""
        why = " ".join("".join(c if c.isprintable() else " " for c in why).split())[:300]
        if secret in why:
            why = ""
        return Refused(f"The Hub gives this server no token: {why or f'HTTP status {status}'}")
    told_seconds = re.fullmatch("[0-9]{1,9}", retry_after or "")
    seconds = int(told_seconds[0]) if told_seconds else PATIENCE
    seconds = min(max(seconds, 1), _LONGEST_PATIENCE)
    if status == 429 or status >= 500:
        return TryLater(seconds, f"The Hub or the login service is away (HTTP status {status}).")
    return TryLater(seconds, f"What answered in place of the Hub sent HTTP status {status}.")


def _login_url(given: str) -> str:
    """Where a person can log in again; "" for what is no address. A path is on the Hub's site."""
    if not _graphic(given) or len(given) > 2000:
        return ""
    if given.startswith("/") and not given.startswith("//"):
        public = os.environ.get("JUPYTERHUB_PUBLIC_HUB_URL", "")
        return urljoin(public, given) if _graphic(public) else given
    return given if given.startswith(("https://", "http://")) else ""


def _json_object(body: bytes) -> dict[str, Any] | None:
    if len(body) > _MAX_ANSWER:
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _seconds(value: Any) -> bool:
    """Whether it is a number of seconds, or nothing."""
    if value is None:
        return True
    return type(value) in (int, float) and -1e12 < value < 1e12


def _graphic(text: str) -> bool:
    return re.fullmatch("[!-~]+", text) is not None


def _problem(error: OSError) -> str:
    # Name look-ups and TLS say it best themselves; neither quotes what was sent.
    return (error.strerror or type(error).__name__).rstrip(".")
