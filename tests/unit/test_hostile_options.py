"""Can a whole set of hostile options change more of a batch script than the values of its fields?

HOSTILE_SETS=100000 makes a long run of it, HOSTILE_SEED=... the same one again. Seeds are printed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from firecrestspawner import options, script, settings
from firecrestspawner.config import SpawnerConfig
from firecrestspawner.errors import OptionsError
from firecrestspawner.fields import FIELDS
from firecrestspawner.script import ScriptError

SETS = int(os.environ.get("HOSTILE_SETS", "300"))
SEED = int(os.environ.get("HOSTILE_SEED") or time.time_ns() % 10**9)
#: One in so many of the scripts that come out is read by a real shell.
READ = max(1, SETS // 50)
TICKET = script.encode_ticket("http://hub/hub/api/firecrest/job", "0123456789abcdef.secret", 60)
BASH = shutil.which("bash") or "bash"
WORDS = {"slurm": "#SBATCH", "pbs": "#PBS"}
SCHEDULERS: tuple[script.Scheduler, ...] = ("slurm", "pbs")

HERE = settings.on(
    SpawnerConfig(
        system="daint",
        environments={"torch": {"prologue": "module load torch"}, "plain": {}},
        option_fields=list(FIELDS),
    ),
    "daint",
)
HARMLESS = {name: field.example for name, field in HERE.fields.items()}

PIECES = [
    *("\n", "\r\n", "\r", "\t", " ", "\0", "\x1b", "\x85", "\u2028", "\u2029", "\u00a0"),
    *("'", '"', "`", "\\", "$", "$(touch pwned)", "`touch pwned`", "${IFS}", ";", "&&", "|", ">"),
    *("#SBATCH --uid=0", "\n#SBATCH --uid=0", "\n#PBS -W x", "#", "--uid=0", "-q", "=", "EOF\n"),
    *("{{ 7 * 7 }}", "{% raw %}", "{#", "\ue000" + b"touch pwned".hex() + "\ue001", "\ue000"),
    *("\uff03SBATCH", "\u2010\u2010uid", "\uff1b", "\u037e", "\u0661", "\u2160", "\ud800"),
    *("x" * 100_000, "9" * 5000, "../..", "/", ",", ":", "%j", "*", "~", "a b", "normal", "\u200b"),
]  # fmt: skip


def hostile(chance: random.Random) -> Any:
    """One value: of any type, of characters at random, or a plausible one, tampered with."""
    kind = chance.randrange(10)
    if kind == 0:
        return chance.choice([None, True, 0, -1, 10**5000, 1.5, [], ["normal"], {"a": 1}, b"x"])
    if kind == 1:
        return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(40)))
    text = chance.choice([*HARMLESS.values(), ""])
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(PIECES) + text[at:]
    return text


def option_set(chance: random.Random) -> dict[str, Any]:
    """Options of a user: some fields hostile, some harmless, now and then one that is not there."""
    found = {}
    for name in chance.sample(list(FIELDS), chance.randint(1, 4)):
        found[name] = HARMLESS[name] if chance.random() < 0.4 else hostile(chance)
    if chance.random() < 0.05:
        found[chance.choice(["options", "prologue", "cmd", "job_name", *PIECES])] = hostile(chance)
    return found


def render(scheduler: script.Scheduler, values: dict[str, Any]) -> str:
    """As submission does it, from what a user's values have become."""
    template = script.shipped_template(scheduler)
    return script.render(
        template, values=values, job_name="hub-1", scheduler=scheduler, ticket=TICKET
    )


def shape(scheduler: script.Scheduler, text: str) -> tuple[list[str], str]:
    """The directives without their values, by sbatch(1)'s rule; and everything the shell runs."""
    lines = text.split("\n")
    end = next(
        n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")
    )
    found = [line for line in lines[:end] if line.startswith(WORDS[scheduler])]
    assert [
        line for line in lines[1:end] if line not in found and "firecrestspawner" not in line
    ] == [line for line in lines[1:end] if not line.strip()], "only directives stand in the head"
    for line in found:
        assert len(line.split()) == len(re.split(" +", line)), line
    bare = [re.sub(r"(?<==)\S+|(?<=-[Aq] )\S+", "", line) for line in found]
    if scheduler == "pbs":
        # Resources within one directive are told apart by their colons.
        bare = [f"{line} {re.sub('[^:]', '', whole)}" * ("select" in whole) or line
                for line, whole in zip(bare, found, strict=True)]  # fmt: skip
    return bare, told_apart("\n".join(lines[end:]))


#: What quote() makes, and what a value in the shell's part looks like.
QUOTED = r"""(?:'[^']*'|"'"|[A-Za-z0-9_@%+=:,./-])*"""
PLACED = r"""(?:"\$firecrest_value_\d+"|[A-Za-z0-9_@%+:,./-]+)"""
#: A PBS job's end, of the number of seconds that its script asks for.
JOB_END = r"export FIRECREST_JOB_END=\$\(\(\$\(date \+%s\) \+ [0-9]+\)\)"


