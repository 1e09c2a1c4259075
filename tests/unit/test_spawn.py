"""Does a spawn survive a restart whole, and does its stored state tell no secret?"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from firecrestspawner import channel
from firecrestspawner.channel import Exiting, Hello, Line, Ready
from firecrestspawner.errors import ChannelError
from firecrestspawner.models import Secret
from firecrestspawner.progress import Stage
from firecrestspawner.spawn import TOMBSTONE_LIFE, Spawn, Tombstone, earlier, farewells

NONCE = "a" * 32
API_TOKEN = "hub-api-token-0123456789"
ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": API_TOKEN,
    "JUPYTERHUB_API_URL": "http://hub:8081/hub/api",
    "GREETING": "Gr\u00fc\u00df dich, 'user'\n\"line two\"",
}
COMMAND = ["jupyterhub-singleuser", "--debug", "--x='y z'"]


def seal(data: bytes) -> str:
    """Not an encryption, but nothing can be read in it, and only its own can be opened."""
    return "sealed:" + base64.b85encode(bytes(byte ^ 0x5A for byte in data)).decode()


def unseal(text: str) -> bytes:
    if not isinstance(text, str) or not text.startswith("sealed:"):
        raise ValueError("it was sealed with a key the Hub does not have")
    return bytes(byte ^ 0x5A for byte in base64.b85decode(text.removeprefix("sealed:")))


def spawn(**changes: Any) -> Spawn:
    fields: dict[str, Any] = {
        "line": Line.new(),
        "system": "daint",
        "user": "alice",
        "api_token": Secret(API_TOKEN),
        "environment": dict(ENVIRONMENT),
        "command": list(COMMAND),
    }
    return Spawn(**fields | changes)


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """The state as it comes back from the database's JSON column."""
    restored: dict[str, Any] = json.loads(json.dumps(state))
    return restored


def secrets_of(line: Line) -> list[str]:
    return [line.ticket_secret.reveal(), line.secret.reveal(), line.ticket.reveal()]


def hello(line: Line, nonce: str = NONCE) -> Hello:
    return Hello(line.spawn_id, line.ticket_secret, nonce, "17")


def test_a_spawn_comes_back_as_it_was() -> None:
    """R6."""
    before = spawn(job_id="4711", address="10.0.0.7", port=20001, stage=Stage.LISTENING)
    before.line.nonce, before.line.ready = NONCE, True
    after = Spawn.from_state(stored(before.to_state(seal)), unseal)
    assert after == before
    assert after.url == "http://10.0.0.7:20001"


def test_a_queued_spawn_comes_back_waiting() -> None:
    """R6."""
    before = spawn(job_id="4711")
    after = Spawn.from_state(stored(before.to_state(seal)), unseal)
    assert after.stage is Stage.SUBMITTED and after.url == ""
    assert after.submitted_at == before.submitted_at
    assert after.command == COMMAND and after.environment == ENVIRONMENT


def test_the_ticket_stays_bound_over_a_restart() -> None:
    """S4, R6: the same job may ask again, another may not."""
    before = spawn()
    assert before.line.greet(hello(before.line))
    after = Spawn.from_state(stored(before.to_state(seal)), unseal)
    assert not after.line.greet(hello(after.line))
    with pytest.raises(ChannelError):
        after.line.greet(hello(after.line, "b" * 32))


def test_an_ipv6_address_is_bracketed_in_the_url() -> None:
    assert spawn(address="fd00::7", port=80).url == "http://[fd00::7]:80"


def test_nothing_secret_is_outside_the_seal() -> None:
    """S1: the column is plain JSON, and the Hub's admins' REST API answers with it."""
    one = spawn(job_id="4711")
    state = one.to_state(seal)
    plain = json.dumps({key: value for key, value in state.items() if key != "sealed"})
    for secret in (API_TOKEN, *secrets_of(one.line), *ENVIRONMENT.values(), COMMAND[2]):
        assert secret not in plain
        assert json.dumps(secret)[1:-1] not in plain
    assert set(state) == {
        *("spawn_id", "system", "user", "job_id", "submitted_at"),
        *("address", "port", "nonce", "ready", "reported", "log", "sealed"),
    }
    opened = json.loads(unseal(state["sealed"]))
    assert opened["api_token"] == API_TOKEN


