"""What if a job were not our launcher, but somebody who says what a test wants?

A *puppet* is a job whose script hands its ticket to the test and then waits: the test speaks the
job channel in its place, with the few lines of signing written once more (docs/channel.md).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import queue
import re
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.journeys.person import Person
from tests.journeys.site import Site

#: The option that makes a job a puppet, a field that every connection mode has.
PUPPET = {"constraint": "puppet"}
#: Seconds until a job has started, or a request been answered.
TIMEOUT = 20.0

_SCRIPT = """\
#!/bin/bash
{{%- if partition %}}
#SBATCH --partition={{{{partition}}}}
{{%- endif %}}
{{% if constraint == "puppet" %}}
'{python}' -c "import os, socket
s = socket.create_connection(('127.0.0.1', {port}))
s.sendall((os.environ['FIRECREST_TICKET'] + ' ' + os.environ['SLURM_JOB_ID'] + chr(10)).encode())
s.recv(1)"
{{% else %}}
{{{{prologue}}}}
{{{{cmd}}}}
{{% endif %}}
"""

_REQUEST = re.compile(r" (GET|POST|DELETE) /hub/")

_CONFIG = """
import firecrestspawner.cluster
firecrestspawner.cluster.SETTLING = 1.0  # seconds: the stand-in is quick
c.FirecRESTSpawner.batch_script = {script!r}
c.FirecRESTSpawner.option_fields = ["partition", "account", "runtime", "constraint", "qos"]
c.FirecRESTSpawner.stop_patience = 10
"""


class Puppet:
    """One job. ``answer`` is the Hub's to the first hello, ``job_id`` the scheduler's."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        packed, self.job_id = _line(connection).split()
        ticket = json.loads(base64.urlsafe_b64decode(packed))
        self.url: str = ticket["url"]
        self.ticket: str = ticket["ticket"]
        self.spawn_id, _, self.ticket_secret = self.ticket.partition(".")
        self.nonce = secrets.token_hex(16)
        self.answer: dict[str, Any] = {}

    # -- the channel -------------------------------------------------------------------------

    def post(self, message: dict[str, Any], **kwargs: Any) -> httpx.Response:
        """Say anything. S7: whatever the answer is, nobody on the way may keep it."""
        answer = httpx.post(self.url, json=message, trust_env=False, timeout=TIMEOUT, **kwargs)
        assert answer.headers["cache-control"] == "no-store", answer
        return answer

    def greeting(self, **changes: Any) -> dict[str, Any]:
        """A hello, not sent."""
        own = {"ticket": self.ticket, "nonce": self.nonce, "job_id": self.job_id}
        return {"message": "hello", **own, **changes}

    def hello(self) -> dict[str, Any]:
        """Say hello; the Hub's proven answer."""
        answer = self.post(self.greeting())
        assert answer.status_code == 200, answer.text
        self.answer = proven(answer.json(), self.ticket_secret)
        return self.answer

    def signed(self, message: str, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """A later message with its signature, not sent."""
        body = {"message": message, "spawn_id": self.spawn_id, **fields}
        return {**body, "mac": mac(body, key or self.answer["secret"])}

    def say(self, message: str, **fields: Any) -> dict[str, Any]:
        """Say something signed; the Hub's proven answer."""
        answer = self.post(self.signed(message, **fields))
        assert answer.status_code == 200, answer.text
        return proven(answer.json(), self.answer["secret"])

    def ready(self, port: int, *addresses: str) -> dict[str, Any]:
        return self.say("ready", addresses=list(addresses), port=port)

    # -- the job -----------------------------------------------------------------------------

    def end(self) -> None:
        """Let the script come to its end."""
        self._connection.close()

    def wait_until_ended(self, timeout: float = TIMEOUT) -> None:
        """Wait until the job is gone; TimeoutError after ``timeout`` seconds."""
        self._connection.settimeout(timeout)
        with contextlib.suppress(ConnectionError):
            assert self._connection.recv(1) == b""

    @contextlib.contextmanager
    def serving(self, address: str = "127.0.0.2") -> Iterator[int]:
        """Something that answers as a single-user server would, on a port that is allowed."""
        low, high = self.answer["ports"]
        with _server(address, low, high) as port:
            yield port


class Theatre:
    """Where puppets report; as a context manager it is open inside."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._puppets: queue.Queue[Puppet] = queue.Queue()
        self._all: list[Puppet] = []
        self._thread = threading.Thread(target=self._accept)
        self._threads = ThreadPoolExecutor(4)

    def __enter__(self) -> Theatre:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self._threads.shutdown()
        self.clear()

    @property
    def config(self) -> str:
        """For the Hub's configuration file."""
        port = self._listener.getsockname()[1]
        return _CONFIG.format(script=_SCRIPT.format(python=sys.executable, port=port))

    def next(self) -> Puppet:
        """The next job that has started."""
        return self._puppets.get(timeout=TIMEOUT)

    def clear(self) -> None:
        """Let every job come to its end."""
        while self._all:
            self._all.pop().end()
        while not self._puppets.empty():
            self._puppets.get()

    def ask(self, person: Person, server: str, **options: str) -> Future[httpx.Response]:
        """Ask for a puppet through the Hub's REST API; the answer comes while it starts."""
        return self._threads.submit(ask, person, server, **PUPPET | options)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            puppet = Puppet(connection)
            self._all.append(puppet)
            self._puppets.put(puppet)


def ask(person: Person, server: str, **options: Any) -> httpx.Response:
    """Ask for a server through the Hub's REST API; the answer, whatever its status."""
    path = f"/hub/api/users/{person.name}/servers/{server}"
    headers = person._xsrf_header("/hub/api")
    return person._http.post(f"{person.url}{path}", json=options, headers=headers)


def mac(message: dict[str, Any], key: str) -> str:
    """HMAC-SHA256 of the canonical form."""
    unsigned = {name: value for name, value in message.items() if name != "mac"}
    text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def proven(answer: dict[str, Any], key: str) -> dict[str, Any]:
    """An answer, once its signature was found to be right."""
    assert answer["mac"] == mac(answer, key)
    return answer


def _line(connection: socket.socket) -> str:
    text = b""
    while not text.endswith(b"\n"):
        part = connection.recv(65536)
        assert part, "the job went away before it had said its ticket"
        text += part
    return text.decode().strip()


class _Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"version": "puppet"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextlib.contextmanager
def _server(address: str, low: int, high: int) -> Iterator[int]:
    for port in range(high, low - 1, -1):
        with contextlib.suppress(OSError):
            server = ThreadingHTTPServer((address, port), _Answering)
            break
    else:
        raise AssertionError(f"no port of {low}-{high} is free on {address}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Log:
    """What a Hub has logged since this object was made."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._from = site.hub_log.stat().st_size

    @property
    def text(self) -> str:
        with self._site.hub_log.open("rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def loud(self) -> list[str]:
        """Warnings and worse, and lines that are part of a traceback; without those in which the
        web server tells of a request: its error status, its lack of an XSRF token."""
        return [
            line
            for line in self.text.splitlines()
            if not line.startswith(("[D", "[I")) and not _REQUEST.search(line)
        ]
