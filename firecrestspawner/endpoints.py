"""What is answered about a user's session, and to a server that asks for its user's token?

``GET /hub/api/firecrest/session`` is for the user's pages and scripts, with the Hub's own
authentication. ``GET /hub/api/firecrest/token`` is for running servers: nothing but the API token
of an active server opens it, neither a cookie nor another token of its user (S3).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from jupyterhub import orm
from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.user import User

from . import links
from .deadline import in_time
from .entitlements import Desk
from .errors import Error, LoginRequired, ProviderUnavailable
from .handout import Handout
from .models import Secret
from .oauth import UNAVAILABLE
from .tokens import MARGIN, read_session

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds within which the issuer has to have answered, for a page and for a server.
CHECK_DEADLINE = 5.0
TOKEN_DEADLINE = 15.0
#: Seconds for hints, which nobody waits for.
HINTS_DEADLINE = 40.0
#: What a client is told to wait while the issuer is away, seconds.
RETRY_AFTER = 10
#: The most seconds of life that can be asked for: no issuer gives more.
LONGEST_VALIDITY = 86400.0
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)


def parse_arguments(arguments: Mapping[str, list[bytes]], known: set[str]) -> dict[str, str]:
    """A query's arguments. Raises Error (400) for one that is unknown or given twice."""
    for name, values in arguments.items():
        if name not in known:
            raise Error("There is no such argument.", status=400)
        if len(values) != 1:
            raise Error("An argument is given more than once.", status=400)
    return {name: values[0].decode("utf-8", "replace") for name, values in arguments.items()}


def parse_validity(text: str) -> float:
    """``min_validity`` in seconds. Raises Error (400) unless it is a number up to a day."""
    if not _SECONDS.fullmatch(text) or float(text) > LONGEST_VALIDITY:
        raise Error("min_validity is a number of seconds from 0 to 86400.", status=400)
    return float(text)


def lives(spawner: Any) -> bool:
    """Whether a spawner's server is starting or running, and nobody has ended it."""
    spawn = getattr(spawner, "spawn", None)
    return (
        spawn is not None
        and not spawn.line.ended
        and spawn.exit_code is None
        and bool(spawner.active)
        and spawner.pending != "stop"
    )


class _Endpoint(APIHandler, ABC):
    """What all have in common: JSON, never stored, errors of ours as their status."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        # Here, so that the Hub's own error answers have it, too (S7).
        self.set_header("Cache-Control", "no-store")

    async def get(self) -> None:
        try:
            if self.request.body:
                raise Error("This request has no body.", status=400)
            answer = await self.answer()
        except Error as error:
            self._refuse(error)
            return
        self.finish(json.dumps(answer))

    @abstractmethod
    async def answer(self) -> dict[str, Any]:
        """The answer's body. Raises Error."""

    async def in_time(self, awaitable: Awaitable[T], seconds: float) -> T:
        """Await. Raises ProviderUnavailable after ``seconds``."""
        try:
            return await in_time(awaitable, seconds)
        except asyncio.TimeoutError:
            detail = f"{self.request.path}: no answer within {seconds:g} s"
            raise ProviderUnavailable(UNAVAILABLE, detail=detail) from None

    @property
    def login_url(self) -> str:
        """Where the user logs in again; a whole URL where the Hub knows its own."""
        public = self.settings.get("public_url") or urlsplit(self.authenticator.oauth_callback_url)
        origin = f"{public.scheme}://{public.netloc}" if public.netloc else ""
        return origin + links.reauth(self.hub.base_url, f"{self.hub.base_url}home")

    def _refuse(self, error: Error) -> None:
        log.info("%s %s: %s", error.status, self.request.path, error.detail)
        self.set_status(error.status)
        body: dict[str, Any] = {"status": error.status, "message": error.message}
        if isinstance(error, LoginRequired):
            body["login_url"] = self.login_url
        if error.status == 503:
            self.set_header("Retry-After", str(RETRY_AFTER))
        self.finish(json.dumps(body))


