"""How does the real launcher run as one of many in virtual time?

``singleuser.Session`` decides everything; what it blocks on (its bell), what it asks over (its
calls) and what it starts (its server) are replaced. A greenlet lets its blocking code give way.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from greenlet import GreenletExit, getcurrent, greenlet

from firecrestspawner import singleuser
from tests.chaos.clock import WorldLoop
from tests.chaos.cluster import NODES, Job

#: Posts a message: who asks, its bytes, and what to call with (status, body) or with an OSError.
Post = Callable[["Launcher", bytes, Callable[[Any], None]], None]


class Thread(greenlet):
    """Where a launcher's blocking code runs."""

    launcher: Launcher


def mine() -> Launcher:
    """The launcher whose code is running."""
    thread: Any = getcurrent()
    launcher: Launcher = thread.launcher
    return launcher


class Launcher:
    """One launcher process, with its server. ``stops`` is called when it is about to end that,
    ``done`` with its exit code."""

    def __init__(
        self,
        loop: WorldLoop,
        rng: random.Random,
        job: Job,
        post: Post,
        note: Callable[..., None],
        stops: Callable[[], None],
        done: Callable[[int], None],
    ) -> None:
        self._thread = Thread(self._work)
        self._thread.launcher = self
        self.loop, self.rng, self.job, self.post, self.note = loop, rng, job, post, note
        self.dead = False
        self.caught = 0
        self.server: Server | None = None
        self.session: Any = None
        self.said: list[str] = []
        self.stops, self._done = stops, done
        self._timer: Any = None
        self._rung = False
        self._begun = loop.time()
        loop.call_soon(self._resume)

    # -- as the scheduler sees it ------------------------------------------------------------

    @property
    def serving(self) -> bool:
        """Whether its server lives."""
        return not self.dead and self.server is not None and self.server.status is None

    @property
    def listening(self) -> bool:
        return self.server is not None and self.serving and self.server.listening

    def terminate(self) -> None:
        self.caught = self.caught or signal.SIGTERM
        self.ring()

    def end(self, code: int) -> None:
        """The server ends by itself."""
        if self.server is not None and self.server.status is None:
            self.server.status = code
            self.ring()

    def kill(self) -> None:
        if not self.dead:
            self.dead = True
            # Whatever is left of it on its stack has no effect: it is told to go.
            with contextlib.suppress(GreenletExit):
                self._thread.throw(GreenletExit)

    # -- as its bell -------------------------------------------------------------------------

    def ring(self) -> None:
        """Wake it, now or when it waits next."""
        self._rung = True
        if self._timer is not None:
            self.loop.call_soon(self._resume)

    def wait(self, seconds: float) -> None:
        if not self._rung:
            self._timer = self.loop.call_later(max(0.0, seconds), self._resume)
            _parent(self._thread).switch()
            self._timer = None
        self._rung = False
        if self.dead:
            raise GreenletExit

    def _resume(self) -> None:
        if self.dead or getcurrent() is self._thread:
            return
        if self._timer is not None:
            self._timer.cancel()
        elif self.session is not None:
            return  # it does not wait
        self._thread.parent = getcurrent()
        self._thread.switch()

    def _work(self) -> None:
        self.session = singleuser.Session(self.job.blob, {"SLURM_JOB_ID": self.job.id})
        code = self.session.run()
        self.dead = True
        self.loop.call_soon(self._done, code)


def _parent(thread: Thread) -> greenlet:
    assert thread.parent is not None
    return thread.parent


class Bell:
    """singleuser.Bell of the launcher that makes it."""

    def __init__(self) -> None:
        self.launcher = mine()
        self.ring, self.wait = self.launcher.ring, self.launcher.wait

    @property
    def caught(self) -> int:
        return self.launcher.caught

    @caught.setter
    def caught(self, number: int) -> None:
        self.launcher.caught = number


class Call(singleuser.Call):
    """A POST whose answer is read by the real code."""

    def __init__(self, url: str, message: dict[str, Any], secret: str, bell: Any) -> None:
        self.answer: dict[str, Any] = {}
        self.verdict, self.problem = "", "no answer"
        self.done = False
        self._message, self._secret, self._bell = message, secret, bell
        self._launcher: Launcher = bell.launcher
        self._spawn_id = message.get("spawn_id") or message["ticket"].partition(".")[0]
        self._got: Any = None
        self._launcher.post(self._launcher, json.dumps(message).encode(), self._arrived)

    def _arrived(self, got: Any) -> None:
        self._got = got
        if not self._launcher.dead:
            self._run()

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """It was sent already."""
        if isinstance(self._got, Exception):
            raise self._got
        status, text = self._got
        return status, text

    def abandon(self) -> None:
        """There is no socket."""


class Server:
    """singleuser.Server of the launcher that makes it: listens after a while, saves, and ends."""

    def __init__(self, start: dict[str, Any], facts: dict[str, str]) -> None:
        self.launcher = mine()
        self.env = {name: str(value) for name, value in start["environment"].items()}
        self.host = "0.0.0.0"
        self.addresses = [NODES[self.launcher.job.node]]
        self.port = 20000 + int(self.launcher.job.id)
        self.status: int | None = None
        self.listening = False
        self.process = self
        self.pid = 0

    def launch(self) -> str:
        fate, loop = self.launcher.job.fate, self.launcher.loop
        self.launcher.server = self
        loop.call_later(fate.startup, self._listen)
        return ""

    def _listen(self) -> None:
        self.listening = self.status is None and not self.launcher.dead

    def ended(self) -> int | None:
        return self.status

    def signal(self, number: int) -> None:
        if self.status is not None:
            return
        if number == signal.SIGTERM:
            self.launcher.stops()
        if number == signal.SIGKILL:
            self._die()
        else:
            self.launcher.loop.call_later(self.launcher.job.fate.saving, self._die)

    def _die(self) -> None:
        if self.status is None:
            self.status = 0
            self.launcher.ring()


class _Os:
    """The module ``os``, with randomness that nobody else draws from."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def urandom(self, count: int) -> bytes:
        return mine().rng.randbytes(count)


def _say(text: str) -> None:
    launcher = mine()
    launcher.said.append(text)
    launcher.note(f"job {launcher.job.id}", text)


@contextlib.contextmanager
def on_stage() -> Iterator[None]:
    """Inside, sessions are those of launchers here."""
    with contextlib.ExitStack() as stack:
        for name, value in {
            "Bell": Bell,
            "Call": Call,
            "Server": Server,
            "say": _say,
            "os": _Os(),
            "owns": lambda pid, inodes: mine().listening,
            "listeners": lambda port: {"socket"},
            "free": lambda host, port: port,
            "settle_home": lambda env: "",
            "LOOK_EVERY": 0.5,
        }.items():
            stack.enter_context(mock.patch.object(singleuser, name, value))
        yield
