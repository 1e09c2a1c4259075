"""How is the demo's OpenID Connect issuer started, asked and stopped?

A Keycloak realm as its clients see it, on loopback, without Keycloak::

    with Issuer() as issuer:
        issuer.url                            # http://127.0.0.1:PORT/realms/demo
        issuer.log_in("alice")                # a token answer, without the browser
        issuer.faults.set("token", status=503, times=2)
        issuer.end_session("alice")

or, in a process of its own, ``python -m firecrestspawner.demo.issuer --port 9001``.

Its users are alice (wonderland), bob (builder) and admin (lighthouse), its clients
``jupyterhub`` (demo-hub-secret) and ``jupyterhub-service`` (demo-service-secret). These words are
public: it is for trying out and for tests.

==================  ============================================================
issuer_accounts     users, clients, redirect URIs
issuer_sessions     sessions, codes, the rotation of refresh tokens
issuer_tokens       claims, signatures
issuer_backchannel  word to clients that a session has ended
issuer_exchange     token exchange, which Authlib lacks
issuer_grants       Authlib's grants and endpoints, on all of these
issuer_app          the HTTP endpoints (Flask)
issuer_pages        what a person sees
issuer_faults       misbehaviour on demand
issuer_server       the HTTP server (cheroot)
==================  ============================================================
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from firecrestspawner.demo.issuer_accounts import (
    DEFAULT_CLIENTS,
    DEFAULT_USERS,
    DemoClient,
    DemoUser,
)
from firecrestspawner.demo.issuer_app import REALM_PATH, IssuerApp, Seen
from firecrestspawner.demo.issuer_backchannel import notify
from firecrestspawner.demo.issuer_faults import Faults
from firecrestspawner.demo.issuer_grants import Realm
from firecrestspawner.demo.issuer_server import LoopbackServer
from firecrestspawner.demo.issuer_sessions import Lifetimes, Sessions
from firecrestspawner.demo.issuer_tokens import TokenMint

__all__ = ["DEFAULT_CLIENTS", "DEFAULT_USERS", "DemoClient", "DemoUser", "Issuer", "Seen"]


class Issuer:
    """The issuer, in threads of this process.

    Parameters
    ----------
    port: 0 takes a free one. It, the keys and the sessions outlive :meth:`stop` and
        :meth:`start`, so that an outage of the issuer can be played.
    users, clients: who there is; :data:`DEFAULT_USERS`, :data:`DEFAULT_CLIENTS` by default.
    access_token_lifetime, refresh_token_lifetime, session_lifetime: seconds. A session that is
        idle for a refresh token's lifetime ends. ``lifetimes`` has them, to be changed.
    host: a loopback address.
    audience: the access tokens' ``aud``.

    Raises ValueError for another address; OSError where the port is taken.

    ``faults`` makes it misbehave, and turns its clock; its docstring lists what can go wrong.
    """

    def __init__(
        self,
        port: int = 0,
        users: Iterable[DemoUser] | None = None,
        clients: Iterable[DemoClient] | None = None,
        access_token_lifetime: float = 300,
        refresh_token_lifetime: float = 1800,
        session_lifetime: float = 36000,
        host: str = "127.0.0.1",
        audience: Sequence[str] = ("account", "firecrest"),
    ) -> None:
        self.faults = Faults()
        self.lifetimes = Lifetimes(access_token_lifetime, refresh_token_lifetime, session_lifetime)
        self._users = {u.name: u for u in (DEFAULT_USERS if users is None else users)}
        self._clients = {c.client_id: c for c in (DEFAULT_CLIENTS if clients is None else clients)}
        self._sessions = Sessions(self.lifetimes, self.faults.clock)
        self._mint = TokenMint(self._users, self._sessions, self.faults.clock, tuple(audience))
        self._realm = Realm(self._users, self._clients, self._sessions, self._mint)
        self._app = IssuerApp(self._realm, self.faults)
        self._server = LoopbackServer(host, port, self._app)

    def start(self) -> Issuer:
        """Listen. Without effect when running."""
        if not self._server.running:
            self.faults.stopping(False)
            self._server.bind()
            self._mint.issuer = self.url
            self._server.serve()
        return self

    def stop(self) -> None:
        """Close the port. Without effect when stopped."""
        self.faults.stopping(True)
        self._server.stop()

    def __enter__(self) -> Issuer:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """0 until the first start, if no port was asked for."""
        return self._server.port

    @property
    def url(self) -> str:
        """The issuer identifier, the ``iss`` of its tokens."""
        host = self._server.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{REALM_PATH}"

    @property
    def requests(self) -> list[Seen]:
        """The last thousand requests, oldest first: endpoint, grant type, client, user."""
        return self._app.seen

    def log_in(
        self, username: str, client_id: str = "jupyterhub", scope: str = "openid"
    ) -> dict[str, Any]:
        """A new session of the user, and the token answer that its code would have brought.

        Raises KeyError for an unknown user or client.
        """
        client = self._clients[client_id]
        session = self._sessions.open(self._users[username].name)
        chain = self._sessions.attach(session, client_id, client.get_allowed_scope(scope))
        answer = self._mint.answer("authorization_code", client, chain, chain.scope)
        if "openid" in chain.scope.split():
            answer["id_token"] = self._mint.id_token(answer, chain, client, None)
        return answer

    def service_token(self, client_id: str = "jupyterhub-service") -> dict[str, Any]:
        """A client_credentials answer. Raises KeyError for an unknown client."""
        return self._mint.answer("client_credentials", self._clients[client_id])

    def sessions(self, username: str) -> list[str]:
        """The ids (``sid``) of the user's live sessions."""
        return [session.sid for session in self._sessions.of_user(username)]

    def end_session(self, username: str) -> int:
        """End the user's sessions, as an administrator would; how many there were.

        Clients that want to know have been told when it returns.
        """
        sessions = self._sessions.of_user(username)
        for session in sessions:
            self._sessions.end(session)
            notify(session, self._clients, self._mint)
        return len(sessions)

    def logout_token(self, username: str, client_id: str = "jupyterhub", **changes: Any) -> str:
        """A logout token about the user's newest session, or one that never was, not sent.

        ``changes``: claims to be other than they should; None leaves one out. Raises KeyError for
        an unknown client.
        """
        sid = (self.sessions(username) or [str(uuid.uuid4())])[-1]
        return self._mint.logout_token(self._clients[client_id], username, sid, changes)

    def spend_refresh_tokens(self, username: str) -> int:
        """Use up the user's refresh tokens, as a thief would; how many sessions there were.

        Their next use is a reuse, which takes the session from the client.
        """
        sessions = self._sessions.of_user(username)
        for session in sessions:
            self._sessions.spend(session)
        return len(sessions)

    def revoke_before_now(self) -> None:
        """Refuse all refresh tokens made until now (Keycloak: push a not-before policy)."""
        self._sessions.not_before = int(self.faults.clock()) + 1

    @property
    def rotation(self) -> bool:
        """Whether a refresh token is good only once; Keycloak's *Revoke Refresh Token*."""
        return self._sessions.rotation

    @rotation.setter
    def rotation(self, rotation: bool) -> None:
        self._sessions.rotation = rotation

    def update_user(self, username: str, **changes: Any) -> DemoUser:
        """Change fields of a :class:`DemoUser`: tokens made from now on show it.

        Raises KeyError for an unknown user, TypeError for an unknown field.
        """
        self._users[username] = replace(self._users[username], **changes)
        return self._users[username]

    def update_client(self, client_id: str, **changes: Any) -> DemoClient:
        """Change fields of a :class:`DemoClient`; errors as :meth:`update_user`."""
        self._clients[client_id] = replace(self._clients[client_id], **changes)
        return self._clients[client_id]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the issuer until SIGTERM or SIGINT; its sessions and keys end with it."""
    parser = argparse.ArgumentParser(
        prog="python -m firecrestspawner.demo.issuer",
        description="An OpenID Connect issuer with made-up users, for demos and tests only.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (%(default)s)")
    for name, seconds in (("access-token", 300), ("refresh-token", 1800), ("session", 36000)):
        parser.add_argument(
            f"--{name}-lifetime", type=float, default=seconds, help="seconds (%(default)s)"
        )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with Issuer(**vars(arguments)) as issuer:
        print(f"issuer ready: {issuer.url}", flush=True)
        done.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
