"""How is something waited for, so long and no longer (R8)?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_time(awaitable: Awaitable[T], seconds: float | None) -> T:
    """The result of ``awaitable``; after ``seconds`` it is cancelled. Raises asyncio.TimeoutError.

    As asyncio.wait_for(), but a cancellation of the caller is never lost. Until Python 3.12 that
    function forgets one that comes in the same moment as what it waits for: JupyterHub would then
    answer a stop with an error, and the start would go on.
    """
    work = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait([work], timeout=seconds)
    except asyncio.CancelledError:
        await _end(work)
        raise
    if not work.done():
        await _end(work)
        if work.cancelled():
            raise asyncio.TimeoutError
    return work.result()


async def _end(work: asyncio.Future[Any]) -> None:
    """Nothing of it runs afterwards, and what it raises is nobody's any more."""
    work.cancel()
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()
