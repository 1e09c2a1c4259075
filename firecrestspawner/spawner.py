"""How a server starts, how it is seen, and how it stops: FirecRESTSpawner.

Start, poll and stop are the journeys of docs/architecture.md. Jobs are started and stopped with the
user's token and looked at with the service account (S5).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from traitlets import default

from . import channel, choice, endings, links, options, resume, submission
from .cluster import Cluster, NodesUnknown, stranger
from .conversation import LOOK, ConversingSpawner
from .deadline import in_time
from .ending import Ending
from .errors import Error, FirecRESTError, JobEnded, ProviderUnavailable, StartTimedOut
from .models import JobRequest, Secret
from .progress import Stage, amount, how_it_ended
from .refusal import refuse
from .spawn import Spawn, earlier

#: So many seconds before JupyterHub would end a start it ends itself: for words, and for a log.
IN_TIME = 10.0


class FirecRESTSpawner(ConversingSpawner):
    """Runs single-user servers as jobs on clusters behind FirecREST v2."""

    # -- options -----------------------------------------------------------------------------

    @default("options_form")
    def _options_form_default(self) -> Callable[[Any], str]:
        return lambda spawner: spawner.render_form()

    @default("options_from_form")
    def _options_from_form_default(self) -> Callable[..., Any]:
        return options.from_form

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Callable[..., None]:
        # start() reads them; without a hook JupyterHub 6 warns that nobody does.
        return lambda spawner, options: None

    async def render_form(self) -> str:
        """The HTML of the spawn form, with the last choice; empty when nothing is to be chosen."""
        return await choice.page(self)

    def offers(self, system: str, field: str) -> bool:
        """Whether users may choose a value for a field on a system."""
        return field in submission.of_system(self, system).fields

    def troubles(self) -> list[str]:
        """What is known to be wrong with the systems that may be chosen, a sentence each.

        For pages: asks nobody now, but has what is old asked again.
        """
        if not self.firecrest_url:
            return []
        self._clusters.look_after(self.firecrest_url)
        return [each for name in self.known_systems() if (each := self._cluster(name).trouble)]

    # -- start -------------------------------------------------------------------------------

    async def start(self) -> str:
        """Submit the job, wait for its server, and return the URL to connect to.

        A refusal reaches the user's page as one sentence and the Hub's log as one line.
        """
        patience = max(self.start_timeout - IN_TIME, self.start_timeout * 0.8)
        until = time.monotonic() + patience
        try:
            if self.spawn is not None:
                return await self._adopt(self.spawn, until)
            # A start that was cancelled leaves its own, when the next one comes within a second.
            db, mine = self.user.db, Secret(self.api_token)
            resume.discard_tokens(db, self.user, self.name, besides=mine)
            spawn, request, token = await self._prepare()
            await self._submit_once(spawn, request, token)
            return await self._await_server(spawn, until)
        except Error as error:
            raise refuse(await endings.failed(self, error), self) from None

    def clear_state(self) -> None:
        """Called before a start, and at the end of a server, however that came."""
        endings.cleared(self)
        super().clear_state()

    def last_end(self) -> Ending | None:
        """How the last start failed, or the server ended: for its pages. Reads memory."""
        return endings.last(self)

    async def _prepare(self) -> tuple[Spawn, JobRequest, Secret]:
        """Everything that can be refused before anything is submitted."""
        here, chosen = await choice.made(self)
        system = here.system
        everywhere = {name: str(value) for name, value in self.get_env().items()}
        environment = submission.seen_from(here, everywhere)
        submission.check(self, here, environment)
        if not hasattr(self.authenticator, "token_store"):
            raise submission.misconfigured("set c.JupyterHub.authenticator_class = 'firecrest'")
        cluster = self._cluster(system)
        cluster.check()
        token = await self._token(cluster)
        user = await submission.cluster_user(self, self.authenticator.provider, token)
        described = await cluster.system()
        options.refuse_ignored(chosen, described, here.display_name)
        submission.refuse_lost(here, described)
        if unsent := options.ignored(here.defaults(chosen), described):
            cluster.warn_once(
                f"The scheduler of {system} is reached in {described.connection_mode!r} mode, "
                f"which ignores {', '.join(f'c.FirecRESTSpawner.req_{name}' for name in unsent)}"
            )
        spawn = Spawn(
            line=channel.Line.new(),
            system=system,
            user=user,
            api_token=Secret(self.api_token),
            environment=environment,
            command=[*self.cmd, *self.get_args()],
        )
        request = submission.job_request(self, here, spawn, described, chosen, self._job_name())
        return spawn, request, token

    async def _token(self, cluster: Cluster) -> Secret:
        """What starts and cancels: the user's own token, or the account's that acts for it (S5)."""
        account = cluster.monitor.account
        # With manage_roles it is the authenticator that gives roles: from claims, not load_roles.
        if not self.authenticator.manage_roles and account.acts_for(self.user.orm_user.roles):
            return await account.get()
        return (await self.authenticator.token_store.get(self.user)).access_token

    async def _submit_once(self, spawn: Spawn, request: JobRequest, token: Secret) -> None:
        """Submit, and commit the job id before anything else happens (R2, R3).

        The submit outlives the cancellation of start(): its answer says which job is ours. So does
        the job that introduces itself meanwhile, for only the script holds the ticket; then the
        start goes on without the answer.
        """
        self.spawn = spawn
        self._switchboard.plug(spawn.id, self)
        self._save()
        submit = self._submit = asyncio.ensure_future(self._send(spawn, request, token))
        # Retrieved here, too, for a start() that was cancelled is not there to do it.
        submit.add_done_callback(lambda task: task.cancelled() or task.exception())
        while not (submit.done() or spawn.job_id):
            self._news.clear()
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait([submit, news], return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
        if submit.done():
            submit.result()

    async def _send(self, spawn: Spawn, request: JobRequest, token: Secret) -> None:
        cluster = self._cluster(spawn.system)
        async with cluster.turn(spawn.user):
            states = [row.state or {} for row in self.orm_spawner.user.orm_spawners.values()]
            jobs, unsettled = earlier(states, spawn.system, besides=spawn.id)
            known, adopt = await cluster.settle(
                token, jobs, unsettled, wanted=lambda: not spawn.line.ended
            )
            if spawn.line.ended:  # stopped before its turn came
                self._withdraw(spawn)
                raise JobEnded("The start was cancelled.")
            spawn.submitted_at = time.time()
            self._save()
            try:
                job_id = await cluster.submit(token, request, known, adopt=adopt)
            except FirecRESTError as error:
                if spawn.job_id:
                    self.log.info(
                        "%s: its job has introduced itself: %s", self._log_name, error.detail
                    )
                    return
                if error.ambiguous:
                    self._lose(spawn)
                else:
                    self._withdraw(spawn)
                raise
            # Meanwhile the job may have introduced itself, or the Hub have given the start up.
            if not spawn.job_id and self.spawn is spawn:
                self._name_job(spawn, job_id)
        self.log.info("%s: job %s on %s", self._log_name, spawn.job_id or job_id, spawn.system)

    def _withdraw(self, spawn: Spawn) -> None:
        """Nothing was submitted: leave nothing behind."""
        self._bury(spawn.id)
        if self.spawn is spawn:
            self.spawn = None
            self._save()

    async def _adopt(self, spawn: Spawn, until: float) -> str:
        """Go on with a start from before the Hub's restart; nothing is submitted (R3, R6).

        Nothing and nobody needs to be reachable: what cannot be known yet is waited for.
        """
        if client := self.orm_spawner.oauth_client:
            self._oauth_scopes = list(client.allowed_scopes)
        self._revoke(self.api_token)  # the one that User.spawn has just made
        self.api_token = spawn.api_token.reveal()
        if spawn.sealed:
            raise JobEnded(
                "The Hub has lost what your job needs to start, so it was stopped. Please start "
                "the server again.",
                detail="a start under way was sealed with another JUPYTERHUB_CRYPT_KEY",
            )
        if not spawn.job_id:
            await resume.find_job(self, spawn, lambda: self._token(self._cluster(spawn.system)))
        return await self._await_server(spawn, until)

    async def _await_server(self, spawn: Spawn, until: float) -> str:
        """Wait for the job's own messages, the monitor backing them up, till ``until`` (monotonic
        seconds). Cancels nothing."""
        while (left := until - time.monotonic()) > 0:
            self._news.clear()
            self._raise_if_over(spawn)
            if spawn.reported is not None and await self._locate(spawn):
                self._raise_if_over(spawn)  # by now
                return spawn.url
            try:
                await in_time(self._news.wait(), min(left, LOOK) if spawn.reported else left)
            except asyncio.TimeoutError:
                continue
        raise StartTimedOut(
            f"The server was not ready within {amount(self.start_timeout)}, which is as "
            "long as this Hub waits."
        )

    def _raise_if_over(self, spawn: Spawn) -> None:
        if spawn.exit_code is not None:
            raise JobEnded(f"The server ended before it was ready: {spawn.exit_reason}")
        watch = self._watch
        if watch is None:
            return
        if watch.stranger:
            raise stranger(watch, spawn.system)
        if watch.ended is not None:
            raise JobEnded(how_it_ended(watch.ended))
        if watch.absent:
            system = self.title(spawn.system)
            raise JobEnded(f"The system {system} no longer knows the job {spawn.job_id}.")

    async def _locate(self, spawn: Spawn) -> bool:
        """Check the reported address (S8) and commit it; False while nobody can say."""
        if spawn.reported is None or self._watch is None:
            return False
        here = submission.of_system(self, spawn.system)
        try:
            spawn.address, spawn.port = await self._cluster(spawn.system).locate(
                self._watch,
                spawn.reported.addresses,
                spawn.reported.port,
                networks=submission.networks(here),
                ports=here.port_range,
                template=here.address_template,
            )
        except (NodesUnknown, FirecRESTError, ProviderUnavailable) as error:
            self.log.info("%s: not yet connecting: %s", self._log_name, error.detail)
            return False
        spawn.stage = Stage.LISTENING
        spawn.line.ready = True
        self._watch.starting = False
        self._save()
        return True

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
        return 1 if ended is None else ended.exit_status

    async def get_url(self) -> str:
        """Where the server is, from memory; with its path, as the Hub writes it (init_spawners)."""
        where = self.spawn.url if self.spawn else ""
        return f"{where}{self.server.base_url}" if where else self.server.url

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:
        """Events for the pending page, from cached state only; any number of tabs may read."""
        shown: dict[str, Any] | None = None
        while self._spawn_pending:
            spawn = self.spawn
            if spawn is not None:
                job = self._watch.job if self._watch else None
                cluster, now = self._cluster(spawn.system), time.time()
                event = spawn.progress.event(
                    spawn.stage, job, spawn.job_id, cluster.title, now - spawn.submitted_at,
                    now=now, trouble=cluster.trouble,
                    output=links.output(self.hub.base_url, self.name),
                )  # fmt: skip
                if event != shown:
                    shown = event
                    yield event
            await asyncio.sleep(1)

    @default("progress_ready_hook")
    def _progress_ready_hook_default(self) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
        # For a second the Hub takes a start that is being cancelled for a ready server, and would
        # send the pending page to it (JupyterHub, UserServerAPIHandler.delete).
        cancelled = {"progress": 100, "failed": True, "message": "The start was cancelled."}
        return lambda spawner, ready: ready if spawner.spawn and spawner.spawn.url else cancelled

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
        self._keep(stone)
        self._save()
        if self._submit is not None and not (self._submit.done() or spawn.job_id):
            await asyncio.wait([self._submit], timeout=self.stop_patience)
        stone.job_id, stone.submitted_at = spawn.job_id, spawn.submitted_at
        cancelled = await self._cancel(spawn)
        if not now:
            await self._await_end(spawn, cancelled)
        if spawn.sealed:
            self._forget_sealed(spawn)
        elif await self.poll() is not None:
            self._bury(spawn.id)
        else:
            self._plug_in(stone)
            self.log.warning(
                "%s: job %s on %s %s there; it ends itself at its next call",
                self._log_name, spawn.job_id or "(number unknown)", spawn.system,
                "is still" if spawn.job_id else "may be",
            )  # fmt: skip

    def _forget_sealed(self, spawn: Spawn) -> None:
        """End a spawn whose secrets are lost: no tombstone could prove anything to its job."""
        self._bury(spawn.id)
        # S10: the token itself is not known any more, but JupyterHub's note of it is.
        for token in list(self.orm_spawner.user.api_tokens):
            if token.note == f"Server at {self.server.base_url}":
                self.user.db.delete(token)
        self.user.db.commit()
        self.log.warning(
            "%s: job %s on %s cannot be told that it is not wanted; if the cancel failed, it ends "
            "itself after unknown_patience", self._log_name, spawn.job_id, spawn.system,
        )  # fmt: skip

    def _knows_job(self, spawn: Spawn) -> bool:
        """Whether the job's number is known, and is not that of somebody else's job (R10)."""
        return bool(spawn.job_id) and not (self._watch is not None and self._watch.stranger)

    async def _cancel(self, spawn: Spawn) -> bool:
        if not self._knows_job(spawn):
            return False
        try:
            cluster = self._cluster(spawn.system)
            token = await self._token(cluster)
            await cluster.firecrest.cancel(token, spawn.system, spawn.job_id)
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
        begun = spawn.line.nonce and not spawn.sealed
        if not cancelled and not (begun and self._knows_job(spawn)):
            # It has not begun, so nothing will end it: it will introduce itself, or never was; or
            # it was over already; or its number is not known, so that nothing can be seen of it.
            await self._look(spawn)
            return
        while await self.poll() is None and time.monotonic() < deadline:
            self._news.clear()
            try:
                await in_time(self._news.wait(), pause)
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
