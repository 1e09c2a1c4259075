"""How did a user's server end, and what does its page say of it? The last end of each server.

A start that fails records its cause first. Then the last lines of the job's log are read, for a few
seconds at most, for they may tell more. What ends later (time limit, memory, a lost node) is
recorded when the Hub clears the server's state. All of it is in memory: a restarted Hub knows of no
end but those it sees.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import causes, options, output
from .causes import Cause, Traces, cause_of, cause_of_refusal
from .errors import Error, JobEnded, StartTimedOut
from .output import Output
from .spawn import Spawn

#: Ends that are remembered, of all users; the oldest go first.
REMEMBERED = 1000
#: Lines of a log that the page of a failed start shows, and their characters in all, for so much is
#: kept for each server. The page of the output has more.
LINES, ROOM = 40, 8000


@dataclass(frozen=True)
class Ending:
    """One end. ``happened`` is a sentence; ``retry`` is what a form of the same choice posts, or
    None where that is not known.
    """

    cause: Cause
    happened: str
    spawn_id: str = ""
    system: str = ""
    job_id: str = ""
    output: Output = field(default_factory=lambda: Output(""), repr=False)
    retry: tuple[tuple[str, str], ...] | None = None
    at: float = 0.0


class Endings:
    """The last end of each server, by its user and its name.

    A user is known by number and name: after an admin renamed one, or deleted them, another may
    have either, and must not read what the first one's server has written.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, str, str], Ending] = OrderedDict()

    def get(self, user: Any, server: str) -> Ending | None:
        return self._kept.get((user.id, user.name, server))

    def keep(self, user: Any, server: str, ending: Ending) -> None:
        key = (user.id, user.name, server)
        self._kept[key] = ending
        self._kept.move_to_end(key)
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)

    def forget(self, user: Any, server: str) -> None:
        self._kept.pop((user.id, user.name, server), None)


def endings(settings: dict[str, Any]) -> Endings:
    """The Hub's own; ``settings`` are those of its Tornado application."""
    kept: Endings = settings.setdefault("firecrest_endings", Endings())
    return kept


def forget(spawner: Any) -> None:
    """A start begins, or a stop was asked for: what was before is no news any more."""
    endings(spawner.user.settings).forget(spawner.user, spawner.name)


async def failed(spawner: Any, error: Error) -> Error:
    """Record the end of a start; returns the error to refuse it with, which names the cause.

    Waits for the log's last lines, output.DEADLINE seconds at most.
    """
    spawn = spawner.spawn
    late = isinstance(error, StartTimedOut)
    ended = isinstance(error, JobEnded) and spawn is not None and _over(spawner, spawn)
    if spawn is None or not (late or ended):
        cause = cause_of_refusal(error.reason, error.message)
        _keep(spawner, _ending(spawner, spawn, cause))
        return _worded(error, cause.text)
    traces = _traces(spawner, spawn, late=late)
    cause = cause_of(traces)
    ending = _ending(spawner, spawn, cause, error.message)
    _keep(spawner, ending)
    if cause is causes.QUEUED:  # nothing has written anything
        return _worded(error, f"{error.message} {cause.text}")
    written = await read_output(spawner, spawn.system, ending.output.path)
    # The log of a job that ended by itself may tell what its end does not.
    cause = cause_of(replace(traces, lines=written.lines))
    shown = replace(written, lines=_last(written.lines))
    _keep(spawner, replace(ending, cause=cause, output=shown))
    return _worded(error, f"{error.message} {cause.text}")


def _last(lines: tuple[str, ...]) -> tuple[str, ...]:
    """As many of the last lines as there is room for."""
    kept, room = 0, ROOM
    for line in reversed(lines[-LINES:]):
        room -= len(line)
        if room < 0:
            break
        kept += 1
    return lines[len(lines) - kept :]


async def read_output(spawner: Any, system: str, path: str) -> Output:
    """The end of a log, read with the user's token (output.read)."""
    cluster = spawner._cluster(system)
    return await output.read(
        cluster.firecrest,
        lambda: spawner._token(cluster),
        system,
        path,
        deadline=output.DEADLINE,
    )


def cleared(spawner: Any) -> None:
    """The Hub forgets a server (clear_state): record why, if nobody asked for that."""
    spawn = spawner.spawn
    if spawner.adopts:
        return
    if spawn is None:
        # At the beginning of a start, or after one that was refused and is recorded.
        if not spawner._stop_pending:
            forget(spawner)
        return
    known = endings(spawner.user.settings).get(spawner.user, spawner.name)
    if known is not None and known.spawn_id == spawn.id:
        return
    if _over(spawner, spawn) and not spawn.line.ended:
        cause = cause_of(_traces(spawner, spawn))
        _keep(spawner, _ending(spawner, spawn, cause, f"Job {spawn.job_id} has ended."))
    elif spawner._waiting_for_response:
        # User._wait_up stops what does not answer within http_timeout.
        happened = f"Job {spawn.job_id} runs, and its server is up."
        _keep(spawner, _ending(spawner, spawn, causes.UNREACHABLE, happened))
    else:
        forget(spawner)


def _keep(spawner: Any, ending: Ending) -> None:
    endings(spawner.user.settings).keep(spawner.user, spawner.name, ending)


def _over(spawner: Any, spawn: Spawn) -> bool:
    """Whether the server or its job is known to have ended."""
    return spawn.exit_code is not None or (spawner._watch is not None and spawner._watch.over)


def _traces(spawner: Any, spawn: Spawn, *, late: bool = False) -> Traces:
    watch = spawner._watch
    job = (watch.job if late else watch.ended) if watch is not None else None
    return Traces(job, spawn.exit_code, spawn.exit_reason, spawn.walltime, late=late)


def _ending(spawner: Any, spawn: Spawn | None, cause: Cause, happened: str = "") -> Ending:
    ending = Ending(cause, happened, retry=_retry(spawner), at=time.time())
    if spawn is None:
        return ending
    path = output.log_path(spawn.log, job_id=spawn.job_id, user=spawn.user)
    return replace(
        ending, spawn_id=spawn.id, system=spawn.system, job_id=spawn.job_id, output=Output(path)
    )


def _worded(error: Error, message: str) -> Error:
    """The same error with other words for the user; the log's stay."""
    worded = copy.copy(error)
    worded.message = message
    return worded


def _retry(spawner: Any) -> tuple[tuple[str, str], ...] | None:
    """The fields of a form that chooses the same as this start, where the form is our own."""
    if spawner.options_from_form is not options.from_form:
        return None
    return form_fields(spawner.user_options or {})


def form_fields(chosen: Mapping[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """``user_options`` as the fields of a form that chooses the same, or None if none would.

    The REST API takes more than a form can say: lists, and options of several kinds together. What
    is longer than any choice is not kept: a request may be megabytes, and so many ends are.
    """
    given = {name: value for name, value in chosen.items() if value not in (None, "")}
    if any(isinstance(value, bool) or not isinstance(value, str | int) for value in given.values()):
        return None
    fields = {str(name): str(value) for name, value in given.items()}
    if sum(len(name) + len(value) for name, value in fields.items()) > ROOM:
        return None
    if options.from_form({name: [value] for name, value in fields.items()}) != fields:
        return None
    return tuple(fields.items())
