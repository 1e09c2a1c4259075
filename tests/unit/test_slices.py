"""Does long work leave the event loop to others, and is what it reads right?"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firecrestspawner.slices import SLICE, Slices, elements, freeze

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


async def read(text: str) -> list[Any]:
    return [element async for element in elements(text, "jobs")]


@given(jobs=st.lists(VALUES), indent=st.sampled_from([None, 0, 2]))
def test_what_is_read_in_slices_is_what_json_says(jobs: list[Any], indent: int | None) -> None:
    text = json.dumps({"jobs": jobs}, indent=indent)
    assert asyncio.run(read(text)) == jobs


@given(jobs=st.lists(VALUES, min_size=1), cut=st.integers(1, 1000))
def test_an_answer_that_was_cut_off_is_an_error(jobs: list[Any], cut: int) -> None:
    """R1: it is not a shorter list, from which absence could be read."""
    text = json.dumps({"jobs": jobs})
    with pytest.raises(ValueError):
        asyncio.run(read(text[: -min(cut, len(text))]))


@pytest.mark.parametrize(
    ("text", "jobs"),
    [
        ('{"jobs": null}', []),
        ('{"more": 1, "jobs": [1, 2]}', [1, 2]),
        ('{"jobs": [1, 2], "more": 1}', [1, 2]),
    ],
)
async def test_other_shapes_of_the_same_answer_are_read(text: str, jobs: list[int]) -> None:
    assert await read(text) == jobs


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", '{"jobs": 7}', '{"jobs": {}}', '{"jobs": [1 2]}', '{"jobs": [1]']
)
async def test_what_holds_no_list_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        await read(text)


async def test_of_several_long_pieces_one_has_a_slice_at_a_time() -> None:
    """R8: the lists of ten systems stall nobody ten times as long as one."""
    pieces = 10

    async def work() -> None:
        slices = Slices()
        for _ in range(10):
            await slices.breathe()
            until = time.perf_counter() + SLICE
            while time.perf_counter() < until:
                pass

    working = [asyncio.ensure_future(work()) for _ in range(pieces)]
    rounds = 0
    while not all(piece.done() for piece in working):
        await asyncio.sleep(0)
        rounds += 1
    # One in each round: so many rounds as there are slices, at least.
    assert rounds >= pieces * 10


async def test_others_come_in_between() -> None:
    """R8: in the time of many slices, many times."""
    text = json.dumps(
        {"jobs": [{"jobId": str(number), "name": "x" * 500} for number in range(40_000)]}
    )
    reading = asyncio.ensure_future(read(text))
    loop = asyncio.get_running_loop()
    began, rounds = loop.time(), 0
    while not reading.done():
        await asyncio.sleep(0)
        rounds += 1
    assert len(reading.result()) == 40_000
    assert rounds > 3 and (loop.time() - began) > 3 * SLICE, "it was read in one go"


@pytest.fixture
def collector() -> Iterator[None]:
    """Gives the garbage collector back as it was."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector")
def test_what_is_loaded_is_not_looked_through_again_and_again() -> None:
    """R8: a full pass of the garbage collector stops everything for as long as it takes."""
    frozen = gc.get_freeze_count()
    loaded = [["never garbage"]]
    freeze()
    assert gc.get_freeze_count() > frozen
    assert not any(each is loaded for each in gc.get_objects())


@pytest.mark.usefixtures("collector")
def test_full_passes_do_not_become_frequent_by_that() -> None:
    """R8: what is frozen no longer counts as old, of which a quarter has to have come anew."""

    def passes() -> int:
        full: int = gc.get_stats()[2]["collections"]
        return full

    gc.set_threshold(10, 2, 5)
    freeze()
    gc.collect()  # the first after it: from here on little is old
    before = passes()
    kept: list[list[int]] = []
    while len(kept) < 10 * 3 * 50:
        kept.append([])
    assert passes() == before


@pytest.mark.usefixtures("collector")
def test_a_sites_own_rarer_passes_stay() -> None:
    gc.set_threshold(700, 10, 1000)
    freeze()
    assert gc.get_threshold() == (700, 10, 1000)
