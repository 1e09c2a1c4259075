"""When is an end of a server recorded, and what does its page say of it? The last end of each.

A start that fails records its cause first. Then the last lines of the job's log are read, for a few
seconds at most, for they may tell more. What ends later (time limit, memory, a lost node) is
recorded when the Hub clears the server's state. The record is stored with that state, and outlives
the Hub; the lines are in memory.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import causes, options, output
from .causes import Cause, Traces, cause_of, cause_of_refusal
from .deadline import in_time
from .ending import Ending
from .errors import Error, JobEnded, StartTimedOut
from .output import Output
from .spawn import Spawn
from .watch import Watch

#: Ends whose lines are remembered, of all users; the oldest go first.
REMEMBERED = 1000
#: Lines of a log that the page of a failed start shows, and their characters in all, for so much is
#: kept for each server. The page of the output has more.
LINES, ROOM = 40, 8000
#: Seconds that reading a log is left, however long its delivery takes.
READING = 2.0


class LastLines:
    """What jobs wrote before they ended, by the id of their spawn, which no other ever has."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Output] = OrderedDict()

    def get(self, spawn_id: str) -> Output | None:
        return self._kept.get(spawn_id)

    def keep(self, spawn_id: str, written: Output) -> None:
        self._kept[spawn_id] = written
        self._kept.move_to_end(spawn_id)
        while len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)


def last_lines(settings: dict[str, Any]) -> LastLines:
    """The Hub's own; ``settings`` are those of its Tornado application."""
    kept: LastLines = settings.setdefault("firecrest_last_lines", LastLines())
    return kept


def last(spawner: Any) -> Ending | None:
    """The last end of a server, with all that its page shows; None while there is none to tell.

    Its ``system`` is what users are shown for that.
    """
    ending: Ending | None = spawner.ending
    if ending is None:
        return None
    written = last_lines(spawner.user.settings).get(ending.spawn_id)
    return replace(
        ending,
        system=spawner.title(ending.system),
        output=written or ending.output,
        retry=_retry(spawner),
    )


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
    written = await _written(spawner, ending, ends=ended)
    # The log of a job that ended by itself may tell what its end does not.
    cause = cause_of(replace(traces, lines=written.lines))
    _keep(spawner, replace(ending, cause=cause))
    shown = replace(written, lines=_last(written.lines))
    last_lines(spawner.user.settings).keep(spawn.id, shown)
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


async def _written(spawner: Any, ending: Ending, *, ends: bool) -> Output:
    """The end of the log of a job, which ``ends`` or goes on.

    PBS delivers it with the job's end, a moment after the server has said that it ended. It is not
    looked for before, as each look is a request (C2): the end is seen in the lists.
    """
    until = time.monotonic() + output.DEADLINE
    system = spawner._cluster(ending.system).described
    if ends and system is not None and system.scheduler == "pbs":
        await _delivered(spawner, until - READING)
    left = max(until - time.monotonic(), 0.0)
    return await read_output(spawner, ending.system, ending.output.path, deadline=left)


async def _delivered(spawner: Any, until: float) -> None:
    """Wait for the end of the job, till ``until`` (monotonic seconds)."""
    watch: Watch | None = spawner._watch
    while watch is not None and not watch.over:
        spawner._news.clear()
        try:
            await in_time(spawner._news.wait(), max(until - time.monotonic(), 0.0))
        except asyncio.TimeoutError:
            return


async def read_output(
    spawner: Any, system: str, path: str, *, deadline: float = output.DEADLINE
) -> Output:
    """The end of a log, read with the user's token (output.read)."""
    cluster = spawner._cluster(system)
    return await output.read(
        cluster.firecrest,
        lambda: spawner._token(cluster),
        system,
        path,
        deadline=deadline,
    )


def cleared(spawner: Any) -> None:
    """The Hub forgets a server (clear_state): record why, if nobody asked for that."""
    spawn = spawner.spawn
    if spawner.adopts:
        return
    if spawn is None:
        # At the beginning of a start, or after one that was refused and is recorded.
        if not spawner._stop_pending:
            spawner.ending = None
        return
    if spawner.ending is not None and spawner.ending.spawn_id == spawn.id:
        return
    if _over(spawner, spawn) and not spawn.line.ended:
        cause = cause_of(_traces(spawner, spawn))
        _keep(spawner, _ending(spawner, spawn, cause, f"Job {spawn.job_id} has ended."))
    elif spawner._waiting_for_response:
        # User._wait_up stops what does not answer within http_timeout.
        happened = f"Job {spawn.job_id} runs, and its server is up."
        _keep(spawner, _ending(spawner, spawn, causes.UNREACHABLE, happened))
    else:  # its user has asked for it: no news
        spawner.ending = None


def _keep(spawner: Any, ending: Ending) -> None:
    spawner.ending = ending


def _over(spawner: Any, spawn: Spawn) -> bool:
    """Whether the server or its job is known to have ended."""
    return spawn.exit_code is not None or (spawner._watch is not None and spawner._watch.over)


def _traces(spawner: Any, spawn: Spawn, *, late: bool = False) -> Traces:
    watch = spawner._watch
    job = (watch.job if late else watch.ended) if watch is not None else None
    return Traces(job, spawn.exit_code, spawn.exit_reason, spawn.walltime, late=late)


def _ending(spawner: Any, spawn: Spawn | None, cause: Cause, happened: str = "") -> Ending:
    ending = Ending(cause, happened, at=time.time())
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

    The REST API takes more than a form can say: lists, and options of several kinds together; and
    a request may be megabytes, which no choice is.
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
