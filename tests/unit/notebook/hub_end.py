"""What does the Hub's token endpoint look like to a program inside a server?"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

API_TOKEN = "server-token-0123456789"


class HubEnd:
    """``GET /hub/api/firecrest/token``, which answers as it is told.

    ``answer`` is what it sends: status, body (bytes, or what becomes JSON) and headers. With
    ``mint`` its tokens come from there. ``asked`` are the queries that came; while ``hold`` is
    cleared, nothing is answered. ``others`` are the ``Authorization`` headers that came elsewhere,
    answered by ``elsewhere``.
    """

    def __init__(self) -> None:
        self.answer: tuple[int, Any, dict[str, str]] | None = None
        self.mint: Callable[[], str] = self._number
        self.expires_in: Any = 300.0
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        self.others: list[str | None] = []
        self.elsewhere: Callable[[], tuple[int, Any, dict[str, str]]] = lambda: (200, {}, {})
        self.hold = threading.Event()
        self.hold.set()
        self._minted = 0
        self._lock = threading.Lock()
        end = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                end._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environ(self) -> dict[str, str]:
        """What the Hub gives its servers."""
        return {"JUPYTERHUB_API_URL": f"{self.url}/hub/api", "JUPYTERHUB_API_TOKEN": API_TOKEN}

    def __enter__(self) -> HubEnd:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, **changes: Any) -> dict[str, Any]:
        """The body of a good answer, with changes; a field that becomes ... is left out."""
        body = {
            "access_token": self.mint(),
            "token_type": "Bearer",
            "expires_at": 4e9,
            "expires_in": self.expires_in,
            "scope": "openid profile",
            **changes,
        }
        return {name: value for name, value in body.items() if value is not ...}

    def _number(self) -> str:
        with self._lock:
            self._minted += 1
            return f"token.{self._minted}"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = handler.path.partition("?")
        authorization = handler.headers["Authorization"]
        if path == "/hub/api/firecrest/token":
            self.asked.append(query)
            self.authorizations.append(authorization)
            self.hold.wait(30)
            status, body, headers = self.answer or (200, self.token(), {})
        else:
            self.others.append(authorization)
            status, body, headers = self.elsewhere()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)
