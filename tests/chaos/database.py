"""What is in the Hub's database? JupyterHub's own tables, in memory, made once for many runs."""

from __future__ import annotations

import functools
import json
import sqlite3
from typing import Any

from jupyterhub import orm, roles
from jupyterhub.utils import compare_token
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from tests.chaos.clock import Process
from tests.chaos.plan import USERS

_NOTE = "Server at /user/"


class Database:
    """Outlives the Hub's processes."""

    def __init__(self) -> None:
        # Not orm.new_session_factory: that asks the database for a 1 before each transaction.
        engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        orm.register_foreign_keys(engine)
        orm.Base.metadata.create_all(engine)
        self._factory = sessionmaker(bind=engine, expire_on_commit=False)
        db = self._factory()
        for role in roles.get_default_roles():
            roles.create_role(db, role)
        for name in USERS:
            user = orm.User(name=name)
            db.add(user)
            db.commit()
            roles.grant_role(db, user, "user")
        db.add(orm.OAuthClient(identifier="jupyterhub"))
        db.commit()
        db.close()
        connection: Any = engine.raw_connection().driver_connection
        self._raw: sqlite3.Connection = connection
        self._blank = sqlite3.connect(":memory:")
        self._raw.backup(self._blank)

    def reset(self) -> None:
        """As it was before the first start."""
        self._raw.rollback()
        self._blank.backup(self._raw)

    def session(self, process: Process) -> Session:
        """A session of one process: once that is killed nothing is committed any more."""
        db = self._factory()
        for name in ("before_commit", "after_begin"):
            event.listen(db, name, lambda *_: process.check())
        return db

    # What is written, read past SQLAlchemy: this is asked often.

    def servers(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(user, server, state) of every server there ever was."""
        rows = self._raw.execute(
            "SELECT users.name, spawners.name, spawners.state FROM spawners"
            " JOIN users ON users.id = spawners.user_id ORDER BY spawners.id"
        )
        return [(user, server, json.loads(state or "null") or {}) for user, server, state in rows]

    def tokens(self) -> list[tuple[str, str, str]]:
        """(user, server, hash) of every API token of a server."""
        found = []
        for note, hashed in self._raw.execute("SELECT note, hashed FROM api_tokens ORDER BY id"):
            if (note or "").startswith(_NOTE):
                user, _, server = note.removeprefix(_NOTE).partition("/")
                found.append((user, server.strip("/"), hashed))
        return found


def accepted(token: str, hashes: list[str]) -> bool:
    """Whether the Hub would take ``token`` for one of these."""
    return any(compare_token(hashed, token) for hashed in hashes)


@functools.cache
def database() -> Database:
    """The one of this process."""
    return Database()