def test_nothing_secret_is_in_a_repr() -> None:
    """S1."""
    one = spawn()
    shown = f"{one} {one!r} {one.tombstone('gone')!r}"
    for secret in (API_TOKEN, *secrets_of(one.line), "JUPYTERHUB_API_URL", COMMAND[2]):
        assert secret not in shown


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.pop(name)


def with_(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: value})


def inside(name: str, *value: Any) -> Callable[[dict[str, Any]], None]:
    """Change, or without a value remove, something within the seal."""

    def change(state: dict[str, Any]) -> None:
        opened = json.loads(unseal(state["sealed"]))
        del opened[name]
        opened |= dict.fromkeys([name] if value else [], *value)
        state["sealed"] = seal(json.dumps(opened).encode())

    return change


CORRUPTIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    **{
        f"no {name}": without(name)
        for name in ("spawn_id", "system", "user", "job_id", "submitted_at", "sealed")
    },
    **{
        f"no {name} in the seal": inside(name)
        for name in ("ticket", "secret", "api_token", "environment", "command")
    },
    "another key": with_("sealed", "fernet:abc"),
    "no seal": with_("sealed", None),
    "a number for a seal": with_("sealed", 7),
    "a seal of no JSON": with_("sealed", seal(b"\x00\xff")),
    "a seal of a list": with_("sealed", seal(b"[]")),
    "a seal of a number": with_("sealed", seal(b"7")),
    "a port that is no number": with_("port", "x"),
    "a port that is nothing": with_("port", None),
    "a time that is none": with_("submitted_at", "yesterday"),
    "an environment that is none": inside("environment", 7),
    "an environment of letters": inside("environment", "abc"),
    "a command that is none": inside("command", None),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_corrupted_state_is_a_value_error_without_secrets(
    corrupt: Callable[[dict[str, Any]], None],
) -> None:
    """R6: the Hub's start must not stumble over one row; S1."""
    one = spawn(job_id="4711")
    state = one.to_state(seal)
    corrupt(state)
    with pytest.raises(ValueError) as caught:
        Spawn.from_state(stored(state), unseal)
    for secret in (API_TOKEN, *secrets_of(one.line)):
        assert secret not in str(caught.value)


# -- tombstones ---------------------------------------------------------------------------------


def test_a_tombstone_comes_back_as_it_was() -> None:
    """R7."""
    one = spawn(job_id="4711")
    one.line.greet(hello(one.line))
    stone = one.tombstone("The server was stopped.")
    after = Tombstone.from_state(stored(stone.to_state(seal)), unseal)
    assert after == stone
    assert after.line.ended == "The server was stopped."
    assert time.time() < after.until <= time.time() + TOMBSTONE_LIFE


def test_nothing_secret_is_outside_a_tombstones_seal() -> None:
    """S1."""
    one = spawn()
    state = one.tombstone("gone").to_state(seal)
    plain = json.dumps({key: value for key, value in state.items() if key != "sealed"})
    assert not any(secret in plain for secret in secrets_of(one.line))
    assert API_TOKEN not in unseal(state["sealed"]).decode(), "it has no use for it any more"


@pytest.mark.parametrize(
    "corrupt",
    [
        without(name)
        for name in (
            "spawn_id",
            "job_id",
            "system",
            "submitted_at",
            "nonce",
            "ended",
            "until",
            "sealed",
        )
    ]
    + [inside("ticket"), inside("secret"), with_("until", "x"), with_("sealed", seal(b"[]"))],
)
def test_a_corrupted_tombstone_is_a_value_error(corrupt: Callable[[dict[str, Any]], None]) -> None:
    state = spawn().tombstone("gone").to_state(seal)
    corrupt(state)
    with pytest.raises(ValueError):
        Tombstone.from_state(stored(state), unseal)


