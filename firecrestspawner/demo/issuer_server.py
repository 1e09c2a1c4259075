"""How does the demo's issuer speak HTTP, on loopback only, beside other work?"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
import threading
from typing import Any

from cheroot import wsgi

from firecrestspawner.demo.issuer_faults import ConnectionDropped

log = logging.getLogger("firecrestspawner.demo.issuer")

#: Requests served at the same time; those held back by a fault count.
THREADS = 24
#: Connections kept open between requests.
KEPT_ALIVE = 200


class Gateway(wsgi.Gateway_10):
    """Hands requests to the application, and resets the connection where it asks for that."""

    def respond(self) -> None:
        try:
            super().respond()
        except ConnectionDropped:
            connection = self.req.conn
            # Closing with a zero linger time sends RST; the server would shut down (FIN) first.
            connection.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            connection.linger = True
            connection.socket.close()
            # The server takes this one for the peer's doing, and goes on without a word.
            raise ConnectionResetError(errno.ECONNRESET, "dropped on purpose") from None


class _Server(wsgi.Server):
    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        log.log(level, "%s", msg, exc_info=traceback)


class LoopbackServer:
    """A WSGI application served by threads of this process, with keep-alive.

    Raises ValueError for an address that is not loopback; OSError (:meth:`start`) where the port
    is taken. ``port`` 0 becomes a free one, and stays the same over stop and start.
    """

    def __init__(self, host: str, port: int, application: Any) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the demo's issuer listens on loopback only, not on {host}")
        self.host = host
        self.port = port
        self._application = application
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._server is not None

    def bind(self) -> None:
        """Take the port; requests wait until :meth:`serve`."""
        server = _Server(
            (self.host, self.port),
            self._application,
            numthreads=THREADS,
            server_name=self.host,
            request_queue_size=128,
            timeout=30,
        )
        server.gateway = Gateway
        server.keep_alive_conn_limit = KEPT_ALIVE
        server.expiration_interval = 0.1
        server.prepare()
        # Cheroot leaves it off for port 0: connections that end with the server would keep the port
        # from the next one for a minute.
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server = server
        self.port = server.bind_addr[1]

    def serve(self) -> None:
        """Answer requests in a thread."""
        if self._server is None:
            raise RuntimeError("the port is not bound")
        self._thread = threading.Thread(target=self._server.serve, name="demo-issuer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections; without effect when stopped."""
        server, self._server = self._server, None
        if server is None:
            return
        server.stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
