"""What a job and its Hub say to each other, and how each proves it.

The pure half of the job channel (``POST /hub/api/firecrest/job``); the launcher's half is in
:mod:`firecrestspawner.singleuser`, which may import nothing of ours and therefore writes the few
lines of signing again. ``tests/unit/test_channel.py`` holds the two against each other.

A *ticket* ``<spawn_id>.<secret>`` travels in the batch script. With it the job opens the
conversation (``hello``) and is given its environment and a *channel secret*; every later message
is signed with that. Every verdict that could end a job is signed by the Hub (R7), with the ticket's
secret at hello and with the channel secret afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ChannelError
from .models import Secret

#: The largest request body that is looked at, in bytes; the longest honest message is about 2 KiB.
MAX_BODY = 16 * 1024

#: Why a server ends before its job's time limit does it (causes.py reads it).
TIME_IS_UP = "the job's time is nearly over"

_SPAWN_ID = re.compile(r"[0-9a-f]{16}")
_NONCE = re.compile(r"[0-9a-f]{32}")
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\[\]@:+-]{0,99}")
_TICKET = re.compile(r"([0-9a-f]{16})\.([A-Za-z0-9_-]{20,100})")
_ADDRESS = re.compile(r"[A-Za-z0-9.:%_-]{1,255}")


@dataclass(frozen=True)
class Hello:
    """A job introduces itself."""

    spawn_id: str
    ticket_secret: Secret
    nonce: str
    job_id: str


@dataclass(frozen=True)
class Ready:
    """The single-user server listens at ``port`` on one of ``addresses``."""

    spawn_id: str
    addresses: tuple[str, ...]
    port: int


@dataclass(frozen=True)
class Alive:
    """The server runs; what does the Hub say?"""

    spawn_id: str


@dataclass(frozen=True)
class Exiting:
    """The server ended with ``code``; ``walltime`` is the job's remaining seconds, if known."""

    spawn_id: str
    code: int
    reason: str
    walltime: int | None


Message = Hello | Ready | Alive | Exiting

_FIELDS = {
    "hello": {"message", "ticket", "nonce", "job_id"},
    "ready": {"message", "spawn_id", "addresses", "port", "mac"},
    "alive": {"message", "spawn_id", "mac"},
    "exiting": {"message", "spawn_id", "code", "reason", "walltime", "mac"},
}


