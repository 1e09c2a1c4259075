"""What the Hub keeps of a server, and how a restarted Hub takes it up again: StoredSpawner."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from abc import abstractmethod
from types import SimpleNamespace
from typing import Any

from jupyterhub import orm
from jupyterhub.objects import Server
from jupyterhub.spawner import Spawner

from . import script, settings
from .cluster import Cluster, Clusters
from .config import SpawnerConfig
from .deadline import in_time
from .ending import Ending
from .handlers import Switchboard
from .pages import Overview, overview
from .progress import Stage
from .service import ServiceAccount
from .slices import Slices
from .spawn import TOMBSTONES, Spawn, Tombstone, farewells
from .vault import has_key, seal, unseal
from .watch import Watch

#: Seconds that a restarted Hub waits for a server's answer. Less than its init_spawners_timeout,
#: 10: a server that it still waits for then cannot be stopped, and others get no route meanwhile.
KNOCK = 5.0
#: So many rows of servers are read from the database at a time.
ROWS = 50


class RestoredServer(Server):
    """A server that ran before this Hub did.

    At its start JupyterHub knocks at each, and stops those that do not answer in time. But silence
    proves nothing (R1): a node may be busy, or a network down. ``spawner`` knows of better proof.
    """

    spawner: Spawner

    async def wait_up(self, timeout: float = 10, **kwargs: Any) -> Any:
        """The answer, or one that says nothing: of all answers the Hub reads one header.

        Raises what JupyterHub's own raises when the server is known to be over.
        """
        try:
            # A deadline of our own: JupyterHub looks at the clock between two tries, and one takes
            # 20 s where a connection stands and nothing comes (tornado's request_timeout).
            wait = min(timeout, KNOCK)
            return await in_time(super().wait_up(timeout=wait, **kwargs), wait + 1.0)
        except Exception as error:
            # Whatever it is, JupyterHub would end the server for it, or not start itself.
            if await self.spawner.poll() is not None:
                raise
            self.spawner.log.warning(
                "%s: the server at %s does not answer (%s); it is kept, for nothing says that its "
                "job has ended", self.spawner._log_name, self.url, type(error).__name__,
            )  # fmt: skip
            return SimpleNamespace(headers={})


class StoredSpawner(SpawnerConfig, Spawner):
    """The state of a spawner: its spawn, its tombstones, and what it shares with all others."""

    def __init__(self, **kwargs: Any) -> None:
        self.spawn: Spawn | None = None
        self.tombstones: list[Tombstone] = []
        #: How the server's last start failed, or the server ended; None while that is no news.
        self.ending: Ending | None = None
        self._watch: Watch | None = None
        self._news = asyncio.Event()
        self._submit: asyncio.Task[None] | None = None
        #: Whether the next start() is to go on with this spawn, instead of submitting another.
        self.adopts = False
        self._oauth_scopes: list[str] = []
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
            title=self.title(system),
        )

    def title(self, system: str) -> str:
        """What users are shown for a system."""
        return settings.title(self.systems, system)

    def known_systems(self) -> list[str]:
        """The systems that may be chosen, as far as is known without asking; the default first."""
        named = settings.names(self.systems, self.system)
        listed = self._clusters.listed(self.firecrest_url) if settings.ALL in named else []
        named.extend(name for name in listed if name not in named)
        return [name for name in named if name not in ("", settings.ALL)]

    @property
    def _offers_all(self) -> bool:
        """Whether every system that FirecREST lists may be chosen."""
        return bool(self.firecrest_url) and settings.ALL in self.systems

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
        # A Hub that dies while a failed start is still there takes that up again, and sees the end.
        # One without a key can start nothing, but it has to say so.
        if self.ending is not None and self.spawn is None and has_key():
            state["ending"] = self.ending.to_state(self.user.name, seal)
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
        if "ending" in state:
            try:
                self.ending = Ending.from_state(state["ending"], self.user.name, unseal)
            except ValueError as error:
                self.log.warning("%s: its last end is forgotten: %s", self._log_name, error)
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
        if self.spawn.address and self.orm_spawner.server is not None:
            self.server = RestoredServer(orm_server=self.orm_spawner.server)
            self.server.spawner = self

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
        """Forget the server, and revoke its token whatever has become of it (S10).

        Tombstones stay. So does a spawn that is to be adopted, once: User.spawn clears the state
        before it calls start().
        """
        super().clear_state()
        if self.adopts:
            self.adopts = False
            return
        if self.spawn is not None:
            self._revoke(self.spawn.api_token.reveal())
            if self._watch is not None:
                if self._watch.absent and not (self.spawn.line.ended or self.spawn.sealed):
                    # Its end was concluded, not seen: should it be there, it is not wanted (R7).
                    self._raise_stone(self.spawn.tombstone("The cluster did not know this job."))
                self._cluster(self.spawn.system).monitor.unwatch(self._watch)
            if self._switchboard.find(self.spawn.id) is self:
                self._switchboard.unplug(self.spawn.id)
                # A stop that was cancelled, as JupyterHub does it with that of a start that failed,
                # has left its tombstone here.
                for stone in self.tombstones:
                    if stone.line.spawn_id == self.spawn.id:
                        self._plug_in(stone)
        self.spawn = None
        self._watch = None

    def _revoke(self, token: str) -> None:
        """Delete an API token of a server, if there still is one of that value."""
        found = orm.APIToken.find(self.user.db, token) if token else None
        if found is not None and found.user is self.orm_spawner.user:
            self.user.db.delete(found)
            self.user.db.commit()

    def _save(self) -> None:
        """Commit the state now: the Hub itself does so only after start() returned (R2)."""
        self.orm_spawner.state = self.get_state()
        self.user.db.commit()

    def _name_job(self, spawn: Spawn, job_id: str) -> None:
        """The job's id is known: commit it, and watch the job."""
        spawn.job_id = job_id
        if spawn.stage is Stage.SUBMITTING:
            spawn.stage = Stage.SUBMITTED
        self._save()
        self._observe(spawn)

    def _lose(self, spawn: Spawn) -> None:
        """A submit's answer was lost just now. Its start may have been stopped meanwhile, and this
        object be a former one: what is stored of the next start is left alone.
        """
        spawn.submitted_at = time.time()
        if self.spawn is spawn:
            self._save()
            return
        for stone in self.tombstones:
            if stone.line.spawn_id == spawn.id:
                stone.submitted_at = spawn.submitted_at
        state = self.orm_spawner.state or {}
        stones = [dict(stone) for stone in state.get("tombstones") or ()]
        for stored in stones:
            if stored["spawn_id"] == spawn.id:
                stored["submitted_at"] = spawn.submitted_at
        if stones:
            self.orm_spawner.state = {**state, "tombstones": stones}
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
        states = {name: row.state or {} for name, row in rows.items()}
        return farewells(states, self.title, now=time.time())

    def overview(self) -> Overview | None:
        """What the home page says of this server; None while it has no job. Reads memory (C3)."""
        spawn, watch = self.spawn, self._watch
        if spawn is None:
            return None
        clock = self._cluster(spawn.system).monitor.clock
        return overview(
            watch.job if watch else None,
            name=self.name,
            system=self.title(spawn.system),
            job_id=spawn.job_id,
            host=next(iter(spawn.reported.addresses), "") if spawn.reported else "",
            ready=self.ready,
            stopping=bool(spawn.line.ended),
            warning=max(self.walltime_warnings, default=0),
            left=watch.time_left(clock()) if watch else None,
        )

    # -- a start that is taken up again ---------------------------------------------------------

    def run_pre_spawn_hook(self) -> Any:
        """The site's hook has run when the job was submitted: it may want what is away now."""
        return None if self.spawn is not None else super().run_pre_spawn_hook()

    async def run_auth_state_hook(self, auth_state: dict[str, Any] | None) -> None:
        """As the hook before a spawn."""
        if self.spawn is None:
            await super().run_auth_state_hook(auth_state)

    def start_polling(self) -> None:
        """Called by User.spawn once start() has returned.

        Where start() has re-used a token, User.spawn has just named the server's OAuth client
        anew, without the scopes it may ask for: no browser would be let in.
        """
        # It waits for start() by asyncio.wait_for(), which until Python 3.12 loses a cancellation
        # that comes with the result: nobody wants this server. Python 3.10 does not count them.
        if sys.version_info >= (3, 11) and (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError
        super().start_polling()
        client = self.orm_spawner.oauth_client
        if client is not None and self._oauth_scopes:
            client.allowed_scopes = self._oauth_scopes
            self._oauth_scopes = []
            self.user.db.commit()

    # -- tombstones ---------------------------------------------------------------------------

    def _raise_stone(self, stone: Tombstone) -> None:
        self._keep(stone)
        self._plug_in(stone)

    def _keep(self, stone: Tombstone) -> None:
        """The newest TOMBSTONES are kept, one of a spawn; the lines of older ones are cut."""
        others = [s for s in self.tombstones if s.line.spawn_id != stone.line.spawn_id]
        self.tombstones = [*others, stone]
        for oldest in self.tombstones[:-TOMBSTONES]:
            self._bury(oldest.line.spawn_id)

    def _plug_in(self, stone: Tombstone) -> None:
        stone.gone = self._bury
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


async def stored_states(db: Any) -> list[dict[str, Any]]:
    """The states of all servers of all users. Reads every row: not for what happens often.

    Some at a time, for each is kilobytes of JSON, and the loop is others', too (R8).
    """
    states: list[dict[str, Any]] = []
    slices = Slices()
    ids = [row_id for (row_id,) in db.query(orm.Spawner.id)]
    for at in range(0, len(ids), ROWS):
        await slices.breathe()
        some = db.query(orm.Spawner).filter(orm.Spawner.id.in_(ids[at : at + ROWS]))
        states += [row.state or {} for row in some]
    return states
