"""Is only what may be chosen accepted, and each refusal said in words?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firecrestspawner import options
from firecrestspawner.errors import OptionsError
from firecrestspawner.fields import FIELDS, narrowed
from firecrestspawner.models import System

ALL = list(FIELDS)


def parse(**chosen: object) -> dict[str, str]:
    options.choose_system(chosen, ["daint", "eiger"], "daint")
    return options.parse(chosen, FIELDS)


def test_what_may_be_chosen_is_returned_without_empty_values() -> None:
    chosen = parse(system="eiger", partition="normal,debug", runtime="1-02:00:00", nodes=2, qos="")
    assert chosen == {
        "partition": "normal,debug",
        "runtime": "1-02:00:00",
        "nodes": "2",
    }


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"system": "nowhere"}, "nowhere"),
        ({"system": ["daint"]}, "a list"),
        ({"colour": "red"}, "colour"),
        ({"colour": ""}, "colour"),
        ({"colour": None}, "colour"),
        ({"partition": ["normal"]}, "partition"),
        ({"partition": "a b"}, "partition"),
        ({"partition": "-p"}, "partition"),
        ({"account": "x\n#SBATCH --uid=0"}, "account"),
        ({"account": "$(id)"}, "account"),
        ({"runtime": "soon"}, "runtime"),
        ({"nodes": 0}, "nodes"),
        ({"nodes": True}, "nodes"),
        ({"nodes": 1.5}, "nodes"),
        ({"nodes": "\u0661"}, "nodes"),
        ({"memory": "x" * 100_000}, "memory"),
        ({"cpus": 10**5000}, "cpus"),
        ({"system": 10**5000}, "system"),
        ({"c" * 100_000: "x"}, "ccc"),
        ({"account": "proj1\u2028#SBATCH --uid=0"}, "account"),
        ({"account": "\uff50roj1"}, "account"),
        ({"environment": "x; touch y"}, "environment"),
        ({"nodes": "1\u0661"}, "nodes"),
        ({"workdir": "/me" * 1000}, "workdir"),
        ({"workdir": "scratch/me"}, "workdir"),
        ({"workdir": "/scratch/../root"}, "workdir"),
        ({"workdir": "/scratch/./me"}, "workdir"),
        ({"workdir": "/scratch/o'brien"}, "workdir"),
        ({"workdir": "/scratch/$(id)"}, "workdir"),
        ({"prologue": "rm -rf"}, "prologue"),
        ({"options": "--uid=0"}, "options"),
    ],
)
def test_what_may_not_be_chosen_is_refused_by_name(chosen: dict[str, object], named: str) -> None:
    """S2."""
    with pytest.raises(OptionsError) as caught:
        parse(**chosen)
    assert named in caught.value.message
    assert caught.value.status == 400
    assert len(caught.value.message) < 200


def test_a_field_the_site_does_not_offer_is_refused() -> None:
    with pytest.raises(OptionsError, match="qos"):
        options.parse({"qos": "high"}, {"partition": FIELDS["partition"]})


@given(st.sampled_from(ALL), st.text(max_size=60))
def test_no_accepted_text_holds_anything_a_shell_or_scheduler_would_act_on(
    name: str, value: str
) -> None:
    """S2."""
    try:
        chosen = parse(**{name: value})
    except OptionsError:
        return
    for text in chosen.values():
        assert not set(text) & set("\n\r\0 \t'\"$`\\;<>()#")
        assert not text.startswith("-")


def test_a_posted_form_becomes_options() -> None:
    form: dict[str, Any] = {"partition": [" debug "], "account": [""], "file": [b"x"]}
    assert options.from_form(form) == {"partition": "debug"}


def test_of_a_form_with_fields_for_each_system_those_of_the_chosen_one_count() -> None:
    form: dict[str, Any] = {
        "system": ["eiger"],
        "partition@daint": ["gpu"],
        "partition@eiger": ["cpu"],
        "nodes@daint": ["2"],
    }
    assert options.from_form(form) == {"system": "eiger", "partition": "cpu"}


@pytest.mark.parametrize(
    ("options_", "system"),
    [({}, "daint"), ({"system": ""}, "daint"), ({"system": "eiger"}, "eiger")],
)
def test_who_names_no_system_gets_the_default(options_: dict[str, str], system: str) -> None:
    assert options.choose_system(options_, ["daint", "eiger"], "daint") == system


def test_a_system_that_ignores_directives_refuses_what_a_user_asked_it_for() -> None:
    rest = System("daint", connection_mode="rest")
    options.refuse_ignored(["partition", "account", "reservation"], rest, "Daint")
    with pytest.raises(OptionsError, match="Run time cannot be asked for on Daint:"):
        options.refuse_ignored(["partition", "runtime"], rest, "Daint")
    options.refuse_ignored(["runtime"], System("daint"), "Daint")


def test_what_a_system_ignores_is_named() -> None:
    names = ["partition", "runtime", "options", "prologue", "output", "gres", "sites_own"]
    hybrid = System("daint", connection_mode="hybrid")
    assert options.ignored(names, hybrid) == ["runtime", "options", "gres", "sites_own"]
    assert options.ignored(names, System("daint")) == []


LIMITS = {"debug": {"runtime": "00:30:00", "nodes": 2}, "long": {"runtime": "2-0"}}


@pytest.mark.parametrize(
    ("partition", "chosen"),
    [
        ("debug", {"runtime": "30", "nodes": "2"}),
        ("debug", {"memory": "900G", "account": "proj1"}),
        ("long", {"runtime": "48:00:00", "nodes": "99"}),
        ("debug,long", {"runtime": "2-0", "nodes": "99"}),
        ("debug,other", {"runtime": "9-0"}),
        ("", {"runtime": "9-0"}),
    ],
)
def test_what_a_partition_has_may_be_asked_for(partition: str, chosen: dict[str, str]) -> None:
    fields = {**FIELDS, "partition": narrowed(FIELDS["partition"], {"limits": LIMITS})}
    options.check_limits(chosen, fields, partition)
    options.check_limits({"runtime": "9-0"}, {"runtime": FIELDS["runtime"]}, "debug")


@pytest.mark.parametrize(
    ("partition", "chosen", "words"),
    [
        ("debug", {"runtime": "31"}, r"Run time: '31' cannot .* partition debug; .* 00:30:00"),
        ("debug", {"nodes": "3"}, r"Nodes: .* at most 2 \(option 'nodes'\)"),
        ("debug,long", {"runtime": "49:00:00"}, r"debug or long; ask for at most 2-0"),
    ],
)
def test_more_than_any_of_its_partitions_has_is_refused(
    partition: str, chosen: dict[str, str], words: str
) -> None:
    """Before anything is submitted: many a Slurm would let the job wait for ever."""
    fields = {**FIELDS, "partition": narrowed(FIELDS["partition"], {"limits": LIMITS})}
    with pytest.raises(OptionsError, match=words):
        options.check_limits(chosen, fields, partition)
