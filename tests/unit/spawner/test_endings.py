"""Is it remembered how a server ended, and for how long?"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner import options, output
from firecrestspawner.causes import UNKNOWN
from firecrestspawner.channel import Exiting, Ready
from firecrestspawner.endings import LINES, REMEMBERED, ROOM, Ending, Endings, endings, form_fields
from firecrestspawner.errors import LoginRequired, SubmissionRejected, Unreachable
from firecrestspawner.models import JobState
from tests.unit.spawner.scene import Scene, job
from tests.unit.spawner.test_stop import started

LOG = "Traceback\nModuleNotFoundError: No module named 'jupyterhub'\n[firecrestspawner] exited\n"


def known(scene: Scene, name: str = "") -> Ending | None:
    return endings(scene.user.settings).get(scene.user, name)


def ending(scene: Scene) -> Ending:
    found = known(scene)
    assert found is not None
    return found


async def start(spawner: Any) -> Any:
    """What a start of the spawner that does not come to its end raises."""
    with pytest.raises(Exception) as caught:
        await spawner.start()
    return caught.value


async def start_that_ends(scene: Scene, end: Any) -> Any:
    """A start whose job was submitted, and ends; what the start raises."""
    spawner = await started(scene)
    end(spawner)
    return await start(spawner)


def exits(spawner: Any) -> None:
    spawner.spawn.exit_code, spawner.spawn.exit_reason = 1, "exited with code 1"


async def test_a_failed_start_is_recorded_with_cause_and_the_end_of_its_log(scene: Scene) -> None:
    """S5: the log is read with the user's own token."""
    scene.api.files = {"/home/alice/jupyter-7.log": LOG}
    raised = await start_that_ends(scene, exits)
    end = ending(scene)
    assert (end.cause.name, end.job_id, end.system) == ("import-error", "7", "daint")
    assert end.output.lines == tuple(LOG.splitlines())
    assert scene.api.tokens[-1] == "alices"
    # The page of a failed start and the progress show what was raised.
    assert "exited with code 1" in raised.jupyterhub_message
    assert end.cause.text in raised.jupyterhub_message


