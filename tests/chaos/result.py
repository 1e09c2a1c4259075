"""What is said of one schedule, wherever it was played?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Result:
    """``journal`` has a line for each event; ``virtual`` is how long it took in its own time."""

    seed: int
    violations: list[str]
    journal: list[str]
    virtual: float
