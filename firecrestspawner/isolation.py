"""How do one slow system and one user whose calls hang delay nobody else? Lanes and a breaker (R9).

A :class:`Guard` stands before the calls for one system. Its lanes bound how many of them are under
way, for each account and in all; its :class:`Breaker` answers for a system that has stopped
answering, so that nobody waits for a deadline to learn it, and lets one call at a time find out
whether it is back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from enum import Enum, IntEnum
from typing import TypeVar

from .errors import FirecRESTError, Unwell

T = TypeVar("T")

#: The account that looks: its lane is its own, and its failures say most about a system.
SERVICE = "service"
#: Calls of one account at a time. An sshd with its default MaxSessions (10) refuses more than about
#: five queries of an account, each of which takes two sessions (FirecREST facts, load).
EACH = 4
#: Calls of all users at a time, for one system: fewer than half of the 100 connections that all
#: systems of an API share.
USERS = 40
#: A system is away when the service account failed so often in a row, or so many accounts did.
FAILURES = 3
#: Seconds until the first try after that; doubles with each that fails.
PAUSE, LONGEST_PAUSE = 5.0, 60.0


class Pass(Enum):
    """How a call is let through: not at all, as any call, or as the one that finds out."""

    REFUSED = 0
    CALL = 1
    PROBE = 2


class State(IntEnum):
    """CLOSED: calls go through. OPEN: none does. HALF_OPEN: one may, or is under way."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Whether a system is asked at all.

    Only failures that say something of the system as a whole count (FirecRESTError.away), and only
    those of the service account or of several users: nobody's own shell shuts a system for others.

    Parameters
    ----------
    clock: seconds, monotonic.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[Hashable, int] = {}
        self._pause = PAUSE
        self._until: float | None = None
        self._probing = False
        #: Who has tried in vain, since the last answer.
        self._in_vain: set[Hashable] = set()

    @property
    def state(self) -> State:
        if self._until is None:
            return State.CLOSED
        if self._probing or self._clock() >= self._until:
            return State.HALF_OPEN
        return State.OPEN

    def admit(self, account: Hashable) -> Pass:
        """How a call may be made; :meth:`answered`, :meth:`failed` or :meth:`give_up` follows.

        A user who has tried in vain lets others go first, the service account at the least, which
        comes once in LONGEST_PAUSE: it may be that user whom nobody answers.
        """
        if self._until is None:
            return Pass.CALL
        others_first = LONGEST_PAUSE if account in self._in_vain else 0.0
        if self._probing or self._clock() < self._until + others_first:
            return Pass.REFUSED
        self._probing = True
        return Pass.PROBE

    def answered(self) -> None:
        """The system answered a call, whatever it said."""
        self._failures.clear()
        self._in_vain.clear()
        self._until, self._pause, self._probing = None, PAUSE, False

    def failed(self, account: Hashable, way: Pass) -> None:
        """The system did not answer a call of ``account``."""
        # A try that another call's answer has overtaken is a call like any other.
        if way is Pass.PROBE and self._probing:
            self._probing = False
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._until = self._clock() + self._pause
            if account != SERVICE:
                self._in_vain.add(account)
        elif self._until is None:
            self._failures[account] = self._failures.get(account, 0) + 1
            if len(self._failures) >= FAILURES or self._failures.get(SERVICE, 0) >= FAILURES:
                self._until = self._clock() + self._pause

    def give_up(self, way: Pass) -> None:
        """A call was cancelled: nothing is known, and another may try."""
        if way is Pass.PROBE:
            self._probing = False


class Guard:
    """Stands before all calls for one system.

    Parameters
    ----------
    name: the system's name, for the log's line that says that it is not asked.
    title: what users are shown for it; the name where that is empty.
    """

    def __init__(
        self, name: str, title: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.title = title or name
        self.breaker = Breaker(clock=clock)
        self._users = asyncio.Semaphore(USERS)
        # Holds only what is under way.
        self._lanes: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}

    async def run(
        self,
        account: Hashable,
        call: Callable[[], Awaitable[T]],
        *,
        patience: float,
        insist: bool = False,
    ) -> T:
        """Make a call when its turn has come.

        ``account`` is :data:`SERVICE`, or anything that tells users apart. ``patience`` is how many
        seconds it waits for its turn. With ``insist`` the breaker is not asked: for what must be
        tried, as a cancel. Raises Unwell, never ambiguous, for a call that is not made.
        """
        async with self._lane(account, patience):
            way = self.breaker.admit(account)
            if way is Pass.REFUSED and not insist:
                raise Unwell(
                    f"{self.title} does not answer at the moment. Please try again in a minute.",
                    detail=f"{self.name} is not asked: it did not answer the last calls",
                    away=True,
                )
            try:
                answer = await call()
            except FirecRESTError as error:
                if error.away:
                    self.breaker.failed(account, way)
                else:
                    self.breaker.answered()
                raise
            except BaseException:
                self.breaker.give_up(way)
                raise
            self.breaker.answered()
            return answer

    @asynccontextmanager
    async def _lane(self, account: Hashable, patience: float) -> AsyncIterator[None]:
        lane, waiting = self._lanes.get(account, (asyncio.Semaphore(EACH), 0))
        self._lanes[account] = lane, waiting + 1
        try:
            deadline = time.monotonic() + patience
            await self._acquire(lane, deadline)
            try:
                if account != SERVICE:
                    await self._acquire(self._users, deadline)
                try:
                    yield
                finally:
                    if account != SERVICE:
                        self._users.release()
            finally:
                lane.release()
        finally:
            lane, waiting = self._lanes.pop(account)
            if waiting > 1:
                self._lanes[account] = lane, waiting - 1

    async def _acquire(self, semaphore: asyncio.Semaphore, deadline: float) -> None:
        if not semaphore.locked():
            await semaphore.acquire()
            return
        # Not in_time(): who is cancelled as the turn comes has to give it back.
        turn = asyncio.ensure_future(semaphore.acquire())
        try:
            await asyncio.wait({turn}, timeout=deadline - time.monotonic())
        except asyncio.CancelledError:
            if not turn.cancel():
                semaphore.release()
            raise
        if turn.cancel():
            raise Unwell(
                f"{self.title} is busy with other requests. Please try again in a minute.",
                detail=f"{self.name} is not asked: too many calls are under way",
            )
