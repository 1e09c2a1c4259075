"""What is one option of a start: its type, its bounds, and the text a user's value becomes?

Pure. Every value is one word of a small alphabet (S2); what a site says of a field narrows it
further and never widens it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import OptionsError

_WORD = r"[A-Za-z0-9][A-Za-z0-9_.@%+-]{0,63}"
#: No value is longer; what is, is not even looked at.
LONGEST = 512
#: What stands for the cluster user in a directory, and for the first letter of its name.
_USER, _INITIAL = "{username}", "{username[0]}"
_UNITS = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}


def _seconds(text: str) -> int:
    """A time as sbatch(1) reads it: minutes, or hours after a number of days."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = [0, *parts, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _kilobytes(text: str) -> int:
    """An amount of memory as sbatch(1) reads it: megabytes without a unit."""
    unit = _UNITS.get(text[-1])
    return int(text) * 1024 if unit is None else int(text[:-1]) * unit


def in_pbs_words(kind: Kind, text: str) -> str:
    """A value for PBS, to which a bare number is seconds, or bytes, and which knows no days."""
    if kind is DURATION:
        minutes, seconds = divmod(_seconds(text), 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return f"{text}mb" if kind is MEMORY and text.isdigit() else text


def _last_number(text: str) -> int:
    return int(text.rpartition(":")[2])


@dataclass(frozen=True)
class Kind:
    """A type of field: what its values look like, and how they are compared where they can be.

    A value of ``several`` is a list separated by commas. A ``whole`` number may come as one.
    """

    name: str
    pattern: str
    measure: Callable[[str], int] | None = None
    several: bool = False
    whole: bool = False


WORD = Kind("word", _WORD)
WORDS = Kind("words", rf"{_WORD}(,{_WORD}){{0,7}}", several=True)
#: Names of modules, as `module load` takes them (Lmod, Environment Modules): no option, no blank.
_MODULE = r"[A-Za-z0-9][A-Za-z0-9_.+/@=-]{0,63}"
MODULES = Kind("modules", rf"{_MODULE}(,{_MODULE}){{0,15}}", several=True)
FEATURES = Kind("features", r"[A-Za-z0-9][A-Za-z0-9_|&.*-]{0,63}")
NUMBER = Kind("number", r"[1-9]\d{0,5}", int, whole=True)
GPUS = Kind("gpus", r"([A-Za-z][A-Za-z0-9_.-]{0,31}:)?\d{1,3}", _last_number, whole=True)
DURATION = Kind("duration", r"(\d{1,3}-)?\d{1,3}(:\d{1,2}){0,2}", _seconds)
MEMORY = Kind("memory", r"[1-9]\d{0,6}[KMGT]?", _kilobytes)
#: FirecREST puts paths between single quotes into a command (FirecREST facts, trust).
PATH = Kind("path", r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.,+@=-]+)+/?")
#: A file's path, or what a registry or a store calls it.
NAME = Kind("name", r"[A-Za-z0-9/][A-Za-z0-9_.,+@:/=-]{0,255}")
#: The same, and what enroot writes between a registry and the image in it. Never in a directive.
IMAGE = Kind("image", r"[A-Za-z0-9/][A-Za-z0-9_.,+@:/=#-]{0,255}")


