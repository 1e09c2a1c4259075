"""Is what the launcher says HTTP, and does it read whatever a proxy makes of the Hub's answer?"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firecrestspawner import singleuser
from tests.unit.certificate import certificate
from tests.unit.raw_server import RESET_AFTER, SILENCE, RawServer

__all__ = ["certificate"]

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b'{"verdict": "alive"}'
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


def exchange(url: str, body: bytes = b"{}") -> tuple[int, bytes]:
    parts = urlsplit(url)
    with singleuser.connect(parts) as hub:
        return singleuser.post(hub, parts, body)


def chunked(*chunks: bytes, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    parts = [b"%X%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks]
    return b"".join([*parts, b"0\r\n", trailer, b"\r\n"])


def test_what_is_sent_is_one_request_that_ends_the_connection() -> None:
    with RawServer(OK + b"Content-Length: 0\r\n\r\n") as server:
        host = urlsplit(server.url).netloc
        assert exchange(f"{server.url}/hub/api/firecrest/job", b'{"a": 1}') == (200, b"")
    head, _, body = server.received[0].partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert first == "POST /hub/api/firecrest/job HTTP/1.1"
    fields = dict(line.split(": ", 1) for line in headers)
    assert fields["Host"] == host
    assert (fields["Content-Length"], body) == ("8", b'{"a": 1}')
    assert fields["Connection"] == "close"
    assert fields["Content-Type"] == fields["Accept"] == "application/json"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://h\u00fcb.example.org:8000/hub", b"xn--hb-xka.example.org:8000"),
        ("http://user:word@hub/", b"hub"),
        (f"http://{'h' * 63}:8081/", b"h" * 63 + b":8081"),
        ("http://[fd00::1]:8081/", b"[fd00::1]:8081"),
        ("http://[fd00::1]/", b"[fd00::1]"),
    ],
)
def test_the_host_is_named_as_http_writes_it(url: str, host: bytes) -> None:
    hub = _Sent(OK + b"Content-Length: 0\r\n\r\n")
    singleuser.post(hub, urlsplit(url), b"{}")  # type: ignore[arg-type]
    assert b"\r\nHost: " + host + b"\r\n" in hub.sent


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 20\r\n\r\n" + BODY,
        OK + b"content-LENGTH:20 \r\n\r\n" + BODY + b"what follows is not read",
        OK + b"\r\n" + BODY,
        b"HTTP/1.0 200 OK\n\n" + BODY,
        b"HTTP/1.1 200\r\n\r\n" + BODY,
        OK + CHUNKED + chunked(BODY[:3], BODY[3:]),
        OK + b"Transfer-Encoding: Chunked\r\nContent-Length: 3\r\n\r\n" + chunked(BODY),
        OK + CHUNKED + chunked(BODY, extension=b";x=1", trailer=b"A: b\r\n"),
        OK + b"Transfer-Encoding: identity\r\nContent-Length: 20\r\n\r\n" + BODY,
        INTERIM + OK + b"\r\n" + BODY,
    ],
    ids=range(10),
)  # fmt: skip
def test_an_answer_is_read_however_it_is_framed(answer: bytes) -> None:
    """RFC 9112, sections 4 to 7."""
    with RawServer(answer) as server:
        assert exchange(server.url) == (200, BODY)


@pytest.mark.parametrize("status", [302, 403, 404, 502, 503])
def test_any_status_is_told(status: int) -> None:
    with RawServer(b"HTTP/1.1 %i No\r\nContent-Length: 2\r\n\r\nno" % status) as server:
        assert exchange(server.url) == (status, b"no")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("header", [b"", b"Content-Length: 2\r\n"])
def test_nothing_follows_a_status_without_content(status: int, header: bytes) -> None:
    """RFC 9112, section 6.3: such as a portal that wants a login says, and keeps its connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.1)  # to wait for more is an error
        theirs.sendall(b"HTTP/1.1 %i No\r\n%s\r\n" % (status, header))
        assert singleuser.post(ours, urlsplit("http://hub/"), b"{}") == (status, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 -20 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"\x16\x03\x01\x00\xff\x00\n\n",
        b"220 mail.example.org ESMTP\r\n\r\n",
        b"<html>\r\n\r\n",
        b"\r\n\r\n",
        OK + b"Content-Length: 20\r\n",
        OK + b"Content-Length: 20\r\n\r\n" + BODY[:5],
        OK + b"Content-Length: -1\r\n\r\n" + BODY,
        OK + b"Content-Length: x\r\n\r\n" + BODY,
        OK + b"Content-Length: 20, 20\r\n\r\n" + BODY,
        OK + CHUNKED,
        OK + CHUNKED + b"14\r\n" + BODY[:5],
        OK + CHUNKED + b"-1\r\n" + BODY,
        OK + CHUNKED + b"x\r\n" + BODY,
        OK + b"X: y\r\n" * 101 + b"\r\n" + BODY,
        OK + b"X: " + b"y" * (singleuser.LINE_LIMIT + 1) + b"\r\n\r\n" + BODY,
        RESET_AFTER,
    ],
)
def test_what_is_no_whole_answer_is_an_error(answer: bytes | str) -> None:
    """R7: and an error is all that it is."""
    with RawServer(answer) as server, pytest.raises((OSError, ValueError)):
        exchange(server.url)


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n",
        b"Content-Length: 9999999999\r\n\r\n",
        CHUNKED + b"180000\r\n" + b"x" * 0x180000 + b"\r\n",
        CHUNKED + b"80000\r\n" + b"x" * 0x80000 + b"\r\n80001\r\n",
    ],
    ids=["until it closes", "by its length", "in one chunk", "in two chunks"],
)
def test_of_an_endless_answer_a_bounded_part_is_read(head: bytes) -> None:
    limit = singleuser.ANSWER_LIMIT + 1
    answer = io.BytesIO(OK + head + b"x" * 3 * limit)
    status, headers = singleuser.read_head(answer)
    assert (status, len(singleuser.read_content(answer, headers))) == (200, limit)
    assert answer.tell() <= limit + 100


