"""What has a job written? Where its log is, and the end of it, read through FirecREST.

The user's own token reads it, as anything else the user could read there. It is for the page of
that user and nobody else: bounded in bytes, lines and time, never logged, never stored.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .client import FirecREST
from .deadline import in_time
from .errors import Error, Forbidden, LoginRequired, NotFound
from .models import Secret

#: Bytes that are asked for; lines that are shown, and characters of each.
SIZE = 64 * 1024
LINES = 200
WIDTH = 500
#: Seconds for everything: token, turn and answer.
DEADLINE = 5.0

NOT_THERE = "There is no output yet, or the file is gone."
#: sbatch's file when nothing names one (sbatch(1)); PBS has no name that is known before the end.
SLURM_DEFAULT = "slurm-%j.out"

_DIRECTIVE = re.compile(r"#(?:SBATCH|PBS)\s+(?:-o|--output)(?:=|\s+|(?<=-o))(\"?)([^\s\"]+)\1\s*$")
# Terminals' control sequences (ECMA-48), such as colours.
_CONTROL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])")


@dataclass(frozen=True)
class Output:
    """The end of a job's log as it was at ``at`` (Unix seconds); ``problem`` is why there is none.

    ``login`` is set when the problem is that the user has to log in again.
    """

    path: str
    lines: tuple[str, ...] = ()
    problem: str = ""
    login: bool = False
    at: float = 0.0


def log_pattern(script: str, *, scheduler: str, workdir: str) -> str:
    """The file that the directives of a batch script name for its output, as an absolute pattern.

    Empty when that is not known.
    """
    of_pbs = scheduler == "pbs"
    named = "" if of_pbs else SLURM_DEFAULT
    for written in script.splitlines():
        line = written.lstrip() if of_pbs else written  # qsub reads indented ones, too
        if line.strip() and not line.startswith("#"):
            break  # what follows is not the scheduler's to read (sbatch(1), qsub(1B))
        if found := _DIRECTIVE.match(line):
            named = found[2].replace("%", "%%") if of_pbs else found[2]
    return below(workdir, named) if named else ""


def below(workdir: str, pattern: str) -> str:
    """A pattern that is relative to the working directory, as an absolute one."""
    return posixpath.join(workdir.replace("%", "%%"), pattern)


def log_path(pattern: str, *, job_id: str, user: str) -> str:
    """The path of a job's log; empty when it cannot be known, or must not be sent.

    Of the replacement symbols of sbatch(1), "filename pattern", those are filled in that do not
    depend on the node. FirecREST's file operations put a path between a shell's single quotes as it
    is (FirecREST facts, trust).
    """
    known = {"%j": job_id, "%A": job_id, "%u": user, "%%": "%"}
    path = re.sub(r"%.?", lambda symbol: known.get(symbol[0], "\0"), pattern)
    if not pattern or not job_id or "\\" in path or "'" in path or not path.isprintable():
        return ""
    return posixpath.normpath(path)


def clean(text: str, lines: int = LINES) -> tuple[str, ...]:
    """The last lines of a text, without what moves a terminal's cursor or its colours.

    They are for a page, which has to escape them.
    """
    shown = []
    for line in text.split("\n")[-lines - 1 :]:
        # Of a line that was written over again and again, as bars of progress are, the last.
        last = line.rstrip("\r").rpartition("\r")[2][: 4 * WIDTH]
        line = _CONTROL.sub("", last).replace("\t", "    ")
        shown.append("".join(c if c.isprintable() else "\ufffd" for c in line)[:WIDTH].rstrip())
    while shown and not shown[-1]:
        shown.pop()
    return tuple(shown[-lines:])


async def read(
    firecrest: FirecREST,
    token: Callable[[], Awaitable[Secret]],
    system: str,
    path: str,
    *,
    deadline: float,
) -> Output:
    """The end of a job's log. Raises nothing of ours, and takes ``deadline`` seconds at most."""
    if not path:
        return Output(path, problem="It is not known here where the job writes its output.")

    async def tail() -> str:
        return await firecrest.tail(await token(), system, path, size=SIZE)

    at = time.time()
    try:
        text = await in_time(tail(), deadline)
    except asyncio.TimeoutError:
        return Output(path, problem="The cluster did not send the output in time.", at=at)
    except LoginRequired as error:
        return Output(path, problem=error.message, login=True, at=at)
    except NotFound:
        return Output(path, problem=NOT_THERE, at=at)
    except Forbidden:
        return Output(path, problem="You may not read that file.", at=at)
    except Error as error:
        return Output(path, problem=error.message, at=at)
    lines = clean(text)
    return Output(path, lines, problem="" if lines else "The job has written nothing yet.", at=at)
