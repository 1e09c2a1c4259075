"""Is a system called the same wherever a user reads of it? By its ``display_name``."""

from __future__ import annotations

from typing import Any

import pytest

from firecrestspawner.client import FirecREST
from firecrestspawner.errors import OptionsError, Unwell
from firecrestspawner.isolation import SERVICE
from firecrestspawner.models import System
from firecrestspawner.settings import title
from tests.unit.spawner.scene import Scene
from tests.unit.spawner.test_stop import started

TITLE = "The big one"


@pytest.fixture(autouse=True)
def named(scene: Scene) -> None:
    scene.config.FirecRESTSpawner.systems = {"daint": {"display_name": TITLE}}


async def told(spawner: Any) -> str:
    """The pending page's sentence."""
    spawner._spawn_pending = True
    async for event in spawner.progress():
        return str(event["message"])
    return ""


async def test_on_the_pages_of_a_start_and_on_the_home_page(scene: Scene) -> None:
    scene.api.described = System("daint", unhealthy=("scheduler",))
    spawner = await started(scene)
    waiting = await told(spawner)
    assert f"in the queue of {TITLE}" in waiting
    assert f"{TITLE} has trouble with its scheduler." in waiting
    assert spawner.troubles() == [f"{TITLE} has trouble with its scheduler."]
    assert spawner.overview().system == TITLE


async def test_on_the_page_of_its_end(scene: Scene) -> None:
    spawner = await started(scene)
    spawner._watch.absent = True
    with pytest.raises(Exception, match="no longer knows") as caught:
        await spawner.start()
    assert f"The system {TITLE} no longer knows the job 7" in caught.value.jupyterhub_message  # type: ignore[attr-defined]
    end = spawner.last_end()
    assert end.system == TITLE and TITLE in end.happened
    assert spawner.ending.system == "daint", "by that name its output is read"


async def test_of_a_job_that_could_not_be_cancelled(scene: Scene) -> None:
    spawner = await started(scene)
    scene.logins.error = Unwell("Away.")
    await spawner.stop(now=True)
    spawner.clear_state()
    spawner._save()
    assert spawner.farewells()[0].startswith(f"Job 7 on {TITLE}, of your server, was stopped")


@pytest.mark.parametrize(
    ("mode", "script"), [("rest", ""), ("ssh", "#!/bin/sh\n#SBATCH -J {{job_name}}\n{{cmd}}\n")]
)
async def test_where_something_cannot_be_asked_for(scene: Scene, mode: str, script: str) -> None:
    scene.api.described = System("daint", connection_mode=mode)
    scene.config.FirecRESTSpawner.batch_script = script
    spawner = scene.spawner()
    spawner.user_options = {"runtime": "01:00:00"}
    with pytest.raises(OptionsError, match=f"Run time cannot be asked for on {TITLE}:"):
        await spawner._prepare()


async def test_when_it_is_not_asked(scene: Scene) -> None:
    """The log has its own name, which FirecREST and its admins know."""
    firecrest = FirecREST("http://127.0.0.1:1")
    firecrest.titles["daint"] = TITLE

    async def fails() -> Any:
        raise Unwell("No.", away=True)

    for beside in ("", "hints", "files"):
        guard = firecrest.guard("daint", beside=beside)
        for _ in range(10):
            with pytest.raises(Unwell) as caught:
                await guard.run(SERVICE, fails, patience=1.0)
        assert TITLE in caught.value.message and "daint" not in caught.value.message
        assert "daint" in caught.value.detail


def test_a_system_without_one_keeps_its_name() -> None:
    assert title(["daint"], "daint") == title({"daint": {}}, "daint") == "daint"
    assert title({"*": {"req_partition": "x"}}, "daint") == "daint"
