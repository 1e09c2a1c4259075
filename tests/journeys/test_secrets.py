"""Where do the real tokens, tickets and secrets of a running site turn up?

They are looked for by value, in everything that somebody else might read.
"""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from firecrestspawner.demo.firecrest import RequestRecord
from firecrestspawner.demo.verifier import TokenError
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

#: Seconds an access token lives here: shorter than the spawner's margin, so that every use
#: refreshes it, and longer than the least that FirecREST accepts.
SHORT_LIFE = 45.0


class Secrets:
    """Real secrets by name, gathered while they are in use."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.values: dict[str, str] = site.secrets()

    def listen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note every bearer token that reaches FirecREST, the service account's included."""
        verifier = self.site.firecrest.verifier
        username = verifier.username

        def noting(authorization: str | None) -> str:
            name = username(authorization)
            token = (authorization or "").partition(" ")[2]
            self.values[f"bearer token {len(self.values)} of {name}"] = token
            return name

        monkeypatch.setattr(verifier, "username", noting)

    def add_tokens_of(self, user: str) -> None:
        """The user's tokens, as they are now."""
        stored = self.site.auth_state(user)
        for kind in ("access_token", "refresh_token", "id_token"):
            self.values[f"{kind} {len(self.values)} of {user}"] = stored[kind]

    def add_server_of(self, user: str) -> None:
        """What only the user's server and its Hub share. The ticket is another matter."""
        sealed = self.site.open_seal(self.site.state(user)["sealed"])
        self.values |= {"API token": sealed["api_token"], "channel secret": sealed["secret"]}

    def found_in(self, places: dict[str, bytes]) -> list[str]:
        """Which secret is in which place; nothing that is returned holds a value."""
        return [
            f"{name} in {place}"
            for place, content in places.items()
            for name, value in self.values.items()
            if value.encode() in content
        ]


class CommandLines:
    """The arguments of all processes that there are while this is entered."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> CommandLines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue  # it ended


def recorded(record: RequestRecord) -> bytes:
    """All that FirecREST's log knows of a request, but for the script."""
    body = json.loads(json.dumps(record.body))
    if body:
        body["job"].pop("script")
    return f"{record.path} {record.query} {body} {record!r}".encode()


def stored(site: Site) -> dict[str, bytes]:
    """Every file of the site: logs, the database and its journals, what jobs wrote.

    But for Jupyter's own runtime files: jupyter_server writes its token into those, which for the
    Hub's servers is the API token. They are the user's alone.
    """
    files = [path for path in site.directory.rglob("*") if path.is_file()]
    assert site.database in files and site.hub_log in files
    runtime = {path.parent for path in files if path.match("*/share/jupyter/runtime/*")}
    assert all(directory.stat().st_mode & 0o077 == 0 for directory in runtime)
    return {str(path): path.read_bytes() for path in files if path.parent not in runtime}


def environ_of_server(site: Site) -> dict[str, str]:
    """The environment of the single-user server itself."""
    server = next(p for p in site.leftovers() if "jupyterhub-singleuser" in " ".join(p.cmdline()))
    environ: dict[str, str] = server.environ()
    return environ


