"""What becomes of a running server when JUPYTERHUB_CRYPT_KEY is not the one it was?"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper

from firecrestspawner import channel
from firecrestspawner.errors import ChannelError, LoginRequired
from firecrestspawner.models import JobState, Secret
from firecrestspawner.vault import UserVault
from tests.unit.spawner.scene import Api, Scene, job

NONCE = "a" * 32


@pytest.fixture
async def running(scene: Scene, api: Api) -> Any:
    """The spawn of a server that runs; its Hub has been restarted with another key."""
    api.submits = ["7"]
    spawner = scene.spawner()
    await spawner._submit_once(*await spawner._prepare())
    spawn = spawner.spawn
    await spawner.hear(channel.Hello(spawn.id, spawn.line.ticket_secret, NONCE, "7"), {})
    spawn.address, spawn.port = "10.1.0.1", 20001
    spawner._save()
    spawner.orm_spawner.server = orm.Server(ip="10.1.0.1", port=20001, base_url="/user/alice/")
    scene.db.commit()
    api.put(job("7", JobState.RUNNING))
    scene.old_key = scene.new_key()
    scene.restart()
    return spawn


async def test_its_server_is_alive_and_where_it_was(scene: Scene, running: Any) -> None:
    """R1, R6."""
    spawner = scene.user.spawners[""]
    assert await spawner.poll() is None
    assert await spawner.get_url() == "http://10.1.0.1:20001/user/alice/"


async def test_its_end_is_seen_all_the_same(scene: Scene, running: Any, api: Api) -> None:
    """R1."""
    spawner = scene.user.spawners[""]
    api.put(job("7", JobState.COMPLETED))
    await spawner._look(spawner.spawn)
    assert await spawner.poll() == 0


async def test_what_it_says_is_neither_believed_nor_answered_with_a_verdict(
    scene: Scene, running: Any
) -> None:
    """R7, S3: not even what is signed with an empty key."""
    spawner = scene.user.spawners[""]
    raw: dict[str, Any] = {"message": "exiting", "spawn_id": running.id}
    raw |= {"code": 0, "reason": "", "walltime": None}
    for key in (running.line.secret, Secret("")):
        with pytest.raises(ChannelError) as caught:
            await spawner.hear(channel.parse(as_body(channel.signed(raw, key)))[0], raw)
        assert caught.value.status == 503
    assert await spawner.poll() is None


def as_body(message: dict[str, Any]) -> bytes:
    return channel.canonical(message)[:-1] + f',"mac":"{message["mac"]}"}}'.encode()


async def test_a_stop_cancels_it_and_revokes_its_token(
    scene: Scene, running: Any, api: Api
) -> None:
    """R7, S10: the token is known by JupyterHub's note only."""
    [token] = scene.row.api_tokens
    other = scene.row.new_api_token(note="mine", scopes=[])
    spawner = scene.user.spawners[""]
    await spawner.stop()
    assert "cancel 7" in api.calls
    assert [orm.APIToken.find(scene.db, other)] == scene.row.api_tokens
    assert token not in scene.row.api_tokens
    assert spawner.tombstones == []


async def test_a_stop_without_a_token_does_not_wait(scene: Scene, running: Any, api: Api) -> None:
    """R7: its job hears "unknown" from now on, and ends after its patience."""
    scene.logins.error = LoginRequired("over")
    scene.config.FirecRESTSpawner.stop_patience = 600
    spawner = scene.user.spawners[""]
    await spawner.stop()
    spawner.clear_state()
    assert scene.switchboard.find(running.id) is None


async def test_the_old_key_opens_everything_again(scene: Scene, running: Any) -> None:
    """R6: what could not be opened was kept as it was."""
    spawner = scene.user.spawners[""]
    spawner._save()
    CryptKeeper.instance().keys = [*CryptKeeper.instance().keys, scene.old_key]
    scene.restart()
    after = scene.user.spawners[""].spawn
    assert after.line == running.line and not after.sealed
    assert after.api_token == running.api_token


async def test_its_user_has_to_log_in_again(scene: Scene) -> None:
    """As JupyterHub sees it, too: the stored tokens are none."""
    scene.row.encrypted_auth_state = Fernet(Fernet.generate_key()).encrypt(b"{}")
    scene.db.commit()
    state, stored = await UserVault(scene.user).load()
    assert state is None and stored == scene.row.encrypted_auth_state
