"""How are secrets kept in the Hub's database: encrypted with its CryptKeeper, or not at all."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from cryptography.fernet import InvalidToken
from jupyterhub.crypto import CryptKeeper, EncryptionUnavailable
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm.attributes import set_committed_value

from .sqlite_writer import Row, file_of, write

log = logging.getLogger(__name__)

#: So many users' tokens share a commit at most: each takes the loop a quarter of a millisecond...
_TOGETHER = 8
#: ...or, where a thread commits, next to none of its time.
_BESIDE = 25
#: Seconds, at most, for which the loop is left to others after a commit.
_REST = 0.05


def seal(data: bytes) -> str:
    """Encrypt a few kilobytes for ``orm_spawner.state``; well under a millisecond."""
    return _fernet().encrypt(data).decode()


def has_key() -> bool:
    """Whether the Hub has a key to encrypt with."""
    return bool(CryptKeeper.instance().keys)


def unseal(text: str) -> bytes:
    """Decrypt. Raises ValueError for what was sealed with a key the Hub does not have."""
    try:
        plain: bytes = _fernet().decrypt(text.encode())
    except InvalidToken:
        raise ValueError("it was sealed with a key the Hub does not have") from None
    return plain


def _fernet() -> Any:
    keeper = CryptKeeper.instance()
    keeper.check_available()
    return keeper.fernet


class UserVault:
    """A user's encrypted auth_state, as tokens.Vault wants it.

    The Hub encrypts in threads. Here there is none: to hand a few kilobytes over to one and back
    takes the loop longer than to encrypt them.
    """

    def __init__(self, user: Any) -> None:
        self._user = user
        self.name: str = user.name

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        stored = self._user.encrypted_auth_state
        if stored is None:
            return None, None
        try:
            state = json.loads(_fernet().decrypt(stored))
        # A lost or changed JUPYTERHUB_CRYPT_KEY, or what was damaged: as good as not stored.
        except (InvalidToken, EncryptionUnavailable, ValueError):
            return None, stored
        return (state if isinstance(state, dict) else None), stored

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        sealed: bytes = _fernet().encrypt(json.dumps(auth_state).encode())
        return sealed

    def swap(self, old: bytes | None, new: bytes | None) -> bool:
        change = _Change(self._user, old, new)
        try:
            return _commit([change])[0]
        except SQLAlchemyError:
            # The issuer has rotated already: a database connection that broke meanwhile must not
            # cost the user a login, and the next one is a new one.
            return _commit([change])[0]

    async def save(self, old: bytes | None, new: bytes | None) -> bool:
        db = self._user.db
        queue = _queues.get(db) or _queues.setdefault(db, _Queue(db.get_bind()))
        return await queue.put(_Change(self._user, old, new))


class _Change(NamedTuple):
    """What is to take the place of a user's auth_state, if that is still what it was."""

    user: Any
    old: bytes | None
    new: bytes | None

    def assign(self) -> bool:
        if self.user.encrypted_auth_state != self.old:
            return False
        self.user.encrypted_auth_state = self.new
        return True

    def take_over(self) -> bool:
        """Have the Hub's session know what has been written past it; False if a login came since.

        That is in the database, too, or will be: its commit is the later one.
        """
        # The very bytes that were written: the session has read them anew meanwhile.
        if self.user.encrypted_auth_state not in (self.old, self.new):
            return False
        set_committed_value(self.user.orm_user, "encrypted_auth_state", self.new)
        return True

    def row(self) -> Row:
        """What a thread is to write."""
        # Not user.id: to read it anew might take the loop a query.
        identity = inspect(self.user.orm_user).identity
        return self.new, identity[0] if identity else None, self.old


def _commit(changes: Sequence[_Change]) -> list[bool]:
    """Make changes in one commit, without an await; whether each was. None is if this raises."""
    db = changes[0].user.db
    try:
        made = [change.assign() for change in changes]
        if any(was and change.new != change.old for was, change in zip(made, changes, strict=True)):
            db.commit()
    except Exception:
        db.rollback()
        raise
    return made


