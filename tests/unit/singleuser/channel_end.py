"""What does a launcher under test need: a Hub's end of the channel, and a server to run?"""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from firecrestspawner import script

SOURCE = Path(script.__file__).with_name("singleuser.py")
SPAWN_ID = "0123456789abcdef"
TICKET_SECRET = "ticket-secret-" + "x" * 20
CHANNEL_SECRET = "channel-secret-" + "y" * 20
API_TOKEN = "hub-token-of-the-server"
PATIENCE = 20.0  # seconds a test waits for a condition before it fails

# The launcher with the pace of a test: seconds become milliseconds, nothing else changes.
FAST = {
    "FIRST_DELAY": 0.02,
    "LONGEST_DELAY": 0.1,
    "SHORTEST_ALIVE": 0.02,
    "REQUEST_DEADLINE": 2.0,
    "FAREWELL": 2.0,
}
RUN = """
import json, sys
source, pace = sys.argv[1], json.loads(sys.argv[2])
launcher = {"__name__": "launcher"}
exec(compile(open(source).read(), source, "exec"), launcher)
launcher.update(pace)
sys.argv[1:] = sys.argv[3:]
sys.exit(launcher["main"]())
"""
# A single-user server: listens where it is told, leaves word of what it saw, ends as it is told.
SERVER = """
import json, os, signal, socket, sys, urllib.parse
url = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
behaviour = os.environ.get("BEHAVIOUR", "")
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "code 3":
    sys.exit(3)
if behaviour == "kill 9":
    os.kill(os.getpid(), 9)
def seen():
    with open(os.environ["SEEN"] + ".part", "w") as file:
        json.dump({"env": dict(os.environ), "pid": os.getpid(), "url": url.geturl()}, file)
    os.rename(os.environ["SEEN"] + ".part", os.environ["SEEN"])
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if behaviour == "port lost once" and not os.path.exists(os.environ["SEEN"] + ".lost"):
        # What takes the port in between is another process, not of the server's group.
        open(os.environ["SEEN"] + ".lost", "w").write(str(url.port))
        os.read(os.open(os.environ["SEEN"] + ".taken", os.O_RDONLY), 1)
    if behaviour != "silent":
        listener.bind((url.hostname, url.port))
        listener.listen()
    seen()
    signal.pause()
"""


def mac(message: Mapping[str, object], key: str) -> str:
    unsigned = {k: v for k, v in message.items() if k != "mac"}
    text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def sealed(key: str, **fields: object) -> tuple[int, bytes]:
    answer = {"spawn_id": SPAWN_ID, **fields}
    return 200, json.dumps({**answer, "mac": mac(answer, key)}).encode()


ALIVE = sealed(CHANNEL_SECRET, verdict="alive", next=0)
ENDED = sealed(CHANNEL_SECRET, verdict="ended", reason="stopped by the user")
UNKNOWN = 200, json.dumps({"spawn_id": SPAWN_ID, "verdict": "unknown"}).encode()


class Hub:
    """The Hub's end of the channel. `replies[kind]` are used up one by one, the last one stays."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.changed = threading.Condition()
        self.start: dict[str, Any] = {}
        self.replies: dict[str, list[Any]] = {
            "ready": [ALIVE],
            "alive": [ALIVE],
            "exiting": [ALIVE],
        }
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with hub.changed:
                    hub.received.append(body)
                    hub.headers.append(dict(self.headers))
                    hub.changed.notify_all()
                    replies = hub.replies.get(body["message"]) or [hub.started()]
                    reply = replies.pop(0) if len(replies) > 1 else replies[0]
                if callable(reply):
                    reply = reply(self)
                if reply is None:
                    self.close_connection = True
                    return
                status, text, *more = reply
                self.send_response(status)
                for name, value in more:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass  # clients that hang up are part of the tests

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hub/api/firecrest/job"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def started(self) -> tuple[int, bytes]:
        return sealed(TICKET_SECRET, verdict="start", secret=CHANNEL_SECRET, **self.start)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def messages(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.received if one["message"] == kind]

    def wait(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The `count`th message of its kind, once it has come."""
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.messages(kind)) >= count, PATIENCE)
        assert came, f"no {count} {kind!r} in {self.received}"
        return self.messages(kind)[count - 1]


class Job:
    """A launcher under way."""

    def __init__(self, process: subprocess.Popen[str], seen: Path) -> None:
        self.process = process
        self.seen_path = seen

    def wait(self) -> tuple[int, str]:
        """(exit code, what it said)."""
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said

    def seen(self) -> dict[str, Any]:
        """What the server saw, once it has started."""
        eventually(self.seen_path.exists)
        return json.loads(self.seen_path.read_text())


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


Launch = Callable[..., Job]


def ticket(hub: Hub, patience: int = 15, unknown_patience: int = 86400) -> str:
    return script.encode_ticket(hub.url, f"{SPAWN_ID}.{TICKET_SECRET}", patience, unknown_patience)
