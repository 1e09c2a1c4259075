"""Does the Hub find a server again where it left it?"""

from __future__ import annotations

import pytest
from jupyterhub import orm
from jupyterhub.objects import Server

from tests.unit.spawner.scene import Scene


@pytest.mark.parametrize("address", ["10.1.0.1", "fd00::7"])
async def test_after_a_restart_the_url_is_the_one_the_hub_has(scene: Scene, address: str) -> None:
    """R6: JupyterHub compares the two and warns (app.py, init_spawners)."""
    scene.api.submits = ["7"]
    spawner = scene.spawner()
    spawn, request, token = await spawner._prepare()
    await spawner._submit_once(spawn, request, token)
    spawn.address, spawn.port = address, 20001
    spawner._save()
    spawner.orm_spawner.server = orm.Server(
        ip=address, port=20001, base_url="/user/alice/", proto="http"
    )
    scene.db.commit()
    scene.restart()
    after = scene.user.spawners[""]
    assert isinstance(after.server, Server)
    assert await after.get_url() == after.server.url
    assert after.server.url.endswith(":20001/user/alice/")


async def test_a_server_without_an_address_yet_has_the_hubs_url(scene: Scene) -> None:
    spawner = scene.spawner()
    spawner.orm_spawner.server = orm.Server(base_url="/user/alice/")
    scene.db.commit()
    assert await spawner.get_url() == spawner.server.url
