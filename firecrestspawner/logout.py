"""How does a login end: by the user's own logout, and by the issuer's word (back-channel)?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from oauthenticator.oauth2 import OAuthLogoutHandler

from .errors import LoginRequired, LogoutTokenError, ProviderUnavailable
from .models import Secret
from .oidc import Provider

log = logging.getLogger(__name__)

_EVENT = "http://schemas.openid.net/event/backchannel-logout"
# Bytes: a signed token of a few claims has a tenth of it.
_LONGEST = 16384
# Logout tokens whose ids are remembered, and seconds beyond their end for which they are, the
# leeway that verification grants.
_REMEMBERED = 10_000
_LEEWAY = 300.0
#: Seconds within which the issuer is answered.
DEADLINE = 5.0


class LogoutHandler(OAuthLogoutHandler):
    """Logs out of the Hub, and of the single sign-on session (RP-Initiated Logout 1.0).

    Servers go on unless ``JupyterHub.shutdown_on_logout`` is set. Without an issuer to go to the
    Hub's own page follows.
    """

    _farewell = ""

    async def handle_logout(self) -> None:
        """Called by get() when servers, if they are to be, and the Hub session are ended."""
        await super().handle_logout()
        if self.current_user is not None:
            self._farewell = await self.authenticator.log_out(self.current_user, self)

    async def render_logout_page(self) -> None:
        if self._farewell:
            self.redirect(self._farewell)
            return
        await super().render_logout_page()


class LogoutTokens:
    """Checks logout tokens (OpenID Connect Back-Channel Logout 1.0, section 2.6), each once."""

    def __init__(self, provider: Provider, client_id: str) -> None:
        self._provider = provider
        self._client_id = client_id
        self._spent: dict[str, float] = {}

    async def redeem(self, token: str) -> tuple[str, str]:
        """The ``sub`` and ``sid`` it names, one of them perhaps empty.

        Raises LogoutTokenError for one that is not valid, or was redeemed before;
        ProviderUnavailable when the issuer's keys cannot be had.
        """
        try:
            claims = await self._provider.verified(
                Secret(token),
                audience=self._client_id,
                require=("iss", "aud", "iat", "exp", "jti", "events"),
                leeway=_LEEWAY,
            )
        except LoginRequired as error:
            raise _refused(error.detail) from None
        events, jti = claims["events"], claims["jti"]
        sub, sid = claims.get("sub", ""), claims.get("sid", "")
        if not isinstance(events, dict) or not isinstance(events.get(_EVENT), dict):
            raise _refused("it is about another event")
        if "nonce" in claims:
            raise _refused("it has a nonce, as an ID token may")
        if not isinstance(sub, str) or not isinstance(sid, str) or not (sub or sid):
            raise _refused("it names neither a user nor a session")
        if not isinstance(jti, str) or not jti:
            raise _refused("its jti is no text")
        self._spend(jti, float(claims["exp"]))
        return sub, sid

    def _spend(self, jti: str, expires_at: float) -> None:
        now = time.time()
        if jti in self._spent:
            raise _refused("it was used before")
        if len(self._spent) >= _REMEMBERED:
            kept = {jti: end for jti, end in self._spent.items() if end > now}
            # All of them still good: the oldest go, for memory is bounded.
            self._spent = dict(list(kept.items())[-_REMEMBERED // 2 :])
        self._spent[jti] = expires_at + _LEEWAY


def _refused(why: str) -> LogoutTokenError:
    return LogoutTokenError("The logout token is not valid.", detail=why)


class BackchannelLogoutHandler(APIHandler):
    """``POST /hub/firecrest/backchannel-logout``: the issuer says that a session has ended.

    The form's ``logout_token`` is the only proof there is, and all that is needed: no cookie, no
    XSRF token, no Hub token. What else the form holds is ignored, as the standard demands.
    """

    async def prepare(self) -> None:
        """Skip the Hub's own authentication."""
        self._jupyterhub_user = None

    def check_xsrf_cookie(self) -> None:
        return

    async def post(self) -> None:
        """200 when the sessions meant have ended, or there are none; 400 for a token that is not
        valid; 503 while the issuer's keys cannot be had."""
        try:
            await asyncio.wait_for(self._end_sessions(), DEADLINE)
        except LogoutTokenError as error:
            log.warning("Back-channel logout: refused a token from %s: %s",
                        self.request.remote_ip, error.detail)  # fmt: skip
            self._reply(error.status, {"error": "invalid_request"})
        except (ProviderUnavailable, asyncio.TimeoutError) as error:
            log.warning("Back-channel logout: not done: %s", getattr(error, "detail", "too slow"))
            self._reply(503, {"error": "temporarily_unavailable"})
        else:
            self._reply(200, {})

    async def _end_sessions(self) -> None:
        given = self.get_body_arguments("logout_token")
        if len(given) != 1 or len(given[0]) > _LONGEST:
            raise _refused("the form holds no logout_token of a sensible length, or several")
        authenticator = self.authenticator
        sub, sid = await authenticator.logout_tokens.redeem(given[0])
        for user_id in await authenticator.origins.meant_by(sub, sid, self.db):
            with contextlib.suppress(KeyError):  # deleted meanwhile
                await authenticator.end_login(self.users[user_id])

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))
