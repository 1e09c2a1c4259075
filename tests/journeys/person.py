"""What does a person do with the site's pages, and with JupyterLab?"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Generator
from typing import Any
from urllib.parse import urljoin

import httpx

from firecrestspawner.demo.issuer import DEFAULT_USERS
from firecrestspawner.demo.visitor import Form, Page, Visitor
from tests.journeys.site import Site, eventually

#: Seconds.
START_TIMEOUT = 40.0
STOP_TIMEOUT = 20.0
KERNEL_TIMEOUT = 30.0


class Person(Visitor):
    """``name``'s browser on a site. A server is named; ``""`` is the default one."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site.url)
        self.site = site
        self.name = name

    # -- the Hub -----------------------------------------------------------------------------

    def hub(self, path: str) -> str:
        """A page of the Hub: below its prefix."""
        return f"{self.site.base_url}hub/{path}"

    def log_in(self) -> Page:
        """Through the Hub's page to the issuer's, and back to the Hub's home page."""
        password = next(user.password for user in DEFAULT_USERS if user.name == self.name)
        page = self.open(self.hub("login?next=") + self.hub("home"))
        page = self.open(page.link_to("/hub/oauth_login"))
        page = self.submit(page.form_with("password"), username=self.name, password=password)
        assert page.address == f"{self.url}{self.hub('home')}"
        return page

    def look_at(self, address: str) -> httpx.Response:
        """Open a page, whatever its status."""
        return self._http.get(urljoin(self.url, address))

    def post(self, form: Form) -> httpx.Response:
        """Send a form as it stands, whatever the answer's status."""
        return self._http.post(form.action, data=form.fields)

    def ask_for_server(self, server: str = "", **options: str) -> None:
        """Ask for a server: with the spawn page's form, as it stands but for ``options``."""
        page = self.open(self.hub(f"spawn/{self.name}/{server}".rstrip("/")))
        forms = [form for form in page.forms if form.id == "spawn_form"]
        if forms:
            self.submit(forms[0], **options)

    def progress(self, server: str = "") -> Generator[dict[str, Any], None, None]:
        """The pending page's events, as they come, for START_TIMEOUT seconds."""
        yield from self.events(self._api(f"{self._server(server)}/progress"), START_TIMEOUT)

    def wait_until_ready(self, server: str = "") -> list[dict[str, Any]]:
        """Follow the progress to its end; all its events, of which the last says *ready*."""
        events = []
        for event in self.progress(server):
            events.append(event)
            assert not event.get("failed"), event
            if event.get("ready"):
                return events
        raise AssertionError(f"not ready after {START_TIMEOUT:.0f} s: {events}")

    def start(self, server: str = "") -> list[dict[str, Any]]:
        """Ask for a server, and wait until it is ready; the events."""
        self.ask_for_server(server)
        return self.wait_until_ready(server)

    def press_stop(self, server: str = "") -> httpx.Response:
        """What the pending page's and the home page's buttons do."""
        return self.api("DELETE", self._api(self._server(server)))

    def stop(self, server: str = "", timeout: float = STOP_TIMEOUT) -> None:
        """Stop a server, until the Hub says that it is gone."""
        self.press_stop(server)
        self.wait_until_gone(server, timeout)

    def wait_until_gone(self, server: str = "", timeout: float = STOP_TIMEOUT) -> None:
        """Wait until the Hub shows the server as stopped."""
        eventually(lambda: server not in self.servers(), timeout, f"{server!r} is shown as stopped")

    def servers(self) -> dict[str, Any]:
        """The servers that the Hub takes for active, by name."""
        servers: dict[str, Any] = self.model()["servers"]
        return servers

    def model(self, user: str = "") -> dict[str, Any]:
        """The Hub's description of a user, one's own by default."""
        model: dict[str, Any] = self.api("GET", self._api(f"users/{user or self.name}")).json()
        return model

    # -- JupyterLab --------------------------------------------------------------------------

    def lab(self, path: str, server: str = "") -> str:
        """An address of the person's server, below ``/user/<name>/<server>/``."""
        return f"{self.site.base_url}user/{self.name}/{server + '/' if server else ''}{path}"

    def open_lab(self, server: str = "") -> Page:
        """Through the server's own log in with the Hub to JupyterLab's page."""
        page = self.open(self.lab("lab", server))
        assert page.address == f"{self.url}{self.lab('lab', server)}"
        return page

    def start_kernel(self, server: str = "") -> str:
        """A new kernel, as its address."""
        self.open_lab(server)
        kernels = self.lab("api/kernels", server)
        return f"{kernels}/{self.api('POST', kernels, {}).json()['id']}"

    def run(self, kernel: str, code: str) -> str | None:
        """Run a cell; the value of its last line as text."""
        request = _execute_request(code)
        deadline = time.monotonic() + KERNEL_TIMEOUT
        with self.websocket(f"{kernel}/channels") as socket:
            socket.send(json.dumps(request))
            result = None
            while True:
                message = json.loads(socket.recv(timeout=deadline - time.monotonic()))
                if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
                    continue
                kind, content = message["msg_type"], message["content"]
                assert kind != "error", content
                if kind == "execute_result":
                    result = str(content["data"]["text/plain"])
                if kind == "status" and content["execution_state"] == "idle":
                    return result

    # -- addresses ---------------------------------------------------------------------------

    def _api(self, path: str) -> str:
        return self.hub(f"api/{path}")

    def _server(self, server: str) -> str:
        return f"users/{self.name}/" + (f"servers/{server}" if server else "server")


def _execute_request(code: str) -> dict[str, Any]:
    """Jupyter's messaging protocol, "execute_request"."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "session": uuid.uuid4().hex,
        "username": "",
        "msg_type": "execute_request",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    return {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
    }
