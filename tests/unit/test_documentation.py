"""Do the pages say what is so? Settings, messages, modules, invariants and links are compared."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from firecrestspawner.authenticator import FirecRESTAuthenticator
from firecrestspawner.config import SpawnerConfig
from firecrestspawner.service import ServiceAccount

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "firecrestspawner"
PAGES = sorted(
    path
    for folder in (ROOT, DOCS)
    for path in folder.glob("*.md")
)  # fmt: skip


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# --- settings -------------------------------------------------------------------------------


def test_every_setting_is_on_the_configuration_page_once() -> None:
    ours = {f"FirecRESTSpawner.{name}" for name in SpawnerConfig.class_own_traits(config=True)}
    for each in (FirecRESTAuthenticator, ServiceAccount):
        ours |= {f"{each.__name__}.{name}" for name in each.class_own_traits(config=True)}
    named = re.findall(r"^```\{trait\} (\S+)$", page("configuration.md"), re.M)
    assert sorted(named) == sorted(ours)


# --- modules and layers ---------------------------------------------------------------------


def test_every_module_has_its_line_on_the_architecture_page() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    named = set(re.findall(r"^\| `(\w+)` \|", page("architecture.md"), re.M))
    assert named == modules


def test_the_picture_of_the_layers_is_the_contract() -> None:
    contract = re.search(r"^layers =\n((?:    .*\n)+)", (ROOT / "setup.cfg").read_text(), re.M)
    assert contract is not None
    layers = [line.strip() for line in contract[1].splitlines()]
    pictures = re.findall(r"^```\n(.*?)^```", page("architecture.md"), re.M | re.S)
    assert layers in [[line.strip() for line in text.splitlines()] for text in pictures]


# --- invariants -----------------------------------------------------------------------------

NUMBERS = [
    *(f"R{number}" for number in range(1, 11)),
    *(f"S{number}" for number in range(1, 12)),
    *(f"C{number}" for number in range(1, 5)),
]


@cache
def rows() -> dict[str, str]:
    """Each invariant's cell about its tests."""
    found = re.findall(r"^\| ([RSC]\d+) \| .* \| (.*) \|$", page("architecture.md"), re.M)
    assert len(found) == len(dict(found))
    return dict(found)


def named_tests(cell: str) -> Iterator[tuple[Path, str]]:
    file = None
    for text in re.findall(r"`([^`]+)`", cell):
        if text.startswith("tests/"):
            file = ROOT / text
        elif text.startswith("test_"):
            assert file is not None, f"{text} stands before its file"
            yield file, text


@cache
def docstrings(file: Path) -> dict[str, str]:
    """The tests of a file, and their docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def carries(text: str, number: str) -> bool:
    return re.search(rf"\b{number}\b", text) is not None


def test_every_invariant_is_in_the_table() -> None:
    assert list(rows()) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_the_tests_named_for_an_invariant_exist_and_carry_its_number(number: str) -> None:
    named = list(named_tests(rows()[number]))
    for file, name in named:
        assert file.is_file(), f"{number}: there is no {file.relative_to(ROOT)}"
        found = docstrings(file).get(name)
        assert found is not None, f"{number}: {file.relative_to(ROOT)} has no {name}"
        assert carries(found, number), f"{name} does not carry {number} in its docstring"
    assert bool(named) != rows()[number].startswith("Not yet"), (
        f"{number} is either tested or not yet"
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_not_yet_tested_is_not_tested_somewhere(number: str) -> None:
    if not rows()[number].startswith("Not yet"):
        return
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        for name, text in docstrings(file).items()
        if carries(text, number)
    ]
    assert found == [], f"docs/architecture.md says that {number} is not tested yet"


# --- messages -------------------------------------------------------------------------------

#: These speak to jobs, or to us; no user and no admin reads them.
NOT_FOR_USERS = {"ChannelError"}
INTERNAL = {"The job name needs a seed.", "A job name has 1 to 15 letters, digits, '-' or '_'."}


def squeezed(text: str) -> str:
    return " ".join(text.replace("\\|", "|").split())


@cache
def sources() -> dict[str, ast.Module]:
    return {path.name: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py"))}


def error_names() -> set[str]:
    classes = [
        node
        for tree in sources().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    ]  # fmt: skip
    names = {"Error", "ScriptError"}
    for _ in classes:  # a subclass may stand before its base, in another module
        names |= {
            node.name
            for node in classes
            if any(isinstance(base, ast.Name) and base.id in names for base in node.bases)
        }
    return names - NOT_FOR_USERS


def literals(node: ast.expr, constants: dict[str, ast.expr]) -> list[str]:
    """The fixed parts of a message."""
    if isinstance(node, ast.Name) and node.id in constants:
        return literals(constants[node.id], {})
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [str(part.value) for part in node.values if isinstance(part, ast.Constant)]
    return []


def messages() -> Iterator[tuple[str, list[str]]]:
    """Where each message of the error tree is made, and its fixed parts."""
    names = error_names()
    for file, tree in sources().items():
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            parts = literals(node.args[0], constants)
            if node.func.id in names and parts and parts[0] not in INTERNAL:
                yield f"{file}:{node.lineno}", parts


def test_every_message_for_users_has_its_remedy() -> None:
    text = squeezed(page("troubleshooting.md"))
    found = list(messages())
    assert len(found) > 40, "the messages are not where they were"
    missing = [
        f"{where}: {part}"
        for where, parts in found
        for part in (squeezed(max(parts, key=len)),)
        if part.strip(" .:") not in text
    ]
    assert missing == [], "docs/troubleshooting.md says nothing of these"


def test_every_message_on_the_page_is_one_the_code_has() -> None:
    said = squeezed(
        " ".join(
            node.value
            for tree in sources().values()
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        + (ROOT / "jupyterhub_config.py").read_text()
    )
    quoted = [
        text
        for row in re.findall(r"^\| (`.*?) \| ", page("troubleshooting.md"), re.M)
        for text in re.findall(r"`([^`]+)`", row)
    ]
    assert len(quoted) > 50
    strange = [
        f"{part!r} of {text!r}"
        for text in quoted
        for part in text.split("…")
        if len(part.strip(" .:()")) > 3 and squeezed(part).strip(" .:") not in said
    ]
    assert strange == []


# --- links ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_links_to_is_there(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [
        target
        for target in targets
        if not target.startswith(("http://", "https://")) and not (path.parent / target).exists()
    ]
    assert missing == []
