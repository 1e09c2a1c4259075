"""Does a start of a profile become the job that its site meant?"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner import choice, submission
from firecrestspawner.errors import ConfigurationError, OptionsError
from firecrestspawner.models import System
from firecrestspawner.spawner import FirecRESTSpawner
from tests.unit.spawner.scene import Api, Scene

LIST = [
    {
        "display_name": "GPU",
        "default": True,
        "spawner_override": {
            "system": "eiger",
            "environment": "torch",
            "req_gpus": "2",
            "workdir": "/scratch/{username}",
        },
    },
    {"display_name": "Small", "spawner_override": {"req_cpus": "1"}},
]


@pytest.fixture(autouse=True)
def eiger(scene: Scene, api: Api) -> None:
    api.others = [System("eiger")]
    scene.config.FirecRESTSpawner.systems = ["daint", "eiger"]
    scene.config.FirecRESTSpawner.environments = {"torch": {"prologue": "module load torch"}}
    scene.config.FirecRESTSpawner.option_fields = {"runtime": {"default": "30"}, "workdir": {}}
    scene.config.FirecRESTSpawner.profile_list = LIST


async def prepared(scene: Scene, name: str = "", **options: Any) -> Any:
    spawner = scene.spawner(name)
    spawner.user_options = options
    spawn, request, _ = await spawner._prepare()
    return spawn, request, request.script.reveal()


async def test_its_values_are_the_jobs(scene: Scene) -> None:
    spawn, request, text = await prepared(scene, profile="gpu")
    assert spawn.system == "eiger"
    assert request.working_directory == "/scratch/alice"
    assert "#SBATCH --gpus=2\n" in text and "#SBATCH --time=30\n" in text
    assert "\nmodule load torch\n" in text


async def test_the_default_one_is_for_who_asks_for_nothing(scene: Scene) -> None:
    assert (await prepared(scene))[0].system == "eiger"


async def test_another_start_of_the_same_server_keeps_nothing_of_the_last(scene: Scene) -> None:
    await prepared(scene, profile="gpu")
    spawn, request, text = await prepared(scene, profile="small")
    assert (spawn.system, request.working_directory) == ("daint", "/home/alice")
    assert "--gpus" not in text and "torch" not in text
    spawn, _, text = await prepared(scene, profile="custom", system="daint", runtime="5")
    assert "#SBATCH --time=5\n" in text and "--cpus" not in text


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_each_user_has_the_profiles_that_a_callable_gives(
    scene: Scene, asynchronous: bool
) -> None:
    def theirs(spawner: Any) -> list[dict[str, Any]]:
        return [{"display_name": f"For {spawner.user.name}"}]

    async def awaited(spawner: Any) -> list[dict[str, Any]]:
        return theirs(spawner)

    scene.config.FirecRESTSpawner.profile_list = awaited if asynchronous else theirs
    await prepared(scene, profile="for-alice")
    assert ">For alice<" in await scene.spawner().get_options_form()
    with pytest.raises(OptionsError, match="'gpu'"):
        await prepared(scene, profile="gpu")


def _broken(spawner: Any) -> Any:
    raise KeyError("groups")


async def _broken_later(spawner: Any) -> Any:
    raise KeyError("groups")


@pytest.mark.parametrize("listed", [_broken, _broken_later])
async def test_a_callable_that_breaks_is_told_to_users_in_a_sentence(
    scene: Scene, listed: Any
) -> None:
    scene.config.FirecRESTSpawner.profile_list = listed
    for wait in (prepared(scene), scene.spawner().get_options_form()):
        with pytest.raises(ConfigurationError, match="not fully configured") as caught:
            await wait
        assert caught.value.detail == "c.FirecRESTSpawner.profile_list: KeyError"


@pytest.mark.parametrize(
    "given",
    ["gpu", [{"slug": "x"}], 7, [{"display_name": "x", "spawner_override": {"workdir": "x"}}]],
)
async def test_what_a_callable_gets_wrong_is_the_admins_to_mend(scene: Scene, given: Any) -> None:
    scene.config.FirecRESTSpawner.profile_list = lambda spawner: given
    with pytest.raises(ConfigurationError) as caught:
        await prepared(scene)
    assert "profile_list" in caught.value.detail


async def test_a_callable_that_never_answers_holds_nobody_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8."""

    async def never(spawner: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(choice, "LISTING", 0.01)
    scene.config.FirecRESTSpawner.profile_list = never
    for wait in (prepared(scene), scene.spawner().get_options_form()):
        with pytest.raises(ConfigurationError) as caught:
            await asyncio.wait_for(wait, 5)
        assert "profile_list" in caught.value.detail


@pytest.mark.parametrize("asked", [{"profile": "custom"}, {"system": "daint"}, {"account": None}])
async def test_where_there_is_nothing_but_profiles_nothing_else_can_be_had(
    scene: Scene, asked: dict[str, Any]
) -> None:
    """A request to the REST API is refused what the form does not offer."""
    scene.config.FirecRESTSpawner.systems = []
    scene.config.FirecRESTSpawner.option_fields = []
    scene.config.FirecRESTSpawner.profile_list = LIST[1:]
    assert "--cpus-per-task=1" in (await prepared(scene))[2]
    with pytest.raises(OptionsError, match="'custom'"):
        await prepared(scene, **asked)


@pytest.mark.parametrize(
    ("override", "named"),
    [({"environment": "none"}, "'none'"), ({"system": "rigi"}, "'rigi'")],
)
def test_what_a_profile_refers_to_is_looked_for_at_start_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, override: dict[str, str], named: str
) -> None:
    for name in ("SA_CLIENT_ID", "SA_CLIENT_SECRET", "SA_AUTH_TOKEN_URL"):
        monkeypatch.setenv(name, "x")
    app = SimpleNamespace(spawner_class=FirecRESTSpawner, internal_ssl=False, config=scene.config)
    assert submission.unworkable(app) == ""
    scene.config.FirecRESTSpawner.profile_list = [
        {"display_name": "x", "spawner_override": override}
    ]
    assert named in submission.unworkable(app)