def test_no_secret_of_a_running_server_can_be_read_anywhere(
    site: Site, person: Callable[[str], Person], monkeypatch: pytest.MonkeyPatch
):
    """S1: arguments, the script (but for the ticket) and what is sent with it, FirecREST's log,
    the Hub's log at level DEBUG, the proxy's, the database's bytes, jobs' files, REST answers."""
    site.issuer.lifetimes.access_token = SHORT_LIFE
    secrets = Secrets(site)
    secrets.listen(monkeypatch)
    alice = person("alice")
    secrets.add_tokens_of("alice")
    before = len(site.firecrest.requests)
    with CommandLines() as commands:
        alice.start()
        secrets.add_server_of("alice")
        secrets.add_tokens_of("alice")
        alice.run(alice.start_kernel(), "6*7")
        environ = environ_of_server(site)
        model = json.dumps(alice.model())

    records = list(site.firecrest.requests)[before:]
    submit = next(record for record in records if record.operation == "submit")
    script = submit.body["job"]["script"]
    (blob,) = re.findall(r"^export FIRECREST_TICKET=(\S+)$", script, re.M)
    ticket = json.loads(base64.urlsafe_b64decode(blob))["ticket"]
    spawn_id, _, ticket_secret = ticket.partition(".")
    assert spawn_id == site.state("alice")["spawn_id"]
    # These are the real ones: the server has its token, and the submit came with alice's.
    assert environ["JUPYTERHUB_API_TOKEN"] == secrets.values["API token"]
    assert any(name.startswith("bearer") and "alice" in name for name in secrets.values)
    assert any("service-account" in name for name in secrets.values)
    assert len({v for n, v in secrets.values.items() if n.startswith("refresh_token")}) == 2

    places = {
        "the script": script.encode(),
        "a REST answer": model.encode(),
        "FirecREST's log": b"\n".join(map(recorded, records)),
        "a command line": b"\n".join(commands.seen),
        **stored(site),
    }
    assert secrets.found_in(places) == []
    # The ticket is in the script, and nowhere else.
    places.pop("the script")
    places["the server's environment"] = json.dumps(environ).encode()
    for value in (ticket_secret, blob):
        assert [place for place, content in places.items() if value.encode() in content] == []
    alice.stop()
    assert secrets.found_in(stored(site)) == []


def test_what_an_admin_sees_of_a_server_through_the_hub_is_sealed(
    site: Site, alice: Person, person: Callable[[str], Person]
):
    """S1: an admin's REST answers hold the server's state, and no secret in clear."""
    alice.start()
    secrets = Secrets(site)
    secrets.add_server_of("alice")
    servers = person("admin").model("alice")["servers"]
    assert servers[""]["state"]["job_id"] == site.job("alice").id
    assert secrets.found_in({"the admin's answer": json.dumps(servers).encode()}) == []
    alice.stop()


@contextmanager
def echoing_401(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FirecREST refuses alice's token, and echoes it in a header, as the real one does."""
    username = site.firecrest.verifier.username

    def refuse(authorization: str | None) -> str:
        if username(authorization) == "alice":
            raise TokenError(401, "Access token is invalid.", echo=True)
        return username(authorization)

    with monkeypatch.context() as patch:
        patch.setattr(site.firecrest.verifier, "username", refuse)
        yield


@contextmanager
def echoing_400(site: Site, tokens: dict[str, Any]) -> Iterator[None]:
    """FirecREST finds the request wrong, and quotes all of it, as the real one does."""
    message = f"1 validation error: input {tokens['access_token']} {tokens['refresh_token']}"
    site.firecrest.faults.set("submit", status=400, body={"errorType": "error", "message": message})
    yield
    site.firecrest.faults.clear()


@pytest.mark.parametrize("echo", ["401", "400"])
def test_no_error_page_and_no_log_quotes_what_firecrest_echoes(
    site: Site, alice: Person, monkeypatch: pytest.MonkeyPatch, echo: str
):
    """S9, S1: the user reads one sentence, on the page and in the progress."""
    secrets = Secrets(site)
    secrets.add_tokens_of("alice")
    refusal = (
        echoing_401(site, monkeypatch)
        if echo == "401"
        else echoing_400(site, site.auth_state("alice"))
    )
    with refusal:
        form = alice.open(alice.hub("spawn/alice")).form_with("account")
        answer = alice.post(form)
        pending = alice.look_at(alice.hub("spawn-pending/alice"))
        events = list(alice.progress())
    assert site.firecrest.count("submit", "alice") or echo == "401"
    pages = {"the answer": answer.content, "the page": pending.content}
    pages["the progress"] = json.dumps(events).encode()
    assert "The cluster's API" in html.unescape(pending.text)
    assert events[-1]["failed"] and "The cluster's API" in events[-1]["message"]
    assert secrets.found_in({**pages, **stored(site)}) == []
    eventually(lambda: not site.state("alice"), what="no state is left")
