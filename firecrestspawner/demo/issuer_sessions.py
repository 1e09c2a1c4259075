"""Which logins are alive at the demo's issuer, and which code or refresh token is still good?

One lock guards everything here, so that a code and a refresh token are each accepted once,
however many requests present them at the same moment. The refusals are Keycloak's, word for word.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from authlib.oauth2.rfc6749 import InvalidGrantError
from authlib.oidc.core import AuthorizationCodeMixin

#: An authorization code is good for this many seconds (Keycloak's default).
CODE_LIFETIME = 60


@dataclass
class Lifetimes:
    """Seconds that an access token, an idle session (and refresh token), and a session live."""

    access_token: float = 300
    refresh_token: float = 1800
    session: float = 36000


@dataclass
class Session:
    """One browser's login (SSO). ``cookie`` is the browser's key to it, ``sid`` its public id."""

    username: str
    started: float
    auth_time: float
    last_used: float
    sid: str = field(default_factory=lambda: str(uuid.uuid4()))
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    chains: dict[str, ClientSession] = field(default_factory=dict, repr=False)


@dataclass
class ClientSession:
    """What one code gave to one client: a chain of refresh tokens, the last of which is good."""

    session: Session
    client_id: str
    scope: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    refresh_jti: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass
class AuthorizationCode(AuthorizationCodeMixin):
    """One authorization code, with the questions that Authlib asks of it."""

    session: Session
    client_id: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str | None = field(repr=False)
    code_challenge_method: str | None
    expires_at: float
    used: bool = False
    client_session: ClientSession | None = None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(self.session.auth_time)


class Sessions:
    """All sessions and codes. ``clock`` answers seconds since the epoch."""

    def __init__(self, lifetimes: Lifetimes, clock: Callable[[], float]) -> None:
        self.lifetimes = lifetimes
        self.rotation = True
        self.not_before = 0.0
        self._clock = clock
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._codes: dict[str, AuthorizationCode] = {}

    def now(self) -> float:
        return self._clock()

    def open(self, username: str) -> Session:
        """A new session for who has just proven to be ``username``."""
        now = self._clock()
        session = Session(username, started=now, auth_time=now, last_used=now)
        with self._lock:
            for old in [s for s in self._sessions.values() if not self._is_alive(s)]:
                del self._sessions[old.sid]
            self._sessions[session.sid] = session
        return session

    def confirm(self, session: Session, username: str) -> Session:
        """The session after its user gave the password again; a new one for somebody else."""
        if session.username != username:
            return self.open(username)
        session.auth_time = session.last_used = self._clock()
        return session

    def get(self, sid: str | None) -> Session | None:
        """The live session of that public id."""
        with self._lock:
            session = self._sessions.get(sid or "")
            return session if session and self._is_alive(session) else None

    def by_cookie(self, cookie: str | None) -> Session | None:
        """The live session of the browser that holds ``cookie``."""
        if not cookie:
            return None
        with self._lock:
            for session in self._sessions.values():
                if secrets.compare_digest(session.cookie.encode(), cookie.encode()):
                    if not self._is_alive(session):
                        return None
                    session.last_used = self._clock()
                    return session
        return None

    def of_user(self, username: str) -> list[Session]:
        """The live sessions of a user."""
        with self._lock:
            found = [s for s in self._sessions.values() if s.username == username]
            return [s for s in found if self._is_alive(s)]

    def end(self, session: Session) -> None:
        """End a session: from now on its refresh tokens answer ``Session not active``."""
        with self._lock:
            self._sessions.pop(session.sid, None)

    def expires_at(self, session: Session) -> float:
        """When the session ends if nothing refreshes it from now on."""
        return min(
            self._clock() + self.lifetimes.refresh_token, session.started + self.lifetimes.session
        )

    def attach(self, session: Session, client_id: str, scope: str) -> ClientSession:
        """A new chain of refresh tokens for a client."""
        client_session = ClientSession(session, client_id, scope)
        with self._lock:
            session.chains[client_session.id] = client_session
            session.last_used = self._clock()
        return client_session

    def detach(self, session: Session, client_id: str) -> None:
        """Take the session from a client (RFC 7009); without clients a session ends."""
        with self._lock:
            self._take_part_from(session, client_id)
            if not session.chains:
                self.end(session)

    def has_part(self, sid: str, client_id: str) -> bool:
        """Whether the session lives, and the client takes part in it."""
        with self._lock:
            session = self.get(sid)
            return session is not None and client_id in {
                chain.client_id for chain in session.chains.values()
            }

    @staticmethod
    def _take_part_from(session: Session, client_id: str) -> None:
        for chain in [c for c in session.chains.values() if c.client_id == client_id]:
            del session.chains[chain.id]

    def rotate(self, sid: str, chain: str, jti: str) -> ClientSession:
        """Spend the refresh token ``jti``: the chain's next one has another id.

        Raises InvalidGrantError; a token that was spent before takes the session from its client,
        because either of its two bearers may be a thief (RFC 9700, section 4.14.2). The browser's
        session goes on, in Keycloak as here: the next login needs no password.
        """
        with self._lock:
            session = self.get(sid)
            if session is None:
                raise InvalidGrantError("Session not active")
            client_session = session.chains.get(chain)
            if client_session is None:
                raise InvalidGrantError("Session doesn't have required client")
            if self.rotation and client_session.refresh_jti != jti:
                self._take_part_from(session, client_session.client_id)
                raise InvalidGrantError("Maximum allowed refresh token reuse exceeded")
            client_session.refresh_jti = str(uuid.uuid4())
            session.last_used = self._clock()
            return client_session

    def spend(self, session: Session) -> None:
        """Spend all refresh tokens of a session, as if somebody else had used them."""
        with self._lock:
            for client_session in session.chains.values():
                client_session.refresh_jti = str(uuid.uuid4())

    def save_code(self, code: str, record: AuthorizationCode) -> None:
        with self._lock:
            now = self._clock()
            self._codes = {c: r for c, r in self._codes.items() if now < r.expires_at}
            self._codes[code] = record

    def take_code(self, code: str, client_id: str) -> AuthorizationCode:
        """Spend a code. Raises InvalidGrantError; a code spent twice revokes what it gave."""
        with self._lock:
            record = self._codes.get(code)
            if record is None or record.client_id != client_id:
                raise InvalidGrantError("Code not valid")
            if record.used:
                if record.client_session is not None:
                    record.session.chains.pop(record.client_session.id, None)
                raise InvalidGrantError("Code not valid")
            record.used = True
            if self._clock() >= record.expires_at:
                raise InvalidGrantError("Code is expired")
            if self.get(record.session.sid) is None:
                raise InvalidGrantError("Code not valid")
            return record

    def peek_code(self, code: str) -> str:
        """The user name behind a code, or nothing."""
        with self._lock:
            record = self._codes.get(code)
            return record.session.username if record else ""

    def _is_alive(self, session: Session) -> bool:
        now = self._clock()
        return (
            session.sid in self._sessions
            and now < session.started + self.lifetimes.session
            and now < session.last_used + self.lifetimes.refresh_token
        )
