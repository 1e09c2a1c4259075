"""Does a start on one of several systems use that system's settings, and no other's?"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner import choice
from firecrestspawner.errors import ConfigurationError, OptionsError, Unreachable
from firecrestspawner.models import System
from tests.unit.spawner.scene import Api, Scene

TWO = {
    "daint": {"req_partition": "gpu", "workdir": "/scratch/{username}"},
    "eiger": {"display_name": "Eiger", "option_fields": {"nodes": {"maximum": 2}}},
}


@pytest.fixture(autouse=True)
def eiger(api: Api) -> None:
    api.others = [System("eiger", scheduler="pbs")]


async def prepared(scene: Scene, name: str = "", **options: Any) -> Any:
    spawner = scene.spawner(name)
    spawner.user_options = options
    return await spawner._prepare()


async def test_two_servers_at_once_each_have_what_their_system_needs(scene: Scene) -> None:
    scene.config.FirecRESTSpawner.systems = TWO
    one, two = await asyncio.gather(
        prepared(scene, "one", system="daint"), prepared(scene, "two", system="eiger", nodes=2)
    )
    assert (one[0].system, two[0].system) == ("daint", "eiger")
    daint, eiger = one[1], two[1]
    assert "#SBATCH --partition=gpu\n" in daint.script.reveal()
    assert daint.working_directory == "/scratch/alice"
    assert "#PBS -l select=2\n" in eiger.script.reveal()
    assert "gpu" not in eiger.script.reveal().split("FIRECREST_TICKET")[0]
    assert eiger.working_directory == "/home/alice"


async def test_each_systems_nodes_find_the_hub_where_they_can_reach_it(scene: Scene) -> None:
    inside = "https://hub.inside.example.org:8443"
    scene.config.FirecRESTSpawner.systems = {**TWO, "daint": {"hub_connect_url": inside}}
    for system, url in (("daint", inside), ("eiger", "http://10.0.0.9:8081")):
        spawn, request, _ = await prepared(scene, system, system=system)
        for name, path in (("API_URL", "/api"), ("ACTIVITY_URL", "/api/users/alice/")):
            assert spawn.environment[f"JUPYTERHUB_{name}"].startswith(url + path)
        ticket = re.search(r"FIRECREST_TICKET='?([\w+/=.-]+)", request.script.reveal())
        assert ticket
        shown = json.loads(base64.urlsafe_b64decode(ticket[1]))
        assert shown["url"] == f"{url}/api/firecrest/job"
    for wrong in (
        *("http://127.0.0.1:8081", "https://hub.example.org/path", "hub.example.org", ""),
        *("https://[::1", "https://hub.example.org:port", "https://:8443", "https://me@hub"),
    ):
        scene.config.FirecRESTSpawner.systems = {"daint": {"hub_connect_url": wrong}}
        with pytest.raises(ConfigurationError) as caught:
            await prepared(scene, f"for {wrong}", system="daint")
        assert "hub_connect_url" in caught.value.detail


async def test_an_address_of_the_hub_for_all_wins_over_nothing_that_jupyterhub_has(
    scene: Scene,
) -> None:
    """What a site sets in Spawner.environment does, with JupyterHub as with us."""
    own = "https://jobs.example.org/hub/api"
    scene.config.FirecRESTSpawner.environment = {"JUPYTERHUB_API_URL": own}
    inside = "https://[2001:db8::7]:8443"
    for number, (system, url) in enumerate(
        (
            ({}, own),
            ({"hub_connect_url": None}, own),
            ({"hub_connect_url": inside}, f"{inside}/hub/api"),
        )
    ):
        scene.config.FirecRESTSpawner.systems = {"daint": system}
        spawn, _, _ = await prepared(scene, str(number), system="daint")
        assert spawn.environment["JUPYTERHUB_API_URL"] == url


async def test_what_one_system_offers_another_need_not(scene: Scene) -> None:
    scene.config.FirecRESTSpawner.systems = TWO
    with pytest.raises(OptionsError, match="'nodes'"):
        await prepared(scene, system="daint", nodes=2)
    with pytest.raises(OptionsError, match="at most 2"):
        await prepared(scene, system="eiger", nodes=3)
    with pytest.raises(OptionsError, match="'account'"):
        await prepared(scene, system="eiger", account="a")


async def test_the_users_directory_is_below_what_the_site_allows(scene: Scene) -> None:
    scene.config.FirecRESTSpawner.option_fields = ["workdir"]
    _, request, _ = await prepared(scene, workdir="/home/alice/project")
    assert request.working_directory == "/home/alice/project"
    with pytest.raises(OptionsError, match="workdir"):
        await prepared(scene, workdir="/home/bob")
    under = {"workdir": {"under": ["/scratch/{username}", "/store"], "default": "/store/x"}}
    scene.config.FirecRESTSpawner.option_fields = under
    for wanted, got in (("/scratch/alice/x", "/scratch/alice/x"), ("", "/store/x")):
        _, request, _ = await prepared(scene, "named", workdir=wanted)
        assert request.working_directory == got
    with pytest.raises(OptionsError, match="/scratch/alice or /store"):
        await prepared(scene, "named", workdir="/home/alice")


async def test_the_users_virtual_environment_is_where_the_site_allows_them(scene: Scene) -> None:
    scene.config.FirecRESTSpawner.option_fields = ["venv", "modules"]
    _, request, _ = await prepared(scene, venv="/anywhere/venv", modules="cuda/12.4,python")
    text = request.script.reveal()
    assert ". /anywhere/venv/bin/activate" in text
    assert "module load cuda/12.4 || exit\nmodule load python || exit\n" in text
    scene.config.FirecRESTSpawner.option_fields = {"venv": {"under": ["/home/{username}"]}}
    await prepared(scene, "named", venv="/home/alice/venv")
    with pytest.raises(OptionsError, match="/home/alice "):
        await prepared(scene, "named", venv="/home/bob/venv")


# --- every system that FirecREST lists ------------------------------------------------------


async def test_all_that_are_listed_may_be_chosen_and_no_other(scene: Scene, api: Api) -> None:
    scene.config.FirecRESTSpawner.systems = ["*"]
    spawn, _, _ = await prepared(scene, system="eiger")
    assert spawn.system == "eiger"
    for name in ("nowhere", "*", ""):
        spawner = scene.spawner("named")
        spawner.user_options = {"system": name}
        if name:
            with pytest.raises(OptionsError, match="no system called"):
                await spawner._prepare()
        else:
            assert (await spawner._prepare())[0].system == "daint"
    known = {system for _, system in spawner._clusters._clusters}
    assert known == {"daint", "eiger"}, "what a user makes up gets no monitor"
    assert api.calls.count("systems") == 1


async def test_a_list_that_cannot_be_had_is_not_taken_for_an_empty_one(
    scene: Scene, api: Api
) -> None:
    scene.config.FirecRESTSpawner.systems = ["*"]
    api.systems_error = Unreachable("The cluster's API is away.")
    with pytest.raises(Unreachable):
        await prepared(scene, system="eiger")


async def test_the_form_shows_them_and_waits_for_no_list_it_has_seen(
    scene: Scene, api: Api
) -> None:
    """C3."""
    scene.config.FirecRESTSpawner.systems = ["*"]
    spawner = scene.spawner()
    for _ in range(3):
        page = await spawner.get_options_form()
        assert 'value="daint" selected' in page and 'value="eiger"' in page
    assert api.calls.count("systems") == 1


async def test_the_form_is_there_although_firecrest_does_not_answer(
    scene: Scene, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8."""
    monkeypatch.setattr(choice, "GLANCE", 0.05)
    scene.config.FirecRESTSpawner.systems = ["*"]
    never = asyncio.Event()

    async def systems(token: Any) -> dict[str, System]:
        await never.wait()
        return {}

    api.systems = systems  # type: ignore[method-assign]
    page = await asyncio.wait_for(scene.spawner().get_options_form(), 5)
    assert 'name="partition"' in page
    assert "eiger" not in page


