"""Do one slow system and one user whose calls hang delay nobody else?"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from firecrestspawner.errors import FirecRESTError, SubmissionRejected, Unreachable, Unwell
from firecrestspawner.isolation import (
    EACH,
    FAILURES,
    LONGEST_PAUSE,
    PAUSE,
    SERVICE,
    USERS,
    Guard,
    State,
)
from tests.unit.virtual_time import in_virtual_time

PATIENCE = 30.0


def guard() -> Guard:
    return Guard("daint", clock=asyncio.get_running_loop().time)


async def hang() -> str:
    await asyncio.sleep(PATIENCE)
    raise Unreachable("No answer.")


def quickly(answer: str | FirecRESTError = "fine") -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        await asyncio.sleep(0.1)
        if isinstance(answer, FirecRESTError):
            raise answer
        return answer

    return call


async def ask(
    guard: Guard,
    account: str,
    call: Callable[[], Awaitable[str]] | None = None,
    *,
    insist: bool = False,
) -> str | FirecRESTError:
    try:
        return await guard.run(account, call or quickly(), patience=PATIENCE, insist=insist)
    except FirecRESTError as error:
        return error


def state(guard: Guard) -> State:
    return guard.breaker.state


async def away(guard: Guard, account: str, times: int) -> None:
    for _ in range(times):
        assert isinstance(await ask(guard, account, quickly(Unreachable("No."))), Unreachable)


# -- lanes -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_user_whose_calls_hang_delays_nobody_else() -> None:
    """R9"""
    daint, loop = guard(), asyncio.get_running_loop()
    hanging = [asyncio.ensure_future(ask(daint, "mallory", hang)) for _ in range(10 * USERS)]
    await asyncio.sleep(1)
    began = loop.time()
    assert await ask(daint, "alice") == "fine"
    assert await ask(daint, SERVICE) == "fine"
    assert loop.time() - began < 1
    for call in hanging:
        call.cancel()


@in_virtual_time
async def test_many_users_whose_calls_hang_delay_no_look_at_jobs() -> None:
    """R9: the service account has a lane of its own."""
    daint = guard()
    hanging = [asyncio.ensure_future(ask(daint, f"user{n}", hang)) for n in range(10 * USERS)]
    await asyncio.sleep(1)
    assert await ask(daint, SERVICE) == "fine"
    for call in hanging:
        call.cancel()


@in_virtual_time
async def test_no_account_makes_more_calls_at_a_time_than_its_sessions() -> None:
    """R9"""
    daint, under_way, most = guard(), 0, 0

    async def call() -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1)
        under_way -= 1
        return "fine"

    answers = await asyncio.gather(*(ask(daint, SERVICE, call) for _ in range(50)))
    assert most == EACH and set(answers) == {"fine"}


@in_virtual_time
async def test_who_waits_too_long_for_a_turn_is_told_so_and_was_not_sent() -> None:
    """R3: not ambiguous, so that nothing has to be looked for."""
    daint = guard()

    async def for_ever() -> str:
        await asyncio.sleep(1e6)
        return "fine"

    hanging = [asyncio.ensure_future(ask(daint, "mallory", for_ever)) for _ in range(EACH)]
    await asyncio.sleep(1)
    error = await ask(daint, "mallory")
    assert isinstance(error, Unwell) and not error.ambiguous
    assert error.message == "daint is busy with other requests. Please try again in a minute."
    for call in hanging:
        call.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert await ask(daint, "mallory") == "fine"


@in_virtual_time
async def test_who_gives_up_waiting_leaves_the_turn_to_others() -> None:
    """Cancelled while it waits, and at the very moment its turn comes."""
    daint = guard()
    for wait in (0.05, 0.1):
        running = [asyncio.ensure_future(ask(daint, "alice")) for _ in range(EACH)]
        waiting = [asyncio.ensure_future(ask(daint, "alice", hang)) for _ in range(EACH)]
        await asyncio.sleep(wait)
        for call in waiting:
            call.cancel()
        await asyncio.gather(*running)
        left = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in left)
        assert await asyncio.gather(*(ask(daint, "alice") for _ in range(EACH))) == ["fine"] * EACH


# -- the breaker -----------------------------------------------------------------------------------


@in_virtual_time
async def test_a_system_that_does_not_answer_is_not_asked_until_it_is_tried_again() -> None:
    """R8, R9: nobody waits for a deadline to learn what is known."""
    daint, loop = guard(), asyncio.get_running_loop()
    await away(daint, SERVICE, FAILURES)
    assert state(daint) is State.OPEN
    began = loop.time()
    error = await ask(daint, "alice")
    assert isinstance(error, Unwell) and not error.ambiguous and loop.time() == began
    assert error.message == "daint does not answer at the moment. Please try again in a minute."
    await asyncio.sleep(PAUSE)
    assert state(daint) is State.HALF_OPEN
    assert await ask(daint, "alice") == "fine"
    assert state(daint) is State.CLOSED


@in_virtual_time
async def test_one_call_at_a_time_finds_out_whether_the_system_is_back() -> None:
    daint = guard()
    await away(daint, SERVICE, FAILURES)
    await asyncio.sleep(PAUSE)
    answers = await asyncio.gather(*(ask(daint, f"user{n}", quickly()) for n in range(10)))
    assert answers.count("fine") == 1
    assert sum(isinstance(answer, Unwell) for answer in answers) == 9


@in_virtual_time
async def test_the_pauses_between_tries_grow_up_to_a_minute_and_no_further() -> None:
    daint, loop = guard(), asyncio.get_running_loop()
    await away(daint, SERVICE, FAILURES)
    tried: list[float] = []

    async def probe() -> str:
        tried.append(loop.time())
        raise Unreachable("No answer.")

    while loop.time() < 600:
        await ask(daint, SERVICE, probe)
        await asyncio.sleep(0.5)
    apart = [round(later - earlier) for earlier, later in itertools.pairwise(tried)]
    assert apart[:4] == [2 * PAUSE, 4 * PAUSE, 8 * PAUSE, LONGEST_PAUSE]
    assert set(apart[4:]) == {LONGEST_PAUSE}


@in_virtual_time
async def test_a_try_that_is_cancelled_leaves_it_to_another() -> None:
    daint = guard()
    await away(daint, SERVICE, FAILURES)
    await asyncio.sleep(PAUSE)
    probe = asyncio.ensure_future(ask(daint, "alice", hang))
    await asyncio.sleep(1)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert await ask(daint, "bob") == "fine"


@in_virtual_time
async def test_no_single_user_shuts_a_system_for_others() -> None:
    """R9: whatever their login shell does."""
    daint = guard()
    await away(daint, "mallory", 50)
    assert state(daint) is State.CLOSED
    await away(daint, "alice", 1)
    await away(daint, "bob", 1)
    assert state(daint) is State.OPEN


@in_virtual_time
async def test_no_single_user_keeps_a_system_shut_for_others() -> None:
    """R9: one whom nobody answers, and who is always the first to try again."""
    daint = guard()
    await away(daint, SERVICE, FAILURES)

    async def try_at_once() -> None:
        while True:
            await ask(daint, "mallory", quickly(Unreachable("No.")))
            await asyncio.sleep(0.01)

    trying = asyncio.ensure_future(try_at_once())
    await asyncio.sleep(300)
    assert state(daint) is not State.CLOSED
    for _ in range(3):  # as the monitor does, however often it was in vain
        await ask(daint, SERVICE)
        await asyncio.sleep(LONGEST_PAUSE)
    assert state(daint) is State.CLOSED
    trying.cancel()


@in_virtual_time
@pytest.mark.parametrize("answered", [SubmissionRejected("No."), Unwell("A 500.", away=False)])
async def test_whatever_is_answered_shows_that_the_system_is_there(
    answered: FirecRESTError,
) -> None:
    daint = guard()
    for _ in range(10):
        await away(daint, SERVICE, FAILURES - 1)
        assert await ask(daint, SERVICE, quickly(answered)) is answered
    assert state(daint) is State.CLOSED


@in_virtual_time
async def test_calls_that_were_made_before_say_nothing_of_the_try() -> None:
    daint = guard()
    late = [asyncio.ensure_future(ask(daint, f"user{n}", hang)) for n in range(10)]
    await asyncio.sleep(PATIENCE - PAUSE - 1)
    await away(daint, SERVICE, FAILURES)
    await asyncio.sleep(PAUSE)
    found = asyncio.Event()

    async def probe() -> str:
        await found.wait()
        return "fine"

    trying = asyncio.ensure_future(ask(daint, "alice", probe))
    await asyncio.gather(*late)
    assert isinstance(await ask(daint, "bob"), Unwell)
    found.set()
    assert await trying == "fine"
    assert state(daint) is State.CLOSED


@in_virtual_time
async def test_a_try_that_fails_after_another_call_was_answered_shuts_nothing() -> None:
    """R9: its user's login shell hangs, and the system is back."""
    daint = guard()
    await away(daint, SERVICE, FAILURES)
    await asyncio.sleep(PAUSE)
    trying = asyncio.ensure_future(ask(daint, "mallory", hang))
    await asyncio.sleep(1)
    assert await ask(daint, "alice", insist=True) == "fine"
    assert isinstance(await trying, Unreachable)
    assert state(daint) is State.CLOSED
    await away(daint, SERVICE, FAILURES)
    assert state(daint) is State.OPEN


@in_virtual_time
async def test_a_cancel_is_tried_in_any_case_and_may_find_the_system_back() -> None:
    """R7: a job that is not cancelled burns its allocation."""
    daint = guard()
    await away(daint, SERVICE, FAILURES)
    assert await ask(daint, "alice", insist=True) == "fine"
    assert state(daint) is State.CLOSED
