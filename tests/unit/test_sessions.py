"""Is exactly the session ended that is meant, and nothing that belongs to a server or a program?"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper, encrypt

from firecrestspawner import sessions
from firecrestspawner.sessions import Origin, Origins

KEY = "userinfo"


def login(sub: str = "", sid: str = "", **more: Any) -> dict[str, Any]:
    """What a login stores."""
    claims = {name: value for name, value in (("sub", sub), ("sid", sid)) if value}
    return {"id_token": jwt.encode(claims, "k" * 32, "HS256"), **more}


@pytest.fixture
def db() -> Iterator[Any]:
    session = orm.new_session_factory("sqlite:///:memory:")()
    yield session
    session.close()
    session.get_bind().dispose()


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[CryptKeeper]:
    CryptKeeper.clear_instance()
    yield CryptKeeper.instance(keys=[b"k" * 32])
    CryptKeeper.clear_instance()


def add_user(db: Any, name: str) -> orm.User:
    user = orm.User(name=name)
    db.add(user)
    db.commit()
    return user


# --- whose login it is ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sub", "sid", "meant"),
    [
        ("alice", "1", True),
        ("alice", "", True),
        ("", "1", True),
        ("alice", "2", False),
        ("", "2", False),
        ("bob", "1", False),
        ("bob", "", False),
    ],
)
def test_a_logout_means_its_user_and_its_session(sub: str, sid: str, meant: bool) -> None:
    assert Origin("alice", "1").is_meant_by(sub, sid) is meant


def test_of_a_login_without_a_session_id_every_logout_of_its_user_is_the_end() -> None:
    assert Origin("alice", "").is_meant_by("alice", "1")
    assert not Origin("alice", "").is_meant_by("", "1")
    assert not Origin("", "").is_meant_by("alice", "1")


def test_the_user_is_read_from_the_id_token_or_the_claims() -> None:
    assert Origin.of(login("alice", "1"), KEY) == Origin("alice", "1")
    assert Origin.of({KEY: {"sub": "alice"}}, KEY) == Origin("alice", "")
    for odd in ({}, {"id_token": "x.y.z", KEY: ["alice"]}, {"id_token": 7, KEY: {"sub": 7}}):
        assert Origin.of(odd, KEY) == Origin("", "")


async def test_after_a_restart_logins_are_found_in_the_database(
    db: Any, keeper: CryptKeeper
) -> None:
    """R6: also behind one that cannot be decrypted, and more than are read at a time."""
    for number in range(2 * sessions._BATCH + 1):
        user = add_user(db, f"user-{number}")
        user.encrypted_auth_state = await encrypt(login(f"sub-{number}", f"sid-{number}"))
    broken = add_user(db, "broken")
    broken.encrypted_auth_state = b"of another key"
    add_user(db, "without")
    last = add_user(db, "last")
    last.encrypted_auth_state = await encrypt(login("last"))
    db.commit()
    origins = Origins(KEY)
    assert await origins.meant_by("last", "", db) == [last.id]
    assert len(await origins.meant_by("", f"sid-{2 * sessions._BATCH}", db)) == 1
    assert await origins.meant_by("nobody", "", db) == []


async def test_the_database_is_read_once_however_many_unknown_users_are_named(
    db: Any, keeper: CryptKeeper
) -> None:
    """C4."""
    origins = Origins(KEY)
    assert await origins.meant_by("nobody", "", db) == []
    assert await origins.meant_by("nobody", "", None) == []
    origins.note(7, login("alice", "1"))
    assert await origins.meant_by("alice", "1", None) == [7]
    origins.drop(7)
    assert await origins.meant_by("alice", "1", None) == []


async def test_a_login_while_the_database_is_read_wins(db: Any, keeper: CryptKeeper) -> None:
    """R4."""
    alice = add_user(db, "alice")
    alice.encrypted_auth_state = await encrypt(login("alice", "old"))
    db.commit()
    origins = Origins(KEY)
    origins.note(alice.id, login("alice", "new"))
    assert await origins.meant_by("alice", "old", db) == []
    assert await origins.meant_by("alice", "new", db) == [alice.id]


# --- the session at the Hub -----------------------------------------------------------------


def test_a_session_ends_in_every_browser_and_no_program_notices(db: Any) -> None:
    """R5, R1: servers' tokens and personal ones stay, and other users' sessions."""
    alice, bob = add_user(db, "alice"), add_user(db, "bob")
    client = orm.OAuthClient(identifier="jupyterhub-user-alice")
    db.add(client)
    for user in (alice, bob):
        for note, session in (("Server at /user/x/", None), ("mine", None), ("Lab", "s-1")):
            db.add(orm.APIToken(user_id=user.id, note=f"{user.name} {note}", session_id=session))
        db.add(orm.OAuthCode(client_id=client.identifier, code="c", user_id=user.id))
    db.commit()
    cookies = alice.cookie_id, bob.cookie_id

    sessions.end(SimpleNamespace(db=db, orm_user=alice, id=alice.id))

    assert alice.cookie_id != cookies[0] and bob.cookie_id == cookies[1]
    assert sorted(token.note for token in db.query(orm.APIToken)) == [
        "alice Server at /user/x/",
        "alice mine",
        "bob Lab",
        "bob Server at /user/x/",
        "bob mine",
    ]
    assert [code.user_id for code in db.query(orm.OAuthCode)] == [bob.id]