async def test_a_field_that_the_batch_script_does_not_use_is_not_offered(
    scene: Scene, api: Api
) -> None:
    """A start that asked for it would be refused."""
    own = "#!/bin/bash\n#SBATCH --time={{runtime}}\n{{cmd}}\n"
    scene.config.FirecRESTSpawner.systems = {"daint": {"batch_script": own}, "eiger": {}}
    scene.config.FirecRESTSpawner.option_fields = ["runtime", "gpus", "qos", "workdir", "uenv"]
    unknown = await scene.spawner().get_options_form()
    assert 'name="gpus"' in unknown, "nobody knows yet how FirecREST reaches the system"
    await prepared(scene, "one")
    page = await scene.spawner("two").get_options_form()
    offered = set(re.findall(r'name="(\w+@\w+)"', page))
    assert offered == {
        *("runtime@daint", "workdir@daint", "runtime@eiger", "gpus@eiger", "workdir@eiger"),
    }, "eiger has PBS"


async def test_a_batch_script_that_is_broken_does_not_break_the_form(scene: Scene) -> None:
    scene.config.FirecRESTSpawner.option_fields = ["gpus"]
    await prepared(scene, "one")
    for name, broken in {
        "missing": "/nowhere/script.sh.j2", "garbage": "{% nonsense %}\n", "none": "slurm-nonsense",
    }.items():  # fmt: skip
        scene.config.FirecRESTSpawner.batch_script = broken
        assert 'name="gpus"' in await scene.spawner(name).get_options_form()


async def test_trouble_is_shown_beside_the_system(scene: Scene, api: Api) -> None:
    """R9."""
    scene.config.FirecRESTSpawner.systems = TWO
    api.others = [System("eiger", unhealthy=("scheduler",))]
    await prepared(scene)
    page = await scene.spawner("named").get_options_form()
    assert ">Eiger (has trouble)<" in page
    assert "Eiger has trouble with its scheduler." in page


@pytest.mark.parametrize(
    ("viewer", "age", "asks"),
    [("alice", 60, True), ("admin", 60, False), (None, 60, False), ("alice", 0, False)],
)
async def test_only_the_users_own_browser_is_told_what_the_user_may_use(
    scene: Scene, viewer: str | None, age: float, asks: bool
) -> None:
    scene.config.FirecRESTSpawner.hint_age = age
    spawner = scene.spawner()
    spawner.handler = SimpleNamespace(current_user=viewer and SimpleNamespace(name=viewer))
    page = await spawner.get_options_form()
    assert ("data-firecrest-hints-from=" in page) is asks
    assert "api/firecrest/hints" in page or not asks
