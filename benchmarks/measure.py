"""How late is the event loop, and how much CPU does this process use meanwhile?"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

TICK = 0.005


@dataclass
class Load:
    """What something cost: seconds of CPU (this process, its children), and by the clock; and how
    late each tick of the loop was meanwhile (seconds)."""

    cpu: float = 0.0
    children: float = 0.0
    took: float = 0.0
    late: list[float] = field(default_factory=list)

    @property
    def stall(self) -> float:
        return max(self.late, default=0.0)


@asynccontextmanager
async def load() -> AsyncIterator[Load]:
    """Measure what is done inside."""
    measured = Load()
    async with ticking(measured.late):
        before, used, began = os.times(), time.process_time(), time.monotonic()
        yield measured
        measured.took = time.monotonic() - began
        measured.cpu = time.process_time() - used
        after = os.times()
    # Whole ticks of the kernel's clock, a hundredth of a second each.
    measured.children = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


@asynccontextmanager
async def ticking(late: list[float]) -> AsyncIterator[None]:
    """Note every TICK how late the loop is."""

    async def tick() -> None:
        while True:
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - due)

    ticker = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        # A stall at the very end would not be seen otherwise.
        await asyncio.sleep(2 * TICK)
        ticker.cancel()
