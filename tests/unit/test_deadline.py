"""Does a wait end when what it waits for comes, when its time is over, and when it is cancelled?"""

from __future__ import annotations

import asyncio
import gc

import pytest

from firecrestspawner.deadline import in_time


async def test_a_result_and_an_error_come_through() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("why")

    assert await in_time(answer(), 5) == 42
    assert await in_time(answer(), None) == 42
    with pytest.raises(KeyError, match="why"):
        await in_time(fail(), 5)


@pytest.mark.parametrize("seconds", [0.01, 0, -1])
async def test_what_takes_too_long_is_cancelled_and_gone(seconds: float) -> None:
    """R8."""
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    working = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    with pytest.raises(asyncio.TimeoutError):
        await in_time(working, seconds)
    assert ended == [True] and working.cancelled()


async def test_what_finishes_all_the_same_is_not_thrown_away() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        raise AssertionError

    assert await in_time(stubborn(), 0.01) == "saved"


@pytest.mark.parametrize("rounds", range(5))
async def test_a_cancellation_that_comes_with_the_result_is_not_lost(rounds: int) -> None:
    """asyncio.wait_for() of Python 3.10 and 3.11 loses it, a round or two after the news."""
    news = asyncio.Event()

    async def wait_twice() -> None:
        await in_time(news.wait(), 5)
        await asyncio.sleep(5)

    waiting = asyncio.ensure_future(wait_twice())
    await asyncio.sleep(0.01)
    news.set()
    for _ in range(rounds):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=1)
    assert waiting.cancelled()


async def test_an_error_on_the_way_out_is_nobodys(caplog: pytest.LogCaptureFixture) -> None:
    """The caller is gone; asyncio would complain that nobody has looked at it."""

    async def breaks() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("closed")

    waiting = asyncio.ensure_future(in_time(breaks(), 5))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    gc.collect()
    assert caplog.text == ""
