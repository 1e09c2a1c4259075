"""Is anything lost in a few seeded schedules of faults with a real Hub? ``make chaos REAL=100``."""

from __future__ import annotations

from tests.chaos import real

#: Schedules, and the seconds within which they begin: a minute in all.
COUNT, SECONDS = 3, 40.0


def test_nothing_is_lost_in_a_few_schedules_with_a_real_hub() -> None:
    """R3, R6, R7: kill -9 of the Hub, answers that are lost, stops that fail."""
    results = list(real.runs(seed=1, count=COUNT, seconds=SECONDS))
    assert results
    for result in results:
        assert not result.violations, "\n".join([*result.violations, *result.journal])
