"""How does a login end: by the user's own logout, and by the issuer's word (back-channel)?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin

from jupyterhub.apihandlers.base import APIHandler
from oauthenticator.oauth2 import OAuthLogoutHandler
from tornado.web import stream_request_body

from .deadline import in_time
from .errors import Error, LoginRequired, LogoutTokenError, ProviderUnavailable
from .models import Secret
from .oidc import LEEWAY, Provider
from .sessions import Origin, end
from .tokens import Forgotten
from .vault import UserVault

log = logging.getLogger(__name__)

_EVENT = "http://schemas.openid.net/event/backchannel-logout"
# Bytes: a signed token of a few claims has a tenth of it.
_LONGEST = 16384
# Logout tokens whose ids are remembered.
_REMEMBERED = 10_000
#: Seconds that a user who logs out waits for the issuer, and the issuer for us.
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
            self._farewell = await log_out(self.authenticator, self.current_user, self)

    async def render_logout_page(self) -> None:
        if self._farewell:
            self.redirect(self._farewell)
            return
        await super().render_logout_page()


async def log_out(authenticator: Any, user: Any, handler: Any) -> str:
    """Forget and revoke the user's tokens; the issuer's page that ends its session, or "".

    Called when the session at the Hub has ended. Never waits for the issuer for long: what it has
    not confirmed by then goes on by itself.
    """
    farewell = authenticator.run(_forget(authenticator, user))
    await asyncio.wait({farewell}, timeout=DEADLINE)
    forgotten = farewell.result() if farewell.done() else None
    if forgotten is None:
        return ""
    endpoint = (await authenticator.provider.metadata()).get("end_session_endpoint")
    if not isinstance(endpoint, str):
        return ""
    query = {
        "client_id": authenticator.client_id,
        # There nobody is logged in any more, so that the Hub's own page is shown.
        "post_logout_redirect_uri": urljoin(authenticator.get_callback_url(handler), "logout"),
    }
    if forgotten.id_token is not None:
        query["id_token_hint"] = forgotten.id_token.reveal()
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"


async def _forget(authenticator: Any, user: Any) -> Forgotten | None:
    """None when there was nothing, or the issuer has not confirmed the end of it."""
    forgotten: Forgotten | None = await authenticator.token_store.forget(user)
    if user.encrypted_auth_state is None:  # or else there was another login meanwhile
        authenticator.origins.drop(user.id)
    if forgotten is None:
        return None
    try:
        if forgotten.refresh_token is not None:
            await authenticator.provider.revoke(forgotten.refresh_token)
        await authenticator.provider.metadata()
    except Error as error:
        log.info("The tokens of %s could not be revoked: %s", user.name, error.detail)
        return None
    return forgotten


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
        self._spent[jti] = expires_at + LEEWAY


def _refused(why: str) -> LogoutTokenError:
    return LogoutTokenError("The logout token is not valid.", detail=why)


async def end_login(authenticator: Any, user: Any, sub: str, sid: str) -> None:
    """End what the issuer says has ended, unless another login has replaced it meanwhile."""
    key = authenticator.user_auth_state_key

    def applies(auth_state: Mapping[str, Any]) -> bool:
        return Origin.of(auth_state, key).is_meant_by(sub, sid)

    await authenticator.token_store.end(user, "the issuer said so", applies=applies)
    if authenticator.session_policy == "sso":
        # Its tokens may have ended before: what tells whose session it was is still there.
        auth_state, _ = await UserVault(user).load()
        if applies(auth_state or {}):
            end(user)


@stream_request_body
class BackchannelLogoutHandler(APIHandler):
    """``POST /hub/firecrest/backchannel-logout``: the issuer says that a session has ended.

    The form's ``logout_token`` is the only proof there is, and all that is needed: no cookie, no
    XSRF token, no Hub token. What else the form holds is ignored, as the standard demands.
    """

    def set_default_headers(self) -> None:
        super().set_default_headers()
        # Here, so that the Hub's own error answers have it, too.
        self.set_header("Cache-Control", "no-store")

    async def prepare(self) -> None:
        """Skip the Hub's own authentication, and read no long bodies (as the job channel)."""
        self._jupyterhub_user = None
        self._body = bytearray()
        self.request.connection.set_max_body_size(_LONGEST)

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def check_xsrf_cookie(self) -> None:
        return

    async def post(self) -> None:
        """200 when the sessions meant have ended, or there are none; 400 for a token that is not
        valid; 503 while the issuer's keys cannot be had."""
        try:
            sub, sid = await in_time(self._redeem(), DEADLINE)
        except LogoutTokenError as error:
            log.warning("Back-channel logout: refused a token from %s: %s",
                        self.request.remote_ip, error.detail)  # fmt: skip
            self._reply(error.status, {"error": "invalid_request"})
        except (ProviderUnavailable, asyncio.TimeoutError) as error:
            log.warning("Back-channel logout: not done: %s", getattr(error, "detail", "too slow"))
            self._reply(503, {"error": "temporarily_unavailable"})
        else:
            # The token is spent: what it says is done even if that takes longer than the issuer
            # waits, because of a refresh under way, say.
            ending = self.authenticator.run(self._end_logins(sub, sid))
            await asyncio.wait({ending}, timeout=DEADLINE)
            self._reply(200, {})

    async def _redeem(self) -> tuple[str, str]:
        given = parse_qs(self._body.decode("ascii", "replace")).get("logout_token", [])
        if len(given) != 1:
            raise _refused("the form does not hold one logout_token")
        redeemed: tuple[str, str] = await self.authenticator.logout_tokens.redeem(given[0])
        return redeemed

    async def _end_logins(self, sub: str, sid: str) -> None:
        for user_id in await self.authenticator.origins.meant_by(sub, sid, self.db):
            with contextlib.suppress(KeyError):  # deleted meanwhile
                await end_login(self.authenticator, self.users[user_id], sub, sid)

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))
