"""Is it remembered how a server ended, and for how long?"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from jupyterhub.crypto import CryptKeeper

from firecrestspawner import options, output
from firecrestspawner.causes import UNKNOWN, Cause
from firecrestspawner.channel import Exiting, Ready
from firecrestspawner.ending import Ending
from firecrestspawner.endings import LINES, REMEMBERED, ROOM, LastLines, form_fields
from firecrestspawner.errors import LoginRequired, SubmissionRejected, Unreachable
from firecrestspawner.models import JobState
from firecrestspawner.output import Output
from firecrestspawner.reading import source_of
from firecrestspawner.vault import seal, unseal
from tests.unit.spawner.scene import Scene, job
from tests.unit.spawner.test_stop import started

LOG = "Traceback\nModuleNotFoundError: No module named 'jupyterhub'\n[firecrestspawner] exited\n"


def known(scene: Scene, name: str = "") -> Ending | None:
    found: Ending | None = scene.user.spawners[name].last_end()
    return found


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
    spawner = await running(scene)
    spawner.ending = Ending(UNKNOWN, "")
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
    before = scene.user.spawners[""].ending
    scene.user.spawners[""]._stop_pending = True
    scene.user.spawners[""].clear_state()
    assert scene.user.spawners[""].ending is before
    # Refused before there was a spawn: there is nothing to compare with.
    scene.user.spawners[""].clear_state()
    assert scene.user.spawners[""].ending is before


async def test_a_new_start_forgets_the_last_end(scene: Scene) -> None:
    await start_that_ends(scene, exits)
    spawner = scene.spawner()
    spawner.spawn = None
    spawner.clear_state()  # as User.spawn does, before anything of the start
    assert known(scene) is None


def test_so_many_ends_have_their_lines_remembered() -> None:
    kept = LastLines()
    for n in range(REMEMBERED + 1):
        kept.keep(str(n), Output(""))
    assert kept.get("0") is None and kept.get("1") is not None


# --- after a restart of the Hub --------------------------------------------------------------


async def failed_and_restarted(scene: Scene) -> None:
    """A start has failed, with the Hub's own clearing after it; and the Hub is another process."""
    scene.let_users_spawn()
    scene.api.submits = ["7"]
    scene.api.files = {"/home/alice/jupyter-7.log": LOG}
    spawner = scene.spawner()
    observe = spawner._observe

    def ends_at_once(spawn: Any) -> Any:
        exits(spawner)
        return observe(spawn)

    spawner._observe = ends_at_once
    with pytest.raises(Exception, match="exited with code 1"):
        await scene.user.spawn(options={"partition": "normal"})
    scene.restart()


async def test_what_was_told_of_an_end_is_told_after_a_restart_too(scene: Scene) -> None:
    """But for the lines, which are not stored: their place is, and the user's token reads them."""
    await failed_and_restarted(scene)
    end = scene.user.spawners[""].last_end()
    assert (end.cause.name, end.job_id, end.system) == ("import-error", "7", "daint")
    assert "exited with code 1" in end.happened and "could not be imported" in end.cause.text
    assert end.output == Output("/home/alice/jupyter-7.log")
    assert end.retry == (("partition", "normal"),)
    assert abs(end.at - time.time()) < 60 and end.when.endswith(" UTC")
    source = source_of(scene.user.spawners[""])
    assert source is not None and source.path == "/home/alice/jupyter-7.log"


async def test_what_is_stored_of_an_end_can_be_read_by_nobody_else(scene: Scene) -> None:
    """S1: it has the words of the user's own job, and no line of its log."""
    await failed_and_restarted(scene)
    stored = scene.row.orm_spawners[""].state
    assert set(stored) == {"ending"} and "code 1" not in json.dumps(stored)
    opened = unseal(stored["ending"]).decode()
    assert "code 1" in opened and "Traceback" not in opened


async def test_a_new_start_forgets_what_was_stored(scene: Scene) -> None:
    await failed_and_restarted(scene)
    scene.api.submits = [Unreachable("Away.")]
    with pytest.raises(Exception, match="Away"):
        await scene.user.spawn()
    scene.restart()
    assert scene.user.spawners[""].last_end().cause.name == "outage"
    spawner = scene.user.spawners[""]
    spawner.clear_state()
    assert spawner.last_end() is None and "ending" not in spawner.get_state()


async def test_a_hub_without_a_key_still_says_why_nothing_starts(scene: Scene) -> None:
    """Its end is not stored; what would raise in User.stop would leave the server stopping."""
    scene.let_users_spawn()
    CryptKeeper.instance().keys = []
    scene.logins.error = LoginRequired("Log in again to continue.")
    spawner = scene.spawner()
    with pytest.raises(Exception, match="Log in again"):
        await scene.user.spawn()
    assert spawner.last_end().cause.name == "login-required" and not spawner._stop_pending
    assert scene.row.orm_spawners[""].state == {}


async def test_an_end_that_cannot_be_opened_is_forgotten(scene: Scene) -> None:
    """With another JUPYTERHUB_CRYPT_KEY, or when it is damaged: the server starts all the same."""
    await failed_and_restarted(scene)
    scene.new_key()
    assert scene.user.spawners[""].last_end() is None
    for damaged in (seal(b"[1, 2]"), seal(b"no json"), 7, None):
        scene.row.orm_spawners[""].state = {"ending": damaged}
        scene.restart()
        assert scene.user.spawners[""].last_end() is None


async def test_whoever_is_given_a_former_users_name_or_row_reads_nothing_of_theirs(
    scene: Scene,
) -> None:
    """S5"""
    await failed_and_restarted(scene)
    scene.row.name = "bob"
    scene.db.commit()
    scene.restart()
    assert scene.user.spawners[""].last_end() is None


def test_so_much_is_stored_of_an_end() -> None:
    end = Ending(Cause("x" * 5000, "y" * 5000, "z" * 5000), "h" * 5000)
    assert len(end.to_state("alice", bytes.decode)) < 5000


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
