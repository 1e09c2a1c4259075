"""What is asked of a system, out of a site's settings and a user's options?"""

from __future__ import annotations

import logging

import pytest

from firecrestspawner.models import System
from tests.unit.spawner.scene import Api, Scene

REST = System("daint", connection_mode="rest")


async def test_settings_that_a_system_cannot_be_told_refuse_no_start(
    scene: Scene, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """The user did not ask for them; the admin reads of it once for each system."""
    api.described = REST
    scene.config.FirecRESTSpawner.req_runtime = "04:00:00"
    scene.config.FirecRESTSpawner.req_options = ["--exclusive"]
    scene.config.FirecRESTSpawner.req_partition = "normal"
    with caplog.at_level(logging.WARNING, "firecrestspawner"):
        for name in ("", "second"):
            _, request, _ = await scene.spawner(name)._prepare()
            assert request.partition == "normal"
    [line] = caplog.messages
    assert "'rest' mode" in line and "partition" not in line
    assert "c.FirecRESTSpawner.req_runtime" in line and "c.FirecRESTSpawner.req_options" in line


async def test_what_the_user_asked_for_is_refused_there(scene: Scene, api: Api) -> None:
    api.described = REST
    spawner = scene.spawner()
    spawner.user_options = {"runtime": "01:00:00"}
    with pytest.raises(Exception, match="Run time"):
        await spawner.start()
    assert "submit" not in api.calls


async def test_the_jobs_log_goes_where_the_site_says(scene: Scene, api: Api) -> None:
    scene.config.FirecRESTSpawner.req_output = "logs/jupyter-%j.log"
    scene.config.FirecRESTSpawner.req_gres = "gpu:2"
    _, request, _ = await scene.spawner()._prepare()
    script = request.script.reveal()
    assert "#SBATCH --output=logs/jupyter-%j.log\n" in script
    assert "#SBATCH --gres=gpu:2\n" in script


async def test_where_no_directive_counts_the_apis_field_carries_it(scene: Scene, api: Api) -> None:
    api.described = REST
    scene.config.FirecRESTSpawner.req_output = "logs/jupyter-%j.log"
    _, request, _ = await scene.spawner()._prepare()
    assert request.body()["standardOutput"] == "logs/jupyter-%j.log"