def new_spawn_id() -> str:
    """A spawn's public name: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def new_secret() -> Secret:
    """256 random bits, URL-safe."""
    return Secret(secrets.token_urlsafe(32))


def ticket(spawn_id: str, secret: Secret) -> Secret:
    """The ticket a batch script carries."""
    return Secret(f"{spawn_id}.{secret.reveal()}")


def canonical(message: Mapping[str, Any]) -> bytes:
    """The bytes that are signed: sorted compact ASCII JSON without the ``mac`` field."""
    unsigned = {key: value for key, value in message.items() if key != "mac"}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode("ascii")


def mac(message: Mapping[str, Any], key: Secret) -> str:
    """HMAC-SHA256 (RFC 2104) of the canonical form, in hexadecimal."""
    return hmac.new(key.reveal().encode(), canonical(message), hashlib.sha256).hexdigest()


def signed(message: Mapping[str, Any], key: Secret) -> dict[str, Any]:
    """The message with its ``mac``."""
    return {**message, "mac": mac(message, key)}


def parse(body: bytes) -> tuple[Message, dict[str, Any]]:
    """Read a request body: the typed message, and the raw object for :func:`prove`.

    Raises ChannelError (400) on anything but exactly the documented fields and types (S3).
    """
    if len(body) > MAX_BODY:
        raise ChannelError("The message is too long.", status=413)
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise ChannelError("The body is not JSON.") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("message"), str):
        raise ChannelError("The body is not a job-channel message.")
    fields = _FIELDS.get(raw["message"])
    if fields is None:
        raise ChannelError("Unknown kind of message.")
    if set(raw) != fields:
        wrong = sorted(set(raw) ^ fields)[0][:40]
        raise ChannelError(f"Field {wrong!r} is missing or not allowed in {raw['message']!r}.")
    return _READERS[raw["message"]](raw), raw


def _hello(raw: dict[str, Any]) -> Hello:
    match = _TICKET.fullmatch(_string(raw, "ticket"))
    if not match:
        raise ChannelError("Field 'ticket' is malformed.")
    return Hello(
        spawn_id=match[1],
        ticket_secret=Secret(match[2]),
        nonce=_matching(raw, "nonce", _NONCE),
        # PBS_JOBID is "1234.server", and FirecREST calls that job "1234": its paths take no dot.
        job_id=_matching(raw, "job_id", _JOB_ID).partition(".")[0],
    )


def _ready(raw: dict[str, Any]) -> Ready:
    addresses = raw["addresses"]
    if not isinstance(addresses, list) or not 1 <= len(addresses) <= 16:
        raise ChannelError("Field 'addresses' is not a list of 1 to 16 addresses.")
    for address in addresses:
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
            raise ChannelError("Field 'addresses' holds something that is not an address.")
    return Ready(
        spawn_id=_matching(raw, "spawn_id", _SPAWN_ID),
        addresses=tuple(addresses),
        port=_integer(raw, "port", 1, 65535),
    )


def _alive(raw: dict[str, Any]) -> Alive:
    return Alive(spawn_id=_matching(raw, "spawn_id", _SPAWN_ID))


def _exiting(raw: dict[str, Any]) -> Exiting:
    reason = _string(raw, "reason")
    if len(reason) > 200:
        raise ChannelError("Field 'reason' is longer than 200 characters.")
    walltime = raw["walltime"]
    if walltime is not None:
        walltime = _integer(raw, "walltime", -(10**9), 10**9)
    return Exiting(
        spawn_id=_matching(raw, "spawn_id", _SPAWN_ID),
        code=_integer(raw, "code", -255, 255),
        # It goes into the Hub's log, where a line of the job's own making could pass for the Hub's.
        reason="".join(c if c.isprintable() else " " for c in reason),
        walltime=walltime,
    )


_READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "hello": _hello,
    "ready": _ready,
    "alive": _alive,
    "exiting": _exiting,
}


def _string(raw: dict[str, Any], field: str) -> str:
    if not isinstance(raw[field], str):
        raise ChannelError(f"Field {field!r} is not a string.")
    return raw[field]


def _matching(raw: dict[str, Any], field: str, pattern: re.Pattern[str]) -> str:
    value = _string(raw, field)
    if not pattern.fullmatch(value):
        raise ChannelError(f"Field {field!r} is malformed.")
    return value


def _integer(raw: dict[str, Any], field: str, low: int, high: int) -> int:
    value = raw[field]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ChannelError(f"Field {field!r} is not an integer in its range.")
    return value


def prove(raw: Mapping[str, Any], key: Secret) -> None:
    """Raise ChannelError (403) unless the message is signed with ``key``."""
    given = raw.get("mac")
    if not isinstance(given, str) or not hmac.compare_digest(
        given.encode("utf-8", "surrogatepass"), mac(raw, key).encode()
    ):
        raise ChannelError("The signature does not fit.", status=403)


def verdict(spawn_id: str, word: str, key: Secret, **fields: Any) -> dict[str, Any]:
    """A signed answer: ``word`` is ``start``, ``alive`` or ``ended``."""
    return signed({"spawn_id": spawn_id, "verdict": word, **fields}, key)


def unknown(spawn_id: str) -> dict[str, Any]:
    """The answer about a spawn this Hub does not know: unsigned, and no proof of anything."""
    return {"spawn_id": spawn_id, "verdict": "unknown"}


@dataclass
class Line:
    """One spawn's side of the conversation, as the Hub keeps it.

    ``nonce`` is the one the ticket is bound to (S4); ``ended`` says why the Hub no longer wants
    the job, and makes this line a tombstone (R7).
    """

    spawn_id: str
    ticket_secret: Secret
    secret: Secret
    nonce: str = ""
    ready: bool = False
    ended: str = ""

    @classmethod
    def new(cls) -> Line:
        return cls(new_spawn_id(), new_secret(), new_secret())

    @property
    def ticket(self) -> Secret:
        return ticket(self.spawn_id, self.ticket_secret)

    def greet(self, hello: Hello) -> bool:
        """Check a hello; bind its nonce when it is the first. True when it was.

        Raises ChannelError (403) for a wrong ticket, for another nonce than the bound one, and
        for any hello after the server was ready.
        """
        if hello.spawn_id != self.spawn_id or hello.ticket_secret != self.ticket_secret:
            raise ChannelError("The ticket is not valid.", status=403)
        if not self.nonce:
            self.nonce = hello.nonce
            return True
        if self.ready or not hmac.compare_digest(self.nonce, hello.nonce):
            raise ChannelError("The ticket has been used.", status=403)
        return False

    def prove(self, raw: Mapping[str, Any]) -> None:
        """Raise ChannelError (403) unless a later message carries this line's signature."""
        prove(raw, self.secret)

    def start(self, **fields: Any) -> dict[str, Any]:
        """The answer that starts a server; signed with the ticket's secret."""
        return verdict(
            self.spawn_id, "start", self.ticket_secret, secret=self.secret.reveal(), **fields
        )

    def alive(self, seconds: int) -> dict[str, Any]:
        """Go on, and call again in ``seconds``."""
        return verdict(self.spawn_id, "alive", self.secret, next=seconds)

    def farewell(self, *, at_hello: bool = False) -> dict[str, Any]:
        """The proof that the Hub no longer wants this job."""
        key = self.ticket_secret if at_hello else self.secret
        return verdict(self.spawn_id, "ended", key, reason=self.ended)

    def time_is_up(self) -> dict[str, Any]:
        """The proof that the server is to save and end, although nobody has stopped it."""
        return verdict(self.spawn_id, "ended", self.secret, reason=TIME_IS_UP)


def next_call(servers: int, *, rate: float = 20.0, low: int = 15, high: int = 3000) -> int:
    """Seconds until a server should call again, so that all of them make ``rate`` calls a second.

    Spread by a fifth, so that servers started together drift apart (C4). The launcher waits an hour
    at most.
    """
    seconds = min(max(servers / rate, low), high)
    return round(seconds * (0.8 + 0.4 * secrets.randbelow(1000) / 1000))
