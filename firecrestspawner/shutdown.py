"""How is something closed when the Hub shuts down?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


def at_shutdown(close: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Have ``close`` awaited when the Hub shuts down; the caller keeps the task.

    The Hub has no hook for plugins, but it cancels every task, and that is the sign.
    """

    async def keep() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await close()

    return asyncio.ensure_future(keep())
