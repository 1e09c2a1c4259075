"""How is the FirecREST stand-in told to fail, and to lie as a hostile login shell does?

Operations: ``systems liveness nodes partitions reservations userinfo submit list job metadata
cancel tail head view ls stat mkdir upload``, or ``*`` for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A body that is no JSON, although its header says so.
GARBAGE = b'{"jobs": [{"jobId": '

_MESSAGES = {
    400: "1 validation error:",
    401: "Access token is invalid.",
    403: "Permission denied",
    404: "Job not found.",
    408: "Command execution timeout limit exceeded.",
    424: "Unable to open a new SSH channel.",
    429: "Too Many Requests",
    500: "Error executing Slurm command.",
    503: "The scheduler service for the requested system (demo) is unhealthy.",
}

#: Alters an answer's body: called with the operation and the decoded JSON, returns the new one.
Forge = Callable[[str, Any], Any]


@dataclass
class Fault:
    """One way to fail, and how often it has happened (``hits``).

    ``status`` and ``body`` replace the answer; ``body`` is JSON, or bytes as they are; without a
    body, ``status`` brings FirecREST's usual error for it. ``reset`` breaks the connection
    instead. ``processed``: the request is carried out first, so that only its answer is lost.
    ``delay``: seconds before anything else happens. ``until``: wait for this event first.
    ``user``, ``job_id``, ``match`` narrow it; ``match`` gets query parameters. ``times``: how
    often; None is until it is cleared.
    """

    operation: str
    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    processed: bool = False
    delay: float = 0.0
    until: threading.Event | None = None
    user: str | None = None
    job_id: str | None = None
    match: Callable[[Mapping[str, str]], bool] | None = None
    times: int | None = None
    hits: int = 0

    @property
    def replaces(self) -> bool:
        """Whether the client gets something else than the real answer."""
        return self.reset or self.status is not None or self.body is not None

    @property
    def message(self) -> str:
        """FirecREST's usual message for this fault's status."""
        return _MESSAGES.get(self.status or 500, "Internal Server Error")


class Faults:
    """The faults and forgeries in force. Safe to change from any thread, at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._forgers: dict[str, Forge] = {}

    def set(self, operation: str, **settings: Any) -> Fault:
        """Add a fault (fields of :class:`Fault`); the one set last is asked first."""
        fault = Fault(operation, **settings)
        with self._lock:
            self._faults.insert(0, fault)
        return fault

    def forge(self, user: str, hook: Forge | None) -> None:
        """Pass every answer to ``user``'s own token through ``hook``; None ends it.

        Emulates a ~/.bashrc that prints another job id, or redefines sacct: no other user's
        answers change, the service account's neither.
        """
        with self._lock:
            if hook is None:
                self._forgers.pop(user, None)
            else:
                self._forgers[user] = hook

    def clear(self, operation: str | None = None) -> None:
        """Remove the faults of one operation; without an argument all faults and forgeries."""
        with self._lock:
            if operation is None:
                self._forgers.clear()
            self._faults = [
                fault
                for fault in self._faults
                if operation is not None and fault.operation != operation
            ]

    def take(
        self, operation: str, user: str | None, job_id: str | None, query: Mapping[str, str]
    ) -> Fault | None:
        """The fault that this request meets, counted; None if it is to be answered properly."""
        with self._lock:
            for fault in self._faults:
                if (
                    fault.operation in (operation, "*")
                    and fault.user in (None, user)
                    and fault.job_id in (None, job_id)
                    and (fault.times is None or fault.hits < fault.times)
                    and (fault.match is None or fault.match(query))
                ):
                    fault.hits += 1
                    return fault
        return None

    def forged(self, operation: str, user: str | None, body: Any) -> Any:
        """What ``user`` gets to see instead of ``body``."""
        with self._lock:
            hook = self._forgers.get(user or "")
        return body if hook is None else hook(operation, body)
