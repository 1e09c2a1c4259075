"""Does a job that the Hub wants become a server, whatever happens on the way to `ready`?"""

from __future__ import annotations

import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from firecrestspawner import script
from tests.unit.singleuser.channel_end import (
    CHANNEL_SECRET,
    ENDED,
    SERVER,
    SPAWN_ID,
    TICKET_SECRET,
    UNKNOWN,
    Hub,
    Launch,
    eventually,
    mac,
    sealed,
)


def pythons() -> list[str]:
    """This interpreter, and the oldest one that is supported where there is one."""
    found = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.8*/bin/python3.8")))
    oldest = [shutil.which("python3.8") or "", *found]
    works = [
        python
        for python in oldest
        if python and not subprocess.run([python, "-c", ""], capture_output=True).returncode
    ]
    return [sys.executable, *works[:1]]


@pytest.mark.parametrize("python", pythons(), ids=os.path.basename)
def test_a_server_starts_reports_and_ends_with_its_own_code(
    hub: Hub, launch: Launch, python: str
) -> None:
    job = launch(python=python)
    hello, ready = hub.wait("hello"), hub.wait("ready")
    assert set(hello) == {"message", "ticket", "nonce", "job_id"}
    assert hello["ticket"] == f"{SPAWN_ID}.{TICKET_SECRET}"
    assert hello["job_id"] == "4242"
    assert re.fullmatch("[0-9a-f]{32}", hello["nonce"])
    assert set(ready) == {"message", "spawn_id", "addresses", "port", "mac"}
    assert ready["mac"] == mac(ready, CHANNEL_SECRET)
    assert job.seen()["url"] == f"http://0.0.0.0:{ready['port']}/user/alice/"
    alive = hub.wait("alive", 3)
    assert set(alive) == {"message", "spawn_id", "mac"}
    assert alive["mac"] == mac(alive, CHANNEL_SECRET)
    hub.replies["alive"] = [ENDED]
    code, said = job.wait()
    exiting = hub.wait("exiting")
    assert set(exiting) == {"message", "spawn_id", "code", "reason", "walltime", "mac"}
    assert exiting["mac"] == mac(exiting, CHANNEL_SECRET)
    assert code == exiting["code"] == 128 + signal.SIGTERM
    assert "stopped by the user" in exiting["reason"]
    assert all(line.startswith("[firecrestspawner] ") for line in said.splitlines())


def test_requests_carry_neither_cookie_nor_origin(hub: Hub, launch: Launch) -> None:
    launch()
    hub.wait("alive")
    for headers in hub.headers:
        assert headers["Content-Type"] == "application/json"
        assert not {"cookie", "origin", "authorization"} & {name.lower() for name in headers}


def test_the_port_is_within_the_range(hub: Hub, launch: Launch) -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        low = probe.getsockname()[1]
        probe.listen()
        # The first of the range is taken, by this process: another one is used.
        hub.start["ports"] = [low, min(low + 20, 65535)]
        launch()
        assert low < hub.wait("ready")["port"] <= low + 20


