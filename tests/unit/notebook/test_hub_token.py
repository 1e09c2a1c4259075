"""Does a program in a server get its token, and plain words whatever answers as the Hub?"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from firecrestspawner import cli, hub_token
from firecrestspawner.hub_token import HubTokenError, LoginRequired, Refused, TryLater, fetch
from tests.unit.notebook.hub_end import API_TOKEN, HubEnd
from tests.unit.raw_server import CLOSE_AFTER, RESET_AFTER, RESET_AT_ONCE, SILENCE, RawServer

ROOT = Path(__file__).resolve().parents[3]
LOGIN = "/hub/firecrest/reauth?next=%2Fhub%2Fhome"


def error_of(min_validity: float = 60.0) -> HubTokenError:
    with pytest.raises(HubTokenError) as caught:
        fetch(min_validity)
    text = "\n".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert API_TOKEN not in text
    return caught.value


def test_the_answer_is_taken_up_whole(hub: HubEnd) -> None:
    token = fetch(90.5)
    assert (token.access_token, token.scope, token.expires_at) == ("token.1", "openid profile", 4e9)
    assert 299 < token.left() <= 300
    assert hub.asked == ["min_validity=91"]
    assert hub.authorizations == [f"token {API_TOKEN}"]
    assert "token.1" not in repr(token)


def test_a_life_that_nobody_knows_is_none(hub: HubEnd) -> None:
    hub.answer = (200, hub.token(expires_in=None, expires_at=...), {})
    assert fetch(60).left() == 0


STRANGE: dict[str, Any] = {
    "a page": b"<html>Welcome to the airport's WLAN</html>",
    "nothing": b"",
    "a list": [],
    "no object": b'{"access_token": ',
    "a deep one": b"[" * 100_000,
    "an endless one": b'{"access_token": "' + b"x" * (1 << 18) + b'"}',
    "no token": {"access_token": ...},
    "an empty token": {"access_token": ""},
    "a number": {"access_token": 7},
    "a token with a second header": {"access_token": "a\r\nX: b"},
    "a token in words": {"access_token": "not a token"},
    "no type": {"token_type": ...},
    "another type": {"token_type": "mac"},
    "a life in words": {"expires_in": "soon"},
    "a true life": {"expires_in": True},
    "a life for ever": {"expires_in": float("inf")},
    "no number for a life": {"expires_in": float("nan")},
    "an end in words": {"expires_at": "2030-01-01"},
    "an expired token": {"expires_in": -5},
    "one that expires now": {"expires_in": 0},
    "a list of scopes": {"scope": ["openid"]},
}


@pytest.mark.parametrize("body", STRANGE.values(), ids=STRANGE)
def test_what_is_no_token_answer_is_none(hub: HubEnd, body: Any) -> None:
    hub.answer = (200, hub.token(**body) if isinstance(body, dict) else body, {})
    assert isinstance(error_of(), TryLater)


def test_a_redirect_is_not_followed(hub: HubEnd) -> None:
    hub.answer = (302, b"", {"Location": f"{hub.url}/login"})
    error = error_of()
    assert isinstance(error, TryLater) and "302" in str(error)
    assert hub.others == []


@pytest.mark.parametrize("behaviour", [RESET_AT_ONCE, RESET_AFTER, CLOSE_AFTER, b"garbage\r\n\r\n"])
def test_a_broken_connection_is_to_be_tried_later(
    behaviour: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", API_TOKEN)
    with RawServer(behaviour) as server:
        monkeypatch.setenv("JUPYTERHUB_API_URL", f"{server.url}/hub/api")
        assert isinstance(error_of(), TryLater)


def test_where_nobody_listens_it_is_to_be_tried_later(
    hub: HubEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    error = error_of()
    assert isinstance(error, TryLater) and "refused" in str(error)


def test_a_mute_hub_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_token, "DEADLINE", 0.3)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", API_TOKEN)
    with RawServer(SILENCE) as server:
        monkeypatch.setenv("JUPYTERHUB_API_URL", f"{server.url}/hub/api")
        error = error_of()
    assert isinstance(error, TryLater) and "0.3 seconds" in str(error)


def test_an_answer_that_trickles_in_is_cut_off_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit on single reads alone would never end it."""
    monkeypatch.setattr(hub_token, "DEADLINE", 0.3)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", API_TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("JUPYTERHUB_API_URL", f"{address}/hub/api")
        trickle = threading.Thread(target=trickle_to_one, args=(listener,))
        trickle.start()
        error = error_of()
        assert isinstance(error, TryLater) and "0.3 seconds" in str(error)
        trickle.join(10)  # it ends once its peer has hung up
        assert not trickle.is_alive()


def trickle_to_one(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)


def test_an_ended_session_says_where_to_log_in(
    hub: HubEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answer = (403, {"status": 403, "message": "Log in.", "login_url": LOGIN}, {})
    error = error_of()
    assert isinstance(error, LoginRequired)
    assert error.url == LOGIN and LOGIN in str(error)
    monkeypatch.setenv("JUPYTERHUB_PUBLIC_HUB_URL", "https://jupyter.example.org/hub/")
    error = error_of()
    assert isinstance(error, LoginRequired)
    assert error.url == f"https://jupyter.example.org{LOGIN}"


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "//evil.example", "https://a b", "/\x1b[2J", "x" * 9000, ""]
)
def test_an_odd_address_is_not_shown(hub: HubEnd, url: str) -> None:
    hub.answer = (403, {"login_url": url}, {})
    error = error_of()
    assert isinstance(error, LoginRequired)
    assert error.url == "" and "home page" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_the_hubs_own_no_is_said_in_its_words(hub: HubEnd, status: int) -> None:
    hub.answer = (status, {"status": status, "message": "Tokens are\x1b[2J\nturned off."}, {})
    error = error_of()
    assert isinstance(error, Refused)
    assert str(error).endswith("Tokens are [2J turned off.")


