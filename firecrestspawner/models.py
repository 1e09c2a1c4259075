"""What a system, a job, a request for one, a token set and a secret are."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .states import JobState as JobState  # whoever reads a job reads its state
from .states import is_pbs, pbs_end

#: Jobs' free-text fields are cut to this many characters wherever they are kept or shown.
TEXT_LIMIT = 300
#: No time is later (Unix seconds), and no time limit longer.
_FAR_AWAY = 10**11
#: Seconds: what time zones differ by, and how old PBS's count of a job's time may be.
_QUARTER, _COUNT_AGE = 900, 150


class Secret:
    """A string that does not show itself in a repr, a log line or a traceback.

    ``reveal()`` is the only way to the value, so that each use can be found by its name.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(("Secret", self._value))

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled")


@dataclass(frozen=True)
class System:
    """One entry of ``GET /status/systems``, as far as the Hub needs it.

    ``connection_mode`` is ``ssh``, ``rest`` or ``hybrid``; with the last two every directive of a
    script is ignored (FirecREST facts, 5). ``unhealthy`` names the services marked red.
    """

    name: str
    scheduler: str = "slurm"
    connection_mode: str = "ssh"
    unhealthy: tuple[str, ...] = ()

    @property
    def honours_directives(self) -> bool:
        return self.connection_mode == "ssh"


