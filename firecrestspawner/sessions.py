"""Which user's login belongs to a session at the issuer, and how does a session at the Hub end?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.fernet import InvalidToken
from jupyterhub import orm
from jupyterhub.crypto import decrypt
from jupyterhub.handlers.base import SESSION_COOKIE_NAME
from jupyterhub.utils import new_token

# Rows of users read at a time: the event loop is given back after each (R8).
_BATCH = 50


@dataclass(frozen=True)
class Origin:
    """Whom (``sub``) and which session (``sid``) at the issuer a login comes from."""

    sub: str
    sid: str

    @classmethod
    def of(cls, auth_state: Mapping[str, Any], userinfo_key: str) -> Origin:
        """Read it from what a login stored; what the issuer did not tell is empty.

        The ID token needs no verification here: it came from the token endpoint itself (OpenID
        Connect Core section 3.1.3.7), and nobody but the Hub can write to auth_state.
        """
        try:
            claims = jwt.decode(
                str(auth_state.get("id_token") or ""), options={"verify_signature": False}
            )
        except (jwt.PyJWTError, ValueError):
            claims = {}
        userinfo = auth_state.get(userinfo_key)
        sub = claims.get("sub") or (userinfo.get("sub") if isinstance(userinfo, dict) else "")
        return cls(_text(sub), _text(claims.get("sid")))

    def is_meant_by(self, sub: str, sid: str) -> bool:
        """Whether a logout token with this ``sub`` and ``sid``, either of them empty, means it.

        Of a session whose ``sid`` is not known every logout of its user is taken to be its end.
        """
        if sub and sub != self.sub:
            return False
        return sid == self.sid if sid and self.sid else bool(sub)


class Origins:
    """The origins of all users' logins, by the user's id in the Hub's database."""

    def __init__(self, userinfo_key: str) -> None:
        self._userinfo_key = userinfo_key
        self._known: dict[int, Origin] = {}
        self._complete = False

    def note(self, user_id: int, auth_state: Mapping[str, Any]) -> None:
        """Remember where a login comes from: called at each login and refresh."""
        self._known[user_id] = Origin.of(auth_state, self._userinfo_key)

    def drop(self, user_id: int) -> None:
        self._known.pop(user_id, None)

    async def meant_by(self, sub: str, sid: str, db: Any) -> list[int]:
        """The ids of the users that a logout token means.

        The first one that means nobody known has the database read: the Hub may have restarted.
        """
        found = self._find(sub, sid)
        if not found and not self._complete:
            async for user_id, auth_state in _stored(db):
                if user_id not in self._known:
                    self.note(user_id, auth_state)
            self._complete = True
            found = self._find(sub, sid)
        return found

    def _find(self, sub: str, sid: str) -> list[int]:
        return [id for id, origin in self._known.items() if origin.is_meant_by(sub, sid)]


async def _stored(db: Any) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """All users' auth_states that can be decrypted, by the users' ids."""
    last = 0
    while True:
        rows = (
            db.query(orm.User.id, orm.User.encrypted_auth_state)
            .filter(orm.User.id > last, orm.User.encrypted_auth_state.isnot(None))
            .order_by(orm.User.id)
            .limit(_BATCH)
            .all()
        )
        if not rows:
            return
        for user_id, sealed in rows:
            last = user_id
            try:
                auth_state = await decrypt(sealed)
            except (InvalidToken, ValueError):
                continue  # of a key that the Hub no longer has
            if isinstance(auth_state, dict):
                yield user_id, auth_state


def end(user: Any) -> None:
    """End the user's sessions at the Hub, in every browser; servers and their tokens go on.

    Cookies name the user by ``cookie_id``. Tokens with a session id were made for a browser that
    visits a server (JupyterHub's OAuth provider); servers' own and personal ones have none.
    """
    db = user.db
    user.orm_user.cookie_id = new_token()
    for token in db.query(orm.APIToken).filter(
        orm.APIToken.user_id == user.id, orm.APIToken.session_id.isnot(None)
    ):
        db.delete(token)
    # One that is about to be redeemed would become such a token.
    for code in db.query(orm.OAuthCode).filter(orm.OAuthCode.user_id == user.id):
        db.delete(code)
    db.commit()


def end_in_browser(handler: Any) -> None:
    """Have the browser that made this request forget its session, too.

    Servers remember for minutes whom a token with a session id belongs to (HubAuth's cache): the
    browser's next request to one is to bring another session id.
    """
    domain = {"domain": handler.domain} if handler.subdomain_host else {}
    handler.clear_cookie(SESSION_COOKIE_NAME, path=handler.base_url, **domain)
    handler.clear_cookie(handler.hub.cookie_name, path=handler.hub.base_url)
    # JupyterHub 6.1.1 reads this of requests that have no token, for which it is never set
    # (BaseHandler.refresh_auth), and fails.
    if not hasattr(handler, "_token_authenticated"):
        handler._token_authenticated = False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
