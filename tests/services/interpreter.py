"""Which Python interpreter, with JupyterLab, may any user of this machine run?

The environment that runs the tests may lie where other users cannot enter (below /root, say). So
jobs get one made from the system's own python3, once for each set of versions, and kept.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.services import install, users
from tests.services.processes import ServiceError

# Debian's: its venv module is a package of the "slurm" tier.
_SYSTEM_PYTHON = "/usr/bin/python3"
_SAME_AS_HERE = ("jupyterhub", "jupyterlab", "jupyter-server")
_COMPLETE = ".complete"


@dataclass(frozen=True)
class Interpreter:
    """A virtual environment in a directory that every user can enter and nobody but root change."""

    directory: Path

    @property
    def bin(self) -> Path:
        """Its programs: to be put first on a job's PATH."""
        return self.directory / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python3"


def interpreter(cache: Path = users.BASE / "interpreters") -> Interpreter:
    """The interpreter with the versions of the running environment, made if there is none yet.

    Needs root. Making one takes about half a minute and a package index; an existing one, some
    milliseconds. Raises ServiceError when a step fails, or when another user cannot run it.
    """
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in _SAME_AS_HERE]
    install.install(["slurm"])
    users.ensure()
    users.public_directory(cache)
    key = "-".join([_python_version(), *(one.replace("==", "-") for one in wanted)])
    directory = cache / key
    with users.exclusive(cache / ".lock"):  # of two runs at one time the second finds it made
        if not (directory / _COMPLETE).exists():
            shutil.rmtree(directory, ignore_errors=True)
            _make(directory, wanted)
            _verify(directory)
            (directory / _COMPLETE).touch()
    return Interpreter(directory)


def _make(directory: Path, packages: Sequence[str]) -> None:
    _run(_SYSTEM_PYTHON, "-m", "venv", str(directory))
    pip = (str(directory / "bin" / "python3"), "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", "--only-binary=:all:", *packages)


def _verify(directory: Path) -> None:
    program = str(directory / "bin" / "jupyterhub-singleuser")
    shown = users.run_as(users.ALICE, [program, "--version"], timeout=120).stdout.strip()
    expected = importlib.metadata.version("jupyterhub")
    if not shown.endswith(expected):
        raise ServiceError(f"{program} --version says {shown!r} to {users.ALICE}, not {expected}")


def _python_version() -> str:
    script = "import json, sys; print(json.dumps(sys.version_info[:3]))"
    return "python-" + ".".join(map(str, json.loads(_run(_SYSTEM_PYTHON, "-I", "-c", script))))


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, umask=0o022
    )
    if done.returncode:
        raise ServiceError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def main() -> int:
    """Print the interpreter's path, on standard error the seconds it took; 1 when it fails."""
    began = time.monotonic()
    try:
        print(interpreter().python)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
