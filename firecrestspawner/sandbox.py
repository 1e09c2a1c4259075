"""How does a batch script's template become text in which every value is still marked as one?

While Jinja2 renders, a value that is not `Trusted` is only an opaque mark (`mark` is its
`finalize`), which :mod:`firecrestspawner.script` replaces afterwards, knowing where it stands (S2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import (
    Environment,
    FunctionLoader,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    Undefined,
    meta,
)
from jinja2.runtime import BlockReference, Context
from jinja2.sandbox import SandboxedEnvironment

Shipped = Callable[[str], "Path | None"]

#: A value in the text: hexadecimal UTF-8 between two private-use characters.
MARK = re.compile("\ue000([0-9a-f]*)\ue001")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class ScriptError(ValueError):
    """No script can be made of these values or this template. The message is fit for the user."""


class Trusted(str):
    """Text of the deployer's own (prologue, epilogue, options): placed into scripts as it is.

    Jinja2 filters return plain text, which is not trusted any more.
    """

    __slots__ = ()


def fill(template: str | Path, context: Mapping[str, object], shipped: Shipped) -> str:
    """`template` (its text, or a path) filled with `context`, every value of it marked.

    `shipped` gives the path of a template that ships, by its file name, or None.

    Raises ScriptError, which quotes no value.
    """
    try:
        return _Templates(template, shipped).fill({**context, "need": _need})
    except ScriptError:
        raise
    except TemplateNotFound as error:
        raise ScriptError(
            f"The batch script template names another, {error.name!r}, which neither ships nor "
            "lies beside it."
        ) from None
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise ScriptError(
            f"The batch script template cannot be rendered{where}: {error.message}"
        ) from None
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # An expression that the values do not suit, whose message could quote them; or a template
        # that extends itself.
        raise ScriptError(
            f"The batch script template cannot be rendered: {type(error).__name__}."
        ) from None


def mentioned(template: str | Path, shipped: Shipped) -> set[str] | None:
    """The names of all values that a template uses, and the ones that it extends or includes.

    None where one of those is named by a value, so that nobody can tell. Parameters and errors are
    those of `fill`.
    """
    try:
        return _Templates(template, shipped).mentioned()
    except (TemplateError, RecursionError):
        return None  # whoever fills it reads what is wrong


def mark(value: object) -> object:
    """Jinja2's `finalize`: hide what is not trusted from everything that looks at the text."""
    if value is None:
        return ""
    if isinstance(value, (Trusted, Undefined)):
        return value  # an Undefined must still raise
    text = unmarked(str(value))
    if not is_unicode(text):
        raise ScriptError("A value for the batch script is not valid text.")
    return f"\ue000{text.encode().hex()}\ue001" if text else ""


def unmarked(text: str) -> str:
    """`text` with every mark replaced by the value it stands for."""
    return MARK.sub(lambda found: bytes.fromhex(found[1]).decode(), text)


def is_unicode(text: str) -> bool:
    """Whether `text` can be written at all: no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _need(value: object, name: str) -> object:
    """``{{need(image, "image")}}``: the value, which this template cannot do without.

    One that begins with "-" would be an option of the command it is handed to.
    """
    if not value:
        raise ScriptError(f"This batch script needs a value for {name!r}.")
    if str(value).startswith("-"):
        raise ScriptError(f"The option {name!r} cannot begin with '-'.")
    return value


class _Block(BlockReference):
    """``super()``: a block as the template below writes it.

    Template text, with the values in it marked already; Jinja2's own gives a string, which would be
    taken for a value as a whole.
    """

    @property
    def super(self) -> BlockReference | Undefined:
        return _template_text(super().super)

    def __call__(self) -> str:
        return Trusted(super().__call__())


def _template_text(block: BlockReference | Undefined) -> BlockReference | Undefined:
    if isinstance(block, Undefined):
        return block
    return _Block(block.name, block._context, block._stack, block._depth)


class _Context(Context):
    def super(self, name: str, current: Callable[[Context], Any]) -> BlockReference | Undefined:
        return _template_text(super().super(name, current))


class _Templates(SandboxedEnvironment):
    """Renders `template`, which may name others: those that ship, and plain files beside it.

    A name that ships means that one, so a site's own slurm.sh.j2 may extend "slurm.sh.j2". Nothing
    else on the disk can be read: no path, and for a template given as text nothing beside it.
    """

    context_class = _Context

    def __init__(self, template: str | Path, shipped: Shipped) -> None:
        super().__init__(
            loader=FunctionLoader(self._named),
            undefined=StrictUndefined,
            autoescape=False,  # shell, not HTML: `mark` is what escapes here
            finalize=mark,
            keep_trailing_newline=True,
        )
        self._shipped = shipped
        self._beside = template.parent if isinstance(template, Path) else None
        self._source = _read(template) if isinstance(template, Path) else _checked(template)

    def fill(self, context: Mapping[str, object]) -> str:
        return self.from_string(self._source).render(context)

    def mentioned(self) -> set[str] | None:
        names: set[str] = set()
        sources, seen = [self._source], {""}
        while sources:
            used, referenced = _names_in(sources.pop())
            names |= used
            for name in referenced:
                if name is None or (source := self._named(name)) is None:
                    return None
                if name not in seen:
                    seen.add(name)
                    sources.append(source)
        return names

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` of trusted text: its result holds values, and is trusted no more."""
        formatted = super().wrap_str_format(value)
        return formatted and (lambda *args, **kwargs: str(formatted(*args, **kwargs)))

    def _named(self, name: str) -> str | None:
        if shipped := self._shipped(name):
            return _read(shipped)
        if self._beside is None or not _FILE_NAME.fullmatch(name):
            return None
        path = self._beside / name
        return _read(path) if path.is_file() else None


@lru_cache(maxsize=64)
def _names_in(source: str) -> tuple[frozenset[str], tuple[str | None, ...]]:
    """The values a template's text uses, and the templates it names; 20 ms where not known yet."""
    parsed = Environment(autoescape=True).parse(source)
    return (
        frozenset(meta.find_undeclared_variables(parsed)),
        tuple(meta.find_referenced_templates(parsed)),
    )


def _read(path: Path) -> str:
    try:
        return _checked(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ScriptError(
            f"The batch script template {path.name!r} cannot be read: {why}."
        ) from None


def _checked(source: str) -> str:
    if MARK.search(source):
        raise ScriptError("The batch script template holds private-use characters.")
    return source
