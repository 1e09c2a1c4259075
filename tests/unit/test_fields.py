"""Is a field as narrow as its site wants it, and a wrong wish refused in words?"""

from __future__ import annotations

from typing import Any

import pytest

from firecrestspawner.errors import OptionsError
from firecrestspawner.fields import FIELDS, Field, lies_under, narrowed


def field(name: str, **wishes: Any) -> Field:
    return narrowed(FIELDS[name], wishes)


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "environment"])
def test_a_fields_own_example_is_one_it_takes(name: str) -> None:
    assert FIELDS[name].read(FIELDS[name].example) == FIELDS[name].example


@pytest.mark.parametrize(
    ("name", "wishes", "taken", "refused"),
    [
        ("image", {}, ["registry.example.org#lab/jupyter:1", "docker://lab/jupyter:1"],
         ["--nv", "#x", "a b", "a;b", "$(a)"]),
        ("nodes", {"maximum": 4}, [1, "4"], [5, "100"]),
        ("nodes", {"minimum": 2, "maximum": "4"}, ["2", 4], [1, 5]),
        ("runtime", {"maximum": "12:00:00"}, ["720", "0-12"], ["721", "1-0", "12:00:01"]),
        ("runtime", {"minimum": "30"}, ["30:00", "00:30:00", "1-0"], ["29", "29:59", "00:29:59"]),
        ("memory", {"maximum": "64G"}, ["65536", "64G", "65536M"], ["65537", "65G", "1T"]),
        ("memory", {"minimum": "1M"}, ["1024K", "1"], ["1023K"]),
        ("gpus", {"maximum": 2}, ["a100:2", 2, "0"], ["a100:3", "3"]),
        ("partition", {"choices": ["a", "b"]}, ["b", "a,b"], ["c", "a,c"]),
        ("account", {"choices": {"p1": "Project one"}}, ["p1"], ["Project one", "p2"]),
        ("account", {"pattern": "proj[0-9]+"}, ["proj1"], ["xproj1", "proj"]),
        ("cpus", {"choices": [1, 2, 4]}, [4, "2"], [3]),
    ],
)  # fmt: skip
def test_what_a_site_does_not_want_is_refused_by_name(
    name: str, wishes: dict[str, Any], taken: list[Any], refused: list[Any]
) -> None:
    if "pattern" in wishes:
        wishes["example"] = "proj1"
    made = field(name, **wishes)
    assert [made.read(value) for value in taken] == [str(value) for value in taken]
    for value in refused:
        with pytest.raises(OptionsError, match=name) as caught:
            made.read(value)
        assert len(caught.value.message) < 200


def test_a_message_names_what_may_be_had() -> None:
    with pytest.raises(OptionsError, match="ask for at most 4"):
        field("nodes", maximum=4).read(5)
    with pytest.raises(OptionsError, match="choose normal, debug"):
        field("partition", choices=["normal", "debug"]).read("gpu")
    with pytest.raises(OptionsError, match=r"choose p0, p1.* \.\.\. "):
        field("account", choices=[f"p{n}" for n in range(100)]).read("q")


@pytest.mark.parametrize(
    ("name", "wishes", "named"),
    [
        ("nodes", {"max": 4}, "'max'"),
        ("nodes", {"maximum": "many"}, "maximum"),
        ("nodes", {"minimum": 5, "maximum": 4}, "maximum"),
        ("nodes", {"choices": []}, "choices"),
        ("nodes", {"choices": "1"}, "choices"),
        ("nodes", {"choices": ["one"]}, "choices"),
        ("nodes", {"default": 9, "maximum": 4}, "default"),
        ("nodes", {"under": ["/scratch"]}, "under"),
        ("nodes", {"label": 4}, "label"),
        ("account", {"maximum": 4}, "maximum"),
        ("account", {"pattern": "("}, "pattern"),
        ("account", {"pattern": "x[0-9]{5}"}, "example"),
        ("account", {"choices": ["$(id)"]}, "choices"),
        ("account", {"default": "--uid=0"}, "default"),
        ("workdir", {"under": ["scratch"]}, "under"),
        ("workdir", {"under": "/scratch"}, "under"),
        ("nodes", {"limits": {"debug": {"runtime": "30"}}}, "only partitions"),
        ("partition", {"limits": ["debug"]}, "'limits' says"),
        ("partition", {"limits": {"debug": "30"}}, "'limits' says"),
        ("partition", {"limits": {"debug": {"time": "30"}}}, "'time' is no field"),
        ("partition", {"limits": {"debug": {"qos": "lone"}}}, "'qos' is no field"),
        ("partition", {"limits": {"debug": {"runtime": "soon"}}}, "'limits' is no value"),
    ],
)
def test_a_wish_that_cannot_be_is_named(name: str, wishes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        field(name, **wishes)


def test_what_a_field_shows_as_its_example_is_one_it_takes() -> None:
    made = field(
        "runtime", minimum="1-00:00:00", maximum="2-00:00:00", label="Time", hint="How long"
    )
    assert (made.example, made.label, made.hint) == ("2-00:00:00", "Time", "How long")
    assert field("account", choices=["p1"]).example == "p1"
    assert field("account", pattern="x[0-9]", example="x1").example == "x1"


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/scratch", True),
        ("/scratch/", True),
        ("/scratch/alice/x", True),
        ("/scratch2", False),
        ("/home/alice", False),
    ],
)
def test_a_directory_lies_under_those_that_are_allowed(path: str, inside: bool) -> None:
    assert lies_under(FIELDS["workdir"].read(path), ["/scratch", "/users/"]) is inside
