"""How is something finished, or closed, when the Hub shuts down?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


def before_shutdown(app: Any, finish: Callable[[], Awaitable[None]]) -> None:
    """Have ``finish`` awaited when the Hub shuts down, before it cancels every task.

    ``app`` is the JupyterHub application. Its own cleanup is the last that it awaits before.
    """
    cleanup = app.cleanup

    async def clean_up_and_finish() -> None:
        await cleanup()
        await finish()

    app.cleanup = clean_up_and_finish


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
