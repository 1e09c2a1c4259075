"""How does a program run a Jupyter server without a person? Start, use and stop, by the REST API.

    export JUPYTERHUB_URL=https://jupyter.example.org/
    export JUPYTERHUB_API_TOKEN=...
    python service_account.py robot runtime=00:30:00 partition=debug

starts the default server of the Hub's user ``robot`` with these options, runs a line of Python in
it, prints what came of it, and stops the server, whatever happened in between. The exit code is 0
when all went well. It needs httpx and websockets.

What the Hub's configuration has for it:

    c.ServiceAccount.role = "service-account"
    c.JupyterHub.services = [{"name": "nightly", "api_token": os.environ["NIGHTLY_API_TOKEN"]}]
    c.JupyterHub.load_roles = [
        # Its servers are started and stopped as the service account: nobody has to log in.
        {"name": "service-account", "users": ["robot"]},
        # Who may start, see, use and stop them.
        {
            "name": "nightly",
            "scopes": ["servers!user=robot", "access:servers!user=robot"],
            "services": ["nightly"],
        },
    ]

No person's login may be called ``robot``: they would be that user, and run jobs as the service
account.
"""

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator

import httpx
from websockets.sync.client import connect

#: Seconds: until a queued job has to run, between two looks, and for a cell.
PATIENCE, LOOK, CELL = 3600.0, 2.0, 60.0


class Hub:
    """The Hub at ``url``, as the holder of ``token`` may use it."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.token = token
        headers = {"Authorization": f"token {token}"}
        # The Hub says something every eight seconds while a server starts.
        self._http = httpx.Client(headers=headers, timeout=30)

    def start(self, user: str, options: dict[str, str]) -> None:
        """Start the user's server, and wait until it can be used."""
        self._http.post(self._server(user), json=options).raise_for_status()
        for event in self._progress(user):
            print(f"{event.get('progress', 0):3} %  {event.get('message', '')}", file=sys.stderr)
            if event.get("failed"):
                raise SystemExit("The server did not start.")
            if event.get("ready"):
                return
        raise SystemExit(f"The server has not started within {PATIENCE:.0f} s.")

    def _progress(self, user: str) -> Iterator[dict[str, object]]:
        """The events of the pending page. The stream is asked for again where it breaks."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                with self._http.stream("GET", f"{self._server(user)}/progress") as answer:
                    answer.raise_for_status()
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            yield json.loads(line.removeprefix("data:"))
            except httpx.TransportError as error:
                print(f"Trying again: {type(error).__name__}", file=sys.stderr)
            time.sleep(LOOK)

    def run(self, user: str, code: str) -> str:
        """Run code in a new kernel of the user's server; what it printed."""
        kernels = f"{self.url}/user/{user}/api/kernels"
        kernel = self._http.post(kernels).raise_for_status().json()["id"]
        try:
            return self._execute(f"{kernels}/{kernel}/channels", code)
        finally:
            self._http.delete(f"{kernels}/{kernel}")

    def _execute(self, channels: str, code: str) -> str:
        """Jupyter's messaging protocol: an execute_request, and its outputs until it is idle."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3",
                  "username": "", "session": uuid.uuid4().hex}  # fmt: skip
        request = {"header": header, "parent_header": {}, "metadata": {}, "channel": "shell",
                   "content": {"code": code, "silent": False}}  # fmt: skip
        printed = ""
        deadline = time.monotonic() + CELL
        authorization = {"Authorization": f"token {self.token}"}
        with connect(
            channels.replace("http", "ws", 1), additional_headers=authorization, proxy=None
        ) as socket:
            socket.send(json.dumps(request))
            while True:
                message = json.loads(socket.recv(timeout=deadline - time.monotonic()))
                if message["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                content = message["content"]
                if message["msg_type"] == "stream":
                    printed += content["text"]
                if message["msg_type"] == "error":
                    raise SystemExit(f"{content['ename']}: {content['evalue']}")
                if message["msg_type"] == "status" and content["execution_state"] == "idle":
                    return printed

    def stop(self, user: str) -> None:
        """Stop the server, and wait until the Hub no longer has it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                model = self._http.get(f"{self.url}/hub/api/users/{user}").raise_for_status()
                server = model.json()["servers"].get("")
                if server is None:
                    return
                if server["pending"] != "stop":
                    self._http.delete(self._server(user))
            except httpx.TransportError as error:
                print(f"Trying again: {type(error).__name__}", file=sys.stderr)
            time.sleep(LOOK)
        raise SystemExit("The server could not be stopped.")

    def _server(self, user: str) -> str:
        return f"{self.url}/hub/api/users/{user}/server"


def main() -> None:
    """Start, use, stop."""
    parser = argparse.ArgumentParser(description="Run a line of Python in a server of a JupyterHub")
    parser.add_argument("user")
    parser.add_argument("options", nargs="*", metavar="name=value", help="options of the server")
    parser.add_argument("--code", default="import platform; print(platform.node())")
    arguments = parser.parse_args()
    hub = Hub(os.environ["JUPYTERHUB_URL"], os.environ["JUPYTERHUB_API_TOKEN"])
    try:
        hub.start(arguments.user, dict(option.split("=", 1) for option in arguments.options))
        print(hub.run(arguments.user, arguments.code), end="")
    finally:
        hub.stop(arguments.user)


if __name__ == "__main__":
    main()