def test_an_exhausted_range_is_said(hub: Hub, launch: Launch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        hub.start["ports"] = [port, port]
        code, said = launch().wait()
    assert code == 127
    assert f"no free port in {port}-{port}" in said
    assert "no free port" in hub.wait("exiting")["reason"]


def test_addresses_name_the_node_first_and_avoid_loopback(hub: Hub, launch: Launch) -> None:
    launch(env={"SLURMD_NODENAME": "nid001"})
    addresses = hub.wait("ready")["addresses"]
    assert 1 <= len(addresses) <= 16
    if addresses != ["127.0.0.1"]:  # a machine with nothing but loopback
        assert addresses[:2] == ["nid001", socket.gethostname()]
        assert not any(address.startswith("127.") for address in addresses)


def test_a_server_bound_to_one_address_is_reported_there(hub: Hub, launch: Launch) -> None:
    hub.start["environment"]["JUPYTERHUB_SERVICE_URL"] = "http://127.0.0.1:0/user/alice/"
    launch()
    assert hub.wait("ready")["addresses"] == ["127.0.0.1"]


def test_a_lost_hello_answer_is_asked_for_again_with_the_same_nonce(
    hub: Hub, launch: Launch
) -> None:
    """S4: the first nonce binds; a lost answer must not kill the job."""
    hub.replies["hello"] = [None, None, (502, b"<html>"), hub.started()]
    launch()
    hub.wait("ready")
    assert len({hello["nonce"] for hello in hub.messages("hello")}) == 1
    assert len(hub.messages("hello")) == 4


def test_a_hub_that_is_away_at_first_is_waited_for(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        away = reserved.getsockname()[1]
        blob = script.encode_ticket(f"http://127.0.0.1:{away}/", f"{SPAWN_ID}.{TICKET_SECRET}", 15)
        job = launch(env={"FIRECREST_TICKET": blob}, pace={"FAREWELL": 0.1})
        assert job.process.stderr
        assert "waiting for the Hub" in job.process.stderr.readline()
        real = hub.server.server_port
        reserved.listen()
        # The Hub is back: whoever connects is passed on to it.
        connection, _ = reserved.accept()
        with connection, socket.create_connection(("127.0.0.1", real)) as onward:
            request = connection.recv(65536)
            while not request.endswith(b"}"):
                request += connection.recv(65536)
            onward.sendall(request)
            onward.shutdown(socket.SHUT_WR)
            while data := onward.recv(65536):
                connection.sendall(data)
    assert job.seen()


def test_patience_with_an_absent_hub_ends_with_one_clear_line(hub: Hub, launch: Launch) -> None:
    hub.replies["hello"] = [(503, b"no")]
    code, said = launch(patience=1).wait()
    assert code == 1
    assert said.splitlines()[-1].startswith(f"[firecrestspawner] gave up on the Hub at {hub.url}")
    assert "HTTP status 503" in said
    assert TICKET_SECRET not in said


def test_a_job_that_the_hub_no_longer_wants_ends_at_hello(hub: Hub, launch: Launch) -> None:
    """R7: a queued job that starts after its tombstone ends itself."""
    hub.replies["hello"] = [sealed(TICKET_SECRET, verdict="ended", reason="you pressed stop")]
    code, said = launch().wait()
    assert code == 0
    assert "you pressed stop" in said
    assert not hub.messages("ready")


def test_a_requeued_job_that_its_hub_does_not_know_ends_soon(hub: Hub, launch: Launch) -> None:
    """R7: nobody wants it; a job that runs for the first time has all its patience."""
    hub.replies["hello"] = [UNKNOWN]
    pace = {"REQUEUED_PATIENCE": 0.5}
    first = launch(patience=600, pace=pace)
    again = launch(patience=600, pace=pace, env={"SLURM_RESTART_COUNT": "1"})
    code, said = again.wait()
    assert code == 1
    assert "this Hub does not know the server" in said.splitlines()[-1]
    assert first.process.poll() is None


@pytest.mark.parametrize(
    "answer",
    [
        UNKNOWN,
        (403, b"{}"),
        (404, b"no"),
        (200, b"<html>please log in</html>"),
        (200, b"[]"),
        (200, b"[" * 100_000),
        (200, b'{"spawn_id": "' + SPAWN_ID.encode() + b'", "verdict": "ended"}'),
        sealed("another key", verdict="ended", reason="no"),
        sealed(CHANNEL_SECRET, verdict="ended", reason="the wrong key of two"),
        (200, b'"' + b"x" * (1 << 20) + b'"'),
    ],
    ids=[
        "unknown",
        "403",
        "404",
        "login-page",
        "list",
        "deep",
        "unsigned",
        "wrong-key",
        "channel-key",
        "too-long",
    ],
)
def test_nothing_but_a_signed_answer_settles_hello(
    hub: Hub, launch: Launch, answer: tuple[int, bytes]
) -> None:
    hub.replies["hello"] = [answer, answer, hub.started()]
    launch()
    hub.wait("ready")


def test_redirects_are_not_followed(hub: Hub, launch: Launch) -> None:
    """The ticket must not be carried elsewhere."""
    elsewhere = Hub()
    try:
        location = ("Location", elsewhere.url)
        hub.replies["hello"] = [(307, b"", location), (302, b"", location), hub.started()]
        launch()
        hub.wait("ready")
        assert elsewhere.received == []
    finally:
        elsewhere.close()


def test_ready_waits_until_the_servers_own_socket_listens(hub: Hub, launch: Launch) -> None:
    """S11: a port on which another process listens is never reported."""
    hub.start["environment"]["BEHAVIOUR"] = "silent"
    job = launch(pace={"START_SILENCE": 0.02})
    url = job.seen()["url"]
    port = int(url.rsplit(":", 1)[1].partition("/")[0])
    with socket.socket() as stranger:
        stranger.bind(("", port))
        stranger.listen()
        # Many looks at the sockets, and many questions to the Hub, later:
        hub.wait("alive", 20)
    assert not hub.messages("ready")


def test_a_descendants_socket_counts_as_the_servers(hub: Hub, launch: Launch) -> None:
    """S11: wrappers (a shell, a container) do not hide the server."""
    command = " ".join(["exec 3<&0;", "(", '"$0" -c "$1"', ");", "true"])
    hub.start["command"] = ["/bin/sh", "-c", command, sys.executable, SERVER]
    launch()
    assert hub.wait("ready")["port"]


def test_a_port_taken_in_between_makes_the_launcher_try_another(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "seen.json.taken")
    hub.start["environment"]["BEHAVIOUR"] = "port lost once"
    job = launch()
    lost = tmp_path / "seen.json.lost"
    eventually(lambda: lost.exists() and lost.read_text())
    port = int(lost.read_text())
    with socket.socket() as stranger:
        stranger.bind(("", port))
        stranger.listen()
        with open(tmp_path / "seen.json.taken", "w") as taken:
            taken.write("!")
        ready = hub.wait("ready")
    assert ready["port"] != port
    assert int(job.seen()["url"].rsplit(":", 1)[1].partition("/")[0]) == ready["port"]
