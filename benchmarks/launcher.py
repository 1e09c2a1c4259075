"""How much later does a server listen because the launcher starts it?

The same ``jupyterhub-singleuser`` against the same stand-in for a Hub's API, started plainly and
through the launcher as a batch script starts it, in turns. Plain ends when the port accepts; the
launcher's ends when its ``ready`` arrives, so its own watching is counted in.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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
            fields |= {"command": self.server.command, "ports": [0, 0], "grace": 1}
            self._reply(self.server.line.start(**fields))
            return
        if isinstance(message, channel.Ready):
            self.server.ready_at = time.perf_counter()
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


def run(rounds: int) -> None:
    """Print both times, medians of ``rounds``, and what the launcher adds."""
    with tempfile.TemporaryDirectory() as folder:
        plain, launched = [], []
        for _ in range(rounds):
            plain.append(start_plainly(Path(folder)))
            launched.append(start_through_launcher(Path(folder)))
    added = [with_it - without for with_it, without in zip(launched, plain, strict=True)]
    base = statistics.median(plain)
    print("launcher start-up (exec until the server listens)")
    print(f"  plain jupyterhub-singleuser  {base * 1000:7.0f} ms")
    print(f"  through the launcher         {statistics.median(launched) * 1000:7.0f} ms")
    print(
        f"  added                        {statistics.median(added) * 1000:7.0f} ms "
        f"= {statistics.median(added) / base:.1%} (goal: at most 100 ms)"
    )


def command() -> list[str]:
    root = ["--allow-root"] if os.getuid() == 0 else []
    return [sys.executable, "-m", "jupyterhub.singleuser", *root]


def start_plainly(folder: Path) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hub = serve(Hub({}, []))
    began = time.perf_counter()
    server = launch(command(), {**environment(hub.api, port)}, folder)
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return time.perf_counter() - began
            if server.poll() is not None or time.perf_counter() - began > PATIENCE:
                raise RuntimeError("jupyterhub-singleuser did not start")
            time.sleep(0.002)
    finally:
        end(server, hub)


def start_through_launcher(folder: Path) -> float:
    hub = serve(Hub({}, command()))
    hub.environment.update(environment(hub.api, 0))
    ticket = script.encode_ticket(f"{hub.api}/firecrest/job", hub.line.ticket.reveal(), 60)
    variables = {
        "FIRECREST_TICKET": ticket,
        "FIRECREST_LAUNCHER": script.pack_launcher(),
        "FIRECREST_FILE": str(folder / "none"),
        "SLURM_JOB_ID": "1",
    }
    began = time.perf_counter()
    # The same interpreter for both: one behind a shim of a version manager costs more by itself.
    line = f"exec {script.launcher_command(sys.executable)}"
    server = launch(["bash", "-c", line], variables, folder)
    try:
        if not hub.ready.wait(PATIENCE):
            raise RuntimeError("the launcher did not report ready")
        return hub.ready_at - began
    finally:
        end(server, hub)


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
    server.wait(PATIENCE)
    hub.shutdown()
    hub.server_close()
