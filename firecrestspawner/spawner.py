"""How a server starts, how it is seen, and how it stops: FirecRESTSpawner.

Start, poll and stop are the journeys of docs/architecture.md. Jobs are started and stopped with the
user's token and looked at with the service account (S5).
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import InvalidToken
from jupyterhub.crypto import CryptKeeper
from jupyterhub.spawner import Spawner

from . import address, channel, options, script
from .client import JobRequest, System
from .cluster import Cluster, Clusters, NodesUnknown
from .config import SpawnerConfig
from .errors import (
    AddressRefused,
    ConfigurationError,
    Error,
    FirecRESTError,
    JobEnded,
    OptionsError,
    ProviderUnavailable,
)
from .handlers import Switchboard
from .models import Job, JobState, Secret
from .monitor import Watch
from .progress import Stage, event
from .refusal import refuse
from .spawn import TOMBSTONES, Spawn, Tombstone
from .tokens import ServiceAccount

#: Seconds between looks while something is awaited that no message announces.
LOOK = 2.0


class FirecRESTSpawner(SpawnerConfig, Spawner):
    """Runs single-user servers as jobs on clusters behind FirecREST v2."""

    def __init__(self, **kwargs: Any) -> None:
        self.spawn: Spawn | None = None
        self.tombstones: list[Tombstone] = []
        self._watch: Watch | None = None
        self._news = asyncio.Event()
        self._submit: asyncio.Task[None] | None = None
        super().__init__(**kwargs)

    # -- what is shared by all spawners of the Hub -------------------------------------------

    @property
    def _switchboard(self) -> Switchboard:
        return self.user.settings["firecrest_switchboard"]

    def _cluster(self, system: str) -> Cluster:
        settings = self.user.settings
        if "firecrest_clusters" not in settings:
            account = ServiceAccount(config=self.config)
            account.check()
            proxy = settings.get("firecrest_proxy_hosts", ())
            settings["firecrest_clusters"] = Clusters(account, proxy)
        return settings["firecrest_clusters"].get(
            self.firecrest_url,
            system,
            job_name=self._job_name(),
            slow=float(max(self.poll_interval, 5)),
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
            state.update(self.spawn.to_state(_seal))
        if self.tombstones:
            state["tombstones"] = [stone.to_state(_seal) for stone in self.tombstones]
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a server again after the Hub's restart, its api_token included (S10)."""
        super().load_state(state)
        for stored in state.get("tombstones") or ():
            try:
                stone = Tombstone.from_state(stored, _open)
            except ValueError as error:
                self.log.warning("%s: a tombstone is lost: %s", self._log_name, error)
                continue
            if stone.until > time.time():
                self._raise_stone(stone)
        if "spawn_id" not in state:
            return
        try:
            self.spawn = Spawn.from_state(state, _open)
        except ValueError as error:
            self.log.error("%s: the stored state cannot be used: %s", self._log_name, error)
            return
        self.api_token = self.spawn.api_token.reveal()
        self._switchboard.plug(self.spawn.id, self)
        if self.spawn.job_id:
            self._observe(self.spawn)

    def clear_state(self) -> None:
        """Forget the server; tombstones stay."""
        super().clear_state()
        if self.spawn is not None:
            if self._watch is not None:
                self._cluster(self.spawn.system).monitor.unwatch(self.spawn.job_id)
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
        self._watch = monitor.watch(spawn.job_id, spawn.user)
        self._watch.starting = not spawn.address
        self._watch.changed = self._news
        return self._watch

    # -- start -------------------------------------------------------------------------------

    async def start(self) -> str:
        """Submit the job, wait for its server, and return the URL to connect to.

        A refusal reaches the user's page as one sentence and the Hub's log as one line.
        """
        try:
            spawn, request, token = await self._prepare()
            await self._submit_once(spawn, request, token)
            return await self._await_server(spawn)
        except Error as error:
            raise refuse(error) from None

    async def _prepare(self) -> tuple[Spawn, JobRequest, Secret]:
        """Everything that can be refused before anything is submitted."""
        chosen = options.parse(
            self.user_options, fields=self.option_fields, systems=self.systems or [self.system]
        )
        system = chosen.pop("system", self.system)
        environment = self._environment()
        self._check_configuration(system, environment)
        tokens = await self.authenticator.token_store.get(self.user)
        user = await self._cluster_user(tokens.access_token)
        described = await self._cluster(system).system()
        defaults = self._requests()
        options.refuse_ignored({**defaults, **chosen}, described)
        spawn = Spawn(
            line=channel.Line.new(),
            system=system,
            user=user,
            api_token=Secret(self.api_token),
            environment=environment,
            command=[*self.cmd, *self.get_args()],
        )
        request = self._job_request(spawn, described, {**defaults, **chosen})
        return spawn, request, tokens.access_token

    def _check_configuration(self, system: str, environment: Mapping[str, str]) -> None:
        """Raise ConfigurationError, naming the trait, for what would only fail later."""
        missing = "" if self.firecrest_url else "firecrest_url"
        missing = missing or ("" if system else "system")
        if missing:
            raise _misconfigured(f"set c.FirecRESTSpawner.{missing}")
        if not hasattr(self.authenticator, "token_store"):
            raise _misconfigured("set c.JupyterHub.authenticator_class = 'firecrest'")
        host = urlsplit(environment["JUPYTERHUB_API_URL"]).hostname or ""
        number = address.numeric(host)
        local = host == "localhost" or (
            number is not None and (number.is_loopback or number.is_unspecified)
        )
        if local and not any(n.is_loopback for n in self._networks()):
            raise _misconfigured(
                f"jobs on {system} cannot reach the Hub at {host}: set "
                "c.FirecRESTSpawner.hub_connect_url to an address the compute nodes can reach"
            )

    async def _cluster_user(self, token: Secret) -> str:
        """The name FirecREST will take from the token (R10); verified, never the Hub's name."""
        user = (await self.authenticator.provider.claims(token)).get(self.username_claim)
        if not isinstance(user, str) or not user:
            raise ConfigurationError(
                "Your login does not say which cluster user you are. Please tell the "
                "administrators.",
                detail=f"the access token has no claim {self.username_claim!r}: set "
                "c.FirecRESTSpawner.username_claim to the claim FirecREST uses",
            )
        return user

    def _requests(self) -> dict[str, Any]:
        """The values of all ``req_*`` traits, a subclass's own included, by their short names."""
        return {
            name.removeprefix("req_"): getattr(self, name)
            for name in self.trait_names()
            if name.startswith("req_") and getattr(self, name)
        }

    def _admins_text(self) -> dict[str, script.Trusted]:
        """The three values that go into the script as they are: the deployer wrote them."""
        return {
            "options": script.Trusted(" ".join(self.req_options)),
            "prologue": script.Trusted(self.req_prologue),
            "epilogue": script.Trusted(self.req_epilogue),
        }

    def _environment(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.get_env().items()}

    def _networks(self) -> list[address.IPNetwork]:
        return address.parse_networks(self.connect_networks)

    def _job_request(self, spawn: Spawn, system: System, values: Mapping[str, Any]) -> JobRequest:
        """Render the script, and name what the API itself has fields for."""
        workdir = self.workdir.format(username=spawn.user)
        name = self._job_name()
        try:
            text = script.render(
                _template(self.batch_script, system),
                values={**values, **self._admins_text()},
                job_name=name,
                scheduler=system.scheduler,
                ticket=self._ticket(spawn),
                python=self.python,
            )
        except script.ScriptError as error:
            raise OptionsError(f"The job cannot be written: {error}") from None
        request = JobRequest(workdir, Secret(text))
        if system.honours_directives:
            return request
        return dataclasses.replace(
            request,
            name=name,
            env={"HOME": workdir, "USER": spawn.user},
            **{
                options.FIELDS[key].api: value
                for key, value in values.items()
                if key in options.FIELDS and options.FIELDS[key].api
            },
        )

    def _ticket(self, spawn: Spawn) -> str:
        api = spawn.environment["JUPYTERHUB_API_URL"].rstrip("/")
        return script.encode_ticket(
            f"{api}/firecrest/job",
            spawn.line.ticket.reveal(),
            self.launch_patience,
            self.unknown_patience,
        )

    async def _submit_once(self, spawn: Spawn, request: JobRequest, token: Secret) -> None:
        """Submit, and commit the job id before anything else happens (R2, R3).

        The submit outlives the cancellation of start(): its answer is the only thing that says
        which job is ours.
        """
        self.spawn = spawn
        self._switchboard.plug(spawn.id, self)
        self._save()
        self._submit = asyncio.ensure_future(self._send(spawn, request, token))
        await asyncio.shield(self._submit)

    async def _send(self, spawn: Spawn, request: JobRequest, token: Secret) -> None:
        cluster = self._cluster(spawn.system)
        async with cluster.submitting(spawn.user):
            known = self._known_ids(spawn)
            try:
                job_id = await cluster.firecrest.submit(token, spawn.system, request)
            except FirecRESTError as error:
                if not error.ambiguous:
                    self._withdraw(spawn)
                    raise
                job_id = await self._settle(spawn, token, known, error)
            if not spawn.job_id:  # the job may have introduced itself meanwhile
                self._name_job(spawn, job_id)
        self.log.info("%s: job %s on %s", self._log_name, spawn.job_id, spawn.system)

    def _known_ids(self, spawn: Spawn) -> set[str]:
        """Job ids that cannot be the one about to be submitted."""
        known = set(self._cluster(spawn.system).monitor.watches)
        known |= set(self._cluster(spawn.system).monitor.snapshot)
        return known | {stone.job_id for stone in self.tombstones}

    async def _settle(
        self, spawn: Spawn, token: Secret, known: set[str], error: FirecRESTError
    ) -> str:
        """After an ambiguous answer: the new job in the user's own list, or the error (R3).

        A job that is found nowhere may exist all the same; the tombstone that stop() leaves ends
        it when it starts.
        """
        self.log.warning("%s: submit: %s; looking for the job", self._log_name, error.detail)
        jobs = await self._cluster(spawn.system).firecrest.jobs(
            token, spawn.system, name=self._job_name(), all_users=False, window="1h"
        )
        new = [job for job in jobs if job.id not in known and not job.state.terminal]
        if not new:
            raise error
        return new[-1].id

    def _name_job(self, spawn: Spawn, job_id: str) -> None:
        """The job's id is known: commit it, and watch the job."""
        if spawn.job_id and self._watch is not None:
            self._cluster(spawn.system).monitor.unwatch(spawn.job_id)
        spawn.job_id = job_id
        if spawn.stage is Stage.SUBMITTING:
            spawn.stage = Stage.SUBMITTED
        self._save()
        self._observe(spawn)

    def _withdraw(self, spawn: Spawn) -> None:
        """Nothing was submitted: leave nothing behind."""
        self._switchboard.unplug(spawn.id)
        self.spawn = None
        self._save()

    async def _await_server(self, spawn: Spawn) -> str:
        """Wait for the job's own messages; the monitor backs them up. Cancels nothing."""
        while True:
            self._news.clear()
            self._raise_if_over(spawn)
            if spawn.reported is not None and await self._locate(spawn):
                return spawn.url
            try:
                await asyncio.wait_for(self._news.wait(), LOOK if spawn.reported else None)
            except asyncio.TimeoutError:
                continue

    def _raise_if_over(self, spawn: Spawn) -> None:
        if spawn.exit_code is not None:
            raise JobEnded(f"The server ended before it was ready: {spawn.exit_reason}")
        watch = self._watch
        if watch is None:
            return
        if watch.stranger:
            raise AddressRefused(
                "The number the cluster gave for your job belongs to another job, so the start was "
                "stopped. Please look for commands in your shell's start-up files (~/.bashrc) "
                "that print text or replace the scheduler's.",
                detail=f"job {watch.job_id} on {spawn.system} is not {spawn.user}'s of this Hub",
            )
        if watch.ended is not None:
            raise JobEnded(_how_it_ended(watch.ended))
        if watch.absent:
            raise JobEnded(f"The system {spawn.system} no longer knows the job {spawn.job_id}.")

    async def _locate(self, spawn: Spawn) -> bool:
        """Check the reported address (S8) and commit it; False while nobody can say."""
        if spawn.reported is None or self._watch is None:
            return False
        try:
            spawn.address, spawn.port = await self._cluster(spawn.system).locate(
                self._watch,
                spawn.reported.addresses,
                spawn.reported.port,
                networks=self._networks(),
                ports=self.port_range,
            )
        except (NodesUnknown, FirecRESTError, ProviderUnavailable) as error:
            self.log.info("%s: not yet connecting: %s", self._log_name, error.detail)
            return False
        spawn.stage = Stage.LISTENING
        spawn.line.ready = True
        self._watch.starting = False
        self._save()
        return True

    # -- the job channel ---------------------------------------------------------------------

    async def hear(self, message: channel.Message, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the job (called by the channel's handler)."""
        spawn = self.spawn
        if spawn is None or spawn.id != message.spawn_id:
            return channel.unknown(message.spawn_id)
        if isinstance(message, channel.Hello):
            return self._hear_hello(spawn, message)
        spawn.line.prove(raw)
        if isinstance(message, channel.Exiting):
            spawn.exit_code, spawn.exit_reason = message.code, message.reason
            self.log.info("%s: the server ended: %s", self._log_name, message.reason)
            self._news.set()
        elif isinstance(message, channel.Ready) and not spawn.address:
            spawn.reported = message
            self._news.set()
        if spawn.line.ended:
            spawn.told = True
            return spawn.line.farewell()
        # Until its address is accepted a server calls often: it may have to be told to end.
        return spawn.line.alive(
            channel.next_call(len(self._switchboard)) if spawn.address else int(LOOK)
        )

    def _hear_hello(self, spawn: Spawn, hello: channel.Hello) -> dict[str, Any]:
        first = spawn.line.greet(hello)
        if spawn.line.ended:
            spawn.told = True
            return spawn.line.farewell(at_hello=True)
        if first:
            spawn.stage = Stage.LAUNCHED
            # Only the script holds the ticket: its own number is better than what a submit printed.
            if hello.job_id != spawn.job_id:
                self._name_job(spawn, hello.job_id)
            else:
                self._save()
                self._cluster(spawn.system).monitor.hurry()
            self._news.set()
        return spawn.line.start(
            environment=spawn.environment,
            command=spawn.command,
            ports=list(self.port_range),
            grace=self.grace,
        )

    async def after(self, message: channel.Message) -> None:
        """Let the Hub know at once that a running server has ended."""
        if isinstance(message, channel.Exiting) and self.ready:
            await self.poll_and_notify()

    # -- poll --------------------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while the server runs or nobody knows (R1), else its exit status. Reads memory."""
        spawn = self.spawn
        if spawn is None:
            return 0
        if spawn.exit_code is not None:
            return spawn.exit_code
        if self._watch is None or not self._watch.over:
            return None
        ended = self._watch.ended
        return 1 if ended is None else _exit_status(ended)

    async def get_url(self) -> str:
        """Where the server is, from memory."""
        return (self.spawn.url if self.spawn else "") or self.server.url

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:
        """Events for the pending page, from cached state only; any number of tabs may read."""
        shown: dict[str, Any] | None = None
        while self._spawn_pending:
            spawn = self.spawn
            if spawn is not None:
                job = self._watch.job if self._watch else None
                waited = time.time() - spawn.submitted_at
                now = event(spawn.stage, job, spawn.job_id, spawn.system, waited)
                if now != shown:
                    shown = now
                    yield now
            await asyncio.sleep(1)

    # -- stop --------------------------------------------------------------------------------

    async def stop(self, now: bool = False) -> None:
        """Cancel the job with the user's token, or leave proof for it that it is not wanted (R7).

        Never raises: whatever happens the tombstone is committed first, and a job that could not
        be cancelled reads *ended* at its next call. ``now`` does not wait to see it gone.
        """
        spawn = self.spawn
        if spawn is None:
            return
        stone = spawn.tombstone("The server was stopped from the Hub.")
        self.tombstones = [*self.tombstones, stone][-TOMBSTONES:]
        self._save()
        if self._submit is not None and not self._submit.done():
            await asyncio.wait([self._submit], timeout=self.stop_patience)
        stone.job_id = spawn.job_id
        cancelled = await self._cancel(spawn)
        if not now:
            await self._await_end(spawn, cancelled)
        if await self.poll() is not None:
            self.tombstones.remove(stone)
        else:
            stone.gone = self._bury
            self._switchboard.plug(spawn.id, stone)
            self.log.warning(
                "%s: job %s on %s is still there; it ends itself at its next call",
                self._log_name, spawn.job_id or "(number unknown)", spawn.system,
            )  # fmt: skip

    async def _cancel(self, spawn: Spawn) -> bool:
        if not spawn.job_id or (self._watch is not None and self._watch.stranger):
            return False
        try:
            tokens = await self.authenticator.token_store.get(self.user)
            cluster = self._cluster(spawn.system)
            await cluster.firecrest.cancel(tokens.access_token, spawn.system, spawn.job_id)
        except Error as error:
            # Already finished and refused look alike here (FirecREST facts, 9): the state tells.
            self.log.info("%s: cancel: %s", self._log_name, error.detail)
            return False
        return True

    async def _await_end(self, spawn: Spawn, cancelled: bool) -> None:
        """Look until the job is seen to be gone, at most stop_patience seconds."""
        deadline = time.monotonic() + self.stop_patience
        if self._watch is not None:
            self._watch.starting = True
        pause = 0.5
        while await self.poll() is None and time.monotonic() < deadline:
            if not cancelled and not spawn.job_id:
                return  # nothing to look at: the job will introduce itself, or never was
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), pause)
            except asyncio.TimeoutError:
                await self._look(spawn)
                pause = min(pause * 2, 5.0)

    async def _look(self, spawn: Spawn) -> None:
        if self._watch is None:
            return
        try:
            await self._cluster(spawn.system).monitor.confirm(self._watch)
        except Error as error:
            self.log.info("%s: after the cancel: %s", self._log_name, error.detail)

    def _raise_stone(self, stone: Tombstone) -> None:
        stone.gone = self._bury
        self.tombstones.append(stone)
        self._switchboard.plug(stone.line.spawn_id, stone)

    def _bury(self, spawn_id: str) -> None:
        """A tombstone's job is gone. Works on the stored state: this object may be a former one."""
        self.tombstones = [s for s in self.tombstones if s.line.spawn_id != spawn_id]
        self._switchboard.unplug(spawn_id)
        state = dict(self.orm_spawner.state or {})
        state["tombstones"] = [
            stored for stored in state.get("tombstones") or () if stored["spawn_id"] != spawn_id
        ]
        self.orm_spawner.state = state
        self.user.db.commit()


