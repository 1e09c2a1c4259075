"""Are many users' tokens stored at once, each as if it were alone? With the Hub's own database."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper
from jupyterhub.user import User
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from firecrestspawner import vault
from firecrestspawner.vault import UserVault


class Hub:
    """A Hub's database, in a file, with ``users`` that have an auth_state. ``commits``: when each
    began and ended (seconds); ``broken``: those to come that fail."""

    def __init__(self, path: Path) -> None:
        url = f"sqlite:///{path / 'hub.sqlite'}"
        self.db: Any = orm.new_session_factory(url)()
        self.others: Any = orm.new_session_factory(url)()
        self.commits: list[tuple[float, float]] = []
        self.broken = 0
        self.slow = 0.0
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


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path)
    yield hub
    hub.close()


def save(hub: Hub, users: list[Any]) -> list[asyncio.Task[bool]]:
    """Begin to store a new auth_state for each."""
    return [asyncio.ensure_future(UserVault(user).save(b"old", fresh(user))) for user in users]


def fresh(user: Any) -> bytes:
    name: str = user.name
    return name.encode()


async def test_many_who_save_at_once_share_commits(hub: Hub) -> None:
    """R8: but no commit is so large that the loop stands still for it."""
    sizes: list[int] = []
    event.listen(hub.db, "before_commit", lambda session: sizes.append(len(session.dirty)))
    assert all(await asyncio.gather(*save(hub, hub.users)))
    assert all(hub.stored(user) == fresh(user) for user in hub.users)
    assert sizes == [8, 8, 8, 8, 8, 8, 8, 4]


async def test_nobody_is_told_before_it_is_committed(hub: Hub) -> None:
    """R4."""
    seen: list[bytes] = []

    async def told(user: Any) -> None:
        assert await UserVault(user).save(b"old", fresh(user))
        seen.append(hub.stored(user))

    await asyncio.gather(*(told(user) for user in hub.users))
    assert seen == [fresh(user) for user in hub.users]


async def test_what_waits_is_not_in_the_session(hub: Hub) -> None:
    """R4: which others commit, and roll back, at any time."""
    saving = save(hub, hub.users[:2])
    hub.users[2].encrypted_auth_state = b"another's business"
    await asyncio.sleep(0)  # they wait by now
    assert not hub.commits and list(hub.db.dirty) == [hub.users[2].orm_user]
    hub.db.rollback()
    assert await asyncio.gather(*saving) == [True, True]
    assert [hub.stored(user) for user in hub.users[:3]] == [b"user-0", b"user-1", b"old"]


async def test_who_is_alone_waits_for_nobody(hub: Hub) -> None:
    [saving] = save(hub, hub.users[:1])
    for _ in range(3):  # it begins, comes, and is served after what was ready before it
        await asyncio.sleep(0)
    assert len(hub.commits) == 1
    assert await saving


async def test_the_loop_is_left_to_others_for_as_long_as_a_commit_took(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: what others do takes many rounds of the loop, and a commit in each would slow it."""
    monkeypatch.setattr(vault, "_REST", 60)
    hub.slow = 0.02
    await asyncio.gather(*save(hub, hub.users[:16]))
    # Those who come in the pause wait for its end, too.
    await asyncio.gather(*save(hub, hub.users[16:24]))
    assert len(hub.commits) == 3
    for (began, ended), (begins, _) in zip(hub.commits, hub.commits[1:], strict=False):
        assert begins - ended > (ended - began) * 0.99  # of a clock that ticks


async def test_a_database_that_hangs_is_not_waited_for_twice(hub: Hub) -> None:
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


async def test_a_connection_that_broke_costs_nobody_a_login(hub: Hub) -> None:
    """R4: the issuer has rotated by then."""
    hub.broken = 1
    assert all(await asyncio.gather(*save(hub, hub.users)))
    assert all(hub.stored(user) == fresh(user) for user in hub.users)


async def test_a_database_that_is_away_is_told_to_who_waits(hub: Hub) -> None:
    hub.broken = 100
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
    hub.broken = 1
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
