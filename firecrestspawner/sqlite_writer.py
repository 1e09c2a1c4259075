"""How are users' tokens written to SQLite's file without the event loop waiting for the disk (R8)?

A thread does it, with a connection of its own. Of the Hub's pages only those that come to the
database just then wait for the disk: SQLite lets one connection write at a time, and nobody read
while it commits.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

#: Seconds for which it is tried to become the one who writes. Others take milliseconds; unless they
#: wait for what is to be written here.
_WRITER = 2.0
#: Seconds for which those who read (a backup, say) are waited for. Who waits bars new ones, the Hub
#: among them: so he does that for _BARRED seconds, and then leaves the file alone for _BETWEEN.
_READERS, _BARRED, _BETWEEN = 60.0, 0.05, 0.2

#: `jupyterhub.orm.User`: new auth_state, id, and the auth_state that it is to take the place of.
_STORE = "UPDATE users SET encrypted_auth_state = ? WHERE id = ? AND encrypted_auth_state IS ?"

Row = tuple[bytes | None, int | None, bytes | None]


def file_of(engine: Any) -> Path | None:
    """The file of a SQLAlchemy engine's database; None where it is in memory, or no SQLite's."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or engine.dialect.driver != "pysqlite":
        return None
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    return Path(name).absolute()


def write(file: Path, rows: Sequence[Row]) -> list[bool]:
    """Store (new, id, old) where ``old`` is still what is stored; whether each was, in one commit.

    Raises sqlite3.Error: nothing is written then. Blocks, for the times above at most and as long
    as the disk does.
    """
    began = became = time.monotonic()  # became: when it last was the one who writes
    while True:
        try:
            address = f"{file.as_uri()}?mode=rw"  # never a new and empty one
            with closing(
                sqlite3.connect(address, uri=True, timeout=_BARRED, isolation_level=None)
            ) as database:
                database.execute("BEGIN IMMEDIATE")
                became = time.monotonic()
                made = [database.execute(_STORE, row).rowcount == 1 for row in rows]
                database.execute("COMMIT")
                return made
        except sqlite3.OperationalError as error:
            now = time.monotonic()
            if "locked" not in str(error) or now - became > _WRITER or now - began > _READERS:
                raise
        time.sleep(_BETWEEN)
