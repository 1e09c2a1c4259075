"""Which command does FirecREST run for a file operation, and how does it read the answer?

As FirecREST does, every operation is a command of the login node run as the user; what the
command prints on standard error becomes the error's message.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

from .cluster import Executor

#: FirecREST's ``max_ops_file_size``, bytes.
LARGEST_OUTPUT = 5 * 1024 * 1024
_ROW = r"%M\t%u\t%g\t%s\t%TY-%Tm-%TdT%TH:%TM:%.2TS\t%l\t%f\0"


class FileError(Exception):
    """HTTP status and message of a failed file operation."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def check_path(path: str, file_systems: Sequence[str], system: str) -> str:
    """The normalised path, if it is absolute and lies on one of the system's file systems."""
    if not path.startswith("/"):
        raise FileError(400, f"The provided path ({path}) is not an absolute path.")
    clean = posixpath.normpath(path)
    if not any(clean == root or clean.startswith(root.rstrip("/") + "/") for root in file_systems):
        raise FileError(
            400,
            f"The provided path ({clean}) does not match any of the defined filesystem paths for "
            f"the requested system ({system}).",
        )
    return clean


class Files:
    """File operations of one user on one cluster. All of them raise FileError."""

    def __init__(self, executor: Executor, user: str) -> None:
        self._executor = executor
        self._user = user

    def tail(self, path: str, lines: int | None, size: int | None, skip: bool) -> dict[str, Any]:
        """The end of a file; ``skip``: from line or byte ``lines``/``size`` on."""
        flag, count = ("-c", size) if size is not None else ("-n", lines)
        options = [] if count is None else [flag, f"{'+' if skip else '-'}{count}"]
        content = self._run(["tail", *options, path])
        # FirecREST reports the default of ten lines without a sign.
        start = 10 if count is None else count if skip else -count
        return _content(content, size is not None, start, -1)

    def head(self, path: str, lines: int | None, size: int | None, skip: bool) -> dict[str, Any]:
        """The beginning of a file; ``skip``: all but the last ``lines``/``size``."""
        flag, count = ("-c", size) if size is not None else ("-n", lines)
        options = [] if count is None else [flag, f"{'-' if skip else ''}{count}"]
        content = self._run(["head", *options, path])
        end = 10 if count is None else -count if skip else count
        return _content(content, size is not None, 0, end)

    def view(self, path: str) -> str:
        """A whole file, at most LARGEST_OUTPUT bytes."""
        return self._run(["cat", path], says=("dd", path)).decode(errors="replace")

    def ls(self, path: str, hidden: bool) -> list[dict[str, Any]]:
        """A directory's entries, or a file's own."""
        rows = self._rows(path, ["-maxdepth", "1"])
        if len(rows) > 1 or rows[0]["type"] == "d":
            rows = rows[1:]
        return [row for row in rows if hidden or not row["name"].startswith(".")]

    def stat(self, path: str) -> dict[str, int]:
        """st_mode and its kin, as numbers."""
        names = ("mode", "ino", "dev", "nlink", "uid", "gid", "size", "atime", "ctime", "mtime")
        out = self._run(["stat", "--format", "%f %i %d %h %u %g %s %X %Z %Y", path]).decode()
        mode, *others = out.split()
        return dict(zip(names, [int(mode, 16), *map(int, others)], strict=True))

    def mkdir(self, path: str, parents: bool) -> dict[str, Any]:
        """Make a directory and describe it."""
        self._run(["mkdir", *(["-p"] if parents else []), path])
        return {**self._rows(path, ["-maxdepth", "0"])[0], "name": path}

    def write(self, path: str, data: bytes) -> None:
        """Write a small file."""
        self._run(["cp", "/dev/stdin", path], data, says=("dd", path))

    def _rows(self, path: str, options: list[str]) -> list[dict[str, Any]]:
        out = self._run(["find", path, *options, "-printf", _ROW], says=("ls", path)).decode()
        rows = []
        for line in out.split("\0")[:-1]:
            mode, user, group, size, modified, target, name = line.split("\t", 6)
            rows.append(
                {
                    "name": name,
                    "type": mode[0],
                    "linkTarget": target or None,
                    "user": user,
                    "group": group,
                    "permissions": mode[1:],
                    "lastModified": modified,
                    "size": size,
                }
            )
        return rows

    def _run(
        self, command: list[str], data: bytes = b"", says: tuple[str, str] | None = None
    ) -> bytes:
        done = self._executor.run(self._user, command, data)
        if done.returncode == 0:
            if len(done.stdout) > LARGEST_OUTPUT:
                raise FileError(413, "Command output exceeded buffer limit.")
            return done.stdout
        text = done.stderr.decode(errors="replace").strip()
        if says is not None:
            text = _reworded(text, *says)
        known = {"No such file": 404, "Permission denied": 403, "File exists": 400}
        status = next((code for words, code in known.items() if words in text), 500)
        message = f"exit status:{done.returncode} and error message:{text}"
        raise FileError(status, f"Remote process failed with {message}")


def _reworded(text: str, program: str, path: str) -> str:
    """The message in the words of the program that FirecREST would have run."""
    reason = text.rpartition(": ")[2]
    verb = {"ls": "cannot access", "dd": "failed to open"}[program]
    return f"{program}: {verb} '{path}': {reason}"


def _content(content: bytes, in_bytes: bool, start: int, end: int) -> dict[str, Any]:
    return {
        "content": content.decode(errors="replace"),
        "contentType": "bytes" if in_bytes else "lines",
        "startPosition": start,
        "endPosition": end,
    }
