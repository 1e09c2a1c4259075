"""Who signs the tokens in the contract tests? A key and a JWKS endpoint of their own."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey


class Issuer:
    """Publishes one RSA key at ``jwks_url``; ``asked`` counts how often it was fetched."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "alg": "RS256", "use": "sig"})
        self.stranger = RSAKey.generate_key(2048, {"kid": "k1", "alg": "RS256", "use": "sig"})
        self.asked = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = json.dumps({"keys": [issuer.key.as_dict(private=False)]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.jwks_url = f"http://127.0.0.1:{self._server.server_port}/jwks"

    def token(self, user: str | None, lifetime: float = 300, **claims: Any) -> str:
        """An access token; claims that are None are left out."""
        now = int(time.time())
        content = {"preferred_username": user, "exp": now + lifetime, "iat": now, **claims}
        present = {name: value for name, value in content.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": "k1"}, present, self.key)

    def odd_tokens(self) -> dict[str, str]:
        """Tokens that FirecREST refuses, by the name of the recording of its refusal."""
        claims = {"preferred_username": "alice", "exp": int(time.time()) + 300}
        signed = self.token("alice")
        # The payload is another's, the signature stays.
        header, _, signature = signed.split(".")
        other = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "x"}).encode()).rstrip(b"=")
        return {
            "auth_expired": self.token("alice", -1),
            "auth_garbage": "not.a.token",
            "auth_ttl_29s": self.token("alice", 28),
            "auth_unknown_kid": jwt.encode({"alg": "RS256", "kid": "k2"}, claims, self.key),
            "auth_no_kid": jwt.encode({"alg": "RS256"}, claims, self.key),
            "auth_wrong_signature": f"{header}.{other.decode()}.{signature}",
            "auth_no_username_claim": self.token(None),
        }

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
