"""How does a peer on TCP misbehave below HTTP: resets, garbage, half answers, silence?"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

#: What the server can do with a connection.
RESET_AT_ONCE = "reset at the request's first byte"
RESET_AFTER = "reset after the request was read"
CLOSE_AFTER = "close without an answer after the request was read"
SILENCE = "read the request and say nothing"


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """An address that refuses connections, and that no other process can begin to listen at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


class RawServer:
    """Listens on a loopback port; ``behaviour`` is one of the above, or the bytes to answer.

    With a ``certificate`` it speaks TLS, as far as it is believed.

    ``received`` holds what each connection sent. Silent connections are kept until the end.
    """

    def __init__(self, behaviour: str | bytes, certificate: Path | None = None) -> None:
        self.behaviour = behaviour
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self.received: list[bytes] = []
        self._held: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A listening socket's accept() ends with shutdown(), not with close().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in (*self._held, self._listener):
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._context is not None:
                try:
                    connection = self._context.wrap_socket(connection, server_side=True)
                except OSError:
                    connection.close()
                    continue
            if self._answer(connection):
                connection.close()
            else:
                self._held.append(connection)

    def _answer(self, connection: socket.socket) -> bool:
        """Do what is asked for; False when the connection is to stay open."""
        connection.settimeout(5)
        if self.behaviour == RESET_AT_ONCE:
            # Not before: a reset while it still connects would be a refusal to the peer.
            connection.recv(1)
            _linger_not(connection)
            return True
        self.received.append(_read_request(connection))
        if self.behaviour == SILENCE:
            return False
        if self.behaviour == RESET_AFTER:
            _linger_not(connection)
        elif isinstance(self.behaviour, bytes):
            with contextlib.suppress(OSError):  # the peer has read enough of it
                connection.sendall(self.behaviour)
        return True


def _linger_not(connection: socket.socket) -> None:
    # Linger 0: closing sends a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _read_request(connection: socket.socket) -> bytes:
    """The head and as much of the body as Content-Length says."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            missing = int(line.split(b":")[1]) - len(body)
            while missing > 0:
                part = connection.recv(65536)
                data, missing = data + part, missing - len(part)
                if not part:
                    break
    return data


def answer(status: str, body: bytes, *headers: str) -> bytes:
    """An HTTP/1.1 answer that ends its connection."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body
