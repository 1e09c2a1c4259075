"""How do several processes live in one thread and in virtual time, and die between two steps?

Everything that could differ between two runs of one seed is bound here: the clocks of the modules
``time``, the randomness of ``random``, ``secrets`` and ``os.urandom``. The product reads those
itself; a clock and a source of randomness in every signature would be there for these tests alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import functools
import logging
import os
import random
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from unittest import mock

from tests.unit.virtual_time import VirtualLoop

#: What ``time.time()`` says when virtual time begins.
EPOCH = 1_800_000_000.0

_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Killed(BaseException):
    """Raised into what a killed process was just doing, when it touches the world again."""


def _owned(loop: Any, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
    """A task that its process knows."""
    task = asyncio.Task(coroutine, loop=loop, **kwargs)
    if (owner := _process.get()) is not None:
        owner.tasks.append(task)
    return task


class WorldLoop(VirtualLoop):
    """Runs no callback of a process that has been killed."""

    def __init__(self) -> None:
        super().__init__()
        #: What callbacks of no process raised: the harness's own faults.
        self.trouble: list[BaseException] = []
        self.set_exception_handler(self._in_trouble)
        self.set_task_factory(_owned)

    def _in_trouble(self, loop: Any, context: dict[str, Any]) -> None:
        handle = context.get("handle")
        if handle is not None and handle._context.get(_process) is None:
            self.trouble.append(context["exception"])

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        return self._burn(handle)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        return self._burn(handle)

    def _burn(self, handle: Any) -> Any:
        owner = handle._context.get(_process)
        if owner is not None:
            if owner.fuse is not None:
                owner.fuse -= 1
                if owner.fuse <= 0:
                    owner.kill()
            if not owner.alive:
                handle.cancel()
        return handle

    def forget(self, process: Process) -> None:
        """Run nothing of it any more."""
        waiting: list[Any] = [*self._ready, *self._scheduled]  # type: ignore[attr-defined]
        for handle in waiting:
            if handle._context.get(_process) is process:
                handle.cancel()

    def dispose(self) -> None:
        """Close what is still waiting, so that no ``finally`` of it runs later."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some never had their first step
            for task in asyncio.all_tasks(self):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(BaseException):  # what it says to its end nobody hears
                    task.get_coro().close()
        self.close()


class Process:
    """One run of a program. ``kill`` is kill -9: nothing of it runs any more, no ``finally``.

    ``fuse`` counts down with everything the process plans to do; at 0 it is killed, in the middle.
    """

    def __init__(self, loop: WorldLoop, on_kill: Callable[[], None] = lambda: None) -> None:
        self.alive = True
        self.fuse: int | None = None
        self._loop = loop
        self._on_kill = on_kill
        self._callers: dict[asyncio.Future[Any], None] = {}
        # All of them, to the end: what is collected as garbage runs its finally blocks.
        self.tasks: list[asyncio.Task[Any]] = []

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something inside this process."""
        return contextvars.copy_context().run(self._start, coroutine)

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        _process.set(self)
        return self._loop.create_task(coroutine)

    async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Ask from outside. Raises ConnectionResetError when the process dies meanwhile."""
        if not self.alive:
            coroutine.close()
            raise ConnectionRefusedError("there is no such process")
        answer = self._loop.create_future()
        self._callers[answer] = None
        task = self.start(coroutine)

        def done(task: asyncio.Task[Any]) -> None:
            if answer.done() or not self.alive:
                return
            if task.cancelled():
                answer.set_exception(ConnectionResetError("cancelled"))
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        task.add_done_callback(done, context=contextvars.copy_context())
        try:
            return await answer
        finally:
            self._callers.pop(answer, None)

    def kill(self) -> None:
        """kill -9."""
        if not self.alive:
            return
        self.alive, self.fuse = False, None
        self._loop.forget(self)
        for answer in list(self._callers):
            if not answer.done():
                answer.set_exception(ConnectionResetError("the process was killed"))
        self._on_kill()

    def check(self) -> None:
        """Raise Killed in a process that has been killed: its step may still be running."""
        if not self.alive:
            raise Killed


@functools.cache
def _default_clocks() -> list[tuple[dict[str, Any], str]]:
    """Where the product's signatures have a clock of the machine's for a default."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith("firecrestspawner."):
            for kind in vars(module).values():
                defaults = getattr(getattr(kind, "__init__", None), "__kwdefaults__", None) or {}
                found += [(defaults, each) for each in defaults if defaults[each] is time.monotonic]
    return found


@contextlib.contextmanager
def bound(seed: int) -> Iterator[WorldLoop]:
    """A loop of virtual time; inside, all clocks are its own and all randomness is the seed's."""
    loop = WorldLoop()
    before = random.getstate()
    logged = logging.root.manager.disable

    def drawn(name: str) -> Callable[..., bytes]:
        # A source for each: what something draws once, at its first use, does not shift the others.
        source = random.Random(f"{name} {seed}")

        def token_bytes(count: int | None = None) -> bytes:
            return source.randbytes(32 if count is None else count)

        return token_bytes

    below = random.Random(f"below {seed}")
    of_hex, of_urlsafe = drawn("hex"), drawn("urlsafe")

    def token_hex(count: int | None = None) -> str:
        return of_hex(count).hex()

    def token_urlsafe(count: int | None = None) -> str:
        return base64.urlsafe_b64encode(of_urlsafe(count)).rstrip(b"=").decode()

    with contextlib.ExitStack() as stack:
        for defaults, each in _default_clocks():
            stack.enter_context(mock.patch.dict(defaults, {each: loop.time}))
        for module, name, value in (
            (time, "time", lambda: EPOCH + loop.time()),
            (time, "monotonic", loop.time),
            (os, "urandom", drawn("urandom")),
            (secrets, "token_bytes", drawn("bytes")),
            (secrets, "token_hex", token_hex),
            (secrets, "token_urlsafe", token_urlsafe),
            (secrets, "randbelow", below.randrange),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        random.seed(seed)
        stack.callback(random.setstate, before)
        stack.callback(logging.disable, logged)
        stack.callback(loop.dispose)
        yield loop
