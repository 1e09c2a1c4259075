"""What would sbatch make of this script, these options and this environment?

Pure. The messages are those of Slurm 22.05 and 24.11 as FirecREST passes them on; the meaning of
the options is that of https://slurm.schedmd.com/sbatch.html.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

#: Longest single argument Linux hands to a program (MAX_ARG_STRLEN); FirecREST sends the whole
#: sbatch command line, values of ``env`` included, as one.
LONGEST_COMMAND_LINE = 131_072
LONGEST_SCRIPT = 4 * 1024 * 1024


class SubmitError(Exception):
    """sbatch refused: its exit status and what it printed on standard error."""

    def __init__(self, stderr: str, exit_status: int = 1) -> None:
        super().__init__(stderr)
        self.stderr = stderr
        self.exit_status = exit_status


class SubmitTimeoutError(Exception):
    """sbatch never came back: without a script it waits for one on standard input."""


class ConnectionResetBySizeError(Exception):
    """The command line was so long that the SSH connection broke."""


@dataclass(frozen=True)
class Directives:
    """What the #SBATCH lines ask for, as far as it matters here; None or a default where they say
    nothing."""

    name: str | None = None
    account: str | None = None
    partition: str | None = None
    reservation: str | None = None
    chdir: str | None = None
    output: str | None = None
    error: str | None = None
    nodes: int = 1
    ntasks: int = 1
    limit: int | None = None
    hold: bool = False


_SHORT = {
    "A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "H": "hold", "J": "job-name",
    "L": "licenses", "N": "nodes", "O": "overcommit", "Q": "quiet", "a": "array", "b": "begin",
    "c": "cpus-per-task", "d": "dependency", "e": "error", "i": "input", "k": "no-kill",
    "m": "distribution", "n": "ntasks", "o": "output", "p": "partition", "q": "qos",
    "s": "oversubscribe", "t": "time", "v": "verbose", "w": "nodelist", "x": "exclude",
}  # fmt: skip
_FLAGS = """
    contiguous exclusive get-user-env hold ignore-pbs no-kill no-requeue overcommit oversubscribe
    parsable quiet reboot requeue spread-job test-only use-min-nodes verbose wait
"""
_VALUED = """
    account acctg-freq array batch bb bbf begin cluster-constraint clusters comment constraint
    container core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
    dependency chdir distribution error exclude export export-file extra-node-info gid gpu-bind
    gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input job-name
    kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu
    mem-per-gpu mincpus network nice nodefile nodelist nodes ntasks ntasks-per-core
    ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output partition power prefer
    priority profile propagate qos reservation signal sockets-per-node switches thread-spec
    threads-per-core time time-min tmp tres-per-task uid wait-all-nodes wckey wrap
"""
_TAKES_VALUE = dict.fromkeys(_FLAGS.split(), False) | dict.fromkeys(_VALUED.split(), True)
_HELP = 'Try "sbatch --help" for more information\n'
_NOT_A_SCRIPT = (
    "sbatch: error: This does not look like a batch script.  The first\n"
    "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
    "sbatch: error: For instance: #!/bin/sh\n"
)


def check_script(script: str) -> None:
    """Refuse what sbatch refuses before it looks at any option.

    Raises SubmitTimeoutError for an empty script and SubmitError for the rest.
    """
    if not script:
        raise SubmitTimeoutError
    if len(script.encode()) >= LONGEST_SCRIPT:
        raise SubmitError(
            "sbatch: error: Batch job submission failed: Pathname of a file, directory or other "
            "parameter too long\n"
        )
    if not script.startswith("#!"):
        raise SubmitError(_NOT_A_SCRIPT)
    if "\0" in script:
        raise SubmitError(
            "sbatch: error: The SLURM controller does not allow scripts that\n"
            "sbatch: error: contain a NULL character '\\0'.\n"
        )
    if "\r\n" in script:
        raise SubmitError(
            "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
            "sbatch: error: instead of expected UNIX line breaks (\\n).\n"
        )


def parse_directives(script: str) -> Directives:
    """Read the #SBATCH lines up to the first command; raises SubmitError as sbatch would."""
    given: dict[str, str | None] = {}
    for line in script.splitlines()[1:]:
        if line.startswith("#SBATCH"):
            given.update(_options(_words(line[len("#SBATCH") :])))
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    return _directives(given)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise SubmitError(f"sbatch: error: {error}\n") from error


def _options(words: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            inline = value if "=" in word else None
            if name not in _TAKES_VALUE:
                raise SubmitError(f"sbatch: unrecognized option '{word}'\n{_HELP}", 255)
        elif len(word) > 1 and word[0] == "-":
            if word[1] not in _SHORT:
                raise SubmitError(f"sbatch: invalid option -- '{word[1]}'\n{_HELP}", 255)
            name, inline = _SHORT[word[1]], word[2:] or None
        else:
            continue
        if _TAKES_VALUE[name] and inline is None:
            inline = next(rest, None)
            if inline is None:
                message = f"sbatch: option '--{name}' requires an argument\n{_HELP}"
                raise SubmitError(message, 255)
        found[name] = inline
    return found


def _directives(given: dict[str, str | None]) -> Directives:
    time, nodes = given.get("time"), given.get("nodes")
    return Directives(
        name=given.get("job-name"),
        account=given.get("account"),
        partition=given.get("partition"),
        reservation=given.get("reservation"),
        chdir=given.get("chdir"),
        output=given.get("output"),
        error=given.get("error"),
        # "-N1-2" is a range; the least will do.
        nodes=_count("nodes", nodes.split("-")[0] if nodes else None),
        ntasks=_count("ntasks", given.get("ntasks")),
        limit=None if time is None else parse_time(time),
        hold="hold" in given,
    )


def _count(name: str, value: str | None) -> int:
    if value is None:
        return 1
    if not value.isdigit() or int(value) < 1:
        raise SubmitError(f'sbatch: error: Invalid numeric value "{value}" for --{name}.\n', 255)
    return int(value)


def parse_time(text: str) -> int:
    """Seconds in one of sbatch's six notations: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise SubmitError("sbatch: error: Invalid --time specification\n", 255)
    days, *fields = match.groups()
    numbers = [int(value) for value in fields if value is not None]
    if days is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, (*numbers, 0)[:2]
    return int(days or 0) * 86_400 + hours * 3_600 + minutes * 60 + seconds


def check_environment(env: Mapping[str, str]) -> None:
    """Refuse an ``env`` that no command line can carry, as the login node's shell does."""
    length = len(export_argument(env).encode())
    if length >= 1_000_000:
        raise ConnectionResetBySizeError
    if length > LONGEST_COMMAND_LINE:
        raise SubmitError("/bin/bash: Argument list too long\n")


def export_argument(env: Mapping[str, str]) -> str:
    """The value FirecREST gives to ``sbatch --export``: commas in values are not escaped."""
    return ",".join(["ALL", *(f"{name}={value}" for name, value in env.items())])


def exported(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that a job really gets when ``env`` has been through ``--export``.

    A comma outside quotes ends a value, an odd quote swallows all that follows; the quotes stay.
    """
    variables = {}
    for part in _split_outside_quotes(export_argument(env)):
        name, equals, value = part.partition("=")
        if equals:
            variables[name] = value
    return variables


def _split_outside_quotes(text: str) -> list[str]:
    parts, start, quote = [], 0, ""
    for index, char in enumerate(text):
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char == ",":
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]