@pytest.mark.parametrize("named", [{"partition": "debug"}, {}])
async def test_a_partitions_limit_holds_also_where_it_is_the_usual_one(
    scene: Scene, named: dict[str, str]
) -> None:
    scene.config.FirecRESTSpawner.profile_list = []
    limits = {"debug": {"runtime": "30"}}
    scene.config.FirecRESTSpawner.option_fields = {"partition": {"limits": limits}, "runtime": {}}
    scene.config.FirecRESTSpawner.req_partition = "debug"
    await prepared(scene, runtime="30", **named)
    with pytest.raises(OptionsError, match="at most 30"):
        await prepared(scene, runtime="31", **named)
    await prepared(scene, runtime="31", partition="long")


# --- what the system of a profile has no use for ----------------------------------------------

GPUS = {
    "one": {"display_name": "One", "spawner_override": {"req_gpus": "1"}},
    "four": {"display_name": "Four", "spawner_override": {"req_gpus": "4"}},
}
CHOOSY = [
    {"display_name": "Hour", "spawner_override": {"req_runtime": "01:00:00"}},
    {
        "display_name": "Debug",
        "description": "Starts soon",
        "spawner_override": {"req_partition": "debug"},
        "profile_options": {"size": {"display_name": "GPUs", "choices": GPUS}},
    },
]
#: A site's own, which has no place for a run time or for GPUs.
OWN_SCRIPT = "#!/bin/sh\n#SBATCH --job-name={{job_name}} -p {{partition}}\n{{cmd}}\n"
IN_VAIN = [("rest", ""), ("ssh", OWN_SCRIPT)]


@pytest.fixture
def choosy(scene: Scene, api: Api, mode: str, script: str) -> Scene:
    api.described = System("daint", connection_mode=mode)
    scene.config.FirecRESTSpawner.systems = {"daint": {"display_name": "Daint (GPU)"}}
    scene.config.FirecRESTSpawner.batch_script = script
    scene.config.FirecRESTSpawner.profile_list = CHOOSY
    return scene


@pytest.mark.parametrize(("mode", "script"), IN_VAIN)
async def test_the_form_offers_of_a_profile_what_its_system_can_honour(
    choosy: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """And says why; so does the log, once."""
    await prepared(choosy, "one", profile="custom")
    for name in ("two", "three"):
        page = await choosy.spawner(name).get_options_form()
        hour = page[page.index('value="hour"') : page.index('value="debug"')]
        debug = page[page.index('value="debug"') : page.index('value="custom"')]
        assert " disabled" in hour and " checked" not in hour
        assert "It cannot be chosen: its system has no use for Run time." in hour
        assert " disabled" not in debug and " checked" in debug
        assert "Starts soon. Some of its choices are left out: its system has no use for GPUs." in (
            " ".join(debug.split())
        )
        assert "size@" not in page and "Four" not in page
    warned = [line for line in caplog.messages if "profile_list" in line]
    assert len(warned) == 2
    assert "hour: daint has no use for req_runtime" in warned[0]
    assert "debug: daint has no use for req_gpus" in warned[1]


@pytest.mark.parametrize(("mode", "script"), IN_VAIN)
async def test_a_start_that_would_lose_what_its_profile_says_is_refused(choosy: Scene) -> None:
    """Also while nobody had heard of the system, so that the form has offered it."""
    with pytest.raises(OptionsError, match=r"cannot be started on Daint \(GPU\).*: Run time\."):
        await prepared(choosy, "first", profile="hour")
    assert not choosy.api.requests
    with pytest.raises(OptionsError, match="no option called 'size'"):
        await prepared(choosy, profile="debug", size="four")
    await prepared(choosy, "other", profile="debug")
    assert (await prepared(choosy, "none"))[0].system == "daint"


@pytest.mark.parametrize(("mode", "script"), [("ssh", "")])
async def test_where_all_can_be_honoured_all_is_offered(choosy: Scene) -> None:
    await prepared(choosy, "one", profile="debug", size="four")
    page = await choosy.spawner("two").get_options_form()
    assert "size@@debug" in page and " disabled" not in page.split("<script>")[0]
    assert "has no use for" not in page


async def test_of_one_whose_system_is_chosen_with_an_option_the_start_says_it(
    scene: Scene, api: Api
) -> None:
    api.others = [System("eiger", connection_mode="rest")]
    places = {name: {"spawner_override": {"system": name}} for name in ("daint", "eiger")}
    scene.config.FirecRESTSpawner.profile_list = [
        {
            "display_name": "Hour",
            "spawner_override": {"req_runtime": "01:00:00"},
            "profile_options": {"place": {"choices": places}},
        }
    ]
    assert (await prepared(scene, "one", profile="hour", place="daint"))[0].system == "daint"
    with pytest.raises(OptionsError, match=r"cannot be started on eiger.*: Run time"):
        await prepared(scene, "two", profile="hour", place="eiger")