def test_a_million_chunks_are_read_in_the_time_that_an_answer_has() -> None:
    answer = io.BytesIO(b"1\r\nx\r\n" * singleuser.ANSWER_LIMIT + b"0\r\n\r\n")
    began = time.thread_time()
    text = singleuser.read_content(answer, {b"transfer-encoding": b"chunked"})
    assert time.thread_time() - began < singleuser.REQUEST_DEADLINE
    assert len(text) == singleuser.ANSWER_LIMIT


def test_a_hub_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(singleuser, "REQUEST_DEADLINE", 0.1)
    with RawServer(SILENCE) as server, pytest.raises(OSError, match="timed out"):
        exchange(server.url)


def test_a_hub_is_reached_at_its_second_address_while_its_first_drops_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as IPv6 behind a firewall: within the time that the launcher waits for the answer."""
    monkeypatch.setattr(singleuser, "REQUEST_DEADLINE", 1.5)
    with RawServer(OK + b"Content-Length: 20\r\n\r\n" + BODY) as server:
        port = urlsplit(server.url).port or 0
        with contextlib.ExitStack() as stack:
            # Two connections that nobody accepts fill its backlog; Linux drops what comes then.
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.2", port))
            full.listen(0)
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.2", port))
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (2, 1)
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
            rung = threading.Event()
            bell: Any = SimpleNamespace(ring=rung.set)
            call = singleuser.Call(server.url, {"spawn_id": "a"}, "secret", bell)
            assert rung.wait(singleuser.REQUEST_DEADLINE), "it hangs at the first"
    assert call.problem == "an answer that cannot be read (KeyError)"
    assert server.received


NAMES = st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer as servers and proxies make them."""
    body = draw(st.binary(max_size=200))
    version, status = draw(st.integers(0, 1)), draw(st.integers(200, 599))
    start = b"HTTP/1.%i %i %s" % (version, status, draw(st.sampled_from([b"OK", b"", b"a b"])))
    headers = draw(st.lists(st.sampled_from([b"X: y", b"Server:nginx", b"Set-Cookie: a=b; c"])))
    framing = draw(st.sampled_from(["length", "close", "chunked"]))
    if framing == "length":
        headers.append(draw(NAMES) + b": %i" % len(body))
    elif framing == "chunked":
        headers.append(b"Transfer-Encoding: chunked")
        cut = draw(st.integers(0, len(body)))
        body = chunked(*filter(None, (body[:cut], body[cut:])))
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    return interim + b"\r\n".join([start, *headers, b"", body])


class _Sent:
    """A socket that has received ``data``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.sent = b""

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)

    def sendall(self, data: bytes) -> None:
        self.sent += data


@given(answers())
def test_pythons_own_client_reads_the_same(answer: bytes) -> None:
    reference = http.client.HTTPResponse(_Sent(answer), method="POST")  # type: ignore[arg-type]
    reference.begin()
    expected = reference.status, reference.read()
    if reference.status in (204, 304):  # chunks after them it would read
        expected = reference.status, b""
    assert singleuser.post(_Sent(answer), urlsplit("http://hub/"), b"") == expected  # type: ignore[arg-type]


# -- https ---------------------------------------------------------------------------------------


@pytest.fixture
def secure_port(certificate: Path) -> Iterator[int]:
    """Where a Hub listens for https, and answers one request after another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(OK + b"Content-Length: 20\r\n\r\n" + BODY)
            except ssl.SSLError:
                continue  # a client that does not believe us hangs up
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


def test_https_is_spoken_with_whom_the_systems_authorities_vouch_for(
    secure_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1: a ticket goes to nobody else."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert exchange(f"https://localhost:{secure_port}/") == (200, BODY)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_hub_that_nobody_vouches_for_is_told_nothing(
    secure_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """S1: neither one with another's certificate, nor one with a certificate of its own."""
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    host = "127.0.0.1" if trusted else "localhost"
    with pytest.raises(ssl.SSLError):
        exchange(f"https://{host}:{secure_port}/")


def test_a_python_without_ssl_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssl", None)
    rung = threading.Event()
    bell: Any = SimpleNamespace(ring=rung.set)
    call = singleuser.Call("https://localhost/", {"spawn_id": "a"}, "secret", bell)
    assert rung.wait(10)
    assert (call.verdict, "ssl" in call.problem) == ("", True)
