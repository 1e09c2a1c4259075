"""Whom does the endpoint for hints answer, and about which systems?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner.endpoints import HintsHandler
from firecrestspawner.entitlements import Desk
from firecrestspawner.errors import Error
from tests.unit.spawner.scene import Scene


async def asked(scene: Scene, system: str = "daint", **changes: Any) -> dict[str, Any]:
    """What the handler answers a request of alice's browser."""
    scene.spawner()
    handler = SimpleNamespace(
        desk=Desk(),
        request=SimpleNamespace(query_arguments={"system": [system.encode()]}),
        authenticator=scene.logins,
        in_time=lambda awaitable, seconds: awaitable,
        **{"current_user": scene.user, **changes},
    )
    answer: dict[str, Any] = await HintsHandler.answer(handler)  # type: ignore[arg-type]
    return answer


async def test_the_user_is_told_of_a_system_that_may_be_chosen(scene: Scene) -> None:
    async def status(*about: Any) -> Any:
        return {"accounts": [{"name": "proj1"}]} if about[2] == "userinfo" else []

    scene.api.status = status  # type: ignore[attr-defined]
    found = await asked(scene)
    assert [hint["value"] for hint in found["account"]] == ["proj1"]
    for system in ("eiger", "", "*", "../daint", "daint\0"):
        with pytest.raises(Error) as caught:
            await asked(scene, system)
        assert caught.value.status == 404


async def test_a_session_of_the_users_own_is_needed(scene: Scene) -> None:
    """S3, S5: not an API token, not a service."""
    for changes in ({"_token_authenticated": True}, {"current_user": SimpleNamespace(name="x")}):
        with pytest.raises(Error) as caught:
            await asked(scene, **changes)
        assert caught.value.status == 403


@pytest.mark.parametrize("age", [0.0, -1.0, float("nan")])
async def test_a_hub_that_keeps_no_hints_gives_none(scene: Scene, age: float) -> None:
    """C3: each request would be three to FirecREST."""
    scene.config.FirecRESTSpawner.hint_age = age
    with pytest.raises(Error) as caught:
        await asked(scene)
    assert caught.value.status == 404
