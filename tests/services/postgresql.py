"""How is a PostgreSQL started for tests, and stopped again?

    with PostgreSQL() as database:
        database.url        # for SQLAlchemy

Its data are in a directory of its own and end with it. It listens on a loopback address only, and
wants a password. PostgreSQL refuses to be root: then it runs as the account of Debian's package.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg

from firecrestspawner.demo.children import LOOPBACK, Child, DemoError, free_ports
from tests.services.processes import ServiceError

#: Seconds.
START_TIMEOUT = 60.0
_NAME = "jupyterhub"
_ACCOUNT = "postgres"
# Debian keeps each version's programs apart, and off the PATH.
_PROGRAMS = Path("/usr/lib/postgresql")


class PostgreSQL:
    """A PostgreSQL with one database, ready inside the ``with`` block.

    Raises ServiceError when it is not installed or does not come up. ``url`` is SQLAlchemy's.
    """

    def __init__(self) -> None:
        self._password = secrets.token_hex(16)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> PostgreSQL:
        with contextlib.ExitStack() as stack:
            self._start(programs(), stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    @property
    def url(self) -> str:
        where = f"{_NAME}:{self._password}@{LOOPBACK}:{self._port}/{_NAME}"
        return f"postgresql+psycopg://{where}"

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query; ``%s`` stands for a value."""
        with self._connect(_NAME) as connection:
            return connection.execute(sql.encode(), values or None).fetchall()

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=LOOPBACK,
            port=self._port,
            user=_NAME,
            password=self._password,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def _start(self, folder: Path, stack: contextlib.ExitStack) -> None:
        home = Path(tempfile.mkdtemp(prefix="firecrestspawner-postgresql-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        word = home / "password"
        word.write_text(self._password)
        if os.geteuid() == 0:
            account = pwd.getpwnam(_ACCOUNT)
            for path in (home, word):
                os.chown(path, account.pw_uid, account.pw_gid)
        data = home / "data"
        _run(
            folder / "initdb", f"--pgdata={data}", f"--username={_NAME}", f"--pwfile={word}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        [self._port] = free_ports(1)
        nursery = ThreadPoolExecutor(1, thread_name_prefix="postgresql-nursery")
        stack.callback(nursery.shutdown)
        server = Child("PostgreSQL", home / "postgresql.log", nursery)
        # SIGINT ends sessions that are open; SIGTERM would wait for them.
        stack.callback(server.stop, signal.SIGINT)
        options = {"listen_addresses": LOOPBACK, "port": self._port, "fsync": "off",
                   "unix_socket_directories": ""}  # fmt: skip
        argv = [str(folder / "postgres"), "-D", str(data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        server.start([*_demoted(), *argv], _environment(), home)
        try:
            server.wait_until(self._answers, START_TIMEOUT)
        except DemoError as error:
            raise ServiceError(str(error)) from error
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {_NAME}".encode())

    def _answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True


def programs() -> Path:
    """The folder with the newest version's programs. Raises ServiceError when there is none."""
    found = [path.parent for path in _PROGRAMS.glob("*/bin/postgres")]
    if not found:
        raise ServiceError("PostgreSQL is not installed")
    return max(found, key=lambda folder: int(folder.parent.name))


def _demoted() -> list[str]:
    if os.geteuid() != 0:
        return []
    # Another user than its parent's loses the leash that Child has put on: here is another.
    return ["setpriv", f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--clear-groups",
            "--pdeathsig=KILL"]  # fmt: skip


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


def _run(*command: Path | str) -> None:
    done = subprocess.run(
        [*_demoted(), *map(str, command)],
        env=_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