def _template(configured: str, system: System) -> str | Path:
    """The batch script's template: a site's text or file, or the one that ships."""
    if configured.startswith("/") and "\n" not in configured:
        return Path(configured)
    if system.scheduler not in ("slurm", "pbs"):
        raise _misconfigured(
            f"{system.name} has the scheduler {system.scheduler!r}, for which no batch script "
            "ships: set c.FirecRESTSpawner.batch_script"
        )
    return configured or script.shipped_template(system.scheduler)


def _misconfigured(detail: str) -> ConfigurationError:
    return ConfigurationError(
        "The Hub is not fully configured. Please tell the administrators.", detail=detail
    )


def _how_it_ended(job: Job) -> str:
    """One sentence about a job that ended before its server was ready."""
    how = {
        JobState.COMPLETED: "ended",
        JobState.FAILED: "failed",
        JobState.CANCELLED: "was cancelled",
        JobState.TIMEOUT: "reached its time limit",
        JobState.NODE_FAIL: "lost its node",
        JobState.OUT_OF_MEMORY: "ran out of memory",
        JobState.PREEMPTED: "was preempted by another job",
    }.get(job.state, "ended")
    code = f" with exit code {job.exit_code}" if job.state is JobState.FAILED else ""
    reason = f" ({job.reason})" if job.reason else ""
    return f"Job {job.id} {how}{code}{reason} before its server was ready."


def _exit_status(job: Job) -> int:
    if job.state is JobState.COMPLETED:
        return job.exit_code or 0
    return job.exit_code or (128 + job.signal if job.signal else 1)


def _seal(data: bytes) -> str:
    keeper = CryptKeeper.instance()
    keeper.check_available()
    return keeper.fernet.encrypt(data).decode()


def _open(text: str) -> bytes:
    try:
        return CryptKeeper.instance().fernet.decrypt(text.encode())
    except InvalidToken:
        raise ValueError("it was sealed with a key the Hub does not have") from None
