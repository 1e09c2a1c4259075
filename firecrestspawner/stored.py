"""What the Hub keeps of a server, and how a restarted Hub takes it up again: StoredSpawner."""

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import abstractmethod
from typing import Any

from jupyterhub.spawner import Spawner

from . import script
from .cluster import Cluster, Clusters
from .config import SpawnerConfig
from .handlers import Switchboard
from .service import ServiceAccount
from .spawn import Spawn, Tombstone, farewells
from .vault import seal, unseal
from .watch import Watch


class StoredSpawner(SpawnerConfig, Spawner):
    """The state of a spawner: its spawn, its tombstones, and what it shares with all others."""

    def __init__(self, **kwargs: Any) -> None:
        self.spawn: Spawn | None = None
        self.tombstones: list[Tombstone] = []
        self._watch: Watch | None = None
        self._news = asyncio.Event()
        self._submit: asyncio.Task[None] | None = None
        super().__init__(**kwargs)

    # JupyterHub wants them named by each of its subclasses (Spawner.__init_subclass__).

    @abstractmethod
    async def start(self) -> str: ...

    @abstractmethod
    async def stop(self, now: bool = False) -> None: ...

    @abstractmethod
    async def poll(self) -> int | None: ...

    # -- what is shared by all spawners of the Hub -------------------------------------------

    @property
    def _switchboard(self) -> Switchboard:
        return self.user.settings["firecrest_switchboard"]

    @property
    def _clusters(self) -> Clusters:
        settings = self.user.settings
        if "firecrest_clusters" not in settings:
            settings["firecrest_clusters"] = Clusters(
                ServiceAccount(config=self.config), settings["firecrest_own_addresses"]
            )
        return settings["firecrest_clusters"]

    def _cluster(self, system: str) -> Cluster:
        return self._clusters.get(
            self.firecrest_url,
            system,
            job_name=self._job_name(),
            fast=self.fast_poll_interval,
            slow=max(float(self.poll_interval), 5.0, self.fast_poll_interval),
        )

    def _job_name(self) -> str:
        if self.job_name:
            return self.job_name
        secret = self.user.settings["cookie_secret"]
        return script.job_name(hashlib.sha256(b"firecrestspawner" + secret).hexdigest())

    # -- state -------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """What is stored in ``orm_spawner.state``; secrets are sealed."""
        state = super().get_state()
        if self.spawn is not None:
            state.update(self.spawn.to_state(seal))
        if self.tombstones:
            state["tombstones"] = [stone.to_state(seal) for stone in self.tombstones]
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a server again after the Hub's restart, its api_token included (S10)."""
        super().load_state(state)
        for stored in state.get("tombstones") or ():
            try:
                stone = Tombstone.from_state(stored, unseal)
            except ValueError as error:
                self.log.warning("%s: a tombstone is lost: %s", self._log_name, error)
                continue
            if stone.until > time.time():
                self._raise_stone(stone)
        if "spawn_id" not in state:
            return
        self.spawn = self._restored(state)
        if self.spawn is None:
            return
        for stone in self.tombstones:
            if stone.line.spawn_id == self.spawn.id:  # the Hub died in the middle of a stop
                self.spawn.line.ended = stone.line.ended
        self.api_token = self.spawn.api_token.reveal()
        self._switchboard.plug(self.spawn.id, self)
        if self.spawn.job_id:
            self._observe(self.spawn)

    def _restored(self, state: dict[str, Any]) -> Spawn | None:
        """The spawn of a stored state. Without its secrets its job still runs, and counts (R1)."""
        try:
            return Spawn.from_state(state, unseal)
        except ValueError as error:
            self.log.error("%s: the stored state cannot be used: %s", self._log_name, error)
        try:
            return Spawn.without_secrets(state)
        except ValueError:
            return None

    def clear_state(self) -> None:
        """Forget the server; tombstones stay."""
        super().clear_state()
        if self.spawn is not None:
            if self._watch is not None:
                self._cluster(self.spawn.system).monitor.unwatch(self._watch)
            if self._switchboard.find(self.spawn.id) is self:
                self._switchboard.unplug(self.spawn.id)
        self.spawn = None
        self._watch = None

    def _save(self) -> None:
        """Commit the state now: the Hub itself does so only after start() returned (R2)."""
        self.orm_spawner.state = self.get_state()
        self.user.db.commit()

    def _observe(self, spawn: Spawn) -> Watch:
        monitor = self._cluster(spawn.system).monitor
        if self._watch is not None:
            monitor.unwatch(self._watch)
        self._watch = monitor.watch(spawn.job_id, spawn.user, since=spawn.submitted_at)
        self._watch.starting = not spawn.address
        self._watch.changed = self._news
        return self._watch

    def farewells(self) -> list[str]:
        """What the user is told of jobs of all servers that were stopped and may still be there."""
        rows = self.orm_spawner.user.orm_spawners
        return farewells({name: row.state or {} for name, row in rows.items()}, now=time.time())

    # -- tombstones ---------------------------------------------------------------------------

    def _raise_stone(self, stone: Tombstone) -> None:
        stone.gone = self._bury
        self.tombstones.append(stone)
        self._switchboard.plug(stone.line.spawn_id, stone)

    def _bury(self, spawn_id: str) -> None:
        """A tombstone's job is gone. Works on the stored state: this object may be a former one."""
        self.tombstones = [s for s in self.tombstones if s.line.spawn_id != spawn_id]
        self._switchboard.unplug(spawn_id)
        state = dict(self.orm_spawner.state or {})
        stored = state.pop("tombstones", None) or ()
        left = [stone for stone in stored if stone["spawn_id"] != spawn_id]
        self.orm_spawner.state = {**state, "tombstones": left} if left else state
        self.user.db.commit()