@pytest.mark.parametrize(("line", "kept"), [("short", LINES), ("x" * 500, ROOM // 500)])
async def test_so_much_of_a_log_is_kept(scene: Scene, line: str, kept: int) -> None:
    scene.api.files = {"/home/alice/jupyter-7.log": f"{line}\n" * 100 + "end\n"}
    await start_that_ends(scene, exits)
    lines = ending(scene).output.lines
    assert lines[-1] == "end" and kept - 1 <= len(lines) <= kept


async def test_without_its_log_the_cause_is_what_is_known_anyway(scene: Scene) -> None:
    def timeout(spawner: Any) -> None:
        spawner._watch.confirmed = job("7", JobState.TIMEOUT)

    raised = await start_that_ends(scene, timeout)
    assert ending(scene).cause.name == "time-limit"
    assert "no output yet" in ending(scene).output.problem
    assert "time limit" in raised.jupyterhub_message


async def test_a_cluster_that_does_not_send_the_log_delays_the_failure_a_little(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cause is recorded before, and the start ends at the deadline (R8)."""
    monkeypatch.setattr(output, "DEADLINE", 0.05)
    scene.api.files = None
    await start_that_ends(scene, exits)
    assert ending(scene).cause is UNKNOWN
    assert "in time" in ending(scene).output.problem


async def test_a_start_that_is_stopped_while_the_log_is_read_has_its_cause(scene: Scene) -> None:
    scene.api.files = None
    starting = asyncio.ensure_future(start_that_ends(scene, exits))
    await scene.api.reading.wait()
    assert ending(scene).job_id == "7"
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_a_server_that_ends_while_its_address_is_looked_up_was_never_ready(
    scene: Scene,
) -> None:
    """JupyterHub would wait http_timeout for it, and say that it did not answer."""
    spawner = await started(scene)
    scene.api.put(job("7", JobState.RUNNING))
    spawner.spawn.reported = Ready(spawner.spawn.id, ("10.1.0.1",), 20001)
    nodes = scene.api.nodes

    async def slowly(*args: Any) -> Any:
        exits(spawner)
        return await nodes(*args)

    scene.api.nodes = slowly  # type: ignore[method-assign, assignment]
    raised = await start(spawner)
    assert "exited with code 1" in raised.jupyterhub_message


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (SubmissionRejected("The scheduler refused the job: Invalid account."), "account"),
        (Unreachable("Away."), "outage"),
    ],
)
async def test_a_refused_start_is_recorded_without_a_job(
    scene: Scene, error: Any, name: str
) -> None:
    scene.api.submits = [error]
    raised = await start(scene.spawner())
    assert (ending(scene).cause.name, ending(scene).job_id) == (name, "")
    assert error.message in raised.jupyterhub_message


async def test_a_start_that_cannot_go_on_is_told_so_and_no_log_is_read(scene: Scene) -> None:
    """Its secrets are lost, and its job has not ended: there is nothing to be found out."""

    def lost(spawner: Any) -> None:
        spawner.spawn.sealed = "x"

    raised = await start_that_ends(scene, lost)
    assert raised.jupyterhub_message.endswith("Please start the server again.")
    assert ending(scene).job_id == "7" and not scene.api.reading.is_set()


async def start_that_takes_too_long(scene: Scene, state: JobState) -> Any:
    spawner = await started(scene)
    spawner.start_timeout = 1
    spawner._watch.confirmed = None
    spawner._watch.hint = job("7", state)
    return await asyncio.wait_for(start(spawner), 10)


async def test_a_start_that_takes_too_long_in_the_queue_says_so(scene: Scene) -> None:
    """Before JupyterHub would end it with words of its own; there is no log to be read."""
    raised = await start_that_takes_too_long(scene, JobState.PENDING)
    end = ending(scene)
    assert (end.cause.name, end.job_id, end.output.lines) == ("start-timeout", "7", ())
    for text in (end.happened, raised.jupyterhub_message):
        assert "The server was not ready within 1 s" in text
    assert "still in the queue" in raised.jupyterhub_message


@pytest.mark.parametrize(
    ("log", "cause"), [(LOG, "import-error"), ("[I] reading extensions\n", "start-timeout")]
)
async def test_a_start_that_takes_too_long_in_its_job_shows_the_end_of_its_log(
    scene: Scene, log: str, cause: str
) -> None:
    scene.api.files = {"/home/alice/jupyter-7.log": log}
    raised = await start_that_takes_too_long(scene, JobState.RUNNING)
    assert ending(scene).cause.name == cause
    assert ending(scene).output.lines == tuple(log.splitlines())
    assert "The server was not ready within 1 s" in raised.jupyterhub_message


async def test_who_has_to_log_in_again_still_gets_the_link(scene: Scene) -> None:
    scene.logins.error = LoginRequired("Log in again to continue.")
    raised = await start(scene.spawner())
    assert raised.jupyterhub_message == "Log in again to continue."
    assert ending(scene).cause.name == "login-required"


# --- later ends -----------------------------------------------------------------------------


async def running(scene: Scene) -> Any:
    spawner = await started(scene)
    spawner.spawn.address, spawner.spawn.port = "10.1.0.1", 80
    return spawner


async def test_a_server_that_reaches_its_time_limit_is_said_to_have(scene: Scene) -> None:
    spawner = await running(scene)
    spawner.spawn.line.prove = lambda raw: None
    reason = "stopped by SIGTERM"
    await spawner.hear(Exiting(spawner.spawn.id, 143, reason, walltime=25), {})
    spawner.clear_state()
    assert (ending(scene).cause.name, ending(scene).job_id) == ("time-limit", "7")


async def test_a_server_that_lost_its_node_is_said_to_have(scene: Scene) -> None:
    spawner = await running(scene)
    spawner._watch.confirmed = job("7", JobState.NODE_FAIL)
    spawner.clear_state()
    assert ending(scene).cause.name == "node-failure"


async def test_a_server_that_was_stopped_is_no_news(scene: Scene) -> None:
    endings(scene.user.settings).keep(scene.user, "", Ending(UNKNOWN, ""))
    spawner = await running(scene)
    await spawner.stop(now=True)
    spawner.clear_state()
    assert known(scene) is None


async def test_a_server_that_the_hub_could_not_connect_to_is_said_to_be(scene: Scene) -> None:
    spawner = await running(scene)
    spawner._waiting_for_response = True
    await spawner.stop(now=True)
    spawner.clear_state()
    assert ending(scene).cause.name == "port-not-reached"


async def test_the_clearing_after_a_failed_start_keeps_what_it_recorded(scene: Scene) -> None:
    await start_that_ends(scene, exits)
    before = ending(scene)
    scene.user.spawners[""]._stop_pending = True
    scene.user.spawners[""].clear_state()
    assert ending(scene) is before
    # Refused before there was a spawn: there is nothing to compare with.
    scene.user.spawners[""].clear_state()
    assert ending(scene) is before


async def test_a_new_start_forgets_the_last_end(scene: Scene) -> None:
    await start_that_ends(scene, exits)
    spawner = scene.spawner()
    spawner.spawn = None
    spawner.clear_state()  # as User.spawn does, before anything of the start
    assert known(scene) is None


def test_so_many_ends_are_remembered() -> None:
    kept, alice = Endings(), SimpleNamespace(id=1, name="alice")
    for n in range(REMEMBERED + 1):
        kept.keep(alice, str(n), Ending(UNKNOWN, ""))
    assert kept.get(alice, "0") is None and kept.get(alice, "1") is not None


def test_whoever_has_a_former_users_name_or_number_reads_none_of_their_output() -> None:
    """S5"""
    kept = Endings()
    kept.keep(SimpleNamespace(id=1, name="alice"), "", Ending(UNKNOWN, ""))
    for other in (SimpleNamespace(id=2, name="alice"), SimpleNamespace(id=1, name="bob")):
        assert kept.get(other, "") is None


# --- the same choices again -----------------------------------------------------------------


async def test_the_same_choices_can_be_posted_again(scene: Scene) -> None:
    spawner = scene.spawner()
    chosen = {"partition": "normal", "runtime": "01:00:00"}
    spawner.user_options = dict(chosen)
    scene.api.submits = [Unreachable("Away.")]
    await start(spawner)
    fields = ending(scene).retry
    assert fields is not None
    assert options.from_form({name: [value] for name, value in fields}) == chosen


def test_numbers_are_posted_as_text_and_what_is_unset_is_not() -> None:
    assert form_fields({"nodes": 2, "account": "", "qos": None}) == (("nodes", "2"),)
    assert form_fields({"profile": "gpu", "gpus": "1"}) == (("profile", "gpu"), ("gpus", "1"))


@pytest.mark.parametrize(
    "chosen",
    [
        *({"a": ["b"]}, {"a": {}}, {"a": True}, {"a": " b"}),
        {"profile": "gpu", "system": "daint"},
        # No choice of ours is as long, and a thousand ends are kept.
        *({"a": "x" * 10_000}, {f"a{n}": "x" for n in range(10_000)}, {"a" * 10_000: "x"}),
    ],
    ids=lambda chosen: str(chosen)[:20],
)
def test_what_no_form_can_have_posted_is_not_offered(chosen: dict[str, Any]) -> None:
    assert form_fields(chosen) is None


async def test_a_sites_own_form_is_not_imitated(scene: Scene) -> None:
    scene.config.FirecRESTSpawner.options_from_form = lambda form: {"x": "y"}
    scene.api.submits = [Unreachable("Away.")]
    await start(scene.spawner())
    assert ending(scene).retry is None