@dataclass(frozen=True)
class Field:
    """One thing a user may choose.

    ``hint`` is what the form says below the field, beside the ``example``; ``unset`` is what an
    empty field means where the site has set nothing. ``api`` names the field of FirecREST's job
    description that carries it, where there is one; what is ``ours`` never reaches the scheduler as
    a directive. Only these two work on a system that ignores directives.

    The rest is what a site says: ``choices`` (what is sent, and how it is shown; none for
    anything), a further ``pattern``, bounds, the ``default`` of an empty field, the directories a
    path lies ``under`` (with ``{username}`` for the cluster user), and the ``limits`` of each
    partition: the most there is of other fields.
    """

    name: str
    label: str
    kind: Kind
    example: str
    hint: str
    unset: str = "the system's default"
    api: str = ""
    ours: bool = False
    choices: Mapping[str, str] = field(default_factory=dict)
    pattern: str = ""
    minimum: str = ""
    maximum: str = ""
    default: str = ""
    under: tuple[str, ...] = ()
    limits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def read(self, value: Any) -> str:
        """The value as text. Raises OptionsError naming the field."""
        if self.kind.whole and isinstance(value, int) and not isinstance(value, bool):
            value = str(value) if abs(value) < 10**9 else "too much"
        if not isinstance(value, str):
            raise OptionsError(f"Option {self.name!r} must be text such as {self.example!r}.")
        text = value.strip() if len(value) <= LONGEST else ""
        if not re.fullmatch(self.kind.pattern, text, re.ASCII) or (
            self.pattern and not re.fullmatch(self.pattern, text, re.ASCII)
        ):
            raise OptionsError(
                f"{self.label}: {shown(value)} cannot be used; write it like {self.example!r} "
                f"(option {self.name!r})."
            )
        self._check_choice(text)
        self._check_bounds(text)
        return text

    def _check_choice(self, text: str) -> None:
        if not self.choices:
            return
        for part in text.split(",") if self.kind.several else [text]:
            if part not in self.choices:
                raise OptionsError(
                    f"{self.label}: {shown(part)} is not offered; choose {self._offer()} "
                    f"(option {self.name!r})."
                )

    def _offer(self) -> str:
        names = ", ".join(self.choices)
        return names if len(names) <= 80 else f"{names[:80].rpartition(', ')[0] or names[:80]} ..."

    def _check_bounds(self, text: str) -> None:
        measure = self.kind.measure
        if measure is None:
            return
        for word, bound, sign in (("at least", self.minimum, 1), ("at most", self.maximum, -1)):
            if bound and sign * measure(text) < sign * measure(bound):
                raise OptionsError(
                    f"{self.label}: {shown(text)} cannot be had; ask for {word} {bound} "
                    f"(option {self.name!r})."
                )

    @property
    def bounds(self) -> str:
        """The bounds in words, for the form; empty when there are none."""
        if self.minimum and self.maximum:
            return f"{self.minimum} to {self.maximum}"
        if self.minimum:
            return f"at least {self.minimum}"
        return f"at most {self.maximum}" if self.maximum else ""


FIELDS = {
    each.name: each
    for each in (
        Field("environment", "Environment", WORD, "", "The software that the server runs with",
              "none", ours=True),
        Field("partition", "Partition", WORDS, "normal", "The queue to wait in", api="partition"),
        Field("account", "Account", WORD, "proj1", "The project that is charged",
              "your default account", api="account"),
        Field("reservation", "Reservation", WORD, "course", "Only if you were given one", "none",
              api="reservation"),
        Field("runtime", "Run time", DURATION, "04:00:00",
              "Hours:minutes:seconds after which the server is ended"),
        Field("nodes", "Nodes", NUMBER, "1", "How many", "1"),
        Field("cpus", "CPUs per task", NUMBER, "4", "How many"),
        Field("gpus", "GPUs", GPUS, "1", "How many, or type:number", "none"),
        Field("memory", "Memory", MEMORY, "16G", "On each node, with a unit (K, M, G or T)"),
        Field("qos", "QoS", WORD, "interactive", "Quality of service", "your default"),
        Field("constraint", "Constraint", FEATURES, "gpu", "Features that the nodes must have",
              "none", api="constraints"),
        Field("modules", "Modules", MODULES, "cuda/12.4", "To load, several with commas", "none"),
        Field("venv", "Virtual environment", PATH, "/home/me/venv",
              "The directory of a Python environment with jupyterhub and jupyterlab", "none"),
        Field("image", "Container image", IMAGE, "/apps/images/jupyter.sif",
              "The file, or its name in a registry"),
        Field("edf", "Environment file", NAME, "jupyter",
              "An environment definition file: its path, or its name"),
        Field("uenv", "uenv", NAME, "prgenv-gnu/24.11:v2", "Its name and tag"),
        Field("view", "View", WORDS, "default", "Of the uenv; several with commas"),
        Field("workdir", "Working directory", PATH, "/scratch/me", "Where the server starts",
              ours=True),
    )
}  # fmt: skip

#: What a site may say of a field.
WISHES = (
    *("choices", "pattern", "minimum", "maximum", "under", "limits", "default"),
    *("label", "hint", "example"),
)


def narrowed(given: Field, wishes: Mapping[str, Any]) -> Field:
    """The field as a site wants it. Raises ValueError, whose message says what is wrong."""
    if unknown := [name for name in wishes if name not in WISHES]:
        raise ValueError(f"there is no {unknown[0]!r} to set; there are {', '.join(WISHES)}")
    made = replace(
        given,
        label=_text(wishes, "label", given.label),
        hint=_text(wishes, "hint", given.hint),
    )
    made = replace(made, pattern=_pattern(wishes), under=_directories(made, wishes))
    made = replace(made, limits=_limits(made, wishes.get("limits", {})))
    made = replace(made, minimum=_bound(made, "minimum", wishes))
    made = replace(made, maximum=_bound(made, "maximum", wishes))
    if "choices" in wishes:
        made = replace(made, choices=_choices(made, wishes["choices"]))
    if wishes.get("default") not in (None, ""):
        made = replace(made, default=_read(made, "default", wishes["default"]))
    return replace(made, example=_example(made, _text(wishes, "example", "")))


