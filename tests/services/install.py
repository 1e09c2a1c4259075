"""What do the test tiers need from the system, and how does it get there?

`python -m tests.services.install [tier ...]` installs what is missing with apt-get, and fetches
Keycloak and axe, which Debian has not. When nothing is missing it asks dpkg once and is done. It
never starts the installed services.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.services import axe, keycloak_distribution
from tests.services.processes import ServiceError

TIERS: dict[str, tuple[str, ...]] = {
    "slurm": ("slurm-wlm", "slurmdbd", "munge", "mariadb-server", "python3-venv"),
    "browser": ("chromium", "chromium-driver"),
    "postgresql": ("postgresql",),
    "keycloak": ("maven",),  # and a Java with it, on which Maven depends
}

_APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0")
_POLICY = Path("/usr/sbin/policy-rc.d")
_LISTS = Path("/var/lib/apt/lists")


def missing(packages: Iterable[str]) -> list[str]:
    """Those of `packages` that dpkg does not call installed, in the given order."""
    wanted = list(packages)
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,  # it fails for a name it has never heard of, and still answers for the rest
    ).stdout
    present = {name for name, _, status in _words(shown) if status == "installed"}
    return [name for name in wanted if name not in present]


def install(tiers: Iterable[str] = tuple(TIERS)) -> list[str]:
    """Install what `tiers` need and lack; returns the names of the packages that were missing.

    Raises ServiceError that says what cannot be installed, and why.
    """
    unknown = [tier for tier in tiers if tier not in TIERS]
    if unknown:
        raise ServiceError(f"no such tier: {', '.join(unknown)}; there are {', '.join(TIERS)}")
    wanted = [package for tier in tiers for package in TIERS[tier]]
    if not shutil.which("apt-get") or not shutil.which("dpkg-query"):
        raise ServiceError(f"cannot install {', '.join(wanted)}: not a Debian system, no apt-get")
    lacking = missing(wanted)
    if lacking:
        _install(lacking, wanted)
    if "keycloak" in tiers:
        keycloak_distribution.distribution()
    if "browser" in tiers:
        axe.script()
    return lacking


def _install(lacking: list[str], wanted: list[str]) -> None:
    if os.geteuid() != 0:
        raise ServiceError(
            f"cannot install {', '.join(lacking)}: this needs root; as root, run: "
            f"apt-get install {' '.join(lacking)}"
        )
    with _no_service_starts():
        _apt_install(lacking)
    if still := missing(wanted):
        raise ServiceError(f"apt-get reported success, yet not installed: {', '.join(still)}")


def _apt_install(packages: list[str]) -> None:
    # apt downloads "by-hash"-less packages that mirrors drop when a newer version appears, so old
    # lists fail at download time: a failure with old lists is worth one more try with new ones.
    fresh = not any(_LISTS.glob("*_Packages*"))
    if fresh:
        _update()
    command = ("install", "--no-install-recommends", *packages)
    try:
        _apt(*command)
    except ServiceError:
        if fresh:
            raise
        _update()
        _apt(*command)


def _update() -> None:
    _apt("update")


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        [*_APT, *arguments],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.startswith(("E:", "W:"))]
        reason = "\n".join(said) or done.stdout[-2000:]
        raise ServiceError(f"apt-get {' '.join(arguments)} failed:\n{reason}")


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Forbid package scripts to start daemons (Debian Policy 9.3.3.1), unless a site rules this."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _words(text: str) -> Iterator[tuple[str, str, str]]:
    return (line.partition(" ") for line in text.splitlines())


def main(arguments: list[str]) -> int:
    """Install the named tiers (default: all); 0, or 1 with the reason on standard error."""
    tiers = arguments or list(TIERS)
    try:
        added = install(tiers)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"installed: {', '.join(added)}" if added else f"nothing missing for {', '.join(tiers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
