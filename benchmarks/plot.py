"""Draws docs/images/polling.png from what ``python -m benchmarks.polling --json FILE`` wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

LINES = (
    ("us_each", "job monitor: one list a tick", "o-", "#1f5fa8"),
    ("plain_us", "a client and a query a server", "s--", "#b5541c"),
    ("batch_us", "batchspawner: squeue a server (the Hub's own share)", "^:", "#4b7a2b"),
)


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """CPU of the Hub for each server and tick, over the number of servers on one system."""
    rows = [row for row in rows if row["systems"] == 1]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label, style, colour in LINES:
        values = [(row["servers"], row[name]) for row in rows]
        axes.plot(*zip(*values, strict=True), style, color=colour, label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="servers on one system",
        ylabel="CPU of the Hub, µs a server and tick",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper left", frameon=False)
    figure.savefig(file, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
