"""Who are the users of the ``local`` executor, and where are their files?"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from .cluster import UnknownUserError

LOCALE = {"LANG": "C.UTF-8"}
#: Messages of file commands are read by FirecREST, so that they must be in English.
FILE_COMMANDS = {"PATH": os.defpath, "LC_ALL": "C"}


class Homes:
    """Home directories below ``<root>/home``, which the API calls ``/home``.

    All of them belong to the Unix user of the demo: what the mode of a home would forbid is
    forbidden here by its path. ``users`` None: everybody exists. ``accounts`` None: ``demo``.
    """

    def __init__(
        self,
        root: Path,
        users: Iterable[str] | None = None,
        accounts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.root = root
        self._users = None if users is None else frozenset(users)
        self._accounts = accounts
        self._lock = threading.Lock()
        self._uids: dict[str, int] = {}
        (root / "home").mkdir(mode=0o755, parents=True, exist_ok=True)

    def home_of(self, user: str) -> Path:
        """The real directory behind ``/home/<user>``, made if need be. Raises UnknownUserError."""
        # A name with a slash or a leading dot would lead out of the homes.
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", user):
            raise UnknownUserError(user)
        if self._users is not None and user not in self._users:
            raise UnknownUserError(user)
        home = self.root / "home" / user
        home.mkdir(mode=0o700, exist_ok=True)
        return home

    def path_of(self, path: str) -> Path:
        """The real path behind a path that the API uses; real ones stay what they are."""
        pure = PurePosixPath(path)
        if pure.parts[:2] == ("/", "home") and not pure.is_relative_to(self.root):
            return self.root.joinpath("home", *pure.parts[2:])
        return Path(path)

    def run(
        self, user: str, command: Sequence[str], data: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a file command; paths in another user's home are refused, as their mode would."""
        self.home_of(user)
        homes = str(self.root / "home")
        real = []
        for word in command:
            if word.startswith("/home/") and word.split("/")[2:3] not in ([user], [""]):
                denied = f"{command[0]}: cannot open '{word}': Permission denied\n"
                return subprocess.CompletedProcess(list(command), 1, b"", denied.encode())
            real.append(str(self.path_of(word)) if word.startswith("/") else word)
        done = subprocess.run(
            real, input=data, capture_output=True, timeout=5, check=False, env=FILE_COMMANDS
        )
        done.stderr = done.stderr.replace(homes.encode(), b"/home")
        return done

    def userinfo(self, user: str) -> dict[str, Any]:
        """Ids are handed out in the order in which users turn up, from 1001 on."""
        self.home_of(user)
        identity = {"id": str(self.uid(user)), "name": user}
        accounts = self.accounts_of(user)
        return {
            "user": identity,
            "group": dict(identity),
            "groups": [dict(identity)],
            "accounts": [
                {"name": name, "default": index == 0} for index, name in enumerate(accounts)
            ],
        }

    def uid(self, user: str) -> int:
        """A made-up Unix id, the same for as long as this object lives."""
        with self._lock:
            return self._uids.setdefault(user, 1001 + len(self._uids))

    def accounts_of(self, user: str) -> Sequence[str]:
        """The user's accounts, the default first."""
        return ("demo",) if self._accounts is None else self._accounts.get(user, ())