@dataclass(frozen=True)
class JobRequest:
    """What is submitted. ``None`` leaves a field out; the script travels byte for byte."""

    working_directory: str
    script: Secret
    name: str | None = None
    account: str | None = None
    partition: str | None = None
    reservation: str | None = None
    constraints: str | None = None
    output: str | None = None
    env: Mapping[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """The ``job`` object of ``POST /compute/{system}/jobs`` (JobDescriptionModel)."""
        fields = {
            "working_directory": self.working_directory,
            "script": self.script.reveal(),
            "name": self.name,
            "account": self.account,
            "partition": self.partition,
            "reservation": self.reservation,
            "constraints": self.constraints,
            "standardOutput": self.output,
            "env": dict(self.env) if self.env else None,
        }
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Job:
    """One job as FirecREST describes it; times are Unix seconds or None.

    Fields as in the API description's ``JobModelOutput``. ``nodes`` is the scheduler's hostlist
    expression, empty while pending.
    """

    id: str
    name: str
    user: str
    state: JobState
    state_text: str = ""
    reason: str = ""
    nodes: str = ""
    partition: str = ""
    account: str = ""
    start: int | None = None
    end: int | None = None
    limit: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    #: No news by itself: it is another at each look.
    elapsed: int | None = field(default=None, compare=False)

    @classmethod
    def from_api(cls, row: Any, *, now: float | None = None) -> Job:
        """Read one element of the API's ``jobs`` list, as it came in ``now`` (Unix seconds).

        Raises ValueError when ``row`` is not an object with a ``jobId`` and a ``status``.
        """
        if not isinstance(row, Mapping) or not isinstance(row.get("status"), Mapping):
            raise ValueError("a job is not an object with a status")
        if not isinstance(row.get("jobId"), str | int) or not str(row["jobId"]):
            raise ValueError("a job has no jobId")
        status, times = row["status"], row.get("time")
        if not isinstance(times, Mapping):
            times = {}
        state_text = _text(status.get("state"))
        nodes = _text(row.get("nodes"), limit=10_000)
        reason = _text(status.get("stateReason"))
        state, code, signal = (
            JobState.parse(state_text),
            *map(_number, (status.get("exitCode"), status.get("interruptSignal"))),
        )
        job = cls(
            id=_text(row["jobId"]),
            name=_text(row.get("name")),
            user=_text(row.get("user")),
            state=state,
            state_text=state_text,
            reason="" if reason == "None" else reason,
            nodes="" if nodes == "None assigned" else nodes,
            partition=_text(row.get("partition")),
            account=_text(row.get("account")),
            start=_seconds(times.get("start")),
            end=_seconds(times.get("end")),
            limit=_seconds(times.get("limit")),
            exit_code=code,
            signal=signal,
            elapsed=_number(times.get("elapsed")),
        )
        return job._of_pbs(time.time() if now is None else now) if is_pbs(state_text) else job

    def _of_pbs(self, now: float) -> Job:
        """This job, which is one of PBS's, in the words that are used of Slurm's."""
        if self.state is JobState.PENDING:
            return replace(self, nodes="")  # what it asked for stands there, as "2:ppn=4"
        nodes = ",".join(dict.fromkeys(self.nodes.split(",")))  # they are named for each chunk
        if self.state is JobState.COMPLETED:
            state, code, signal = pbs_end(self.exit_code or 0, began=self.start is not None)
            return replace(self, nodes=nodes, state=state, exit_code=code, signal=signal)
        if self.state is JobState.RUNNING:
            return replace(self, nodes=nodes, elapsed=_counted_on(self.elapsed, self.start, now))
        return replace(self, nodes=nodes)

    def belongs_to(self, user: str, name: str) -> bool:
        """True when user and job name agree with what was submitted (R10)."""
        return self.user == user and self.name == name

    @property
    def time_left(self) -> int | None:
        """Seconds until a running job's time limit, when this was told; None where nothing tells.

        Counted by the scheduler: it knows what is not in start and limit, such as clocks, time
        zones, and time in which the job was suspended.
        """
        if self.state is not JobState.RUNNING or self.limit is None or self.elapsed is None:
            return None
        return self.limit - min(max(self.elapsed, 0), self.limit)

    @property
    def exit_status(self) -> int:
        """What a Spawner's poll() returns for an ended job: 0 only if it completed with 0."""
        if self.state is JobState.COMPLETED:
            return self.exit_code or 0
        return self.exit_code or (128 + self.signal if self.signal else 1)


@dataclass(frozen=True)
class Listing:
    """A list of jobs: those of the name that was asked for, and how many ``others`` came along.

    Others mean that the server does not filter by name, as FirecREST 2.5.6 does not.
    """

    jobs: list[Job]
    others: int = 0

    @property
    def rows(self) -> int:
        return len(self.jobs) + self.others


@dataclass(frozen=True)
class Node:
    """A node: the ``addresses`` and host names the scheduler knows for it, and its features."""

    name: str
    addresses: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    @classmethod
    def from_api(cls, row: Any) -> Node:
        """Read one element of the API's ``nodes`` list.

        Raises ValueError when ``row`` is not an object with a ``name``.
        """
        if not isinstance(row, Mapping) or row.get("name") is None:
            raise ValueError("a node is not an object with a name")
        addresses = (row.get("address"), row.get("hostname"))
        # A text over ssh, a list over REST (FirecREST facts).
        features = row.get("features")
        words = features.split(",") if isinstance(features, str) else features
        return cls(
            str(row["name"]),
            tuple(str(each) for each in addresses if each),
            tuple(_text(each) for each in words) if isinstance(words, list) else (),
        )


def _text(value: Any, *, limit: int = TEXT_LIMIT) -> str:
    if value is None:
        return ""
    return str(value)[:limit]


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(value: Any) -> int | None:
    """A time, or a number of seconds, with which a page can count.

    slurmrestd says 0 where sacct says nothing (FirecREST facts, "job dict"); and what a list says
    may be of another user's making, who must not break the page of the job's own (R10).
    """
    number = _number(value)
    return number if number is not None and 0 < number < _FAR_AWAY else None


def _counted_on(elapsed: int | None, start: int | None, now: float) -> int | None:
    """How long a PBS job has run ``now``.

    PBS's own count is up to two minutes old (OpenPBS, MAX_CHECK_POLL_TIME). ``start`` is right but
    for whole quarters of an hour, as FirecREST reads it in its own time zone. Where the two do not
    agree, as of a job that was suspended, the count is all there is.
    """
    if elapsed is None or start is None:
        return elapsed
    since = (int(now) - start - elapsed) % _QUARTER
    return elapsed + since if since <= _COUNT_AGE else elapsed


@dataclass(frozen=True)
class TokenSet:
    """A user's tokens with absolute expiries (Unix seconds; None when the issuer gave none).

    Expiries are counted from the answer's arrival, so the issuer's own clock does not matter.
    ``issued_at`` is that arrival, None for tokens of unknown age.
    """

    access_token: Secret
    expires_at: float | None
    refresh_token: Secret | None = None
    refresh_expires_at: float | None = None
    id_token: Secret | None = None
    scope: str = ""
    token_type: str = "Bearer"  # noqa: S105 - the scheme's name, RFC 6750
    issued_at: float | None = None

    @classmethod
    def from_response(cls, answer: Mapping[str, Any], *, now: float | None = None) -> TokenSet:
        """Read a token endpoint's answer (RFC 6749 section 5.1).

        Raises ValueError when it holds no access token.
        """
        now = time.time() if now is None else now
        access = answer.get("access_token")
        if not isinstance(access, str) or not access:
            raise ValueError("the token answer holds no access_token")
        return cls(
            access_token=Secret(access),
            expires_at=_expiry(answer.get("expires_in"), now),
            refresh_token=optional_secret(answer.get("refresh_token")),
            refresh_expires_at=_expiry(answer.get("refresh_expires_in"), now),
            id_token=optional_secret(answer.get("id_token")),
            scope=_scope(answer.get("scope")),
            token_type=str(answer.get("token_type") or "Bearer"),
            issued_at=now,
        )

    def expires_soon(self, margin: float, *, now: float | None = None) -> bool:
        """True when fewer than ``margin`` seconds of the access token's life are left.

        A token whose life the issuer did not state is taken to be short-lived. One that was issued
        in the future is of no known age: the clock has been set back since.
        """
        now = time.time() if now is None else now
        if self.expires_at is None or (self.issued_at or now) > now + 1:
            return True
        return self.expires_at - now < margin

    def kept_from(self, older: TokenSet) -> TokenSet:
        """Fill in what a refresh answer may leave out (RFC 6749 section 6; OIDC Core 12.2)."""
        result = self
        if self.refresh_token is None:
            result = replace(
                result,
                refresh_token=older.refresh_token,
                refresh_expires_at=older.refresh_expires_at,
            )
        if self.id_token is None:
            result = replace(result, id_token=older.id_token)
        if not self.scope:
            result = replace(result, scope=older.scope)
        return result


def optional_secret(value: Any) -> Secret | None:
    """A Secret of a text that is not empty, None of anything else."""
    return Secret(value) if isinstance(value, str) and value else None


def _expiry(seconds: Any, now: float) -> float | None:
    try:
        seconds = float(seconds)
    except (TypeError, ValueError):
        return None
    # Keycloak says refresh_expires_in 0 for offline tokens: they have no end of their own.
    return now + seconds if seconds > 0 else None


def _scope(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(word) for word in value)
    return str(value or "")
