"""Does the command line say what it can do, and what it lacks?"""

import builtins
import importlib.metadata
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from firecrestspawner import cli
from firecrestspawner.demo.hub import INTERRUPTIONS


def exit_code(argv: list[str]) -> object:
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    return exit_.value.code


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    version = importlib.metadata.version("firecrestspawner")
    assert capsys.readouterr().out == f"firecrestspawner {version}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--help"]) == 0
    assert "demo" in capsys.readouterr().out


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([]) == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--port", "http"],
        ["--executor", "pbs"],
        ["--access-token-lifetime", "0"],
        ["--access-token-lifetime", "59"],
        ["--access-token-lifetime", "long"],
        ["--session-lifetime", "nan"],
        ["--session-lifetime", "inf"],
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["demo", *wrong]) == 2
    said = capsys.readouterr().err
    assert f"{wrong[0]}: " in said
    assert wrong[1] in said
    # argparse's own words for a value that cannot be read would name a function of ours.
    assert " value: " not in said


@pytest.mark.parametrize(
    ("argv", "port"),
    [(["demo"], 8000), (["demo", "--smoke"], 0), (["demo", "--smoke", "--port", "8123"], 8123)],
)
def test_people_find_the_demo_on_port_8000_and_the_smoke_test_needs_no_fixed_one(
    argv: list[str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from firecrestspawner.demo import hub

    seen: dict[str, Any] = {}
    monkeypatch.setattr(hub, "run", lambda **options: seen.update(options) or 7)
    assert cli.main(argv) == 7
    assert (seen["port"], seen["executor"]) == (port, "local")


def without(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import firecrestspawner.demo.hub`` fail as if ``module`` were not installed."""
    real = builtins.__import__

    def fake(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "firecrestspawner.demo.hub":
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)


@pytest.mark.parametrize("module", ["authlib.jose", "uvicorn", "psutil"])
def test_a_missing_extra_is_named_with_its_remedy(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(module, monkeypatch)
    assert cli.main(["demo"]) == 1
    said = capsys.readouterr().err
    assert module in said
    assert "pip install 'firecrestspawner[demo]'" in said


def test_a_fault_of_ours_is_not_called_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    without("firecrestspawner.demo.nowhere", monkeypatch)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["demo"])


@pytest.mark.parametrize("wrong", ["port", "directory"])
def test_what_the_demo_cannot_use_is_said_in_one_sentence(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything was started, so that nothing has to be ended."""
    (tmp_path / "file").touch()
    handlers = {number: signal.getsignal(number) for number in INTERRUPTIONS}
    try:
        with socket.create_server(("127.0.0.1", 0)) as busy:
            value = {"port": str(busy.getsockname()[1]), "directory": str(tmp_path / "file" / "x")}
            assert cli.main(["demo", "--smoke", f"--{wrong}", value[wrong]]) == 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert value[wrong] in said
    assert len(said.splitlines()) == 1
