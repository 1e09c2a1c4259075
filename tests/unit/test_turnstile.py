"""Do many callers leave the event loop to others between them?"""

from __future__ import annotations

import asyncio
from collections import Counter

from firecrestspawner.slices import Turnstile


async def test_one_passes_in_each_round_of_the_loop() -> None:
    """R8: also when one of those who wait gives up."""
    turnstile = Turnstile()
    rounds = 0
    passed: Counter[int] = Counter()

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def caller() -> None:
        await turnstile.pass_through()
        passed[rounds] += 1

    counting = asyncio.ensure_future(count())
    callers = [asyncio.ensure_future(caller()) for _ in range(50)]
    await asyncio.sleep(0)
    callers[10].cancel()
    await asyncio.wait(callers)
    counting.cancel()
    assert passed.total() == 49
    assert max(passed.values()) == 1