@dataclass
class _Pending:
    change: _Change
    done: asyncio.Future[bool]
    beside: bool = True
    alone: bool = False

    def tell(self, was: bool) -> None:
        if not self.done.done():
            self.done.set_result(was)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def take_over(self) -> None:
        try:
            self.tell(self.change.take_over())
        except Exception as error:  # whatever it is: who waits has to hear of it
            self.fail(error)


class _Queue:
    """Changes of many users, in commits that they share (R4, R8).

    They wait here, and not in the session, which others commit and roll back meanwhile. Who comes
    first waits for nobody: the commit is made in the next round of the event loop, with what has
    come until then. After it the loop is left to others for as long as it took, up to _REST.

    A database in SQLite's file is as slow as its disk, and there a thread commits, with a
    connection of its own. What it could not write it has not written: that is then done on the
    loop, in the Hub's session, which may be what has the file locked, in the middle of something
    that waits for these tokens. Callbacks do all this, since a Hub that shuts down cancels tasks.
    """

    def __init__(self, engine: Any) -> None:
        self._waiting: deque[_Pending] = deque()
        self._rests_until = 0.0
        self._goes_on = False
        self._file = file_of(engine)
        self._thread = ThreadPoolExecutor(1, "firecrestspawner-vault")

    def put(self, change: _Change) -> asyncio.Future[bool]:
        """What becomes of ``change`` (see UserVault.swap); it is made even if nobody waits."""
        pending = _Pending(change, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        if not self._goes_on:
            self._go_on()
        return pending.done

    def _go_on(self) -> None:
        self._goes_on = bool(self._waiting)
        if self._goes_on:
            asyncio.get_running_loop().call_at(self._rests_until, self._next)

    def _next(self) -> None:
        if self._file is None or not self._waiting[0].beside:
            self._make(self._some(_TOGETHER))
            self._go_on()
            return
        some = self._some(_BESIDE)
        try:
            work = partial(write, self._file, [pending.change.row() for pending in some])
            writing = asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Exception as error:  # no thread can be begun, say; who waits must not wait for ever
            self._not_written(some, error)
        else:
            writing.add_done_callback(partial(self._written, some))

    def _some(self, most: int) -> list[_Pending]:
        some = [self._waiting.popleft()]
        while self._waiting and not some[0].alone and len(some) < most:
            some.append(self._waiting.popleft())
        return some

    def _written(self, some: list[_Pending], writing: asyncio.Future[list[bool]]) -> None:
        error = writing.exception()
        if error is not None:
            self._not_written(some, error)
            return
        left = []
        for pending, was in zip(some, writing.result(), strict=True):
            if was:
                pending.take_over()
            else:
                left.append(pending)
        self._put_back(left)
        self._go_on()

    def _not_written(self, some: list[_Pending], error: BaseException) -> None:
        log.warning(
            "The tokens of %d users are stored on the event loop, as SQLite's file could not be"
            " written beside it: %s", len(some), error,
        )  # fmt: skip
        self._put_back(some)
        self._go_on()

    def _put_back(self, some: Sequence[_Pending], *, alone: bool = False) -> None:
        """Have these made first, and on the event loop."""
        for pending in reversed(some):
            pending.beside, pending.alone = False, alone
            self._waiting.appendleft(pending)

    def _make(self, some: list[_Pending]) -> None:
        """On the event loop."""
        began = time.monotonic()
        try:
            made = _commit([pending.change for pending in some])
        except Exception as error:  # whatever it is: who waits has to hear of it
            if some[0].alone:
                some[0].fail(error)
            else:
                # What is wrong with one is not to harm the others; and a broken connection is a
                # new one by then.
                self._put_back(some, alone=True)
        else:
            for pending, was in zip(some, made, strict=True):
                pending.tell(was)
        now = time.monotonic()
        self._rests_until = now + min(now - began, _REST)


#: Of each of the Hub's database sessions: there is one.
_queues: WeakKeyDictionary[Any, _Queue] = WeakKeyDictionary()
