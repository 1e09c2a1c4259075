"""What the Hub knows of one spawn, and how that survives a restart.

A :class:`Spawn` becomes a plain dict for ``orm_spawner.state``, its secrets sealed with the Hub's
CryptKeeper (S1). A :class:`Tombstone` is what stays of a spawn that has ended in the Hub's eyes but
whose job may still run, or start: enough to prove to it that it is not wanted (R7).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .channel import Exiting, Hello, Line, Message, Ready
from .metrics import ORPHANS
from .models import Secret
from .progress import Progress, Stage

#: Encrypts bytes to text, and back. Opening raises ValueError for what is not its own.
Seal = Callable[[bytes], str]
Open = Callable[[str], bytes]

#: Seconds after which a job that has not called will not call: time limits are days.
TOMBSTONE_LIFE = 30 * 86400.0
#: So many tombstones are kept for one server; the oldest go first.
TOMBSTONES = 20


@dataclass
class Spawn:
    """One start of one server, from before its submit to its end.

    ``user`` is the cluster user (R10). ``address`` is numeric and has passed all checks; until then
    it is empty. ``environment`` and ``command`` are what the launcher is told at hello.
    ``submitted_at`` (Unix seconds) is 0 until the submit is sent, and anew the time at which its
    answer was lost. ``log`` is where the job's log is, as sbatch's filename pattern. ``sealed`` is
    set when the secrets could not be opened: then it is kept as it is, for the key may come back,
    and nothing the job says can be checked.
    """

    line: Line
    system: str
    user: str
    api_token: Secret
    environment: dict[str, str] = field(repr=False)
    command: list[str] = field(repr=False)
    submitted_at: float = 0.0
    job_id: str = ""
    address: str = ""
    port: int = 0
    stage: Stage = Stage.SUBMITTING
    reported: Ready | None = None
    exit_code: int | None = None
    exit_reason: str = ""
    walltime: int | None = None
    told: bool = False
    log: str = ""
    sealed: str = field(default="", repr=False)
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.line.spawn_id

    @property
    def url(self) -> str:
        """Where the server is; empty until its address has passed the checks."""
        if not self.address:
            return ""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"

    def to_state(self, seal: Seal) -> dict[str, Any]:
        """A plain dict: everything secret is inside ``sealed``."""
        return {
            "spawn_id": self.id,
            "system": self.system,
            "user": self.user,
            "job_id": self.job_id,
            "submitted_at": self.submitted_at,
            "address": self.address,
            "port": self.port,
            "nonce": self.line.nonce,
            "ready": self.line.ready,
            "reported": [*self.reported.addresses, self.reported.port] if self.reported else [],
            "log": self.log,
            "sealed": self.sealed or seal(_json(self._secrets())),
        }

    def _secrets(self) -> dict[str, Any]:
        return {
            "ticket": self.line.ticket_secret.reveal(),
            "secret": self.line.secret.reveal(),
            "api_token": self.api_token.reveal(),
            "environment": self.environment,
            "command": self.command,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], unseal: Open) -> Spawn:
        """Raises ValueError when the state is not one of ours, or sealed with a lost key."""
        try:
            secrets = json.loads(unseal(state["sealed"]))
            line = _line(state, secrets["ticket"], secrets["secret"])
            return cls(
                line=line,
                api_token=Secret(secrets["api_token"]),
                environment=dict(secrets["environment"]),
                command=list(secrets["command"]),
                **_clear(state),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the stored state lacks {error}") from None

    @classmethod
    def without_secrets(cls, state: Mapping[str, Any]) -> Spawn:
        """What can be known of a spawn whose secrets cannot be opened: job, system, user, address.

        Raises ValueError when the state is not one of ours.
        """
        nobodys = Line.new()  # so that no signature fits
        try:
            return cls(
                line=_line(state, nobodys.ticket_secret.reveal(), nobodys.secret.reveal()),
                api_token=Secret(""),
                environment={},
                command=[],
                sealed=str(state["sealed"]),
                **_clear(state),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the stored state lacks {error}") from None

    def tombstone(self, why: str) -> Tombstone:
        """End this spawn in the Hub's eyes, and keep the proof of it."""
        self.line.ended = why
        until = time.time() + TOMBSTONE_LIFE
        return Tombstone(self.line, self.system, self.submitted_at, self.job_id, until)


