"""``make bench``: run the benchmarks and print each with the ratio it is about."""

from __future__ import annotations

import argparse
import os
import platform

from benchmarks import launcher, polling, spawn, start_up, tokens


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each (default 7)")
    rounds = parser.parse_args().rounds
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}\n")
    launcher.run(rounds)
    print()
    spawn.run(rounds)
    print()
    tokens.run(rounds)
    print()
    polling.run(rounds)
    print()
    start_up.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
