"""Is SQLite's file written beside whoever else writes and reads it?"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyterhub import orm
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from firecrestspawner import sqlite_writer
from firecrestspawner.sqlite_writer import file_of, write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Hub's database with two users, whose numbers are 1 and 2; the other has no auth_state."""
    file = tmp_path / "hub of # one?.sqlite"
    engine = create_engine(URL.create("sqlite", database=str(file)))
    orm.Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(orm.User(name="alice", encrypted_auth_state=b"old"))
        session.flush()
        session.add(orm.User(name="bob"))
        session.commit()
    engine.dispose()
    return file


@pytest.fixture
def other(file: Path) -> Iterator[sqlite3.Connection]:
    """Of the Hub, or of another program; it does not wait."""
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
        yield other


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


def stored(file: Path) -> list[bytes | None]:
    with closing(sqlite3.connect(file, timeout=30)) as database:
        return [value for (value,) in database.execute("SELECT encrypted_auth_state FROM users")]


def test_only_what_is_still_there_is_replaced(file: Path) -> None:
    """R4."""
    assert write(file, [(b"a", 1, b"another"), (b"b", 2, None), (b"c", 3, None)]) == [
        False, True, False,
    ]  # fmt: skip
    assert stored(file) == [b"old", b"b"]
    assert write(file, [(b"a", 1, b"old"), (b"c", 2, None), (b"d", None, None)]) == [
        True, False, False,
    ]  # fmt: skip
    assert stored(file) == [b"a", b"b"]


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_who_writes_is_waited_for(
    file: Path,
    other: sqlite3.Connection,
    thread: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    begin: str,
) -> None:
    monkeypatch.setattr(sqlite_writer, "_WRITER", 30.0)
    other.execute(begin)
    writing = thread.submit(write, file, [(b"new", 1, b"old")])
    tried(writing)
    other.execute("UPDATE users SET encrypted_auth_state = 'login' WHERE id = 2")
    other.execute("COMMIT")
    assert writing.result(30) == [True]
    assert stored(file) == [b"new", "login"]


def tried(writing: Future[list[bool]]) -> None:
    """What is tried is told by nobody: for longer than one try takes it has come to no end."""
    assert not wait([writing], 3 * sqlite_writer._BARRED).done


def test_who_writes_for_long_is_left_alone(
    file: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: he may wait for what was to be written."""
    monkeypatch.setattr(sqlite_writer, "_WRITER", 0.1)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        write(file, [(b"new", 1, b"old")])
    other.execute("COMMIT")
    assert stored(file) == [b"old", None]


def test_who_reads_meanwhile_is_barred_for_a_moment_only(
    file: Path, other: sqlite3.Connection, thread: ThreadPoolExecutor
) -> None:
    """R8: a backup has the file for seconds, and the Hub goes on to read."""
    other.execute("BEGIN")
    other.execute("SELECT * FROM users").fetchall()
    writing = thread.submit(write, file, [(b"new", 1, b"old")])
    with closing(sqlite3.connect(file, timeout=10 * sqlite_writer._BARRED)) as hub:
        for _ in range(20):
            tried(writing)
            assert hub.execute("SELECT encrypted_auth_state FROM users").fetchall()
    other.execute("COMMIT")
    assert writing.result(30) == [True]
    assert stored(file) == [b"new", None]


def test_who_writes_for_a_moment_while_another_reads_is_waited_for(
    file: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: as the Hub does, while a backup has the file."""
    other.execute("BEGIN")
    other.execute("SELECT * FROM users").fetchall()
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as hub:
        happens = iter([
            lambda: None,
            lambda: hub.execute("BEGIN IMMEDIATE"),
            lambda: hub.execute("ROLLBACK"),
            lambda: other.execute("COMMIT"),
        ])  # fmt: skip
        clock = [0.0]

        def sleep(_seconds: float) -> None:
            clock[0] += 0.9 * sqlite_writer._WRITER
            next(happens)()

        times = SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
        monkeypatch.setattr(sqlite_writer, "time", times)
        assert write(file, [(b"new", 1, b"old")]) == [True]
    assert not list(happens)


def test_who_reads_for_ever_is_left_alone(
    file: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_writer, "_READERS", 0.1)
    other.execute("BEGIN")
    other.execute("SELECT * FROM users").fetchall()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        write(file, [(b"new", 1, b"old")])
    assert stored(file) == [b"old", None]


def test_what_is_wrong_is_not_tried_again(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a file made that was not there."""
    asleep = threading.Event()
    monkeypatch.setattr("firecrestspawner.sqlite_writer.time.sleep", lambda _: asleep.set())
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        write(tmp_path / "none.sqlite", [(b"new", 1, b"old")])
    assert not (tmp_path / "none.sqlite").exists()
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE users")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        write(file, [(b"new", 1, b"old")])
    assert not asleep.is_set()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:hub?uri=true"])
def test_what_may_be_in_memory_has_no_file(url: str) -> None:
    assert file_of(create_engine(url)) is None


def test_no_other_database_has_a_file() -> None:
    dialect = SimpleNamespace(name="postgresql", driver="psycopg")
    assert file_of(SimpleNamespace(dialect=dialect, url=SimpleNamespace(database="hub"))) is None


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_of(create_engine("sqlite:///hub.sqlite")) == tmp_path / "hub.sqlite"
