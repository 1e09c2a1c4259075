"""Does the launcher start, report, guard and end a server exactly as the job channel says?

The launcher runs as a process of its own against a Hub's end of the channel over real HTTP.
"""

from __future__ import annotations

import ast
import base64
import glob
import hashlib
import hmac
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

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
        return json.loads(self.seen_path.read_text())  # type: ignore[no-any-return]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    hub.start = {
        "environment": {
            "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:0/user/alice/",
            "JUPYTERHUB_API_TOKEN": API_TOKEN,
            "SEEN": str(tmp_path / "seen.json"),
        },
        "command": [sys.executable, "-c", SERVER],
        "ports": [0, 0],
        "grace": 10,
    }
    yield hub
    hub.close()


Launch = Callable[..., Job]


def ticket(hub: Hub, patience: int = 15, unknown_patience: int = 86400) -> str:
    return script.encode_ticket(hub.url, f"{SPAWN_ID}.{TICKET_SECRET}", patience, unknown_patience)


@pytest.fixture
def launch(hub: Hub, tmp_path: Path) -> Iterator[Launch]:
    jobs: list[Job] = []

    def start(
        *arguments: str,
        env: Mapping[str, str] | None = None,
        pace: Mapping[str, float] | None = None,
        python: str = sys.executable,
        argv: list[str] | None = None,
        bare: bool = False,
        **times: int,
    ) -> Job:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": "4242",
            "FIRECREST_TICKET": ticket(hub, **times),
            "FIRECREST_LAUNCHER": "packed",
            "SEEN": str(tmp_path / "seen.json"),
        }
        command = argv or [python, "-c", RUN, str(SOURCE), json.dumps({**FAST, **(pace or {})})]
        process = subprocess.Popen(
            [*command, *arguments],
            env=dict(env or {}) if bare else {**variables, **(env or {})},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        jobs.append(Job(process, tmp_path / "seen.json"))
        return jobs[-1]

    yield start
    for job in jobs:
        if job.process.poll() is None:
            job.process.terminate()
            try:
                job.process.wait(5)
            except subprocess.TimeoutExpired:
                job.process.kill()
        job.process.communicate()
        if job.seen_path.exists():
            pid = json.loads(job.seen_path.read_text())["pid"]
            assert not Path(f"/proc/{pid}").exists(), "a server was left behind"


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


# --- start


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
        job = launch(env={"FIRECREST_TICKET": blob})
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
    ids="unknown 403 404 login-page list deep unsigned wrong-key channel-key too-long".split(),
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


# --- S11


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


# --- alive, and what ends a server


@pytest.mark.parametrize(
    "answer",
    [
        (401, b"{}"),
        (403, b"{}"),
        (404, b"no"),
        (502, b"bad gateway"),
        (200, b"<html>please log in</html>"),
        (200, b'{"spawn_id": "' + SPAWN_ID.encode() + b'", "verdict": "ended", "reason": "no"}'),
        sealed("another key", verdict="ended", reason="no"),
        sealed(TICKET_SECRET, verdict="ended", reason="the wrong key of two"),
        (200, json.dumps({"spawn_id": "f" * 16, "verdict": "unknown"}).encode()),
        (200, b"[" * 100_000),
        (200, b'{"spawn_id": "' + SPAWN_ID.encode() + b'", "verdict": "ended", "mac": 5}'),
        None,
    ],
    ids="401 403 404 502 login-page unsigned wrong-key ticket-key other deep odd-mac reset".split(),
)
def test_no_unproven_answer_ends_a_running_server(
    hub: Hub, launch: Launch, answer: tuple[int, bytes] | None
) -> None:
    """R7: no job ends itself without proof."""
    hub.replies["alive"] = [answer]
    job = launch(unknown_patience=0)
    hub.wait("alive", 6)
    hub.replies["alive"] = [ALIVE]
    hub.wait("alive", 9)
    assert job.process.poll() is None
    os.kill(job.seen()["pid"], 0)


def test_a_signed_answer_of_nonsense_does_not_end_the_server(hub: Hub, launch: Launch) -> None:
    hub.replies["alive"] = [sealed(CHANNEL_SECRET, verdict="alive", next="soon")]
    job = launch(pace={"LONGEST_DELAY": 0.02})
    hub.wait("alive", 4)
    assert job.process.poll() is None


def test_a_hub_that_never_answers_delays_neither_the_server_nor_a_stop(
    hub: Hub, launch: Launch
) -> None:
    release = threading.Event()

    def mute(_: object) -> None:
        release.wait(PATIENCE)

    hub.replies["alive"] = [mute]
    hub.start["environment"]["BEHAVIOUR"] = ""
    job = launch(pace={"REQUEST_DEADLINE": 3600.0})
    hub.wait("alive")
    job.process.send_signal(signal.SIGTERM)
    code, _ = job.wait()
    release.set()
    assert code == 128 + signal.SIGTERM
    assert hub.wait("exiting")["reason"] == "stopped by SIGTERM"


def test_an_answer_that_trickles_in_is_cut_off_at_the_deadline(hub: Hub, launch: Launch) -> None:
    def trickle(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" ")
                time.sleep(0.01)  # this is the fault itself, not a wait for something
        except OSError:
            return

    hub.replies["hello"] = [trickle, hub.started()]
    launch(pace={"REQUEST_DEADLINE": 0.3})
    hub.wait("ready")


def test_a_signed_ended_ends_the_server_gently(hub: Hub, launch: Launch) -> None:
    """R7: the verdict of the tombstone ends the job."""
    hub.replies["alive"] = [ALIVE, ENDED]
    job = launch()
    code, _ = job.wait()
    assert code == 128 + signal.SIGTERM
    assert hub.wait("exiting")["reason"] == "ended by the Hub: stopped by the user"


def test_a_server_deaf_to_sigterm_is_killed_after_the_grace(hub: Hub, launch: Launch) -> None:
    hub.start["environment"]["BEHAVIOUR"] = "deaf"
    hub.start["grace"] = 1
    job = launch()
    job.seen()
    hub.wait("alive")
    began = time.monotonic()
    hub.replies["alive"] = [ENDED]
    code, _ = job.wait()
    assert code == 128 + signal.SIGKILL
    assert time.monotonic() - began >= 1


def test_unknown_ends_the_server_only_after_its_long_patience(hub: Hub, launch: Launch) -> None:
    hub.replies["alive"] = [UNKNOWN]
    began = time.monotonic()
    code, _ = launch(unknown_patience=1).wait()
    assert time.monotonic() - began > 1
    assert code == 128 + signal.SIGTERM
    assert hub.wait("exiting")["reason"].startswith("unknown to the Hub for")


@pytest.mark.parametrize("between", [ALIVE, (502, b"")], ids=["alive", "outage"])
def test_unknown_counts_only_in_an_unbroken_row(
    hub: Hub, launch: Launch, between: tuple[int, bytes]
) -> None:
    hub.replies["alive"] = [UNKNOWN, between] * 40 + [ALIVE]
    job = launch(unknown_patience=0)
    hub.wait("alive", 30)
    assert job.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_launcher_ends_the_server_and_is_reported(
    hub: Hub, launch: Launch, number: signal.Signals
) -> None:
    job = launch(env={"SLURM_JOB_END_TIME": str(int(time.time()) + 1000)})
    hub.wait("ready")
    job.process.send_signal(number)
    code, _ = job.wait()
    exiting = hub.wait("exiting")
    assert code == 128 + signal.SIGTERM
    assert exiting["reason"] == f"stopped by {number.name}"
    assert 950 < exiting["walltime"] <= 1000


def test_a_signal_before_the_hub_answered_ends_the_launcher(hub: Hub, launch: Launch) -> None:
    hub.replies["hello"] = [(503, b"")]
    job = launch()
    hub.wait("hello")
    job.process.send_signal(signal.SIGTERM)
    assert job.wait()[0] == 128 + signal.SIGTERM


# --- exiting


@pytest.mark.parametrize(
    ("behaviour", "code", "reason"),
    [("code 3", 3, "exited with code 3"), ("kill 9", 137, "killed by signal 9 (Killed)")],
)
def test_a_servers_own_end_is_reported(
    hub: Hub, launch: Launch, behaviour: str, code: int, reason: str
) -> None:
    hub.start["environment"]["BEHAVIOUR"] = behaviour
    assert launch().wait()[0] == code
    exiting = hub.wait("exiting")
    assert exiting["code"] == code
    assert exiting["reason"].startswith(reason)
    assert exiting["walltime"] is None
    assert not hub.messages("ready")


def test_a_missing_command_is_named(hub: Hub, launch: Launch) -> None:
    hub.start["command"] = ["jupyterhub-singleuser-of-nowhere"]
    code, said = launch().wait()
    assert code == 127
    assert "jupyterhub-singleuser-of-nowhere not found on the node" in said
    assert "jupyterhub-singleuser-of-nowhere not found" in hub.wait("exiting")["reason"]


@pytest.mark.parametrize("missing", ["command", "environment", "ports", "grace"])
def test_an_incomplete_start_is_reported_not_a_traceback(
    hub: Hub, launch: Launch, missing: str
) -> None:
    del hub.start[missing]
    code, said = launch().wait()
    assert code == 1
    assert "Traceback" not in said
    assert "start cannot be used" in hub.wait("exiting")["reason"]


def test_exiting_is_repeated_until_it_is_heard(hub: Hub, launch: Launch) -> None:
    hub.start["environment"]["BEHAVIOUR"] = "code 3"
    hub.replies["exiting"] = [(502, b""), None, ALIVE]
    launch().wait()
    assert len(hub.messages("exiting")) == 3


def test_a_dead_hub_does_not_keep_the_node_after_the_servers_end(hub: Hub, launch: Launch) -> None:
    hub.start["environment"]["BEHAVIOUR"] = "code 3"
    hub.replies["exiting"] = [(502, b"")]
    assert launch(pace={"FAREWELL": 0.2}).wait()[0] == 3


# --- who acts, with what


@pytest.mark.parametrize(
    "ranks", [{"SLURM_PROCID": "1"}, {"PMIX_RANK": "3", "SLURM_PROCID": "3"}], ids=["srun", "pmix"]
)
def test_other_ranks_of_srun_wait_in_silence_and_leave_when_told(
    hub: Hub, launch: Launch, tmp_path: Path, ranks: dict[str, str]
) -> None:
    file = tmp_path / ".firecrest-x"
    file.write_text("FIRECREST_TICKET=x\n")
    zero = launch(env={"SLURM_PROCID": "0"})
    other = launch(str(file), env=ranks)
    hub.wait("alive", 5)
    # Asleep by now: pause(2) is what it waits in.
    eventually(lambda: "SigCgt" in Path(f"/proc/{other.process.pid}/status").read_text())
    eventually(lambda: waits_for_signals(other.process.pid))
    assert other.process.poll() is None
    assert file.exists(), "only the acting task removes the file"
    other.process.terminate()
    assert other.wait() == (0, "")
    assert len(hub.messages("hello")) == 1
    assert zero.process.poll() is None


def waits_for_signals(pid: int) -> bool:
    """Whether the process catches SIGTERM by now (proc(5), SigCgt)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"])
def test_other_ranks_of_mpirun_leave_at_once_in_silence(
    hub: Hub, launch: Launch, name: str
) -> None:
    assert launch(env={name: "1"}).wait() == (0, "")
    assert hub.received == []


def test_rank_0_dismisses_the_others_through_the_scheduler(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    scancel = tmp_path / "scancel"
    scancel.write_text('#!/bin/sh\necho "$@" >"$0.called"\n')
    scancel.chmod(0o755)
    hub.start["environment"]["BEHAVIOUR"] = "code 3"
    env = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    launch(env={**env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}).wait()
    assert (tmp_path / "scancel.called").read_text() == "--quiet --signal=TERM 4242.0\n"


def test_a_cleaned_environment_is_made_up_for_by_the_file(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    file = tmp_path / ".firecrest-x"
    file.write_text(f"FIRECREST_TICKET={ticket(hub)}\nFIRECREST_LAUNCHER=x\nSLURM_JOB_ID=7\n")
    launch(str(file), bare=True)
    hub.wait("ready")
    assert hub.wait("hello")["job_id"] == "7"
    assert not file.exists()


def test_of_several_tasks_without_a_rank_the_one_that_gets_the_file_acts(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    file = tmp_path / ".firecrest-x"
    file.write_text(f"FIRECREST_TICKET={ticket(hub)}\n")
    tasks = [launch(str(file), bare=True) for _ in range(4)]
    hub.wait("alive", 5)
    eventually(lambda: all(waits_for_signals(task.process.pid) for task in tasks))
    assert len(hub.messages("hello")) == 1
    for task in tasks:
        task.process.terminate()
    results = sorted(task.wait()[0] for task in tasks)
    assert results == [0, 0, 0, 128 + signal.SIGTERM]


@pytest.mark.parametrize("blob", ["", "nonsense", base64.b64encode(b"{}").decode(), "W10"])
def test_no_ticket_is_one_clear_line(hub: Hub, launch: Launch, blob: str) -> None:
    code, said = launch(env={"FIRECREST_TICKET": blob}).wait()
    assert code == 1
    assert said.startswith("[firecrestspawner] no usable ticket")
    assert said.count("\n") == 1


def test_no_secret_reaches_arguments_children_or_the_log(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    """S1"""
    file = tmp_path / ".firecrest-x"
    file.write_text("leftover")
    job = launch(str(file), env={"SLURM_WAIT": "30", "FIRECREST_WAIT": "1"})
    seen = job.seen()
    hub.wait("alive", 2)
    for pid in (job.process.pid, seen["pid"]):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        for secret in (TICKET_SECRET, CHANNEL_SECRET, API_TOKEN, ticket(hub)):
            assert secret not in arguments
    assert not [name for name in seen["env"] if name.startswith("FIRECREST_")]
    assert "SLURM_WAIT" not in seen["env"], "it would cut short srun in a notebook"
    assert seen["env"]["JUPYTERHUB_API_TOKEN"] == API_TOKEN
    assert TICKET_SECRET not in json.dumps(seen["env"])
    assert not file.exists()
    job.process.terminate()
    _, said = job.wait()
    for secret in (TICKET_SECRET, CHANNEL_SECRET, API_TOKEN, ticket(hub)):
        assert secret not in said


# --- HOME


def test_an_unset_home_is_the_accounts(hub: Hub, launch: Launch) -> None:
    job = launch(env={"HOME": ""})
    env = job.seen()["env"]
    assert env["HOME"] == os.path.expanduser("~" + env["USER"])
    assert env["USER"] == env["LOGNAME"]


def test_a_home_that_does_not_exist_is_replaced_by_the_working_directory(
    hub: Hub, launch: Launch, tmp_path: Path
) -> None:
    job = launch(env={"HOME": "/nowhere/alice"})
    env = job.seen()["env"]
    assert env["HOME"] == str(tmp_path)
    assert "JUPYTER_RUNTIME_DIR" not in env


@pytest.mark.parametrize("base", ["TMPDIR", "working directory"])
def test_jupyter_keeps_its_files_elsewhere_when_home_cannot_be_written(
    hub: Hub, launch: Launch, tmp_path: Path, base: str
) -> None:
    (tmp_path / "scratch").mkdir()
    tmpdir = {"TMPDIR": str(tmp_path / "scratch")} if base == "TMPDIR" else {}
    # /proc/self refuses new files even to root, as a read-only or full disk does to all.
    job = launch(env={"HOME": "/proc/self", **tmpdir})
    env = job.seen()["env"]
    runtime = Path(env["JUPYTER_RUNTIME_DIR"])
    assert env["HOME"] == "/proc/self"
    assert runtime.parent.parent == (tmp_path / "scratch" if tmpdir else tmp_path)
    assert runtime.parent.stat().st_mode & 0o777 == 0o700
    assert Path(env["JUPYTER_DATA_DIR"]).parent == runtime.parent
    assert env["JUPYTER_PATH"] == "/proc/self/.local/share/jupyter"
    job.process.terminate()
    job.wait()
    assert not runtime.parent.exists()


def test_a_full_disk_behind_the_log_does_not_end_the_server(hub: Hub, launch: Launch) -> None:
    hub.replies["alive"] = [(502, b""), (502, b""), ALIVE]
    command = [sys.executable, "-c", RUN, str(SOURCE), json.dumps(FAST)]
    job = launch(argv=["/bin/sh", "-c", 'exec "$@" 2>/dev/full', "sh", *command])
    hub.wait("alive", 5)
    assert job.process.poll() is None


# --- the source itself


def test_the_source_is_python_3_8_and_standard_library_only() -> None:
    tree = ast.parse(SOURCE.read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= set(sys.stdlib_module_names)


def test_the_launcher_costs_a_start_less_than_100_ms(hub: Hub, launch: Launch) -> None:
    """From the interpreter's start to the server's, and from listening to `ready`."""
    overheads = []
    for count in range(1, 4):
        began = time.monotonic()
        job = launch(pace={name: value for name, value in FAST.items() if "DELAY" not in name})
        hub.wait("ready", count)
        total = time.monotonic() - began
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import json, socket, urllib.parse"], check=True)
        overheads.append(total - 2 * (time.monotonic() - began))
        job.process.terminate()
        job.wait()
    assert min(overheads) < 0.1
