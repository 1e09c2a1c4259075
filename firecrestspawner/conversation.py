"""What does the Hub answer a job that calls? ConversingSpawner, its end of the channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import channel, submission
from .errors import ChannelError
from .progress import Stage
from .spawn import Spawn
from .stored import StoredSpawner

#: Seconds between looks while something is awaited that no message announces.
LOOK = 2.0


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
        if spawn.line.ended:
            spawn.told = True
            return spawn.line.farewell()
        # Until its address is accepted a server calls often: it may have to be told to end.
        return spawn.line.alive(
            channel.next_call(len(self._switchboard)) if spawn.address else int(LOOK)
        )

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
