"""Are many users' tokens stored at once, each as if it were alone? With the Hub's own database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper
from jupyterhub.user import User
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from firecrestspawner import sqlite_writer, vault
from firecrestspawner.vault import UserVault


class Hub:
    """A Hub's database, in a file, with ``users`` that have an auth_state.

    ``commits``: when each on the event loop began and ended (seconds); ``broken``: those to come
    that fail, ``broken_beside`` those of the thread; ``beside``: how many users each of these had.
    ``before`` and ``after`` are called in the thread around its work.
    """

    def __init__(self, path: Path) -> None:
        url = f"sqlite:///{path / 'hub.sqlite'}"
        self.db: Any = orm.new_session_factory(url)()
        self.others: Any = orm.new_session_factory(url)()
        self.commits: list[tuple[float, float]] = []
        self.broken = self.broken_beside = 0
        self.beside: list[int] = []
        self.slow = 0.0
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        self.users = [self._add(number) for number in range(60)]
        self.db.commit()
        self._commit, self.db.commit = self.db.commit, self._noting_commit

    def _add(self, number: int) -> Any:
        row = orm.User(name=f"user-{number}", encrypted_auth_state=b"old")
        self.db.add(row)
        return User(row, {}, db=self.db)

    def _noting_commit(self) -> None:
        began = time.monotonic()
        if self.broken:
            self.broken -= 1
            raise OperationalError("UPDATE", {}, Exception("the connection is gone"))
        self._commit()
        time.sleep(self.slow)  # as a disk that takes its time: the loop stands still
        self.commits.append((began, time.monotonic()))

    def write(self, file: Path, rows: Sequence[sqlite_writer.Row]) -> list[bool]:
        """In the thread."""
        assert threading.current_thread() is not threading.main_thread()
        self.before()
        if self.broken_beside:
            self.broken_beside -= 1
            raise sqlite3.OperationalError("disk I/O error")
        made = sqlite_writer.write(file, rows)
        self.beside.append(len(rows))
        self.after()
        return made

    def stored(self, user: Any) -> bytes:
        """What another connection to the database sees of a user: what has been committed."""
        query = text("SELECT encrypted_auth_state FROM users WHERE name = :name")
        found: bytes = self.others.execute(query, {"name": user.name}).scalar_one()
        self.others.rollback()
        return found

    def remove(self, user: Any) -> None:
        """As somebody does who has a hand in the database."""
        self.others.execute(text("DELETE FROM users WHERE name = :name"), {"name": user.name})
        self.others.commit()

    def close(self) -> None:
        for session in (self.db, self.others):
            session.close()
            session.get_bind().dispose()


class Held:
    """A place in the thread where it stays until it is told to go on."""

    def __init__(self) -> None:
        self._reached, self._free = asyncio.Event(), threading.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self._reached.set)
        assert self._free.wait(30)

    async def reached(self) -> None:
        await asyncio.wait_for(self._reached.wait(), 30)

    def release(self) -> None:
        self._free.set()


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Whose database is written by a thread."""
    hub = Hub(tmp_path)
    monkeypatch.setattr(vault, "write", hub.write)
    yield hub
    hub.close()