class SessionHandler(_Endpoint):
    """``GET /hub/api/firecrest/session``: is the caller's session at the issuer alive?"""

    async def answer(self) -> dict[str, Any]:
        """From what is stored; ``check=1`` asks the issuer first."""
        user = self.current_user
        if not isinstance(user, User):
            raise Error("Log in to the Hub, or send an API token of a user.", status=403)
        arguments = parse_arguments(self.request.query_arguments, {"check", "_xsrf"})
        if "check" in arguments:
            if arguments["check"] != "1":
                raise Error("check is 1, or left out.", status=400)
            await self._check(user)
        session = read_session(await user.get_auth_state())
        return {
            "valid": session.valid,
            "expires_at": session.expires_at,
            "policy": self.authenticator.session_policy,
            "login_url": self.login_url,
        }

    async def _check(self, user: User) -> None:
        try:
            await self.in_time(self.authenticator.token_store.renew(user), CHECK_DEADLINE)
        except LoginRequired:
            # The store has noted it: what is stored says so from now on.
            return


class HintsHandler(_Endpoint):
    """``GET /hub/api/firecrest/hints?system=NAME``: what the user may use there, for the form."""

    def initialize(self, desk: Desk) -> None:
        self.desk = desk

    async def answer(self) -> dict[str, Any]:
        """For the user's own browser: an API token of theirs is no reason to use their session."""
        user = self.current_user
        if not isinstance(user, User) or getattr(self, "_token_authenticated", False):
            raise Error("This page is for the user's own browser.", status=403)
        arguments = parse_arguments(self.request.query_arguments, {"system", "_xsrf"})
        spawner, system = user.spawner, arguments.get("system", "")
        if not hasattr(spawner, "known_systems") or system not in spawner.known_systems():
            raise Error("There is no such system to choose.", status=404)
        if not spawner.hint_age > 0:
            # Nothing would be kept: each request would be three to FirecREST (C3).
            raise Error("This Hub gives no hints.", status=404)
        store = self.authenticator.token_store  # not the handler, which would be kept with it

        async def token() -> Secret:
            return (await store.get(user)).access_token

        cluster = spawner._cluster(system)
        counted = {"features": cluster.features} if spawner.offers(system, "constraint") else {}
        hints = self.desk.get(
            (user.id, user.name),
            cluster.firecrest,
            system,
            token,
            age=spawner.hint_age,
            **counted,
        )
        return (await self.in_time(hints, HINTS_DEADLINE)).public()


class TokenHandler(_Endpoint):
    """``GET /hub/api/firecrest/token``: the access token of a running server's user."""

    def initialize(self, handout: Handout) -> None:
        self.handout = handout

    async def prepare(self) -> None:
        """Skip the Hub's own authentication, which takes any token and any cookie of the user."""
        self._jupyterhub_user = None

    def check_xsrf_cookie(self) -> None:
        # Cookies open nothing here.
        return

    async def answer(self) -> dict[str, Any]:
        spawner = self._server()
        arguments = parse_arguments(self.request.query_arguments, {"min_validity"})
        seconds = parse_validity(arguments.get("min_validity", str(int(MARGIN))))
        tokens = await self.in_time(self.handout.get(spawner, seconds), TOKEN_DEADLINE)
        # Meanwhile it may have been stopped.
        self._server()
        left = None if tokens.expires_at is None else max(0, int(tokens.expires_at - time.time()))
        return {
            "access_token": tokens.access_token.reveal(),
            "token_type": tokens.token_type,
            "expires_at": tokens.expires_at,
            "expires_in": left,
            "scope": tokens.scope,
        }

    def _server(self) -> Any:
        """The spawner whose server is asking. Raises Error (403) for everybody else."""
        given = self.get_auth_token() or ""
        # The Hub's own search first: a token that it has revoked or that has expired is gone.
        row = orm.APIToken.find(self.db, given)
        owner = self._user_from_orm(row.user) if row is not None else None
        for spawner in owner.spawners.values() if owner is not None else ():
            if lives(spawner) and _same(given, spawner.spawn.api_token.reveal()):
                if not spawner.notebook_tokens:
                    raise Error("This Hub gives no access tokens to notebooks.", status=403)
                return spawner
        raise Error("Only a running server may ask, with its own API token.", status=403)


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())