def _text(wishes: Mapping[str, Any], name: str, otherwise: str) -> str:
    value = wishes.get(name, otherwise)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is to be text: {shown(value)}")
    return value


def _read(made: Field, name: str, value: Any) -> str:
    try:
        return made.read(value)
    except OptionsError as error:
        raise ValueError(f"{name!r} is no value of the field: {error.message}") from None


def _bound(made: Field, bound: str, wishes: Mapping[str, Any]) -> str:
    if bound not in wishes:
        return ""
    if made.kind.measure is None:
        raise ValueError(f"a {made.kind.name} has no {bound}")
    return _read(made, bound, wishes[bound])


def _limits(made: Field, given: Any) -> dict[str, dict[str, str]]:
    if given and made.name != "partition":
        raise ValueError("only partitions have 'limits'")
    if not isinstance(given, Mapping) or not all(isinstance(m, Mapping) for m in given.values()):
        raise ValueError(
            "'limits' says what is the most in a partition, such as {'debug': {'runtime': '30'}}"
        )
    found: dict[str, dict[str, str]] = {}
    for partition, most in given.items():
        for name, value in most.items():
            if name not in FIELDS or FIELDS[name].kind.measure is None:
                raise ValueError(f"'limits': {name!r} is no field with a most")
            found.setdefault(partition, {})[name] = _read(FIELDS[name], "limits", value)
    return found


def _choices(made: Field, given: Any) -> dict[str, str]:
    if not isinstance(given, (Mapping, list, tuple)) or not given:
        raise ValueError("'choices' is a list of values, or a dict of values and their labels")
    labels = given if isinstance(given, Mapping) else {value: str(value) for value in given}
    one = replace(made, choices={})
    return {_read(one, "choices", value): str(label) for value, label in labels.items()}


def _pattern(wishes: Mapping[str, Any]) -> str:
    pattern = _text(wishes, "pattern", "")
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:
        raise ValueError(f"'pattern' is no regular expression: {error}") from None
    return pattern


def _directories(made: Field, wishes: Mapping[str, Any]) -> tuple[str, ...]:
    if "under" not in wishes:
        return made.under
    given = wishes["under"]
    if made.kind is not PATH:
        raise ValueError(f"a {made.kind.name} lies under nothing")
    if not isinstance(given, (list, tuple)):
        raise ValueError("'under' is a list of absolute paths, such as ['/scratch/{username}']")
    try:
        return tuple(map(directory, given))
    except ValueError as error:
        raise ValueError(f"'under': {error}") from None


def _example(made: Field, wanted: str) -> str:
    """One that the field really takes: the site's own, else the first that comes to hand."""
    at_hand: Iterable[str] = (
        [wanted] if wanted else (*made.choices, made.default, made.example, made.maximum)
    )
    for text in at_hand:
        try:
            made.read(text)
        except OptionsError:
            continue
        return text
    raise ValueError("give an 'example' of what may be written")


def directory(text: Any) -> str:
    """What a site calls a directory. Raises ValueError, which says what may be written."""
    if (
        not isinstance(text, str)
        or not text.startswith("/")
        or not text.isprintable()
        or set(of_user(text, "")) & set("{}'")
    ):
        raise ValueError(
            f"{text!r} is no absolute path; write one such as '/scratch/{_USER}', in which "
            f"{_USER} stands for the cluster user and {_INITIAL} for its first letter, without "
            "other braces and quotes"
        )
    return text


def of_user(directory: str, user: str) -> str:
    """The directory of one cluster user."""
    return directory.replace(_USER, user).replace(_INITIAL, user[:1])


def lies_under(path: str, directories: Iterable[str]) -> bool:
    """Whether a path of kind PATH is one of these directories, or lies in one."""
    clean = path.rstrip("/") + "/"
    return any(clean.startswith(each.rstrip("/") + "/") for each in directories)


def shown(value: Any) -> str:
    """A user's value as a message may quote it: short, and without control characters."""
    text = repr(value[:40]) if isinstance(value, str) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
