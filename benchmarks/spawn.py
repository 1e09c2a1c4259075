"""What does the Hub itself add to a start, and how many FirecREST requests does it make?

The demo's site, one start after the other. The Hub's share is what is neither FirecREST, nor the
queue, nor Jupyter: from the click until the submit arrives, the answer to ``hello``, and from
``ready`` until the Hub says the server is ready.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from firecrestspawner.demo import smoke
from firecrestspawner.demo.hub import Demo
from firecrestspawner.demo.visitor import Visitor

USER = "alice"
_LINE = re.compile(
    r"\[I (\S+ \S+) JupyterHub log:\d+\] 200 POST /hub/api/firecrest/job .* ([0-9.]+)ms"
)


@dataclass
class Start:
    """One start, in seconds."""

    total: float
    before: float
    hello: float
    after: float
    requests: Counter[str]

    @property
    def share(self) -> float:
        return self.before + self.hello + self.after


def run(rounds: int) -> None:
    """Print the medians of ``rounds`` starts."""
    starts = []
    with Demo() as demo, Visitor(demo.url) as visitor:
        smoke.log_in(visitor, USER, demo.users[0].password)
        for _ in range(rounds + 1):
            starts.append(one(demo, visitor))
    first, starts = starts[0], starts[1:]
    share = statistics.median(start.share for start in starts)
    total = statistics.median(start.total for start in starts)
    print("a start through the Hub (click until ready)")
    print(f"  in all                       {total * 1000:7.0f} ms")
    print(f"  the Hub's share              {share * 1000:7.0f} ms = {share / total:.1%} of it")
    for name in ("before", "hello", "after"):
        part = statistics.median(getattr(start, name) for start in starts)
        print(f"    {name:<26} {part * 1000:7.0f} ms")
    print("  (goal: at most 300 ms beyond queue and Jupyter)")
    print("FirecREST requests of one start, lists shared by all servers apart")
    busiest = max(starts, key=lambda start: sum(start.requests.values()))
    print(f"  {dict(busiest.requests)}")
    print(f"  the first one, which fetches the site's lists: {dict(first.requests)}")


def one(demo: Demo, visitor: Visitor) -> Start:
    seen = len(demo.firecrest.requests)
    log = demo.hub_log.stat().st_size
    began = time.time()
    smoke.start(visitor, USER)
    ended = time.time()
    records = [r for r in list(demo.firecrest.requests)[seen:] if r.operation != "list"]
    submitted = next(r.at for r in records if r.operation == "submit")
    (_, hello), (ready, taken) = channel_calls(demo, log)[:2]
    smoke.stop(visitor, USER)
    smoke.look_for_leftovers(demo, USER)
    return Start(
        total=ended - began,
        before=submitted - began,
        hello=hello,
        after=ended - (ready - taken),
        requests=Counter(r.operation for r in records if r.at <= ended),
    )


def channel_calls(demo: Demo, offset: int) -> list[tuple[float, float]]:
    """When each job-channel call was answered, and how long that took, from the Hub's log."""
    text = demo.hub_log.read_text()[offset:]
    return [
        (datetime.fromisoformat(match[1]).timestamp(), float(match[2]) / 1000)
        for match in _LINE.finditer(text)
    ]
