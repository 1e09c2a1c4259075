"""Is anything ever lost? Plays seeded schedules of faults against the product: ``make chaos``.

    make chaos                       1,000 schedules from a seed that the clock gives
    make chaos SEED=17 RUNS=1        one schedule again, with all that happened in it
    make chaos RUNS=0 REAL=100       with a real Hub, proxy and servers, one after another

A *plan* (plan.py) says what users do and what fails, out of a seed. It is played on the decision
core (world.py): JupyterHub's own users, pages, start-up and database (hub.py, database.py) around
the product's spawner, monitor and channel; its client on a faulty wire (wire.py); a scheduler
(cluster.py) whose jobs run the real launcher (launcher.py); all in one thread and in virtual time,
where a Hub can be killed between any two steps (clock.py). Shorter plans of their own are played on
a real site (real.py), with kill -9.

A *checker* (checker.py), which knows what users asked for, what really runs and what the Hub
believes, says what may not happen meanwhile, and what has to be so once all faults are over.

What fails has its seed, and the seed brings it back, event by event: nothing that could differ is
left to chance. Exit code 0 means that nothing was lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.chaos.plan import STORIES, plan
from tests.chaos.result import Result

#: Seeds that a process is given at a time, and lines of progress.
CHUNK = 25
EVERY = 20.0


def main(argv: Sequence[str]) -> int:
    """0 when no schedule had a violation, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="the first; by default out of the clock")
    parser.add_argument("--runs", type=int, default=1000, help="schedules in virtual time")
    parser.add_argument("--real", type=int, default=0, help="schedules on a real site")
    parser.add_argument("--story", choices=sorted(STORIES), default="", help="only such schedules")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    chosen = parser.parse_args(argv)
    seed = int(time.time()) % 10**7 * 100 if chosen.seed is None else chosen.seed
    bad = 0
    if chosen.runs == 1:
        bad += _one(seed, chosen.story)
    elif chosen.runs:
        bad += _many(seed, chosen.runs, chosen.story, max(1, chosen.jobs))
    if chosen.real:
        from tests.chaos import real

        bad += _report(real.runs(seed, chosen.real), chosen.real, "on a real site")
    print("Something was lost." if bad else "Nothing was lost.")
    return 1 if bad else 0


def _one(seed: int, story: str) -> int:
    from tests.chaos.world import run

    chosen = plan(seed, story)
    result = run(chosen)
    print("\n".join([*chosen.lines(), *result.journal]))
    return _report(iter([result]), 1, "in virtual time")


def _many(seed: int, runs: int, story: str, jobs: int) -> int:
    seeds = range(seed, seed + runs)
    chunks = [(seeds[first : first + CHUNK], story) for first in range(0, runs, CHUNK)]
    with ProcessPoolExecutor(jobs) as pool:
        results = (result for some in pool.map(_play, chunks) for result in some)
        return _report(results, runs, f"in virtual time, {jobs} at a time")


def _play(chunk: tuple[range, str]) -> list[Result]:
    from tests.chaos.world import run

    seeds, story = chunk
    results = [run(plan(seed, story)) for seed in seeds]
    for result in results:
        if not result.violations:
            result.journal.clear()  # nobody reads it
    return results


def _report(results: Iterator[Result], runs: int, where: str) -> int:
    """Say what comes of the schedules as they end; how many had violations."""
    began = said = time.monotonic()
    bad = done = 0
    virtual = 0.0
    last = None
    for result in results:
        if last is None:
            print(f"{runs} schedules {where}, from seed {result.seed}", flush=True)
        done, last = done + 1, result
        virtual += result.virtual
        if result.violations:
            bad += 1
            print(f"\nSEED={result.seed}")
            print("\n".join(result.journal[-60:]))
            print("\n".join(f"VIOLATION {each}" for each in result.violations), flush=True)
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"{done} of {runs}, the last is seed {result.seed}; {bad} bad", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{done} schedules {where}: {bad} with violations; {seconds:.0f} s,"
        f" {1000 * seconds / max(1, done):.0f} ms each for {virtual / max(1, done):.0f} s of theirs"
    )
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
