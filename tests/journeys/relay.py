"""What if an answer is lost between the Hub and a job? A relay that loses some on purpose."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import httpx


class Relay:
    """Forwards every request to ``target`` (a URL, which may be set after the start).

    ``lose`` is asked for each request, by its path and body, whether the answer is to be lost:
    the request has had its effect by then, and the connection is reset. ``lost`` are their bodies.
    """

    def __init__(self) -> None:
        self.target = ""
        self.lose: Callable[[str, bytes], bool] = lambda path, body: False
        self.lost: list[bytes] = []
        self._client = httpx.Client(trust_env=False, timeout=30)
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body are two writes.
            wbufsize = -1

            def do_GET(self) -> None:
                relay._forward(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._client.close()

    def _forward(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "connection", "accept-encoding")
        }
        url = self.target + request.path
        try:
            answer = self._client.request(request.command, url, content=body, headers=headers)
        except httpx.TransportError:  # the target is away
            _reset(request)
            return
        if self.lose(request.path, body):
            self.lost.append(body)
            _reset(request)
            return
        request.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date",
                                    "server", "content-encoding"):  # fmt: skip
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(answer.content)))
        request.end_headers()
        request.wfile.write(answer.content)
        request.wfile.flush()


def _reset(request: BaseHTTPRequestHandler) -> None:
    linger = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.close_connection = True
    request.connection.close()
