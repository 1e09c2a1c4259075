"""How does a batch script come to be: rendered, quoted, named, with the launcher packed inside?

Pure: values in, text out (all it reads is this package's own launcher and templates).

A script has a *head*, which the scheduler reads: the lines before the first that is neither blank
nor a comment (sbatch(1), qsub(1B)); and a *body*, which the shell runs. Between the two, `render`
puts the preamble: ticket, launcher, values.

**No value can add a directive or a command (S2)**, wherever a template places it. While Jinja2
renders, a value that is not `Trusted` is only an opaque mark. Afterwards

- a mark in the head becomes the value if `directive` accepts it (one word, small alphabet);
- a mark in the body becomes the value if that is one harmless word (letters, digits, ``_@%+:,./-``)
  and otherwise ``"$firecrest_value_N"``, a variable that the preamble assigns, single-quoted,
  before any line of the template. No shell parses again what a variable expands to: not between
  other quotes, not in a here-document or a comment, where quoting the text itself would fail.

So templates write ``{{xyz}}`` bare, with no quotes of their own. (`eval` and shell arithmetic do
parse again: a template that passes values to them is on its own.)

A site's template may extend one that ships, or include files beside it:
:mod:`firecrestspawner.sandbox`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import shlex
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from . import sandbox
from .sandbox import MARK, ScriptError, Trusted, is_unicode, unmarked

__all__ = [
    "FIELDS",
    "SHIPPED",
    "ScriptError",
    "Trusted",
    "directive",
    "encode_ticket",
    "job_name",
    "launcher_command",
    "pack_launcher",
    "quote",
    "render",
    "shipped_template",
    "unused",
]

Scheduler = Literal["slurm", "pbs"]

#: What the shipped templates know. Each may be missing, None or empty.
FIELDS = (
    *("partition", "account", "reservation", "qos", "constraint"),
    *("runtime", "nodes", "ntasks", "cpus", "memory", "gpus", "gres"),
    *("output", "options", "prologue", "epilogue"),
    *("modules", "venv", "image", "uenv", "view", "edf"),
)

#: The batch scripts that ship, each for the scheduler whose name it begins with.
SHIPPED = (
    *("slurm", "slurm-apptainer", "slurm-container", "slurm-environment", "slurm-uenv"),
    "pbs",
)

_HARMLESS_WORD = re.compile(r"[A-Za-z0-9_@%+:,./-]+")
_JOB_NAME = re.compile(r"[A-Za-z0-9_-]{1,15}")
# PBS separates resources by , : + and assigns by =, inside one directive: a value may hold but the
# colons of a time. Slurm needs more for its constraints and lists, and splits words by blanks only.
_DIRECTIVE_WORD = {
    "slurm": re.compile(r"[A-Za-z0-9_@%+=:,./&|*()\[\]!^~][A-Za-z0-9_@%+=:,./&|*()\[\]!^~-]*"),
    "pbs": re.compile(r"[A-Za-z0-9_@%./^][A-Za-z0-9_@%./^-]*|[0-9]+(:[0-9]{2}){1,3}"),
}
_PBS_WALLTIME = re.compile(
    r"^[ \t]*#PBS\b.*?(?:\b|-l)walltime=((?:\d{1,9}:){0,2}\d{1,9})(?![\d:])",
    re.MULTILINE | re.ASCII,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SHELLS = {"sh", "bash", "dash", "ksh", "zsh"}


def quote(value: object) -> str:
    """One POSIX shell word that stands for exactly `value`, newlines and tabs included.

    Raises ScriptError for other control characters: sbatch refuses scripts with CR or NUL.
    """
    text = str(value)
    if _CONTROL.search(text) or not is_unicode(text):
        raise ScriptError("A value for the batch script holds control characters.")
    return shlex.quote(text)


def directive(value: object, name: str = "value", scheduler: Scheduler = "slurm") -> str:
    """`value` if it may stand in an #SBATCH or #PBS line: one word of a small alphabet, no option.

    Raises ScriptError, which names the field `name`.
    """
    text = str(value)
    if not _DIRECTIVE_WORD[scheduler].fullmatch(text):
        raise ScriptError(
            f"The option {name!r} holds characters that a batch directive cannot carry."
        )
    return text


def job_name(seed: str) -> str:
    """The one name of all jobs of a Hub: `seed` itself if it is a valid name, else made from it.

    ``[A-Za-z0-9_-]{1,15}``, as filters match it exactly and old PBS allows no more. The same seed
    (a Hub's URL, say) always gives the same name.
    """
    if not seed:
        raise ScriptError("The job name needs a seed.")
    # A leading "-" would read as an option, a leading digit is refused by PBS.
    if _JOB_NAME.fullmatch(seed) and seed[0].isalpha():
        return seed
    return "jhub-" + hashlib.sha256(seed.encode()).hexdigest()[:10]


def encode_ticket(url: str, ticket: str, patience: int, unknown_patience: int = 86400) -> str:
    """FIRECREST_TICKET: what the launcher needs to say hello, as base64url of JSON.

    `url` of the job channel, `ticket` "<spawn id>.<secret>", both patiences in seconds.
    """
    fields = {
        "url": url,
        "ticket": ticket,
        "patience": patience,
        "unknown_patience": unknown_patience,
    }
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


@functools.lru_cache(maxsize=1)
def pack_launcher() -> str:
    """FIRECREST_LAUNCHER: the source of singleuser.py, zlib, base64 (about 10 kB)."""
    source = Path(__file__).with_name("singleuser.py").read_bytes()
    return base64.b64encode(zlib.compress(source, 9)).decode()


# The launcher needs the standard library, and it alone: with -E, -S and without the working
# directory no `random.py` of the user's own, and no backport on PYTHONPATH, stands in its way; nor
# does it read a whole site-packages at each start.
# Without the variables (a cleaned environment) the launcher's source is in the file of the
# preamble, whose path is the argument. If that is gone although its directory is there, another
# task of this job has taken it: this one waits (see `stand_by` in singleuser.py), unless it is the
# one that should have acted.
_STUB = """\
import sys
sys.path=[p for p in sys.path if p]
import os
if sys.version_info<(3,8):sys.exit("[firecrestspawner] Python 3.8 or newer is needed on the node, "
 "this is "+sys.version.split()[0]+": "+sys.executable)
s=os.environ.pop("FIRECREST_LAUNCHER","")
f=sys.argv[1]
try:s=s or open(f).read().split("FIRECREST_LAUNCHER=")[1].split()[0]
except(OSError,IndexError):
 if os.environ.get("SLURM_PROCID")=="0"or not os.path.isdir(os.path.dirname(f)):
  sys.exit("[firecrestspawner] no ticket: neither its variables nor its file reached this node")
 import signal
 for n in(1,2,10,15):signal.signal(n,lambda*a:os._exit(0))
 while 1:signal.pause()
import base64,zlib
exec(zlib.decompress(base64.b64decode(s)))
"""


def launcher_command(python: str = "python3") -> str:
    """``{{cmd}}``: shell words that run the packed launcher; the same for every server, no secret.

    `python` is the interpreter's name or path on the node (3.8 or newer).
    """
    stub = "exec(" + json.dumps(_STUB) + ")"
    return f'{quote(python)} -ES -c {quote(stub)} "$FIRECREST_FILE"'


def shipped_template(name: str) -> Path:
    """The path of this package's own template called `name`, one of SHIPPED."""
    return Path(__file__).with_name("templates") / f"{name}.sh.j2"


def render(
    template: str | Path,
    *,
    values: Mapping[str, object],
    job_name: str,
    scheduler: Scheduler,
    ticket: str,
    python: str = "python3",
) -> str:
    """The batch script: `template` (its text, or a path) filled with `values`.

    Every ``req_xyz`` arrives as ``values["xyz"]`` and is ``{{xyz}}`` there, as are ``{{cmd}}`` and
    ``{{job_name}}``. `ticket` comes from `encode_ticket`. Job name, no-requeue and preamble are put
    in by code, whether the template mentions them or not.

    Raises ScriptError: an unfit value, a template that cannot be read or rendered, that names its
    jobs or requeues them itself, or that is no POSIX shell script.
    """
    if not _JOB_NAME.fullmatch(job_name):
        raise ScriptError("A job name has 1 to 15 letters, digits, '-' or '_'.")
    if any(MARK.search(str(value)) for value in values.values()):
        raise ScriptError("A value for the batch script holds private-use characters.")
    if "\n" in str(values.get("options") or ""):
        raise ScriptError("'options' is one line of directives; write more in a batch_script.")
    context = dict.fromkeys(FIELDS) | dict(values)
    context |= {"cmd": Trusted(launcher_command(python)), "job_name": Trusted(job_name)}
    head, body = _split(_text(template, context))
    names = {str(value): name for name, value in values.items()}
    _guarantee(head, job_name, scheduler)

    def in_head(mark: re.Match[str]) -> str:
        text = unmarked(mark[0])
        return directive(text, names.get(text, "value"), scheduler)

    variables: dict[str, str] = {}

    def in_body(mark: re.Match[str]) -> str:
        text = unmarked(mark[0])
        if _HARMLESS_WORD.fullmatch(text):
            return text
        name = variables.setdefault(text, f"firecrest_value_{len(variables) + 1}")
        return f'"${name}"'

    top = MARK.sub(in_head, "".join(head))
    rest = MARK.sub(in_body, "".join(body))
    assigned = [f"{name}={quote(text)}\n" for text, name in variables.items()]
    return top + _preamble(ticket, scheduler, top) + "".join(assigned) + "\n" + rest


def unused(template: str | Path, names: Iterable[str]) -> list[str]:
    """Those of the values called `names` that a template never looks at, so far as can be told.

    `template` is its text, or a path. Raises ScriptError for one that cannot be read.
    """
    mentioned = sandbox.mentioned(template, _named)
    return [] if mentioned is None else [name for name in names if name not in mentioned]


def _text(template: str | Path, context: Mapping[str, object]) -> str:
    """The template filled; line ends and a byte order mark as sbatch wants them."""
    text = sandbox.fill(template, context, _named)
    text = text.replace("\r\n", "\n").strip("\ufeff \t\n") + "\n"
    if _CONTROL.search(text):
        raise ScriptError("The batch script template holds control characters.")
    return text


def _named(name: str) -> Path | None:
    """The template that ships under the file name `name`, if one does."""
    shipped = name.removesuffix(".sh.j2")
    return shipped_template(shipped) if name == f"{shipped}.sh.j2" and shipped in SHIPPED else None


def _split(text: str) -> tuple[list[str], list[str]]:
    """Head and body, as lines with their ends; the head begins with a shebang."""
    lines = [line + "\n" for line in text[:-1].split("\n")]  # splitlines() knows other ends too
    if not lines[0].startswith("#!"):
        lines.insert(0, "#!/bin/bash\n")
    words = [word for word in re.split(r"[\s/]+", lines[0][2:]) if not word.startswith("-")]
    if not _SHELLS & set(words):
        raise ScriptError("The batch script must be for sh, bash, dash, ksh or zsh.")
    end = next(
        (n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")),
        len(lines),
    )
    return lines[:end], lines[end:]


def _guarantee(head: list[str], job_name: str, scheduler: Scheduler) -> None:
    """Put job name and no-requeue into `head`, behind its last directive, where they win.

    No requeue: a node failure would start the job again under its old id and ticket. A template's
    own, different wishes are an error rather than silently overruled.
    """
    word = "#SBATCH" if scheduler == "slurm" else "#PBS"
    # qsub reads directives that are indented, too; what comes last wins, as with sbatch.
    read = [line if scheduler == "slurm" else line.lstrip() for line in head]
    heterogeneous = re.compile(rf"{word}\s+(het|pack)job\b")
    last = 0
    for number, line in enumerate(read):
        if heterogeneous.match(line):
            break  # what follows concerns another component of the job
        if line.startswith(word):
            last = number
    for line in read:
        if line.startswith(word):
            _no_conflict(line[len(word) :].split(), job_name, scheduler)
    if scheduler == "slurm":
        wanted = [f"#SBATCH --job-name={job_name}\n", "#SBATCH --no-requeue\n"]
    else:
        wanted = [f"#PBS -N {job_name}\n", "#PBS -r n\n"]
    head[last + 1 : last + 1] = [line for line in wanted if line not in head]


def _no_conflict(words: list[str], job_name: str, scheduler: Scheduler) -> None:
    short, long = ("-J", "--job-name") if scheduler == "slurm" else ("-N", "")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if long and option.startswith("--j") and long.startswith(option):
            name = value if equals else following
        elif word.startswith(short):
            name = word[len(short) :] or following
        elif word == "--requeue" or (scheduler == "pbs" and _requeues(word, following)):
            raise ScriptError("The batch script asks for requeueing; a server starts only once.")
        else:
            continue
        if name.strip("\"'") != job_name:
            raise ScriptError(
                "The batch script sets a job name of its own: leave it out, as the Hub finds its "
                f"jobs by the name {job_name!r}."
            )


def _requeues(word: str, following: str) -> bool:
    return word.startswith("-r") and (word[2:] or following) == "y"


# A shell that dies of the scheduler's SIGTERM takes the whole job with it, and the server's time to
# save: `trap :` lets it wait (trapped, unlike ignored, signals are reset in children).
# SLURM_EXPORT_ENV=NONE comes from `--export=NONE` and would clean the environment of srun's tasks.
# SLURM_WAIT ends the tasks that stand by, should rank 0 be unable to: seconds after its end.
_PREAMBLE = """\
# --- by firecrestspawner: what the server needs to introduce itself to its Hub
{{ firecrest_flags=$-; set +xv; }} 2>/dev/null
export FIRECREST_TICKET={ticket}
export FIRECREST_LAUNCHER={launcher}
FIRECREST_FILE={directory}/.firecrest-{name}
trap '[ -z "$FIRECREST_FILE" ] || rm -f -- "$FIRECREST_FILE"' EXIT
trap : TERM USR1
{end}( umask 077; set -C; printf '%s\\n' "FIRECREST_TICKET=$FIRECREST_TICKET" \\
  "FIRECREST_LAUNCHER=$FIRECREST_LAUNCHER" "SLURM_JOB_ID=${{SLURM_JOB_ID-}}" \\
  "SLURM_JOB_END_TIME=${{SLURM_JOB_END_TIME-}}" \\
  "SLURM_RESTART_COUNT=${{SLURM_RESTART_COUNT-}}" "PBS_JOBID=${{PBS_JOBID-}}" \\
  "FIRECREST_JOB_END=${{FIRECREST_JOB_END-}}" >"$FIRECREST_FILE"
) 2>/dev/null || {{ rm -f -- "$FIRECREST_FILE"; FIRECREST_FILE=; }}
case ${{SLURM_EXPORT_ENV-}} in NONE|NIL) export SLURM_EXPORT_ENV=ALL ;; esac
[ -n "${{SLURM_WAIT-}}" ] || export SLURM_WAIT=30 FIRECREST_WAIT=1
case $firecrest_flags in *x*) set -x ;; esac
"""


def _preamble(ticket: str, scheduler: Scheduler, head: str) -> str:
    name = hashlib.sha256(ticket.encode()).hexdigest()[:16]
    directory, end = "$PWD", ""
    if scheduler == "pbs":
        # PBS starts the script in HOME, and templates go on from there to the working directory.
        directory = "${PBS_O_WORKDIR:-$PWD}"
        if (seconds := _pbs_walltime(head)) is not None:
            end = f"export FIRECREST_JOB_END=$(($(date +%s) + {seconds}))\n"
    return _PREAMBLE.format(
        ticket=quote(ticket),
        launcher=quote(pack_launcher()),
        directory=directory,
        name=name,
        end=end,
    )


def _pbs_walltime(head: str) -> int | None:
    """Seconds of the time limit that the directives ask for, None where they do not.

    PBS tells a job nothing of its limit, in no variable (pbs_resources(7): ``[[HH:]MM:]SS``). Of
    several the first counts, as OpenPBS's qsub has it: what directives ask for changes nothing
    that is asked for already.
    """
    asked = _PBS_WALLTIME.search(head)
    if not asked:
        return None
    return functools.reduce(lambda total, part: total * 60 + int(part), asked[1].split(":"), 0)
