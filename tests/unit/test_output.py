"""Where does a job write, and is the end of it shown, and nothing else?"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from firecrestspawner.errors import Error, Forbidden, LoginRequired, NotFound, Unwell
from firecrestspawner.models import Secret
from firecrestspawner.output import LINES, SIZE, WIDTH, Output, clean, log_path, log_pattern, read
from firecrestspawner.script import encode_ticket, render, shipped_template

# --- where ----------------------------------------------------------------------------------


def shipped(scheduler: Any, **values: str) -> str:
    script = render(
        shipped_template(scheduler), values=values, job_name="hub-1", scheduler=scheduler,
        ticket=encode_ticket("https://hub/x", "a.b", 900, 86400),
    )  # fmt: skip
    return log_pattern(script, scheduler=scheduler, workdir="/users/alice")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (shipped("slurm"), "/users/alice/jupyter-7.log"),
        (shipped("slurm", output="logs/%u-%j.log"), "/users/alice/logs/al-7.log"),
        (shipped("slurm", output="/scratch/jupyter-%j.log"), "/scratch/jupyter-7.log"),
        (shipped("pbs"), "/users/alice/jupyter.log"),
        (shipped("pbs", output="lab.log"), "/users/alice/lab.log"),
        ("/a/100%%-%A", "/a/100%-7"),
        ("/a/b/../c", "/a/c"),
    ],
)
def test_the_log_is_where_the_script_says(pattern: str, path: str) -> None:
    assert log_path(pattern, job_id="7", user="al") == path


@pytest.mark.parametrize(
    ("script", "pattern"),
    [
        ("#!/bin/sh\n#SBATCH -o a\n#SBATCH --output b\n", "/w/b"),
        ("#!/bin/sh\n#SBATCH -oa\n", "/w/a"),
        ('#!/bin/sh\n#SBATCH --output="a"\n', "/w/a"),
        ("#!/bin/sh\n\n# words\n#SBATCH --output=/x/%j\n", "/x/%j"),
        ("#!/bin/sh\n#SBATCH --open-mode=append\necho\n#SBATCH --output=a\n", "/w/slurm-%j.out"),
    ],
)
def test_a_sites_own_script_is_read_as_sbatch_reads_it(script: str, pattern: str) -> None:
    assert log_pattern(script, scheduler="slurm", workdir="/w") == pattern


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("#PBS -o a.log", "/w/a.log"),
        ("  #PBS -ob.log", "/w/b.log"),
        ('#PBS -o "c.log"', "/w/c.log"),
        ("#PBS -o jupyter-%j.log", "/w/jupyter-%j.log"),
    ],
)
def test_a_sites_own_script_is_read_as_qsub_reads_it(line: str, path: str) -> None:
    """An OpenPBS said so: directives may be indented, the last one wins, ``%`` is a character."""
    script = f"#!/bin/sh\n\n#PBS -o first\n# words\n{line}\n:\n#PBS -o later\n"
    pattern = log_pattern(script, scheduler="pbs", workdir="/w")
    assert log_path(pattern, job_id="7", user="al") == path


def test_a_percent_sign_in_the_working_directory_is_none_of_the_pattern() -> None:
    pattern = log_pattern("#!/bin/sh\n", scheduler="slurm", workdir="/w%j")
    assert log_path(pattern, job_id="7", user="al") == "/w%j/slurm-7.out"


@pytest.mark.parametrize("pattern", ["", "/a/%N", "/a/it's", "/a/\n", "/a/\\%j", "/a/%"])
def test_what_is_not_known_or_must_not_be_sent_is_no_path(pattern: str) -> None:
    assert log_path(pattern, job_id="7", user="al") == ""


def test_without_a_number_there_is_no_path() -> None:
    assert log_path("/a/%j", job_id="", user="al") == ""
    assert log_pattern("#!/bin/sh\n", scheduler="pbs", workdir="/w") == ""


# --- what -----------------------------------------------------------------------------------


def test_of_a_long_log_the_last_lines_are_shown() -> None:
    text = "".join(f"line {n}\n" for n in range(1000))
    assert clean(text) == tuple(f"line {n}" for n in range(1000 - LINES, 1000))
    assert clean("a\nb") == ("a", "b") and clean("\n\n") == () and clean("") == ()


def test_colours_and_bars_of_progress_leave_their_last_words() -> None:
    assert clean("\x1b[31mred\x1b[0m\n 10%\r 50%\r100%\r\na\tb\n") == ("red", "100%", "a    b")
    assert clean("\x1b]0;title\x07text\x1b[2J") == ("text",)


def test_what_does_not_print_is_replaced_and_long_lines_are_cut() -> None:
    assert clean("a\x00b\u202ec") == ("a\ufffdb\ufffdc",)
    (line,) = clean("x" * 10**6)
    assert len(line) == WIDTH


# --- how ------------------------------------------------------------------------------------


class Api:
    """FirecREST. ``answer`` is a text, an error to raise, or None for ever."""

    def __init__(self, answer: str | Error | None) -> None:
        self.answer = answer
        self.asked: tuple[Any, ...] = ()

    async def tail(self, token: Secret, system: str, path: str, *, size: int) -> str:
        self.asked = (token.reveal(), system, path, size)
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Error):
            raise self.answer
        return str(self.answer)


async def token() -> Secret:
    return Secret("alices")


async def got(answer: str | Error | None, deadline: float = 5) -> Output:
    api: Any = Api(answer)
    return await read(api, token, "daint", "/a/b", deadline=deadline)


async def test_the_users_own_token_reads_it() -> None:
    """S5."""
    api: Any = Api("a\nb\n")
    output = await read(api, token, "daint", "/a/b", deadline=5)
    assert api.asked == ("alices", "daint", "/a/b", SIZE)
    assert output.lines == ("a", "b") and not output.problem and output.at > 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFound("Nothing."), "no output yet"),
        (Forbidden("No."), "may not read"),
        (Unwell("The cluster is away."), "The cluster is away."),
    ],
)
async def test_why_there_is_none_is_a_sentence(error: Error, words: str) -> None:
    output = await got(error)
    assert words in output.problem and output.lines == () and not output.login


async def test_an_empty_log_is_said_to_be() -> None:
    assert "nothing yet" in (await got("\n\n")).problem


async def test_who_has_to_log_in_again_is_told_so() -> None:
    assert (await got(LoginRequired("Log in again."))).login


async def test_nobody_waits_longer_than_the_deadline() -> None:
    assert "in time" in (await got(None, deadline=0.01)).problem


async def test_an_unknown_path_is_not_asked_for() -> None:
    api: Any = Api("a")
    assert (await read(api, token, "daint", "", deadline=5)).problem
    assert api.asked == ()