async def test_a_job_that_starts_after_its_tombstone_is_told_with_proof() -> None:
    """R7: a queued job, whose hello is its first word, and whose channel has no secret yet."""
    one = spawn()
    stone = one.tombstone("Stopped.")
    answer = await stone.hear(hello(one.line), {})
    assert (answer["verdict"], answer["reason"]) == ("ended", "Stopped.")
    channel.prove(answer, one.line.ticket_secret)
    assert "secret" not in answer and "environment" not in answer


async def test_a_running_job_is_told_with_proof() -> None:
    """R7."""
    one = spawn()
    one.line.greet(hello(one.line))
    stone = one.tombstone("Stopped.")
    raw = channel.signed({"message": "alive", "spawn_id": one.id}, one.line.secret)
    answer = await stone.hear(channel.Alive(one.id), raw)
    assert answer["verdict"] == "ended"
    channel.prove(answer, one.line.secret)


async def test_a_tombstone_answers_nobody_without_proof() -> None:
    """S3, S4: neither a wrong signature nor another job with the same ticket."""
    one = spawn()
    one.line.greet(hello(one.line))
    stone = one.tombstone("Stopped.")
    raw = channel.signed({"message": "alive", "spawn_id": one.id}, Secret("wrong"))
    with pytest.raises(ChannelError):
        await stone.hear(channel.Alive(one.id), raw)
    with pytest.raises(ChannelError):
        await stone.hear(hello(one.line, "b" * 32), {})
    with pytest.raises(ChannelError):
        await stone.hear(Hello(one.id, Secret("x" * 43), NONCE, "17"), {})


async def test_a_tombstone_is_buried_by_its_jobs_goodbye() -> None:
    """R7: not by a message that says the job is still there."""
    one = spawn()
    stone = one.tombstone("Stopped.")
    buried: list[str] = []
    stone.gone = buried.append
    await stone.after(channel.Alive(one.id))
    await stone.after(Ready(one.id, ("10.0.0.1",), 80))
    assert buried == []
    await stone.after(Exiting(one.id, 0, "done", None))
    assert buried == [one.id]


# -- earlier starts -----------------------------------------------------------------------------


def test_what_earlier_starts_have_left_is_read_from_what_is_stored() -> None:
    """R3: of all the user's servers, on this system, each spawn once."""
    running = spawn(job_id="1", submitted_at=1.0)
    lost = spawn(submitted_at=2.0)
    stopping = spawn(submitted_at=3.0)
    waiting, this, elsewhere = spawn(), spawn(submitted_at=4.0), spawn(system="x", job_id="9")
    stones = [one.tombstone("gone").to_state(seal) for one in (lost, stopping, elsewhere)]
    states = [
        {**running.to_state(seal), "tombstones": stones[:1]},
        {**stopping.to_state(seal), "tombstones": stones[1:]},
        waiting.to_state(seal),
        this.to_state(seal),
        {"tombstones": [spawn(job_id="2", submitted_at=5.0).tombstone("gone").to_state(seal)]},
        {},
    ]
    jobs, unsettled = earlier(map(stored, states), "daint", besides=this.id)
    assert jobs == {"1", "2"}
    assert sorted(unsettled) == [2.0, 3.0]


def test_what_a_user_is_told_of_jobs_that_could_not_be_cancelled() -> None:
    """R7: not of the one being stopped right now, not of a submit that may have brought no job."""

    def stone(spawn_id: str, **fields: object) -> dict[str, object]:
        usual = {"spawn_id": spawn_id, "job_id": "7", "system": "daint", "nonce": "", "until": 9.0}
        return {**usual, **fields}

    states: dict[str, dict[str, object]] = {
        "": {"spawn_id": "now", "tombstones": [stone("now"), stone("a", nonce="n")]},
        "gpu": {"tombstones": [stone("b", job_id="8"), stone("c", job_id=""), stone("d", until=1)]},
        "idle": {},
    }
    assert farewells(states, str.title, now=5.0) == [
        "Job 7 on Daint, of your server, was stopped but could not be cancelled: it ends itself "
        "within minutes.",
        "Job 8 on Daint, of your server gpu, was stopped but could not be cancelled: it ends "
        "itself as soon as it begins.",
    ]
