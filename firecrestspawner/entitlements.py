"""What may a user use on a system, as far as FirecREST says? Hints for the spawn form.

Asked with the user's own token, so that an answer concerns that user alone (R10); features of nodes
are the same for all. Nothing depends on it: what may be chosen is what the site configures, and
what may be used the scheduler decides.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .client import FirecREST
from .errors import Error
from .fields import FEATURES, WORD
from .models import Secret
from .shared import Shared

log = logging.getLogger(__name__)

#: So many users' hints are kept, each for one system; those asked for longest ago go first.
KEPT = 1000
#: A list longer than this helps nobody to choose.
LONGEST = 200
UNKNOWN = "What you may use there is not known at the moment; you can start a server all the same."


@dataclass(frozen=True)
class Hint:
    """One value of a field, what is shown beside it, and how many nodes a partition has.

    That is all the bounds there are: FirecREST tells neither the time limit of a partition nor
    what a user may have of it (its API description, PartitionModel).
    """

    value: str
    label: str = ""
    nodes: int | None = None


@dataclass(frozen=True)
class Hints:
    """Values by field; ``complete`` are the fields of which the user has no others.

    ``problem`` is a sentence for the user where nothing was answered.
    """

    account: tuple[Hint, ...] = ()
    partition: tuple[Hint, ...] = ()
    reservation: tuple[Hint, ...] = ()
    constraint: tuple[Hint, ...] = ()
    complete: tuple[str, ...] = ()
    problem: str = ""

    def public(self) -> dict[str, Any]:
        """As it is sent to the user's browser."""
        return asdict(self)


#: How many nodes have each feature. Raises errors of ours.
Features = Callable[[], Awaitable[Mapping[str, int]]]


async def _no_features() -> Mapping[str, int]:
    return {}


class _Slip:
    """One user's hints for one system. Whoever asks last is whose ``token`` gets them: who asked
    first may be gone, with another under the same number (SQLite gives those of the deleted again).
    ``features`` is as they had it, too.
    """

    def __init__(self, firecrest: FirecREST, system: str) -> None:
        self._about = firecrest, system
        self.token: Callable[[], Awaitable[Secret]]
        self.features: Features
        self.hints = Shared(self._fetch)

    async def _fetch(self) -> Hints:
        return await _ask(await self.token(), *self._about, self.features)


class Desk:
    """The hints that were asked for a moment ago: any number of tabs makes one set of requests."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, str, str], _Slip] = OrderedDict()

    async def get(
        self,
        user: Any,
        firecrest: FirecREST,
        system: str,
        token: Callable[[], Awaitable[Secret]],
        *,
        age: float,
        features: Features = _no_features,
    ) -> Hints:
        """What ``user`` (any key) may use on ``system``, asked anew when older than ``age`` s.

        ``token`` gets the user's access token when it is needed, ``features`` those of the system's
        nodes, where they are wanted. Raises nothing of ours: that
        nothing was answered is kept as long as an answer is (C3). That there is no token is not,
        for who reads it logs in again.
        """
        key = (user, firecrest.url, system)
        slip = self._kept.setdefault(key, _Slip(firecrest, system))
        slip.token, slip.features = token, features
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        try:
            return await slip.hints.get(age, or_older=False)
        except Error as error:
            return Hints(problem=error.message)


async def _ask(mine: Secret, firecrest: FirecREST, system: str, features: Features) -> Hints:
    async def ask(answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except Error as error:
            log.info("Hints for a form: %s", error.detail)
            return None

    info, partitions, reservations, counted = await asyncio.gather(
        *(
            ask(firecrest.status(mine, system, what))
            for what in ("userinfo", "partitions", "reservations")
        ),
        ask(features()),
    )
    if info is partitions is reservations is None:
        return Hints(problem=UNKNOWN)
    about = info if isinstance(info, dict) else {}
    accounts = _accounts(about)
    # Names of groups may be those of accounts, or may not; and what was cut is not known.
    own = isinstance(about.get("accounts"), list) and 0 < len(accounts) < LONGEST
    return Hints(
        complete=("account",) if own else (),
        account=accounts,
        partition=_hints(partitions, _partition, _nodes),
        reservation=_hints(_by_name(reservations), _reservation),
        constraint=_constraints(counted or {}),
    )


def _constraints(counted: Mapping[str, int]) -> tuple[Hint, ...]:
    """The features that a user could write into the field."""
    found = (name for name in sorted(counted) if re.fullmatch(FEATURES.pattern, name, re.ASCII))
    return tuple(Hint(name, _amount(counted[name])) for name in found)[:LONGEST]


def _accounts(info: Mapping[str, Any]) -> tuple[Hint, ...]:
    """Those of Slurm's database. Without one (PBS), projects go by the names of groups."""
    if isinstance(info.get("accounts"), list):
        return _hints(info["accounts"], _account)
    return _hints(info.get("groups"), lambda row: "your group")


def _account(row: Mapping[str, Any]) -> str:
    # Slurm's. The site's own, which the form marks with that word alone, may be another.
    return "your default" if row.get("default") is True else ""


def _hints(
    rows: Any,
    label: Callable[[Mapping[str, Any]], str],
    nodes: Callable[[Mapping[str, Any]], int | None] = lambda row: None,
) -> tuple[Hint, ...]:
    """The names in ``rows`` that a user could choose. What is not of the API's form is left out."""

    def found() -> Iterator[Hint]:
        for row in rows if isinstance(rows, list) else ():
            name = row.get("name") if isinstance(row, dict) else None
            if isinstance(name, str) and re.fullmatch(WORD.pattern, name, re.ASCII):
                yield Hint(name, label(row), nodes(row))

    return tuple(sorted(set(found()), key=lambda hint: hint.value))[:LONGEST]


def _partition(row: Mapping[str, Any]) -> str:
    # A word over ssh, a list of them over REST (FirecREST facts).
    state = row.get("partition")
    words = [state] if isinstance(state, str) else state if isinstance(state, list) else []
    nodes = _nodes(row)
    known = [] if "UP" in words or not words else ["not up"]
    if nodes is not None:
        known.append(_amount(nodes))
    return ", ".join(known)


def _amount(nodes: int) -> str:
    return f"{nodes} node{'' if nodes == 1 else 's'}"


def _nodes(row: Mapping[str, Any]) -> int | None:
    nodes = row.get("totalNodes")
    return nodes if isinstance(nodes, int) and not isinstance(nodes, bool) else None


def _by_name(reservations: Any) -> Any:
    """The reservations that can be asked for by the name that FirecREST has of them.

    One of PBS is a queue, which is among the partitions as R94, say; qsub does not know its name.
    Its list of nodes is in brackets: ``(node01:ncpus=4)``.
    """
    if not isinstance(reservations, list):
        return None
    return [
        row
        for row in reservations
        if isinstance(row, dict) and not str(row.get("nodeList")).startswith("(")
    ]


def _reservation(row: Mapping[str, Any]) -> str:
    state = row.get("state")
    return "not active now" if isinstance(state, str) and state.lower() == "inactive" else ""
