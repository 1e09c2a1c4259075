"""How much later does a server listen because the launcher starts it?

The same ``jupyterhub-singleuser`` against the same stand-in for a Hub's API, started plainly and
through the launcher, in turns: each by a shell, as a batch script starts it.

One start of Jupyter differs from the next by more than the launcher adds, so a start is taken
apart: until the server's own process runs, until its port accepts, and, through the launcher, until
its ``ready`` has arrived. The first and the last are what the launcher adds; the one between is the
server's, and shows whether the launcher's watching slows it.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import jupyterhub

from firecrestspawner import channel, script

#: Seconds within which a server must have come up.
PATIENCE = 60.0


class Hub(ThreadingHTTPServer):
    """As much of a Hub as one server needs to start: its version, and the job channel."""

    daemon_threads = True

    def __init__(self, environment: dict[str, str], command: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.environment = environment
        self.command = command
        self.port = free_port()
        self.line = channel.Line.new()
        self.ready = threading.Event()
        self.ready_at = 0.0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hub/api"


class Answers(BaseHTTPRequestHandler):
    """One request to the stand-in."""

    server: Hub

    def do_GET(self) -> None:
        self._reply({"version": jupyterhub.__version__})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/firecrest/job"):
            self._reply({})
            return
        message, _ = channel.parse(body)
        if isinstance(message, channel.Hello):
            fields: dict[str, Any] = {"environment": self.server.environment}
            fields |= {"command": self.server.command, "grace": 1}
            fields |= {"ports": [self.server.port] * 2}
            self._reply(self.server.line.start(**fields))
            return
        if isinstance(message, channel.Ready):
            self.server.ready_at = time.time()
            self.server.ready.set()
        self._reply(self.server.line.alive(60))

    def _reply(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-JupyterHub-Version", jupyterhub.__version__)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        return


def environment(api: str, port: int) -> dict[str, str]:
    """What a Hub would tell a single-user server."""
    return {
        "JUPYTERHUB_API_TOKEN": "benchmark",
        "JUPYTERHUB_API_URL": api,
        "JUPYTERHUB_ACTIVITY_URL": f"{api}/users/alice/activity",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice",
        "JUPYTERHUB_HOST": "",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": "[]",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/alice/oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": "[]",
        "JUPYTERHUB_SERVER_NAME": "",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/user/alice/",
        "JUPYTERHUB_USER": "alice",
    }


class Start(NamedTuple):
    """One start, in seconds: until the server's process runs, until it listens, until `ready`."""

    before: float
    own: float
    after: float


def run(rounds: int) -> None:
    """Print the medians of ``rounds`` starts of both kinds, and what the launcher adds."""
    with tempfile.TemporaryDirectory() as folder:
        plain, launched = [], []
        for _ in range(rounds):
            plain.append(start_plainly(Path(folder)))
            launched.append(start_through_launcher(Path(folder)))
    without, with_it = medians(plain), medians(launched)
    added = with_it.before - without.before + with_it.after
    base = without.before + without.own
    print("launcher start-up (exec until the server listens and the Hub knows)")
    for name, start in (("plain jupyterhub-singleuser", without), ("through launcher", with_it)):
        print(
            f"  {name:27} {start.before * 1000:4.0f} ms to its exec, {start.own * 1000:5.0f} ms "
            f"its own, {start.after * 1000:3.0f} ms to ready"
        )
    print(
        f"  added                       {added * 1000:4.0f} ms of {base * 1000:.0f} ms "
        f"= {added / base:.1%} (goal: at most 100 ms)"
    )


def medians(starts: list[Start]) -> Start:
    return Start(*(statistics.median(part) for part in zip(*starts, strict=True)))


def command(stamp: Path) -> list[str]:
    """The server's command, which first writes into `stamp` when it began (seconds)."""
    root = ["--allow-root"] if os.getuid() == 0 else []
    server = [sys.executable, "-m", "jupyterhub.singleuser", *root]
    return ["sh", "-c", 'date +%s.%N >"$0"; exec "$@"', str(stamp), *server]


def start_plainly(folder: Path) -> Start:
    hub = serve(Hub({}, []))
    began = time.time()
    line = f"exec {shlex.join(command(folder / 'stamp'))}"
    server = launch(["bash", "-c", line], environment(hub.api, hub.port), folder)
    try:
        listens = wait_for_port(hub.port, server)
        runs = float((folder / "stamp").read_text())
        return Start(runs - began, listens - runs, 0.0)
    finally:
        end(server, hub)


def start_through_launcher(folder: Path) -> Start:
    hub = serve(Hub({}, command(folder / "stamp")))
    hub.environment.update(environment(hub.api, 0))
    ticket = script.encode_ticket(f"{hub.api}/firecrest/job", hub.line.ticket.reveal(), 60)
    variables = {
        "FIRECREST_TICKET": ticket,
        "FIRECREST_LAUNCHER": script.pack_launcher(),
        "FIRECREST_FILE": str(folder / "none"),
        "SLURM_JOB_ID": "1",
    }
    began = time.time()
    # The same interpreter for both: one behind a shim of a version manager costs more by itself.
    line = f"exec {script.launcher_command(sys.executable)}"
    server = launch(["bash", "-c", line], variables, folder)
    try:
        listens = wait_for_port(hub.port, server)
        if not hub.ready.wait(PATIENCE):
            raise RuntimeError("the launcher did not report ready")
        runs = float((folder / "stamp").read_text())
        return Start(runs - began, listens - runs, hub.ready_at - listens)
    finally:
        end(server, hub)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, server: subprocess.Popen[bytes]) -> float:
    """When the port accepted, seconds since the epoch."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return time.time()
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("jupyterhub-singleuser did not start")
        time.sleep(0.002)


def serve(hub: Hub) -> Hub:
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    return hub


def launch(argv: list[str], variables: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    log = (folder / "log").open("ab")
    return subprocess.Popen(
        argv,
        env={**kept, "HOME": str(folder), **variables},
        cwd=folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def end(server: subprocess.Popen[bytes], hub: Hub) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        # A plain Jupyter forgets a signal that comes between its port and its event loop.
        server.kill()
        server.wait()
    hub.shutdown()
    hub.server_close()
