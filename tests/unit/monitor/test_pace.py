"""How often is looked, and does the cheaper way win? Pure."""

from __future__ import annotations

import itertools

import pytest

from firecrestspawner.models import Listing
from firecrestspawner.pace import PROBE, RETRY_MOST, ListChoice, interval, list_is_cheaper
from tests.unit.monitor.scene import job


def pauses(*, busy: bool, seconds: float) -> list[float]:
    """The pauses one after another while nothing happens."""
    quiet, found = 0.0, []
    while quiet < seconds:
        found.append(interval(2, 30, busy=busy, quiet=quiet))
        quiet += found[-1]
    return found


@pytest.mark.parametrize("busy", [True, False])
def test_looks_begin_fast_and_slow_down_step_by_step(busy: bool) -> None:
    """C1."""
    found = pauses(busy=busy, seconds=7200)
    assert found[0] == 2 and found[-1] == 30
    assert found == sorted(found)
    assert all(later <= 1.5 * sooner for sooner, later in itertools.pairwise(found))


def test_looks_are_fast_for_minutes_while_something_starts_and_not_when_nothing_does() -> None:
    assert set(pauses(busy=True, seconds=120)) == {2}
    assert sum(pause < 30 for pause in pauses(busy=False, seconds=600)) < 15


def test_the_bounds_are_kept_whichever_is_larger() -> None:
    assert interval(60, 30, busy=False, quiet=0) == 60
    assert interval(1, 300, busy=False, quiet=float("inf")) == 300


@pytest.mark.parametrize(
    ("watched", "rows", "cheaper"),
    [
        (1000, 10_000, True),  # 4.6 s against 100 s
        (50, 10_000, True),  # 4.6 s against 5 s
        (40, 10_000, False),  # 4.6 s against 4 s
        (10, 10_000, False),
        (2, 20, True),
        (1, 1000, False),
        (1_000_000, 20_001, False),  # it would not come
    ],
)
def test_a_list_is_asked_for_where_it_costs_less_than_the_queries(
    watched: int, rows: int, cheaper: bool
) -> None:
    """C1, R9."""
    assert list_is_cheaper(watched, rows) is cheaper


def test_a_filtered_list_that_somebody_floods_is_no_cheaper_for_it() -> None:
    """R9: jobs of the Hub's name are nobody's privilege, and in the list for an hour."""
    choice = ListChoice()
    choice.came(Listing([job("1")] * 10_000), 0)
    assert not choice.wanted(3, 10.0)
    assert choice.wanted(300, 10.0), "for so many a list is still the cheaper way"
    assert choice.wanted(3, PROBE)


def test_a_filtered_list_is_asked_for_at_every_look() -> None:
    """C1."""
    choice = ListChoice()
    assert choice.wanted(1, 0)
    choice.came(Listing([job("1")] * 30), 0)
    assert choice.wanted(1, 1) and choice.wanted(1000, 1)


def test_an_ignored_filter_is_noticed_and_tried_again_now_and_then() -> None:
    """C1: a server may be upgraded to one that filters."""
    choice = ListChoice()
    choice.came(Listing([job("1")], others=9_999), 0)
    assert choice.wanted(1000, 1), "for many servers the list is cheaper all the same"
    assert not choice.wanted(5, 1) and not choice.wanted(5, PROBE - 1)
    assert choice.wanted(5, PROBE)
    choice.came(Listing([job("1")]), PROBE)
    assert choice.wanted(5, PROBE + 1)


def test_a_failing_list_is_asked_for_ever_more_rarely_and_for_ever() -> None:
    """R9."""
    choice, now, asked = ListChoice(), 0.0, []
    while now < 86_400:
        if choice.wanted(1000, now):
            asked.append(now)
            choice.failed(now)
        now += 1
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert gaps[0] <= 5 and gaps == sorted(gaps) and gaps[-1] == RETRY_MOST
    choice.came(Listing([]), now)
    assert choice.wanted(1000, now + 1)
