"""How are secrets kept in the Hub's database: encrypted with its CryptKeeper, or not at all."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from cryptography.fernet import InvalidToken
from jupyterhub.crypto import CryptKeeper, EncryptionUnavailable
from sqlalchemy.exc import SQLAlchemyError

#: So many users' tokens share a commit at most: each takes the loop a quarter of a millisecond.
_TOGETHER = 8
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
        queue = _queues.setdefault(self._user.db, _Queue())
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
    alone: bool = False


class _Queue:
    """Changes of many users, in commits that they share (R4, R8).

    They wait here, and not in the session, which others commit and roll back meanwhile. Who comes
    first waits for nobody: the commit is made in the next round of the event loop, with what has
    come until then. After it the loop is left to others for as long as it took, up to _REST.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Pending] = deque()
        self._rests_until = 0.0

    def put(self, change: _Change) -> asyncio.Future[bool]:
        """What becomes of ``change`` (see UserVault.swap); it is made even if nobody waits."""
        pending = _Pending(change, asyncio.get_running_loop().create_future())
        self._waiting.append(pending)
        if len(self._waiting) == 1:
            self._go_on()
        return pending.done

    def _go_on(self) -> None:
        asyncio.get_running_loop().call_at(self._rests_until, self._next)

    def _next(self) -> None:
        began = time.monotonic()
        self._make(self._some())
        now = time.monotonic()
        self._rests_until = now + min(now - began, _REST)
        if self._waiting:
            self._go_on()

    def _some(self) -> list[_Pending]:
        some = [self._waiting.popleft()]
        while self._waiting and not some[0].alone and len(some) < _TOGETHER:
            some.append(self._waiting.popleft())
        return some

    def _make(self, some: list[_Pending]) -> None:
        try:
            made = _commit([pending.change for pending in some])
        except Exception as error:  # whatever it is: who waits has to hear of it
            if some[0].alone:
                if not some[0].done.done():
                    some[0].done.set_exception(error)
                return
            # What is wrong with one is not to harm the others; and a broken connection is a new
            # one by then.
            for pending in reversed(some):
                pending.alone = True
                self._waiting.appendleft(pending)
            return
        for pending, was in zip(some, made, strict=True):
            if not pending.done.done():
                pending.done.set_result(was)


#: Of each of the Hub's database sessions: there is one.
_queues: WeakKeyDictionary[Any, _Queue] = WeakKeyDictionary()
