"""Does the whole journey work: log in, start, run a cell, stop, and nothing is left?

Everything goes through the site's public address as a browser would do it; only what is left at
the end is looked up behind the scenes.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.exceptions import WebSocketException

from firecrestspawner.demo.children import DemoError
from firecrestspawner.demo.hub import Demo
from firecrestspawner.demo.visitor import VisitError, Visitor

# Seconds.
START_TIMEOUT = 40.0
KERNEL_TIMEOUT = 30.0
STOP_TIMEOUT = 20.0

OVER = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def smoke(demo: Demo, user: str = "alice") -> int:
    """Go through the journey as ``user``, telling each step and its seconds; 0, or 1."""
    began = time.monotonic()
    try:
        with Visitor(demo.url) as visitor:
            with _step("log in"):
                log_in(visitor, user, _password(demo, user))
            with _step("start a server"):
                start(visitor, user)
            with _step("open JupyterLab"):
                open_lab(visitor, user)
            with _step("run 6*7 in a kernel"):
                run_cell(visitor, user)
            with _step("stop the server"):
                stop(visitor, user)
            with _step("look for what is left"):
                look_for_leftovers(demo, user)
    except (VisitError, DemoError, httpx.HTTPError, WebSocketException, OSError) as error:
        print(f"      {error}", flush=True)
        print(f"The end of the Hub's log ({demo.hub_log}):", file=sys.stderr)
        print("\n".join(demo.hub_log.read_text().splitlines()[-40:]), file=sys.stderr)
        return 1
    print(f"Everything works ({time.monotonic() - began:.1f} s).", flush=True)
    return 0


def log_in(visitor: Visitor, user: str, password: str) -> None:
    """Through the Hub's page to the issuer's, and back to the Hub's home page."""
    page = visitor.open("/hub/login?next=%2Fhub%2Fhome")
    page = visitor.open(page.link_to("/hub/oauth_login"))
    page = visitor.submit(page.form_with("password"), username=user, password=password)
    if not page.address.startswith(f"{visitor.url}/hub/home"):
        raise VisitError(f"log in led to {page.address}")


def start(visitor: Visitor, user: str) -> None:
    """Send the spawn page's form as it stands, then follow the progress until it is ready."""
    page = visitor.open(f"/hub/spawn/{user}")
    forms = [form for form in page.forms if form.id == "spawn_form"]
    if forms:
        page = visitor.submit(forms[0])
    if "/spawn-pending/" not in page.address and f"/user/{user}/" not in page.address:
        raise VisitError(f"starting a server led to {page.address}")
    for event in visitor.events(f"/hub/api/users/{user}/server/progress", START_TIMEOUT):
        if event.get("failed"):
            raise VisitError(f"the server did not start: {event.get('message')}")
        if event.get("ready"):
            return
        _tell(f"{event.get('progress', 0):3} %  {event.get('message')}")
    raise VisitError(f"the server was not ready after {START_TIMEOUT:.0f} s")


def open_lab(visitor: Visitor, user: str) -> None:
    """Through the server's own log in with the Hub to JupyterLab's page."""
    page = visitor.open(f"/user/{user}/lab")
    if not page.address.startswith(f"{visitor.url}/user/{user}/lab"):
        raise VisitError(f"JupyterLab's address led to {page.address}")


def run_cell(visitor: Visitor, user: str, code: str = "6*7", result: str = "42") -> None:
    """Start a kernel and run one cell, with the messages that JupyterLab sends."""
    base = f"/user/{user}/api/kernels"
    kernel = visitor.api("POST", base, {}).json()["id"]
    request = _execute_request(code)
    with visitor.websocket(f"{base}/{kernel}/channels") as socket:
        socket.send(json.dumps(request))
        answer = _result(_answers(socket, request["header"]["msg_id"]))
    visitor.api("DELETE", f"{base}/{kernel}")
    if answer != result:
        raise VisitError(f"{code} gave {answer!r} instead of {result!r}")


def stop(visitor: Visitor, user: str) -> None:
    """Stop the server as the home page's button does, until the Hub says it is gone."""
    visitor.api("DELETE", f"/hub/api/users/{user}/server")

    def gone() -> str | None:
        servers = visitor.api("GET", f"/hub/api/users/{user}").json()["servers"]
        return f"the Hub still has {servers}" if servers else None

    _wait(gone, STOP_TIMEOUT)


def look_for_leftovers(demo: Demo, user: str) -> None:
    """No unfinished job, no process of a job, no route to a server."""

    def nothing() -> str | None:
        jobs = [job for job in demo.executor.jobs(user) if job.user == user]
        routes = [path for path in demo.routes() if path.startswith("/user/")]
        processes = demo.leftovers()
        found = [f"{job.id} is {job.state}" for job in jobs if job.state.split()[0] not in OVER]
        found += [f"a route to {path}" for path in routes]
        found += [f"a process: {process}" for process in processes]
        return "; ".join(found) or None

    _wait(nothing, STOP_TIMEOUT)


def _password(demo: Demo, user: str) -> str:
    return next(each.password for each in demo.users if each.name == user)


def _wait(why_not: Callable[[], str | None], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while reason := why_not():
        if time.monotonic() > deadline:
            raise VisitError(f"after {timeout:.0f} s: {reason}")
        time.sleep(0.1)


def _execute_request(code: str) -> dict[str, Any]:
    """Jupyter's messaging protocol, "execute_request"."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "session": uuid.uuid4().hex,
        "username": "",
        "msg_type": "execute_request",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    return {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
    }


def _answers(socket: Any, msg_id: str) -> Iterator[dict[str, Any]]:
    """The kernel's messages about our request, while it lasts."""
    deadline = time.monotonic() + KERNEL_TIMEOUT
    while True:
        try:
            message = json.loads(socket.recv(timeout=deadline - time.monotonic()))
        except TimeoutError:
            raise VisitError(f"the kernel said nothing for {KERNEL_TIMEOUT:.0f} s") from None
        if message["parent_header"].get("msg_id") == msg_id:
            yield message


def _result(messages: Iterator[dict[str, Any]]) -> str | None:
    """The cell's value as text; an error of the cell is ours to report."""
    for message in messages:
        content = message["content"]
        if message["msg_type"] == "execute_result":
            return str(content["data"]["text/plain"])
        if message["msg_type"] == "error":
            raise VisitError(f"the cell failed: {content['ename']}: {content['evalue']}")
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return None
    return None


@contextmanager
def _step(name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"FAIL  {name} ({time.monotonic() - began:.1f} s)", flush=True)
        raise
    print(f"ok    {name} ({time.monotonic() - began:.1f} s)", flush=True)


def _tell(what: str) -> None:
    print(f"      {what}", flush=True)