@pytest.fixture
def on_the_loop(beside: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """As any other database than SQLite's."""
    monkeypatch.setattr(vault, "file_of", lambda _engine: None)
    return beside


@pytest.fixture(params=["beside", "on_the_loop"])
def hub(request: pytest.FixtureRequest) -> Hub:
    hub: Hub = request.getfixturevalue(request.param)
    return hub


def save(hub: Hub, users: list[Any]) -> list[asyncio.Task[bool]]:
    """Begin to store a new auth_state for each."""
    return [asyncio.ensure_future(UserVault(user).save(b"old", fresh(user))) for user in users]


def fresh(user: Any) -> bytes:
    name: str = user.name
    return name.encode()


async def test_many_who_save_at_once_share_commits(on_the_loop: Hub) -> None:
    """R8: but no commit is so large that the loop stands still for it."""
    hub = on_the_loop
    sizes: list[int] = []
    event.listen(hub.db, "before_commit", lambda session: sizes.append(len(session.dirty)))
    assert all(await asyncio.gather(*save(hub, hub.users)))
    assert all(hub.stored(user) == fresh(user) for user in hub.users)
    assert sizes == [8, 8, 8, 8, 8, 8, 8, 4]
    assert not hub.beside


async def test_a_thread_takes_more_at_once(beside: Hub) -> None:
    """R8: and the event loop commits nothing."""
    assert all(await asyncio.gather(*save(beside, beside.users)))
    assert all(beside.stored(user) == fresh(user) for user in beside.users)
    assert beside.beside == [25, 25, 10]
    assert not beside.commits and not beside.db.dirty


async def test_nobody_is_told_before_it_is_committed(hub: Hub) -> None:
    """R4."""
    seen: list[bytes] = []

    async def told(user: Any) -> None:
        assert await UserVault(user).save(b"old", fresh(user))
        seen.append(hub.stored(user))

    await asyncio.gather(*(told(user) for user in hub.users))
    assert seen == [fresh(user) for user in hub.users]


async def test_what_waits_is_not_in_the_session(on_the_loop: Hub) -> None:
    """R4: which others commit, and roll back, at any time."""
    hub = on_the_loop
    saving = save(hub, hub.users[:2])
    hub.users[2].encrypted_auth_state = b"another's business"
    await asyncio.sleep(0)  # they wait by now
    assert not hub.commits and list(hub.db.dirty) == [hub.users[2].orm_user]
    hub.db.rollback()
    assert await asyncio.gather(*saving) == [True, True]
    assert [hub.stored(user) for user in hub.users[:3]] == [b"user-0", b"user-1", b"old"]


async def test_who_is_alone_waits_for_nobody(on_the_loop: Hub) -> None:
    hub = on_the_loop
    [saving] = save(hub, hub.users[:1])
    for _ in range(3):  # it begins, comes, and is served after what was ready before it
        await asyncio.sleep(0)
    assert len(hub.commits) == 1
    assert await saving


async def test_the_loop_is_left_to_others_for_as_long_as_a_commit_took(
    on_the_loop: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: what others do takes many rounds of the loop, and a commit in each would slow it."""
    hub = on_the_loop
    monkeypatch.setattr(vault, "_REST", 60)
    hub.slow = 0.02
    await asyncio.gather(*save(hub, hub.users[:16]))
    # Those who come in the pause wait for its end, too.
    await asyncio.gather(*save(hub, hub.users[16:24]))
    assert len(hub.commits) == 3
    for (began, ended), (begins, _) in zip(hub.commits, hub.commits[1:], strict=False):
        assert begins - ended > (ended - began) * 0.99  # of a clock that ticks


async def test_a_database_that_hangs_is_not_waited_for_twice(on_the_loop: Hub) -> None:
    hub = on_the_loop
    hub.slow = 0.5
    await asyncio.gather(*save(hub, hub.users[:9]))
    [(began, ended), (begins, _)] = hub.commits
    assert begins - ended < ended - began


async def test_a_login_while_one_waits_wins_and_harms_no_other(hub: Hub) -> None:
    """R4."""
    saving = save(hub, hub.users[:3])
    await asyncio.sleep(0)  # they wait by now
    hub.users[1].encrypted_auth_state = b"a login's"
    hub.db.commit()
    assert await asyncio.gather(*saving) == [True, False, True]
    assert [hub.stored(user) for user in hub.users[:3]] == [b"user-0", b"a login's", b"user-2"]


async def test_the_loop_goes_on_while_the_thread_has_not_written(beside: Hub) -> None:
    """R8."""
    beside.before = held = Held()
    saving = save(beside, beside.users[:2])
    await held.reached()  # the loop runs, and reads and writes, while the thread does not
    beside.users[2].admin = True
    beside.db.commit()
    assert beside.stored(beside.users[0]) == b"old"
    assert not any(each.done() for each in saving)
    held.release()
    assert await asyncio.gather(*saving) == [True, True]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_login_while_the_thread_writes_wins_and_harms_no_other(
    beside: Hub, moment: str
) -> None:
    """R4: whether it comes before or after the thread has written."""
    held = Held()
    setattr(beside, moment, held)
    saving = save(beside, beside.users[:3])
    await held.reached()
    beside.users[1].encrypted_auth_state = b"a login's"
    beside.db.commit()
    held.release()
    assert await asyncio.gather(*saving) == [True, False, True]
    expected = [b"user-0", b"a login's", b"user-2"]
    assert [beside.stored(user) for user in beside.users[:3]] == expected
    assert [user.encrypted_auth_state for user in beside.users[:3]] == expected


async def test_a_login_that_is_about_to_be_committed_wins(beside: Hub) -> None:
    """R4."""
    beside.after = held = Held()
    [saving] = save(beside, beside.users[:1])
    await held.reached()
    beside.users[0].encrypted_auth_state = b"a login's"
    held.release()
    assert not await saving
    beside.db.commit()
    assert beside.stored(beside.users[0]) == b"a login's"


async def test_what_the_session_has_read_anew_meanwhile_is_no_login(beside: Hub) -> None:
    """R4: as it does after anything that was rolled back."""
    beside.after = held = Held()
    [saving] = save(beside, beside.users[:1])
    await held.reached()
    beside.db.rollback()
    held.release()
    assert await saving


async def test_what_locks_the_file_and_waits_for_the_tokens_gets_them(
    beside: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R4, R8: the Hub's own session may have begun to write, and only go on when they are there."""
    monkeypatch.setattr(sqlite_writer, "_WRITER", 0.2)
    beside.users[5].admin = True
    beside.db.flush()
    assert await asyncio.gather(*save(beside, beside.users[:2])) == [True, True]
    assert [beside.stored(user) for user in beside.users[:2]] == [b"user-0", b"user-1"]
    [said] = caplog.messages
    assert said == (
        "The tokens of 2 users are stored on the event loop, as SQLite's file could not be written"
        " beside it: database is locked"
    )


async def test_where_no_thread_can_be_begun_the_loop_writes(
    beside: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R4, R8: a Hub may be at its limit of threads; who comes later has one again."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert await asyncio.gather(*save(beside, beside.users[:2])) == [True, True]
    assert "beside it: can't start new thread" in caplog.text
    assert await asyncio.gather(*save(beside, beside.users[2:3])) == [True]
    assert len(beside.commits) == 1
    expected = [b"user-0", b"user-1", b"user-2"]
    assert [beside.stored(user) for user in beside.users[:3]] == expected


async def test_a_hub_that_shuts_down_does_not_cancel_who_writes(beside: Hub) -> None:
    """R4: it cancels every task, and what is in the database is to be in the session, too."""
    beside.after = held = Held()
    saving = save(beside, beside.users[:1])
    await held.reached()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    held.release()
    await asyncio.wait(saving)
    assert await UserVault(beside.users[1]).save(b"old", b"new")
    assert beside.users[0].encrypted_auth_state == b"user-0"


async def test_a_connection_that_broke_costs_nobody_a_login(hub: Hub) -> None:
    """R4: the issuer has rotated by then."""
    hub.broken = hub.broken_beside = 1
    assert all(await asyncio.gather(*save(hub, hub.users)))
    assert all(hub.stored(user) == fresh(user) for user in hub.users)


async def test_what_is_tried_alone_does_not_wait_for_the_thread_again(beside: Hub) -> None:
    """R8: each would wait as long for a lock as all have."""
    beside.broken = beside.broken_beside = 1
    assert all(await asyncio.gather(*save(beside, beside.users[:3])))
    assert len(beside.commits) == 3 and not beside.beside


async def test_a_database_that_is_away_is_told_to_who_waits(hub: Hub) -> None:
    hub.broken = hub.broken_beside = 100
    told = await asyncio.gather(*save(hub, hub.users[:3]), return_exceptions=True)
    assert [type(each) for each in told] == [OperationalError] * 3
    assert not hub.db.dirty and hub.users[0].encrypted_auth_state == b"old"


async def test_what_is_wrong_with_one_harms_no_other(hub: Hub) -> None:
    """R9: here, a user who is not in the database any more."""
    hub.remove(hub.users[3])
    told = await asyncio.gather(*save(hub, hub.users), return_exceptions=True)
    assert isinstance(told.pop(3), SQLAlchemyError)
    assert told == [True] * 59
    left = [user for user in hub.users if user is not hub.users[3]]
    assert all(hub.stored(user) == fresh(user) for user in left)


async def test_who_gives_up_harms_no_other_and_is_saved_too(hub: Hub) -> None:
    """R4: the issuer has rotated by then."""
    hub.broken = hub.broken_beside = 1
    saving = save(hub, hub.users[:3])
    await asyncio.sleep(0)  # they wait by now
    saving[1].cancel()
    assert all(await asyncio.gather(saving[0], saving[2]))
    assert [hub.stored(user) for user in hub.users[:3]] == [b"user-0", b"user-1", b"user-2"]


async def test_of_two_for_one_user_the_first_is_saved(hub: Hub) -> None:
    """R4: it cannot be that both have what was stored."""
    user = hub.users[0]
    both = [UserVault(user).save(b"old", each) for each in (b"first", b"second")]
    first, second = await asyncio.gather(*both)
    assert first and not second
    assert hub.stored(user) == b"first"


async def test_the_hub_and_the_vault_read_each_others_writing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CryptKeeper.instance(), "keys", [os.urandom(32)])
    user, state = hub.users[0], {"access_token": "t\u00f6ken", "scope": ["openid"]}
    await user.save_auth_state(state)
    kept = UserVault(user)
    assert (await kept.load())[0] == state
    assert await kept.save(user.encrypted_auth_state, await kept.seal({**state, "more": 1}))
    assert await user.get_auth_state() == {**state, "more": 1}
