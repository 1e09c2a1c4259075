"""Does each system have its own settings and no other's, and is a wrong one named at start-up?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from traitlets import TraitError
from traitlets.config import Config

from firecrestspawner import settings, submission
from firecrestspawner.config import SpawnerConfig
from firecrestspawner.spawner import FirecRESTSpawner

TWO: dict[str, Any] = {
    "daint": {
        "display_name": "Daint (GPU)",
        "req_gpus": "1",
        "workdir": "/scratch/{username}",
        "port_range": (20000, 20999),
        "connect_networks": ["10.1.0.0/16"],
        "batch_script": "slurm.sh",
        "option_fields": {"runtime": {"maximum": "12:00:00"}},
    },
    "eiger": {},
}
ENVIRONMENTS = {
    "torch": {
        "display_name": "PyTorch",
        "prologue": "module load torch",
        "values": {"req_constraint": "gpu", "req_options": ["--exclusive"]},
    },
    "plain": {},
}


def on(system: str, **traits: Any) -> settings.Settings:
    return settings.on(SpawnerConfig(system="daint", **traits), system)


def test_each_system_has_its_own_and_nothing_of_the_other() -> None:
    common: dict[str, Any] = {"req_partition": "normal", "workdir": "/home/{username}"}
    daint, eiger = (on(name, systems=TWO, **common) for name in ("daint", "eiger"))
    assert daint.display_name == "Daint (GPU)"
    assert daint.requests == {"partition": "normal", "gpus": "1"}
    assert (daint.workdir, daint.port_range) == ("/scratch/{username}", (20000, 20999))
    assert [*daint.fields] == ["runtime"] and daint.fields["runtime"].maximum == "12:00:00"
    assert eiger.display_name == "eiger"
    assert eiger.requests == {"partition": "normal"}
    assert (eiger.workdir, eiger.port_range) == ("/home/{username}", (0, 0))
    assert (eiger.batch_script, list(eiger.connect_networks)) == ("", [])
    assert [*eiger.fields] == ["partition", "account", "reservation", "runtime"]


def test_what_holds_for_all_others_is_said_once() -> None:
    systems = {"daint": {"req_qos": "high"}, "*": {"req_qos": "low"}}
    assert on("daint", systems=systems).requests == {"qos": "high"}
    assert on("rigi", systems=systems).requests == {"qos": "low"}
    assert on("rigi", systems=["daint", "*"]).requests == {}


def test_a_value_of_the_systems_own_may_take_one_away() -> None:
    systems = {"daint": {"req_partition": ""}}
    assert on("daint", systems=systems, req_partition="normal").requests == {}


@pytest.mark.parametrize(
    ("systems", "default", "names"),
    [
        ([], "daint", ["daint"]),
        (["eiger", "daint"], "daint", ["daint", "eiger"]),
        (["eiger"], "", ["eiger"]),
        (["*"], "daint", ["daint", "*"]),
        ({"eiger": {}, "daint": {}}, "daint", ["daint", "eiger"]),
    ],
)
def test_the_default_system_comes_first(systems: Any, default: str, names: list[str]) -> None:
    assert settings.names(systems, default) == names


@pytest.mark.parametrize(
    ("trait", "value", "named"),
    [
        ("systems", {"daint": {"req_colour": "red"}}, "'daint' has no setting 'req_colour'"),
        ("systems", {"daint": {"firecrest_url": "x"}}, "no setting 'firecrest_url'"),
        ("systems", {"daint": {"req_gpus": 1}}, "'daint'.*req_gpus"),
        ("systems", {"daint": {"port_range": (2, 1)}}, "'daint'.*port_range"),
        ("systems", {"daint": {"connect_networks": ["10.1/99"]}}, "'daint'.*connect_networks"),
        ("systems", {"daint": {"option_fields": ["colour"]}}, "'daint'.*'colour'"),
        ("systems", {"daint": {"display_name": 1}}, "display_name"),
        ("systems", {"daint": {"address_template": "gw"}}, "'daint'.*{node}"),
        ("address_template", "http://{node}/", "{node}"),
        ("workdir", "home/{username}", "FirecRESTSpawner.workdir: 'home"),
        ("workdir", "/home/o'{username}", "quotes"),
        ("workdir", "/home/\n{username}", "no absolute path"),
        ("workdir", "/x/{user}", "{username} stands for"),
        ("workdir", "/x/{", "other braces"),
        ("systems", {"daint": {"workdir": "{username}"}}, "'daint'.*workdir"),
        ("option_fields", {"workdir": {"under": ["/x/{user}"]}}, "'under'.*{username}"),
        ("address_template", "{node}.{system}", "{node}"),
        ("systems", "daint", "systems"),
        ("option_fields", ["colour"], "'colour'"),
        ("option_fields", {"nodes": {"max": 4}}, "nodes: there is no 'max'"),
        ("option_fields", {"nodes": {"maximum": "x"}}, "nodes: 'maximum'"),
        ("environments", {"torch": {"script": "x"}}, "'torch'.*'script'"),
        ("environments", {"torch": {"prologue": 1}}, "'torch'.*'prologue'"),
        ("environments", {"torch": {"values": ["x"]}}, "'torch'.*'values'"),
        ("environments", {"torch": {"values": {"req_colour": "x"}}}, "'req_colour'"),
        ("environments", {"torch": {"values": {"req_prologue": "x"}}}, "'req_prologue'"),
        ("environments", {"torch": {"values": {"req_gpus": 1}}}, "'torch'.*req_gpus"),
        ("environments", {"py torch": {}}, "'py torch'"),
    ],
)
def test_what_does_not_exist_is_refused_by_its_name(trait: str, value: Any, named: str) -> None:
    with pytest.raises(TraitError, match=named):
        SpawnerConfig(config=Config(SpawnerConfig={trait: value}))


def test_a_default_that_no_environment_has_is_named_at_start_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SA_CLIENT_ID", "SA_CLIENT_SECRET", "SA_AUTH_TOKEN_URL"):
        monkeypatch.setenv(name, "x")
    config = Config(
        FirecRESTSpawner={
            "system": "daint",
            "environments": ENVIRONMENTS,
            "option_fields": {"environment": {"default": "tensorflow"}},
        }
    )
    app = SimpleNamespace(spawner_class=FirecRESTSpawner, internal_ssl=False, config=config)
    assert "'tensorflow'" in submission.unworkable(app)
    config.FirecRESTSpawner.option_fields = {"environment": {"default": "torch"}}
    assert submission.unworkable(app) == ""
    config.FirecRESTSpawner.systems = {"daint": {"req_colour": "red"}}
    assert "'req_colour'" in submission.unworkable(app)


@pytest.mark.parametrize(
    ("script", "sets", "named"),
    [
        ("#!/bin/sh\n{{cmd}}\n", {"req_gpus": "1"}, "one: the batch script of daint"),
        ("slurm", {"req_image": "/a.sif"}, "does not use req_image"),
        ("slurm-apptainer", {"req_image": "/a.sif"}, ""),
        ("pbs", {"req_qos": "high"}, "does not use req_qos"),
        # FirecREST's API carries it in some modes, and which one it is nobody knows yet.
        ("#!/bin/sh\n{{cmd}}\n", {"req_partition": "debug"}, ""),
        ("", {"req_image": "/a.sif"}, ""),
    ],
)
def test_what_a_batch_script_has_no_use_for_in_a_profile_is_named_at_start_up(
    monkeypatch: pytest.MonkeyPatch, script: str, sets: dict[str, str], named: str
) -> None:
    for name in ("SA_CLIENT_ID", "SA_CLIENT_SECRET", "SA_AUTH_TOKEN_URL"):
        monkeypatch.setenv(name, "x")
    fixed = {"display_name": "One", "spawner_override": sets}
    option = {"size": {"choices": {"one": {"spawner_override": sets}}}}
    for profile in (fixed, {"display_name": "One", "profile_options": option}):
        config = Config(
            FirecRESTSpawner={
                "system": "daint",
                "batch_script": script,
                "profile_list": [profile],
            }
        )
        app = SimpleNamespace(spawner_class=FirecRESTSpawner, internal_ssl=False, config=config)
        problem = submission.unworkable(app)
        assert named in problem and bool(named) is bool(problem)


def test_a_subclass_may_have_settings_of_its_own_there() -> None:
    class Sites(SpawnerConfig):
        req_licence = SpawnerConfig.req_qos.__class__(help="A licence.").tag(config=True)

    made = Sites(systems={"daint": {"req_licence": "matlab"}})
    assert settings.on(made, "daint").requests == {"licence": "matlab"}


# --- environments ---------------------------------------------------------------------------


def test_an_environment_brings_its_shell_text_and_its_values() -> None:
    here = on(
        "daint",
        environments=ENVIRONMENTS,
        option_fields=["environment", "partition"],
        req_prologue="module purge",
        req_constraint="mc",
    )
    assert here.fields["environment"].choices == {"torch": "PyTorch", "plain": "plain"}
    values = here.values({"environment": "torch", "partition": "gpu"})
    assert values == {
        "prologue": "module purge\nmodule load torch",
        "constraint": "gpu",
        "options": ["--exclusive"],
        "partition": "gpu",
    }
    assert here.values({"environment": "plain"})["prologue"] == "module purge"
    assert here.values({})["constraint"] == "mc"


def test_what_a_user_chose_wins_over_the_environment_and_that_over_defaults() -> None:
    here = on(
        "daint",
        environments=ENVIRONMENTS,
        option_fields={
            "environment": {"default": "torch"},
            "constraint": {"default": "mc"},
            "nodes": {"default": 2},
        },
        req_nodes="1",
    )
    assert here.values({})["constraint"] == "gpu"
    assert here.values({"constraint": "hbm"})["constraint"] == "hbm"
    assert (here.values({})["nodes"], here.values({"nodes": "4"})["nodes"]) == ("2", "4")


def test_without_environments_there_is_nothing_to_choose() -> None:
    assert "environment" not in on("daint", option_fields=["environment"]).fields


def test_a_system_may_offer_some_of_them() -> None:
    systems = {"daint": {"option_fields": {"environment": {"choices": ["plain"]}}}}
    here = on("daint", environments=ENVIRONMENTS, systems=systems)
    assert here.fields["environment"].choices == {"plain": "plain"}
