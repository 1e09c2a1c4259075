"""Which arguments, and which servers, do the endpoints for sessions and tokens take?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firecrestspawner.endpoints import lives, parse_arguments, parse_validity
from firecrestspawner.errors import Error


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("60", 60), ("0.5", 0.5), ("86400", 86400), ("86400.0", 86400)]
)
def test_a_validity_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert parse_validity(text) == seconds


@given(st.one_of(st.text(max_size=30), st.floats().map(repr), st.integers().map(str)))
def test_any_other_validity_is_a_400(text: str) -> None:
    """S3: nothing but a number from 0 to a day comes through; what does is that number."""
    try:
        seconds = parse_validity(text)
    except Error as error:
        assert error.status == 400
    else:
        assert 0 <= seconds <= 86400 and seconds == float(text)
        assert text.isascii() and text[0].isdigit()


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "nan", "inf", "1e3", "1_000", " 60", "60\n", "\u0663", "86400.1", "6."]
)
def test_what_python_would_take_for_a_number_is_a_400_too(text: str) -> None:
    with pytest.raises(Error) as caught:
        parse_validity(text)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "arguments", [{"other": [b"1"]}, {"check": [b"1", b"1"]}, {"check": []}, {"Check": [b"1"]}]
)
def test_an_argument_that_is_unknown_or_repeated_is_a_400(arguments: dict[str, Any]) -> None:
    """S3."""
    with pytest.raises(Error) as caught:
        parse_arguments(arguments, {"check"})
    assert caught.value.status == 400


def spawner(**changes: Any) -> Any:
    spawn = SimpleNamespace(line=SimpleNamespace(ended=""), exit_code=None)
    fields = {"spawn": spawn, "active": True, "pending": None} | changes
    return SimpleNamespace(**fields)


def test_a_server_lives_from_its_start_to_the_moment_somebody_ends_it() -> None:
    """S3: a stop under way is an end."""
    assert lives(spawner())
    assert lives(spawner(pending="spawn"))
    assert not lives(spawner(pending="stop"))
    assert not lives(spawner(active=False))
    assert not lives(spawner(spawn=None))
    ended = SimpleNamespace(line=SimpleNamespace(ended="The server was stopped."), exit_code=None)
    assert not lives(spawner(spawn=ended))
    left = SimpleNamespace(line=SimpleNamespace(ended=""), exit_code=0)
    assert not lives(spawner(spawn=left))
    # Another spawner class's server has no state of ours.
    assert not lives(SimpleNamespace(active=True, pending=None))
