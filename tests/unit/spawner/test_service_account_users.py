"""Whose servers start and stop as the service account? Those of whom load_roles says so (S5)."""

from __future__ import annotations

from typing import Any

import pytest
from jupyterhub import orm, roles
from traitlets import TraitError

from firecrestspawner.errors import LoginRequired
from firecrestspawner.service import ServiceAccount
from tests.unit.spawner.scene import Scene

ROLE = "service-account"


async def tokens_used(scene: Scene) -> list[str]:
    """What a start and a stop of alice's server are done with."""
    scene.restart()
    scene.api.submits = [str(7 + len(scene.api.jobs_by_id))]
    spawner = scene.spawner()
    await spawner._submit_once(*await spawner._prepare())
    await spawner.stop()
    used, scene.api.tokens = scene.api.tokens, []
    return used


def give_role(scene: Scene, to: Any, name: str = ROLE, **changes: Any) -> None:
    roles.create_role(scene.db, {"name": name, "scopes": [], **changes})
    roles.grant_role(scene.db, to, name)


@pytest.fixture(autouse=True)
def on(scene: Scene) -> None:
    scene.config.ServiceAccount.role = ROLE


async def test_who_holds_the_role_starts_and_stops_as_the_service_account(scene: Scene) -> None:
    """S5: no login of that user is needed, nor looked for."""
    give_role(scene, scene.row)
    scene.logins.error = LoginRequired("nobody ever logged in")
    assert await tokens_used(scene) == ["service", "service"]


async def test_who_loses_the_role_loses_the_token(scene: Scene) -> None:
    """S5."""
    give_role(scene, scene.row)
    await tokens_used(scene)
    roles.strip_role(scene.db, scene.row, ROLE)
    assert await tokens_used(scene) == ["alices", "alices"]


async def test_nobody_else_does(scene: Scene) -> None:
    """S5: neither the role of another, nor one of that name by a group, nor a group of that name,
    nor other roles, the admin's included."""
    other = orm.User(name="robot")
    group = orm.Group(name=ROLE)
    scene.db.add_all([other, group])
    give_role(scene, other)
    give_role(scene, group)
    group.users.append(scene.row)
    scene.row.admin = True
    for name in ("user", f"{ROLE}s", f"my-{ROLE}"):
        give_role(scene, scene.row, name)
    scene.db.commit()
    assert ROLE in {role.name for group in scene.row.groups for role in group.roles}
    assert await tokens_used(scene) == ["alices", "alices"]


async def test_a_role_that_the_issuer_gave_is_none(scene: Scene) -> None:
    """S5: authenticators that manage roles take them from claims."""
    give_role(scene, scene.row, managed_by_auth=True)
    assert await tokens_used(scene) == ["alices", "alices"]


async def test_where_the_authenticator_manages_roles_none_counts(scene: Scene) -> None:
    """S5: it gives those of load_roles, too."""
    give_role(scene, scene.row)
    scene.logins.manage_roles = True
    assert await tokens_used(scene) == ["alices", "alices"]


@pytest.mark.parametrize("off", ["", "another"])
async def test_without_the_setting_the_role_means_nothing(scene: Scene, off: str) -> None:
    """S5."""
    scene.config.ServiceAccount.role = off
    give_role(scene, scene.row)
    assert await tokens_used(scene) == ["alices", "alices"]


@pytest.mark.parametrize("name", ["user", "admin", "server", "token"])
def test_a_role_that_jupyterhub_gives_to_people_is_refused(name: str) -> None:
    """S5."""
    with pytest.raises(TraitError, match=f"ServiceAccount.role: '{name}'"):
        ServiceAccount(role=name)
