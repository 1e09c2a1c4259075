"""How do hours of timers pass in milliseconds, in their right order?"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever there is nothing else to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        # Cancelled timers stay in asyncio's heap for a while: time must not stop at those.
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready:  # type: ignore[attr-defined]
            due = [timer.when() for timer in scheduled if not timer.cancelled()]
            if not due:
                raise RuntimeError("everybody waits and no timer is set: this would hang")
            self._now = max(self._now, min(due))
        super()._run_once()  # type: ignore[misc]


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a coroutine function on a :class:`VirtualLoop`; tasks it leaves are cancelled."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = VirtualLoop()
        try:
            return loop.run_until_complete(_alone(test(*args, **kwargs)))
        finally:
            loop.close()

    return run


async def _alone(main: Coroutine[Any, Any, T]) -> T:
    try:
        return await main
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
