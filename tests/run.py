"""Which tests can this machine run, and which were left out, and why?

``python tests/run.py [tier ...]`` (default: every tier). As root on Debian it first installs what
the tiers need. There, and where CI=true, nothing may be skipped: whatever is makes the run fail.
Elsewhere the run ends with a list of what was left out.
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NO_TESTS = 5  # pytest's exit code for "nothing collected"
#: A file's tests stay together, for they share what it sets up; four sites at a time are enough for
#: any machine.
SIDE_BY_SIDE = ("--numprocesses=logical", "--maxprocesses=4", "--dist=loadfile")


@dataclass(frozen=True)
class Tier:
    """Tests that need the same things: where they are, and how they are told from others."""

    name: str
    paths: tuple[str, ...]
    marked: str
    services: bool = False  # needs what `tests.services.install <name>` installs
    alone: bool = False  # one test at a time: what it installs is there once, or it waits for pages


# From the quickest to the slowest. A test of a directory's tier that also needs a browser or a
# Slurm says so by its marker, and runs in that tier.
PLAIN = "not browser and not slurm and not keycloak and not postgresql"
TIERS = (
    Tier("unit", ("tests/unit",), PLAIN),
    Tier("contract", ("tests/contract",), PLAIN),
    Tier("chaos", ("tests/chaos",), PLAIN),
    Tier("journey", ("tests/journeys",), PLAIN),
    Tier("postgresql", ("tests",), "postgresql", services=True, alone=True),
    Tier("browser", ("tests",), "browser", services=True, alone=True),
    Tier("keycloak", ("tests",), "keycloak", services=True, alone=True),
    Tier("slurm", ("tests",), "slurm", services=True, alone=True),
)


@dataclass
class Outcome:
    """What came of a run: what failed, and what was left out with the reason."""

    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def main(argv: Sequence[str]) -> int:
    """Run the named tiers; 0 when every test passed and, where it must, none was left out."""
    names = [tier.name for tier in TIERS]
    unknown = [name for name in argv if name not in names]
    if unknown:
        print(f"no such tier: {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    outcome = Outcome()
    if not argv:
        outcome.failed += _in_no_tier()
    tiers = [tier for tier in TIERS if not argv or tier.name in argv]
    ready = [tier for tier in tiers if _is_ready(tier, outcome)]
    alone = [tier for tier in ready if tier.alone]
    for tier in ready:
        if len(alone) == 1 or not tier.alone:
            _run(tier, outcome)
    if len(alone) > 1:
        # One test at a time leaves much of a machine idle, and what they need is not the same.
        print(f"\n--- {' and '.join(tier.name for tier in alone)}, two tiers at a time ---")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda tier: _run(tier, outcome, later=True), reversed(alone)))
    return _verdict(outcome, strict=os.environ.get("CI") == "true" or _can_install())


def _is_ready(tier: Tier, outcome: Outcome) -> bool:
    """Whether the tier can be run; what it needs is installed first."""
    reason = _install(tier.name) if tier.services else None
    if reason is None and not any((ROOT / path).exists() for path in tier.paths):
        reason = f"there is no {' or '.join(tier.paths)}"
    if reason is not None:
        outcome.left_out.append(f"tier {tier.name}: {reason}")
    return reason is None


def _run(tier: Tier, outcome: Outcome, later: bool = False) -> None:
    """Run a tier; with ``later`` what it says is shown when it has ended, for others run beside."""
    paths = [path for path in tier.paths if (ROOT / path).exists()]
    with tempfile.TemporaryDirectory(prefix="firecrestspawner-") as directory:
        report = Path(directory, "report.xml")
        title = f"--- tier {tier.name} ---"
        print(
            f"{title} (its output follows when it has ended)" if later else f"\n{title}", flush=True
        )
        began = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", *paths, "-m", tier.marked),
                *(() if tier.alone else SIDE_BY_SIDE),
                f"--junitxml={report}",
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE if later else None,
            stderr=subprocess.STDOUT if later else None,
        )
        took = f"--- tier {tier.name}: {time.monotonic() - began:.0f} s ---"
        said = f"\n{title}\n{done.stdout.decode(errors='replace')}" if later else ""
        print(f"{said}{took}", flush=True)
        if done.returncode == NO_TESTS:
            outcome.left_out.append(f"tier {tier.name}: there are no tests")
        elif done.returncode:
            outcome.failed.append(f"tier {tier.name} (pytest's exit code: {done.returncode})")
        if report.exists():
            outcome.left_out += _skips(report)


def _skips(report: Path) -> list[str]:
    # The report is pytest's own, written a moment ago: no untrusted XML.
    found = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314
        for skipped in case.findall("skipped"):
            name = f"{case.get('classname')}.{case.get('name')}"
            found.append(f"{name}: {skipped.get('message')}")
    return found


def _in_no_tier() -> list[str]:
    """A test file that no tier looks at would be a test nobody runs."""
    # The tests of a directory named after its tier are marked by its conftest.py.
    homes = {ROOT / path for tier in TIERS for path in (*tier.paths, f"tests/{tier.name}")}
    homes.remove(ROOT / "tests")
    names = [tier.name for tier in TIERS if tier.services]
    strays = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if not any(path.is_relative_to(home) for home in homes)
        and not any(f"mark.{name}" in path.read_text() for name in names)
    ]
    return [f"{path.relative_to(ROOT)} belongs to no tier" for path in sorted(strays)]


def _can_install() -> bool:
    return os.geteuid() == 0 and Path("/etc/debian_version").exists()


def _install(tier: str) -> str | None:
    """Install what the tier needs; why that was impossible, if it was."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.services.install", tier],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.stderr.strip() if done.returncode else None


def _verdict(outcome: Outcome, strict: bool) -> int:
    print()
    for what in outcome.failed:
        print(f"FAILED    {what}")
    for what in outcome.left_out:
        print(f"LEFT OUT  {what}")
    if outcome.failed:
        return 1
    if outcome.left_out and strict:
        print("On this machine nothing may be left out.")
        return 1
    print("All that was run has passed." if outcome.left_out else "Everything was run, and passed.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
