"""Do many callers leave the event loop to others between them?"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from firecrestspawner.slices import Turnstile


@pytest.mark.parametrize("width", [1, 7])
async def test_so_many_pass_in_each_round_of_the_loop(width: int) -> None:
    """R8: also when one of those who wait gives up."""
    turnstile = Turnstile(width)
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
    assert set(list(passed.values())[:-1]) == {width}, "nobody passes in a round, or too many do"
    assert max(passed.values()) == width
