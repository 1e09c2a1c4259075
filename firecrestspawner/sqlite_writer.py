"""How are users' tokens written to SQLite's file while the event loop goes on (R8)?

A commit there takes as long as the disk does. A thread makes it, with a connection of its own.
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
_READERS, _BARRED, _BETWEEN = 20.0, 0.05, 0.2

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
    began = time.monotonic()
    while True:
        patience = _WRITER
        try:
            address = f"{file.as_uri()}?mode=rw"  # never a new and empty one
            with closing(
                sqlite3.connect(address, uri=True, timeout=_BARRED, isolation_level=None)
            ) as database:
                database.execute("BEGIN IMMEDIATE")
                patience = _READERS
                made = [database.execute(_STORE, row).rowcount == 1 for row in rows]
                database.execute("COMMIT")
                return made
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() - began > patience:
                raise
        time.sleep(_BETWEEN)
