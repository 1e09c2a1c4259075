"""How is long work done on the event loop without holding up everybody else (R8)?"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

#: Seconds of work after which the loop is left to others.
SLICE = 0.005

#: Passes over the younger objects before the next full one, after :func:`freeze`.
_PASSES = 100

_SEPARATOR = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def freeze() -> None:
    """Keep what is loaded by now out of the garbage collector's full passes.

    Modules and classes are never garbage; to look through all of a Hub's takes up to 0.2 s, in
    which nothing else is done. For start-up, before the Hub serves.

    What is left makes full passes more frequent: Python waits for a quarter as many new objects as
    old ones, and those that are frozen do not count. So they are made rarer here.
    """
    gc.collect()
    gc.freeze()
    young, middle, full = gc.get_threshold()
    gc.set_threshold(young, middle, max(full, _PASSES))


class Turnstile:
    """Lets ``width`` callers through in each round of the event loop, however many come (R8).

    Whoever does a little work after it leaves the loop to others before the next ones do theirs.
    """

    def __init__(self, width: int = 1) -> None:
        self._width = width
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def pass_through(self) -> None:
        """Wait for the next round, and for those who came before."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._open_in_the_next_round()
        await turn

    def _open_in_the_next_round(self) -> None:
        asyncio.get_running_loop().call_soon(self._open)

    def _open(self) -> None:
        passed = 0
        while self._waiting and passed < self._width:
            turn = self._waiting.popleft()
            if not turn.done():  # who was cancelled takes nobody's turn
                turn.set_result(None)
                passed += 1
        if self._waiting:
            self._open_in_the_next_round()


#: The one that all long work in an event loop goes through.
_turnstiles: WeakKeyDictionary[asyncio.AbstractEventLoop, Turnstile] = WeakKeyDictionary()


class Slices:
    """Cuts a long piece of work: whoever calls :meth:`breathe` often enough stalls nobody.

    Of several such pieces one has a slice in each round of the loop: ten at a time would stall it
    ten times as long.
    """

    def __init__(self) -> None:
        self._turns = _turnstiles.setdefault(asyncio.get_running_loop(), Turnstile())
        self._until = 0.0

    async def breathe(self) -> None:
        """Leave the loop to others before the first slice, and after each."""
        if time.perf_counter() >= self._until:
            await self._turns.pass_through()
            self._until = time.perf_counter() + SLICE


async def elements(text: str, key: str) -> AsyncIterator[Any]:
    """The elements of the list in ``{"<key>": [...]}``, read from JSON in slices.

    ``json.loads`` holds the loop, and every thread with it, for as long as it takes: a tenth of a
    second for the 6 MB of 10,000 jobs. Raises ValueError, perhaps after some elements, for what is
    no JSON or has no such list; ``null`` is an empty one.
    """
    slices = Slices()
    begin = re.match(rf'\s*\{{\s*"{re.escape(key)}"\s*:\s*\[\s*', text)
    if begin is None or text.startswith("]", begin.end()):
        for element in _at_once(text, key):
            yield element
        return
    at = begin.end()
    await slices.breathe()
    while True:
        element, at = _DECODER.raw_decode(text, at)
        yield element
        separator = _SEPARATOR.match(text, at)
        if separator is None:
            raise ValueError("the list is not well formed")
        at = separator.end()
        if separator[1] == "]":
            break
        await slices.breathe()
    if text[at : at + 1] not in ("}", ","):
        raise ValueError("the list does not end")


def _at_once(text: str, key: str) -> list[Any]:
    """Whatever else the answer may be: empty, another order of keys, or no list at all."""
    answer = json.loads(text)
    if not isinstance(answer, dict) or key not in answer:
        raise ValueError(f"the answer holds no {key}")
    found = answer[key]
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{key} is no list")
    return found