def told_apart(body: str) -> str:
    """What the shell runs, without values: each in its own word, and as many modules as one."""
    body = re.sub(rf"^firecrest_value_\d+={QUOTED}\n", "", body, flags=re.M)
    body = re.sub(rf"^{JOB_END}\n", "", body, flags=re.M)
    body = re.sub(rf"^(module load {PLACED} \|\| exit\n)+", "module load\n", body, flags=re.M)
    return re.sub(rf"^\. {PLACED}/bin/activate \|\| exit$", "activate", body, flags=re.M)


@cache
def harmless_shape(scheduler: script.Scheduler, names: frozenset[str]) -> tuple[list[str], str]:
    """The shape of a script that asks for the same fields, with harmless values."""
    return shape(scheduler, render(scheduler, {name: HARMLESS[name] for name in names}))


def names_of(values: dict[str, Any]) -> frozenset[str]:
    """The fields that leave something in a script."""
    return frozenset(n for n, value in values.items() if n != "modules" or value.strip(","))


def asked(chosen: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if not FIELDS[name].ours}


def shell_reads(text: str) -> bool:
    return subprocess.run([BASH, "-n"], input=text.encode(), check=False).returncode == 0


def test_no_set_of_options_changes_more_than_its_own_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """S2: through the check of options."""
    chance = random.Random(SEED)
    accepted = 0
    for _ in range(SETS):
        wanted = option_set(chance)
        try:
            chosen = options.parse(wanted, HERE.fields)
        except OptionsError as error:
            assert error.status == 400 and len(error.message) < 250, (SEED, wanted)
            continue
        for scheduler in SCHEDULERS:
            try:
                text = render(scheduler, HERE.values(asked(chosen)))
            except ScriptError:
                continue
            accepted += 1
            same = harmless_shape(scheduler, names_of(asked(chosen)))
            assert shape(scheduler, text) == same, (SEED, wanted)
            if accepted % READ == 0:
                assert shell_reads(text), (SEED, wanted)
    with capsys.disabled():
        print(f"\n{SETS} sets of options, seed {SEED}: {accepted} scripts")
    assert accepted > SETS / 20, "next to nothing gets through: the test tries nothing"


def test_nor_would_it_without_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    """S2: the script's own defence, with whatever the values are."""
    chance = random.Random(SEED + 1)
    made = 0
    for _ in range(SETS):
        values = {name: str(value) for name, value in asked_of(option_set(chance)).items()}
        values = {name: value for name, value in values.items() if value}
        for scheduler in SCHEDULERS:
            if scheduler == "pbs" and any(
                ":" in value for name, value in values.items() if name != "runtime"
            ):
                continue  # a time is known by its form; parse() keeps it in its field
            try:
                text = render(scheduler, values)
            except ScriptError:
                continue
            made += 1
            same = harmless_shape(scheduler, names_of(values))
            assert shape(scheduler, text) == same, (SEED, values)
            if made % READ == 0:
                assert shell_reads(text), (SEED, values)
    with capsys.disabled():
        print(f"\n{SETS} sets of values, seed {SEED + 1}: {made} scripts")
    assert made > SETS / 20


def asked_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """Of a user's options those that a template has a directive for, as far as they are text."""
    return {
        name: value
        for name, value in wanted.items()
        if name in FIELDS
        and not FIELDS[name].ours
        and not isinstance(value, int)
        and value is not None
    }


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_shape_tells_a_directive_or_a_command_too_many(scheduler: script.Scheduler) -> None:
    """S2: what the two tests above compare would show it."""
    text = render(scheduler, {"account": "a", "nodes": "1"})
    same = shape(scheduler, text)
    word = WORDS[scheduler]
    for other in (
        text.replace(f"{word} ", f"{word} --uid=0 ", 1),
        text.replace(f"\n{word} ", f"\n{word} --uid=0\n{word} ", 1),
        text + "touch pwned\n",
    ):
        assert shape(scheduler, other) != same


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_really_runs_is_the_servers_command_alone(
    tmp_path: Path, scheduler: script.Scheduler
) -> None:
    """S2: scripts of hostile sets are run, with a launcher that only says that it was called."""
    (tmp_path / "bin").mkdir()
    launcher = tmp_path / "bin" / "python3"
    launcher.write_text("#!/bin/sh\necho called >>called\n")
    launcher.chmod(0o755)
    for name in ("touch", "module"):
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\necho {name} >>called\n")
        tool.chmod(0o755)
    chance, ran = random.Random(SEED + 2), 0
    while ran < 20:
        values = {name: str(value) for name, value in asked_of(option_set(chance)).items()}
        try:
            text = render(scheduler, values)
        except ScriptError:
            continue
        folder = tmp_path / str(ran)
        folder.mkdir()
        environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        subprocess.run(
            [BASH], input=text.encode(), cwd=folder, env=environment, timeout=20,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=not values.get("venv"),
        )  # fmt: skip
        assert {path.name for path in folder.iterdir()} <= {"called"}, (SEED, values)
        calls = (folder / "called").read_text() if list(folder.iterdir()) else ""
        # There is no such virtual environment: without it the server is not started.
        server = "called\n" if not values.get("venv") else ""
        assert calls.removeprefix("module\n" * calls.count("module\n")) == server, (SEED, values)
        ran += 1