@pytest.mark.parametrize("said", [f"not {API_TOKEN}!", 7, None, ["x"]])
def test_a_no_that_echoes_the_token_or_says_nothing_is_a_number(hub: HubEnd, said: Any) -> None:
    hub.answer = (403, {"message": said}, {})
    assert str(error_of()).endswith("HTTP status 403")


@pytest.mark.parametrize("status", [403, 404, 407, 429, 500, 502, 503, 511])
def test_a_proxys_page_concludes_nothing(hub: HubEnd, status: int) -> None:
    hub.answer = (status, b"<html>No.</html>", {})
    error = error_of()
    assert isinstance(error, TryLater) and error.retry_after == hub_token.PATIENCE


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 1), ("999999999", 3600), ("-3", 10), ("soon", 10), ("9" * 5000, 10)],
)
def test_how_long_to_wait_is_the_hubs_to_say_within_bounds(
    hub: HubEnd, header: str, seconds: int
) -> None:
    hub.answer = (503, {"message": "The issuer is away."}, {"Retry-After": header})
    error = error_of()
    assert isinstance(error, TryLater) and error.retry_after == seconds
    assert f"{seconds} seconds" in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JUPYTERHUB_API_URL", None),
        ("JUPYTERHUB_API_TOKEN", None),
        ("JUPYTERHUB_API_TOKEN", f"{API_TOKEN}\r\nX: y"),
        ("JUPYTERHUB_API_URL", "hub/api"),
        ("JUPYTERHUB_API_URL", "ftp://hub/api"),
        ("JUPYTERHUB_API_URL", "http://hub:port/api"),
        ("JUPYTERHUB_API_URL", "http://[hub/api"),
        ("JUPYTERHUB_API_URL", "http://hub/a b"),
    ],
)
def test_outside_of_a_server_the_missing_variable_is_named(
    hub: HubEnd, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    error = error_of()
    assert isinstance(error, Refused) and name in str(error)
    assert hub.asked == []


def test_web_proxies_of_the_environment_are_not_used(
    hub: HubEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(60).access_token == "token.1"


def test_where_no_thread_can_be_started_it_is_to_be_tried_later(
    hub: HubEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert isinstance(error_of(), TryLater)


def test_an_error_below_http_quotes_nothing(hub: HubEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    def request(self: Any, *args: Any, headers: dict[str, str]) -> None:
        raise ValueError(f"Invalid header value {headers!r}")

    monkeypatch.setattr(http.client.HTTPConnection, "request", request)
    assert "ValueError" in str(error_of())


# --- the command ----------------------------------------------------------------------------


def test_the_command_prints_the_token_and_nothing_else(
    hub: HubEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["token"]) == 0
    assert capsys.readouterr() == ("token.1\n", "")
    assert cli.main(["token", "--min-validity", "120"]) == 0
    assert hub.asked == ["min_validity=60", "min_validity=120"]


def test_the_command_prints_the_documented_fields_as_json(
    hub: HubEnd, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answer = (200, hub.token(refresh_token="not for you"), {})
    assert cli.main(["token", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "access_token": "token.1",
        "token_type": "Bearer",
        "expires_at": 4e9,
        "expires_in": 300.0,
        "scope": "openid profile",
    }


@pytest.mark.parametrize(
    ("answer", "code", "word"),
    [
        ((403, {"login_url": LOGIN}, {}), 3, LOGIN),
        ((503, {}, {"Retry-After": "30"}), 4, "30 seconds"),
        ((302, b"", {"Location": "/login"}), 4, "302"),
        ((403, {"message": "Turned off."}, {}), 2, "Turned off."),
    ],
)
def test_the_commands_exit_code_says_what_to_do(
    hub: HubEnd, capsys: pytest.CaptureFixture[str], answer: Any, code: int, word: str
) -> None:
    hub.answer = answer
    assert cli.main(["token"]) == code
    out, err = capsys.readouterr()
    assert out == "" and word in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("wrong", [["--min-validity", "x"], ["--min-validity", "-1"], ["extra"]])
def test_wrong_arguments_are_usage(hub: HubEnd, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["token", *wrong])
    assert exit_.value.code == 2
    assert hub.asked == []


#: As `pip install --no-deps` leaves it on a cluster: only the standard library can be imported.
BARE = """
import importlib.metadata, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "firecrestspawner":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
sys.path.insert(0, sys.argv.pop(1))
importlib.metadata.version = lambda name: "0"
"""


def bare(code: str, *arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", BARE + code, str(ROOT), *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_runs_on_a_bare_python(hub: HubEnd) -> None:
    code = "from firecrestspawner.cli import main; sys.exit(main(sys.argv[1:]))"
    done = bare(code, "token", environ=hub.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "token.1\n", "")
    done = bare(code, "token", environ={})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("JUPYTERHUB_API_URL and JUPYTERHUB_API_TOKEN must be set")


def test_the_class_works_on_a_bare_python(hub: HubEnd) -> None:
    code = """
import asyncio
from firecrestspawner.notebook import HubTokenAuth
auth = HubTokenAuth()
async def headers():
    return await auth.auth_headers()
print(auth.get_access_token(), dict(auth.auth_headers()), asyncio.run(headers()))
assert "httpx" not in sys.modules
"""
    done = bare(code, environ=hub.environ)
    header = {"Authorization": "Bearer token.1"}
    assert (done.returncode, done.stdout, done.stderr) == (0, f"token.1 {header} {header}\n", "")
