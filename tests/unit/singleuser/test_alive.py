"""What ends a running server, what must not, and is its end reported?"""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
import time

import pytest

from firecrestspawner import singleuser
from tests.unit.singleuser.channel_end import (
    ALIVE,
    CHANNEL_SECRET,
    ENDED,
    PATIENCE,
    SPAWN_ID,
    TICKET_SECRET,
    UNKNOWN,
    Hub,
    Launch,
    sealed,
)


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
    ids=[
        "401",
        "403",
        "404",
        "502",
        "login-page",
        "unsigned",
        "wrong-key",
        "ticket-key",
        "other",
        "deep",
        "odd-mac",
        "reset",
    ],
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


def test_each_warning_of_the_time_limit_is_said_once_when_it_is_due(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = object.__new__(singleuser.Session)
    session.facts, session.warnings = {"SLURM_JOB_END_TIME": "10000"}, [900.0, 300.0, 60.0]

    def at(now: int) -> tuple[float, str]:
        monkeypatch.setattr(time, "time", lambda: now + 0.5)
        return session.warn(), capsys.readouterr().err

    assert at(9000) == (100, "")
    assert "over in 15 min" in at(9100)[1]
    assert at(9101) == (599, "")
    pause, said = at(9950)  # a node that was suspended: two are due at once
    assert "over in 1 min" in said and said.count("\n") == 1 and pause == 3600
    assert at(9990) == (3600, "") and at(10100) == (3600, "")


@pytest.mark.parametrize("name", ["SLURM_JOB_END_TIME", "FIRECREST_JOB_END"])
def test_a_server_is_warned_and_goes_on(hub: Hub, launch: Launch, name: str) -> None:
    """Its job may have been extended: the scheduler ends it."""
    hub.start["warnings"] = [15, 5]
    job = launch(env={name: str(int(time.time()) + 100)})
    hub.wait("alive", 3)
    assert job.process.poll() is None
    job.process.terminate()
    assert job.wait()[1].count("the job's time is over in") == 1


@pytest.mark.parametrize("end", [None, "Unknown", "4294967294"])
def test_a_job_without_an_end_is_not_warned_of_it(
    hub: Hub, launch: Launch, end: str | None
) -> None:
    hub.start["warnings"] = [15]
    job = launch(env={"SLURM_JOB_END_TIME": end} if end else {})
    hub.wait("alive", 3)
    job.process.terminate()
    assert "the job's time" not in job.wait()[1]


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


def test_a_stop_by_signal_is_reported_until_the_hub_hears_it(hub: Hub, launch: Launch) -> None:
    """R1: at a time limit or a scancel the Hub may just be away, and hears it when it is back."""
    hub.replies["exiting"] = [(502, b""), None, (404, b""), ALIVE]
    job = launch(pace={"FAREWELL": 20.0})
    hub.wait("ready")
    job.process.send_signal(signal.SIGTERM)
    assert job.wait()[0] == 128 + signal.SIGTERM
    heard = hub.messages("exiting")
    assert [one["reason"] for one in heard] == ["stopped by SIGTERM"] * 4


def test_a_dead_hub_does_not_keep_the_node_after_the_servers_end(hub: Hub, launch: Launch) -> None:
    hub.start["environment"]["BEHAVIOUR"] = "code 3"
    hub.replies["exiting"] = [(502, b"")]
    assert launch(pace={"FAREWELL": 0.2}).wait()[0] == 3
