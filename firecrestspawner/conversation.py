"""What does the Hub answer a job that calls? ConversingSpawner, its end of the channel."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from . import channel, submission
from .deadline import in_time
from .errors import ChannelError, Error
from .models import Job
from .progress import Stage
from .spawn import Spawn
from .stored import StoredSpawner

#: Seconds between looks while something is awaited that no message announces.
LOOK = 2.0
#: Seconds that a job's call waits for FirecREST's word on the job; it hangs up after ten.
PATIENCE = 5.0
#: Seconds until a server calls again that should have ended, had anybody said so.
OVERDUE = 5
#: No more of a job's time limit is kept for saving.
MOST_OF_IT = 0.1


class ConversingSpawner(StoredSpawner):
    """A spawner whose job can be told how it is to go on (docs/channel.md)."""

    async def hear(self, message: channel.Message, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the job (called by the channel's handler)."""
        spawn = self.spawn
        if spawn is None or spawn.id != message.spawn_id:
            return channel.unknown(message.spawn_id)
        if spawn.sealed:
            # Nobody can tell whether it is true; no status ends a job (R7).
            raise ChannelError("The Hub has lost this job's secrets.", status=503)
        if isinstance(message, channel.Hello):
            return self._hear_hello(spawn, message)
        spawn.line.prove(raw)
        if self._watch is not None:
            self._watch.heard()
        if isinstance(message, channel.Exiting):
            spawn.exit_code, spawn.exit_reason = message.code, message.reason
            spawn.walltime = message.walltime
            self.log.info("%s: the server ended: %s", self._log_name, message.reason)
            self._news.set()
        elif isinstance(message, channel.Ready) and not spawn.address:
            if message != spawn.reported:
                # Stored, for it is said once: the next Hub may have to look where it leads.
                spawn.reported = message
                self._save()
            self._news.set()
        calls = isinstance(message, channel.Alive) and not spawn.line.ended
        time_is_up = calls and await self._is_time_up(spawn)
        if spawn.line.ended:
            spawn.told = True
            return spawn.line.farewell()
        if time_is_up:
            return spawn.line.time_is_up()
        return spawn.line.alive(self._next_call(spawn))

    def _hear_hello(self, spawn: Spawn, hello: channel.Hello) -> dict[str, Any]:
        first = spawn.line.greet(hello)
        if spawn.line.ended:
            spawn.told = True
            return spawn.line.farewell(at_hello=True)
        if first:
            spawn.stage = Stage.LAUNCHED
            # Only the script holds the ticket: its own number is better than what a submit printed.
            if hello.job_id != spawn.job_id:
                self._name_job(spawn, hello.job_id)
            else:
                self._save()
                self._cluster(spawn.system).monitor.hurry()
            self._news.set()
        return spawn.line.start(
            environment=spawn.environment,
            command=spawn.command,
            ports=list(submission.of_system(self, spawn.system).port_range),
            grace=self.grace,
            warnings=self.walltime_warnings,
        )

    async def after(self, message: channel.Message) -> None:
        """Let the Hub know at once that a running server has ended."""
        if isinstance(message, channel.Exiting) and self.ready:
            await self.poll_and_notify()

    # -- the job's time limit ----------------------------------------------------------------

    def _next_call(self, spawn: Spawn) -> int:
        """Seconds until the job is to call again."""
        # Until its address is accepted a server calls often: it may have to be told to end.
        pause = channel.next_call(len(self._switchboard)) if spawn.address else int(LOOK)
        due = self._due(spawn)
        return pause if due is None else min(pause, max(math.ceil(due), OVERDUE))

    def _due(self, spawn: Spawn) -> float | None:
        """Seconds until the server should end, to have saved before its job's time limit.

        None where that is left to the scheduler, or nobody has said how much time there is.
        """
        watch = self._watch
        if watch is None or watch.job is None or not self.walltime_grace:
            return None
        left = watch.time_left(self._cluster(spawn.system).monitor.clock())
        return None if left is None else left - self._walltime_grace(watch.job)

    def _walltime_grace(self, job: Job) -> float:
        return min(self.walltime_grace, (job.limit or 0) * MOST_OF_IT)

    async def _is_time_up(self, spawn: Spawn) -> bool:
        """Whether the server is to end now. An answer by id has to show it: a row of a list is a
        hint, and the job may have been extended. Without one that is left to the scheduler (R1).
        """
        due, watch = self._due(spawn), self._watch
        if due is None or due > 0 or watch is None:
            return False
        monitor = self._cluster(spawn.system).monitor
        if monitor.clock() - watch.asked_at < LOOK:
            return False  # nobody can have the account ask without end
        try:
            job = await in_time(monitor.confirm(watch), PATIENCE)
        except (Error, asyncio.TimeoutError) as error:
            why = error.detail if isinstance(error, Error) else f"no answer in {PATIENCE:g} s"
            self.log.info("%s: not known how much time its job has: %s", self._log_name, why)
            return False
        if job is None or job.time_left is None or job.time_left > self._walltime_grace(job):
            return False
        self.log.info(
            "%s: job %s has %s s left: its server is told to save and end",
            self._log_name, spawn.job_id, job.time_left,
        )  # fmt: skip
        return True
