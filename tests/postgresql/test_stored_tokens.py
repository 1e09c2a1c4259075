"""Are many users' refreshed tokens stored in a PostgreSQL?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.user import User

from firecrestspawner.vault import UserVault
from tests.services.postgresql import PostgreSQL


@pytest.fixture
def users(database: PostgreSQL) -> Iterator[list[Any]]:
    """Of a Hub, in the order of their numbers."""
    session: Any = orm.new_session_factory(database.url)()
    rows = [orm.User(name=f"user-{n:02}", encrypted_auth_state=b"old") for n in range(40)]
    session.add_all(rows)
    session.commit()
    yield [User(row, {}, db=session) for row in rows]
    session.close()
    session.get_bind().dispose()


def save(users: list[Any]) -> asyncio.Future[list[bool]]:
    return asyncio.gather(*(UserVault(user).save(b"old", user.name.encode()) for user in users))


def stored(database: PostgreSQL) -> list[tuple[str, str]]:
    return database.query("SELECT name, encode(encrypted_auth_state, 'escape') FROM users")


async def test_many_are_stored_at_once(database: PostgreSQL, users: list[Any]) -> None:
    """R4."""
    assert all(await save(users))
    assert sorted(stored(database)) == [(user.name, user.name) for user in users]
    assert [user.encrypted_auth_state for user in users] == [user.name.encode() for user in users]
