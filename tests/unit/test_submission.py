"""Is what gets submitted right, and what cannot work refused by the name of its setting?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.spawner import Spawner
from traitlets.config import Config

from firecrestspawner import channel, settings, submission
from firecrestspawner.config import SpawnerConfig
from firecrestspawner.errors import ConfigurationError, OptionsError
from firecrestspawner.fields import FIELDS
from firecrestspawner.models import Secret, System
from firecrestspawner.spawn import Spawn
from firecrestspawner.spawner import FirecRESTSpawner

ENVIRONMENT = {"JUPYTERHUB_API_URL": "http://10.0.0.1:8081/prefix/hub/api"}


def config(**traits: Any) -> SpawnerConfig:
    return SpawnerConfig(firecrest_url="http://api", system="daint", **traits)


def spawn() -> Spawn:
    return Spawn(
        line=channel.Line.new(),
        system="daint",
        user="alice",
        api_token=Secret("hub-token"),
        environment={**ENVIRONMENT, "JUPYTERHUB_API_TOKEN": "hub-token"},
        command=["jupyterhub-singleuser"],
    )


def request(system: System, chosen: dict[str, Any], **traits: Any) -> Any:
    made = config(option_fields=list(FIELDS), **traits)
    here = settings.on(made, "daint")
    return submission.job_request(made, here, spawn(), system, chosen, "hub-1")


def test_a_script_carries_the_ticket_and_no_other_secret() -> None:
    """S1."""
    one = spawn()
    here = settings.on(config(), "daint")
    made = submission.job_request(config(), here, one, System("daint"), {}, "hub-1")
    text = made.script.reveal()
    assert "hub-token" not in text
    assert one.line.secret.reveal() not in text
    assert "#SBATCH --job-name=hub-1" in text
    assert "#SBATCH --no-requeue" in text
    assert made.body() == {"working_directory": "/home/alice", "script": text}
    assert "#!/bin" not in repr(made)


def test_what_a_user_chose_stands_in_the_directives() -> None:
    text = request(System("daint"), {"partition": "debug", "runtime": "01:00:00"}).script.reveal()
    assert "#SBATCH --partition=debug\n" in text
    assert "#SBATCH --time=01:00:00\n" in text


def test_in_rest_mode_the_apis_own_fields_carry_what_they_can() -> None:
    made = request(System("daint", connection_mode="rest"), {"partition": "p", "account": "a"})
    body = made.body()
    assert (body["name"], body["partition"], body["account"]) == ("hub-1", "p", "a")
    assert body["env"] == {"HOME": "/home/alice", "USER": "alice"}


def test_homes_may_be_sorted_by_the_first_letter() -> None:
    made = request(System("daint"), {}, workdir="/home/{username[0]}/{username}")
    assert made.body()["working_directory"] == "/home/a/alice"


def test_a_value_that_no_directive_can_carry_is_refused() -> None:
    """S2."""
    with pytest.raises(OptionsError, match="partition"):
        request(System("daint"), {"partition": "x\n#SBATCH --uid=0"})


def test_a_scheduler_without_a_script_needs_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        request(System("daint", scheduler="lsf"), {})
    assert "batch_script" in caught.value.detail
    text = request(System("daint", scheduler="lsf"), {}, batch_script="#!/bin/sh\n{{cmd}}\n")
    assert "python3" in text.script.reveal()


def test_a_script_that_ships_is_chosen_by_its_name() -> None:
    made = request(System("daint"), {"image": "/x.sif"}, batch_script="slurm-apptainer")
    assert " apptainer exec " in made.script.reveal()


@pytest.mark.parametrize("name", ["slurm-aptainer", "slurm-apptainer.sh.j2", "pbs"])
def test_a_name_that_is_no_script_for_the_system_is_refused_with_those_that_are(name: str) -> None:
    """It would otherwise be a template whose whole text is that word."""
    with pytest.raises(ConfigurationError) as caught:
        request(System("daint"), {}, batch_script=name)
    assert f"{name!r} ships for daint" in caught.value.detail
    assert "slurm, slurm-apptainer, slurm-container" in caught.value.detail


def test_what_the_batch_script_would_leave_out_is_refused_rather_than_lost() -> None:
    """What a template uses that this one extends counts, and so does what a condition asks."""
    pbs, slurm = System("daint", scheduler="pbs"), System("daint")
    with pytest.raises(OptionsError, match=r"^QoS cannot be asked for on daint: .*'qos'"):
        request(pbs, {"qos": "high"})
    with pytest.raises(OptionsError, match="'image'"):
        request(slurm, {"image": "/x.sif"})
    launch = "{% block launch %}{% if image %}x {% endif %}{{cmd}}{% endblock %}"
    own = '{% extends "slurm.sh.j2" %}' + launch
    request(slurm, {"image": "/x.sif", "qos": "high"}, batch_script=own)
    request(slurm, {"qos": "high"}, batch_script="{% extends output or 'slurm.sh.j2' %}")
    request(System("daint", connection_mode="rest"), {"constraint": "gpu"}, batch_script="{{cmd}}")


def test_pbs_has_its_own_script() -> None:
    text = request(System("daint", scheduler="pbs"), {}).script.reveal()
    assert "#PBS -N hub-1" in text
    assert "#SBATCH" not in text


@pytest.mark.parametrize(
    "api",
    [
        "http://127.0.0.1:8081/hub/api",
        "http://localhost/hub/api",
        "http://[::1]:1/hub/api",
        "http://0.0.0.0/hub/api",
    ],
)
def test_a_hub_that_jobs_cannot_reach_is_refused_unless_the_cluster_is_here(api: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        submission.check(config(), settings.on(config(), "daint"), {"JUPYTERHUB_API_URL": api})
    assert "hub_connect_url" in caught.value.detail
    here = config(connect_networks=["127.0.0.2/32"])
    submission.check(here, settings.on(here, "daint"), {"JUPYTERHUB_API_URL": api})


def test_a_translation_of_addresses_leads_into_networks_that_are_named() -> None:
    """S8."""
    made = config(address_template="{node}.gw")
    with pytest.raises(ConfigurationError) as caught:
        submission.of_system(made, "daint")
    assert "connect_networks" in caught.value.detail
    made = config(address_template="{node}.gw", connect_networks=["172.16.0.0/16"])
    assert submission.of_system(made, "daint").address_template == "{node}.gw"


@pytest.mark.parametrize(
    ("missing", "named"), [("firecrest_url", "FIRECREST_URL"), ("system", "system")]
)
def test_what_is_not_set_is_named(missing: str, named: str) -> None:
    traits = {"firecrest_url": "http://api", "system": "daint"} | {missing: ""}
    made = SpawnerConfig(**traits)
    with pytest.raises(ConfigurationError) as caught:
        submission.check(made, settings.on(made, traits["system"]), ENVIRONMENT)
    assert named in caught.value.detail


def hub(monkeypatch: pytest.MonkeyPatch, *, without: str = "", **changes: Any) -> Any:
    """The application at start-up, as far as it is looked at."""
    for name in ("SA_CLIENT_ID", "SA_CLIENT_SECRET", "SA_AUTH_TOKEN_URL"):
        monkeypatch.setenv(name, "" if name == without else "x")
    return SimpleNamespace(
        **{"spawner_class": FirecRESTSpawner, "internal_ssl": False, "config": Config(), **changes}
    )


def test_a_hub_that_has_all_it_needs_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    assert submission.unworkable(hub(monkeypatch)) == ""


@pytest.mark.parametrize("missing", ["SA_CLIENT_ID", "SA_CLIENT_SECRET", "SA_AUTH_TOKEN_URL"])
def test_a_hub_without_a_service_account_is_told_so_at_start_up(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    app = hub(monkeypatch, without=missing)
    assert missing in submission.unworkable(app)
    trait = {"SA_AUTH_TOKEN_URL": "token_url"}.get(missing, missing[3:].lower())
    app.config.ServiceAccount[trait] = "set here"
    assert submission.unworkable(app) == ""


def test_a_hub_with_internal_ssl_is_told_so_at_start_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "internal_ssl = False" in submission.unworkable(hub(monkeypatch, internal_ssl=True))


def test_other_spawners_need_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    other = hub(monkeypatch, without="SA_CLIENT_ID", internal_ssl=True, spawner_class=Spawner)
    assert submission.unworkable(other) == ""


class Claims:
    """A provider whose verified claims are given."""

    def __init__(self, **claims: Any) -> None:
        self._claims = claims

    async def claims(self, token: Secret) -> dict[str, Any]:
        return self._claims


async def test_the_cluster_user_is_the_verified_claim() -> None:
    """R10."""
    provider: Any = Claims(preferred_username="alice", name="root")
    assert await submission.cluster_user(config(), provider, Secret("t")) == "alice"


@pytest.mark.parametrize("user", [None, "", 7, ["alice"], "../root", "a b", "a\n", "x" * 80, "-rf"])
async def test_a_claim_that_is_no_user_name_is_refused(user: Any) -> None:
    """R10."""
    provider: Any = Claims(preferred_username=user)
    with pytest.raises(ConfigurationError) as caught:
        await submission.cluster_user(config(), provider, Secret("t"))
    assert "username_claim" in caught.value.detail


@pytest.mark.parametrize(
    ("chosen", "directive"),
    [
        ({"runtime": "90"}, "#PBS -l walltime=01:30:00"),
        ({"runtime": "04:30"}, "#PBS -l walltime=00:04:30"),
        ({"runtime": "1-12"}, "#PBS -l walltime=36:00:00"),
        ({"runtime": "2-00:30:05"}, "#PBS -l walltime=48:30:05"),
        ({"memory": "16000"}, "#PBS -l select=1:mem=16000mb"),
        ({"memory": "16G"}, "#PBS -l select=1:mem=16G"),
    ],
)
def test_what_a_field_means_is_what_pbs_is_told(chosen: dict[str, str], directive: str) -> None:
    """The fields mean what sbatch does by them; PBS reads seconds and bytes without a unit."""
    pbs = System("daint", scheduler="pbs")
    own = {"workdir": "/home/alice/x", "partition": "workq"}
    assert directive in request(pbs, {**chosen, **own}).script.reveal().splitlines()
    # So does what an empty field means; what a site has set of req_* is in PBS's own words.
    made = config(option_fields={name: {"default": value} for name, value in chosen.items()})
    here = settings.on(made, "daint")
    text = submission.job_request(made, here, spawn(), pbs, {}, "hub-1").script.reveal()
    assert directive in text.splitlines()


def test_what_a_site_has_set_is_in_pbs_own_words() -> None:
    text = request(System("daint", scheduler="pbs"), {}, req_runtime="5400").script.reveal()
    assert "#PBS -l walltime=5400" in text.splitlines()


def test_with_pbs_each_start_has_a_log_of_its_own() -> None:
    """An earlier start's, still there, would name its cause for this one's end."""
    pbs = System("daint", scheduler="pbs")
    here = settings.on(config(), "daint")
    logs = set()
    for one in (spawn(), spawn()):
        text = submission.job_request(config(), here, one, pbs, {}, "hub-1").script.reveal()
        assert f"#PBS -o {one.log.removeprefix('/home/alice/')}" in text.splitlines()
        logs.add(one.log)
    assert len(logs) == 2 and all(log.startswith("/home/alice/jupyter-") for log in logs)
    text = request(pbs, {}, req_output="mine.log").script.reveal()
    assert "#PBS -o mine.log" in text.splitlines()