@dataclass
class Tombstone:
    """An ended spawn whose job may still have to be told so."""

    line: Line
    system: str
    submitted_at: float
    job_id: str
    until: float
    gone: Callable[[str], None] | None = None

    async def hear(self, message: Message, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Answer *ended*, with proof, to whoever proves to be that job."""
        if isinstance(message, Hello):
            self.line.greet(message)
            return self.line.farewell(at_hello=True)
        self.line.prove(raw)
        return self.line.farewell()

    async def after(self, message: Message) -> None:
        """Bury it once its job has said goodbye, or was told before it began."""
        if isinstance(message, Exiting | Hello) and self.gone is not None:
            ORPHANS.labels("told").inc()
            self.gone(self.line.spawn_id)

    def to_state(self, seal: Seal) -> dict[str, Any]:
        secrets = {
            "ticket": self.line.ticket_secret.reveal(),
            "secret": self.line.secret.reveal(),
        }
        return {
            "spawn_id": self.line.spawn_id,
            "system": self.system,
            "submitted_at": self.submitted_at,
            "job_id": self.job_id,
            "nonce": self.line.nonce,
            "ready": self.line.ready,
            "ended": self.line.ended,
            "until": self.until,
            "sealed": seal(_json(secrets)),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], unseal: Open) -> Tombstone:
        """Raises ValueError as Spawn.from_state does."""
        try:
            secrets = json.loads(unseal(state["sealed"]))
            line = _line(state, secrets["ticket"], secrets["secret"])
            line.ended = str(state["ended"])
            return cls(
                line,
                system=str(state["system"]),
                submitted_at=float(state["submitted_at"]),
                job_id=str(state["job_id"]),
                until=float(state["until"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the stored tombstone lacks {error}") from None


def _line(state: Mapping[str, Any], ticket: str, secret: str) -> Line:
    return Line(
        str(state["spawn_id"]),
        Secret(ticket),
        Secret(secret),
        nonce=str(state["nonce"]),
        ready=bool(state["ready"]),
    )


def _clear(state: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Spawn that are stored as they are."""
    address = str(state["address"])
    *addresses, port = state.get("reported") or [0]
    return {
        "system": str(state["system"]),
        "user": str(state["user"]),
        "submitted_at": float(state["submitted_at"]),
        "job_id": str(state["job_id"]),
        "address": address,
        "port": int(state["port"]),
        "stage": _stage(state),
        "log": str(state.get("log") or ""),
        "reported": Ready(str(state["spawn_id"]), tuple(addresses), port) if addresses else None,
    }


def _stage(state: Mapping[str, Any]) -> Stage:
    if state["address"]:
        return Stage.LISTENING
    if state["nonce"]:
        return Stage.LAUNCHED
    return Stage.SUBMITTED if state["job_id"] else Stage.SUBMITTING


def under_way(state: Mapping[str, Any]) -> bool:
    """Whether a stored state is that of a start: there is a spawn, and no address to connect to."""
    return "spawn_id" in state and not state.get("address")


def earlier(
    states: Iterable[Mapping[str, Any]], system: str, *, besides: str
) -> tuple[set[str], list[float]]:
    """What a user's other starts on ``system`` have left, read from the stored states.

    Returns the ids of their jobs, and for each submit whose fate nobody knows when it was under way
    (Unix seconds). The spawn called ``besides`` is left out.
    """
    spawns = {
        each["spawn_id"]: each
        for state in states
        for each in (state, *(state.get("tombstones") or ()))
        if each.get("system") == system and each.get("spawn_id") not in (None, besides)
    }
    jobs = {each["job_id"] for each in spawns.values() if each["job_id"]}
    # A submit that still waits for its turn has no time.
    unsettled = [each["submitted_at"] for each in spawns.values() if not each["job_id"]]
    return jobs, [submitted_at for submitted_at in unsettled if submitted_at]


def farewells(
    states: Mapping[str, Mapping[str, Any]], title: Callable[[str], str], *, now: float
) -> list[str]:
    """What a user is told of jobs that were stopped and may still be there, a sentence each.

    ``states`` are the stored states of the user's servers by name, ``title`` says what a system is
    called; ``now`` is in Unix seconds.
    """
    return [
        _farewell(name, stone, title(stone["system"]))
        for name, state in sorted(states.items())
        for stone in state.get("tombstones") or ()
        # One of a submit whose answer was lost: there may never have been a job.
        if stone["job_id"] and stone["until"] > now and stone["spawn_id"] != state.get("spawn_id")
    ]


def _farewell(name: str, stone: Mapping[str, Any], system: str) -> str:
    server = f"your server {name}" if name else "your server"
    end = "within minutes" if stone["nonce"] else "as soon as it begins"
    return (
        f"Job {stone['job_id']} on {system}, of {server}, was stopped but could not be "
        f"cancelled: it ends itself {end}."
    )


def claims(
    states: Iterable[Mapping[str, Any]], system: str, user: str
) -> tuple[set[str], set[str], bool]:
    """What the stored states of all servers say about the jobs on ``system``.

    Returns the ids of the jobs that are wanted, of those that a tombstone ends, and whether a start
    of the cluster user ``user`` does not know its job yet.
    """
    wanted, ending, unsettled = set(), set(), False
    for state in states:
        stones = state.get("tombstones") or ()
        ending |= {stone["job_id"] for stone in stones if stone["system"] == system}
        buried = state.get("spawn_id") in {stone["spawn_id"] for stone in stones}
        if state.get("system") != system or buried:
            continue
        if state["job_id"]:
            wanted.add(state["job_id"])
        elif state["submitted_at"] and state["user"] == user:
            unsettled = True
    return wanted, ending, unsettled


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
