"""How do many who need one thing from afar make one request for it, and share its failure?"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from .errors import Error

log = logging.getLogger(__name__)
T = TypeVar("T")


class Shared(Generic[T]):
    """A value that is fetched once at a time, and again only when it is too old.

    Parameters
    ----------
    fetch: gets the value; what it raises of our errors is a failure of the value's source.
    cooldown: seconds after a failure in which an earlier value is used without another try.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]], *, cooldown: float = 0.0) -> None:
        self._fetch = fetch
        self._cooldown = cooldown
        self._value: T | None = None
        self._at = float("-inf")
        self._failure: Error | None = None
        self._failed_at = float("-inf")
        self._lock = asyncio.Lock()

    @property
    def age(self) -> float:
        """Seconds since the value was fetched; infinite while there is none."""
        return time.monotonic() - self._at

    @property
    def latest(self) -> T | None:
        """The value as it was last fetched, however old; None while there is none."""
        return self._value

    async def get(self, max_age: float, *, or_older: bool = True) -> T:
        """The value, at most ``max_age`` seconds old; an older one while its source is away.

        Raises what ``fetch`` raises while there is no value, or not ``or_older``. Who waited for a
        try that failed does not make another: with a source that never answers the last of N
        would wait for N deadlines (R9).
        """
        asked_at = time.monotonic()
        async with self._lock:
            if self._value is not None and self.age <= max_age:
                return self._value
            usable = self._value if or_older else None
            if self._failure is not None and self._failed_at >= asked_at:
                if usable is None:
                    # A copy: one exception object raised by many collects all their tracebacks.
                    raise copy.copy(self._failure)
                return usable
            if usable is not None and time.monotonic() - self._failed_at < self._cooldown:
                return usable
            try:
                self._value = await self._fetch()
            except Error as error:
                self._failure, self._failed_at = copy.copy(error), time.monotonic()
                if usable is None:
                    raise
                log.warning("Using what was known before: %s", error.detail)
                return usable
            self._at, self._failure = time.monotonic(), None
            return self._value
