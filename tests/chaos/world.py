"""What happens in one schedule on the decision core, and what does the checker see of it?

The real product code runs in a Hub of JupyterHub's own parts (hub.py), speaks the real client over
a faulty wire (wire.py) to a scheduler (cluster.py) whose jobs run the real launcher (launcher.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import logging
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from firecrestspawner import client, service, slices
from firecrestspawner.channel import TIME_IS_UP
from firecrestspawner.spawner import FirecRESTSpawner
from tests.chaos import hub as hubs
from tests.chaos import wire
from tests.chaos.checker import Belief, Checker, Snapshot, TrueJob
from tests.chaos.clock import WorldLoop, bound
from tests.chaos.cluster import Job, Scheduler
from tests.chaos.database import accepted, database
from tests.chaos.launcher import Launcher, on_stage
from tests.chaos.plan import Crash, Plan, Press, Window
from tests.chaos.result import Result

#: Seconds after the last fault within which belief is truth again: the launcher's patience with a
#: Hub at its start is 900, an `alive` comes every 600 at the latest, an absence takes 120.
RECOVERY = 2400.0
#: Seconds for a start, and for the end of everything, without faults.
START = 300.0
END = 900.0
LOOK = 15.0
#: Seconds for which a user looks at a start that leads to nothing.
PATIENCE = 600.0
#: Seconds that an answer may be on its way: FirecREST's, and then the Hub's.
CROSSING = 12.0
#: Seconds from SIGTERM to SIGKILL.
SHUTDOWN = 30.0
HTML = b"<html><body>Please log in</body></html>"


class World:
    """One schedule under way."""

    job_name = "hub-1"

    def __init__(self, loop: WorldLoop, plan: Plan) -> None:
        self.loop, self.plan = loop, plan
        self.rng = random.Random(f"world {plan.seed}")
        self.checker = Checker()
        self.events: list[tuple[float, str, tuple[Any, ...]]] = []
        self.database = database()
        self.database.reset()
        self.scheduler = Scheduler(loop, self.rng, self._run, self.note)
        self.scheduler.calm = plan.peaceful
        self.scheduler.short_limits = plan.short_limits
        self.wire = wire.Wire(self, plan, self.scheduler)
        self.proxy = hubs.Proxy()
        self.logins = hubs.Logins(self)
        self.spawner_class = hubs.observed(self)
        self.hub: hubs.Hub | None = None
        self.calm = False
        self._down = 0.0
        self._gone: list[hubs.Hub] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- what all of it uses -----------------------------------------------------------------

    def note(self, who: str, *what: Any) -> None:
        self.events.append((self.loop.time(), who, what))

    def outside(self, act: Callable[..., Any], *args: Any) -> Any:
        """Do something that no process of the Hub takes with it when it is killed."""
        return self._outside.copy().run(act, *args)

    def task(self, coroutine: Any) -> None:
        task = self.outside(self.loop.create_task, coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def faults(self, place: str) -> Iterator[Window]:
        """The windows of a place that are open now."""
        now = self.loop.time()
        for window in self.plan.windows:
            if window.place == place and window.begin <= now < window.end:
                yield window

    def fault(self, place: str, kind: str, where: str) -> Window | None:
        for window in self.faults(place):
            if window.kind == kind and (where == "*" or window.where in ("*", where)):
                return window
        return None

    # -- the course of events ----------------------------------------------------------------

    async def play(self) -> None:
        """The schedule, the recovery, and a quiet end."""
        self._outside = contextvars.copy_context()
        self._start_hub()
        for press in self.plan.presses:
            self.loop.call_at(press.at, self.task_of, self._press, press)
        for crash in self.plan.crashes:
            self.loop.call_at(crash.at, self._crash, crash)
        await asyncio.sleep(self.plan.length)
        self.note("world", "the faults are over")
        self.calm = True
        if self.hub is not None:
            self.hub.fuse = None
        self.scheduler.settle_down()
        self.loop.call_later(PATIENCE, self.task_of, self._give_up_deceived)
        await self._until(lambda: self._snapshot().differences(), RECOVERY, "belief is not truth")
        await self._start_again()
        await self._end_all()

    def task_of(self, act: Callable[..., Any], *args: Any) -> None:
        self.task(act(*args))

    async def _until(self, differences: Callable[[], list[str]], seconds: float, what: str) -> bool:
        """Wait until there are none; they are violations after so many seconds."""
        deadline = self.loop.time() + seconds
        while True:
            if self.hub is not None and self.hub.listening:
                found = differences()
                if not found:
                    return True
            else:
                found = ["the Hub does not serve"]
            if self.loop.time() >= deadline:
                for each in found:
                    self.checker.blame(f"{what} after {seconds:.0f} s: {each}")
                return False
            await asyncio.sleep(LOOK)

    async def _give_up_deceived(self) -> None:
        """Who is told a wrong number by a shell of their own may wait for that job, a while."""
        for wish in list(self.checker.wishes.values()):
            if wish.deceived and wish.wanted and not wish.ready:
                await self._press(Press(0, "stop", wish.user, wish.server))

    async def _start_again(self) -> None:
        """A server that is stopped can be started."""
        stopped = [each for each in self._snapshot().beliefs if each.status == "stopped"]
        if not stopped or self.checker.violations or self.rng.random() < 0.5:
            return
        again = self.rng.choice(stopped)
        start = Press(0, "start", again.user, again.server)
        await self._press(start)

        def not_ready() -> list[str]:
            found = self._snapshot()
            same = [b for b in found.beliefs if (b.user, b.server) == (again.user, again.server)]
            if any(each.status == "stopped" for each in same):
                # The Hub may not have noticed yet that what was away is back: it says so.
                self.task(self._press(start))
            return [f"{b} is {b.status}" for b in same if b.status != "ready"]

        await self._until(not_ready, START, "a server does not start")

    async def _end_all(self) -> None:
        """Whatever runs can be stopped, and nothing remains."""
        if self.checker.violations:
            return
        for each in self._snapshot().beliefs:
            if each.status == "ready":
                await self._insist(Press(0, "stop", each.user, each.server))
        await self._until(lambda: self._snapshot().remains(), END, "not all has ended")

    # -- users -------------------------------------------------------------------------------

    async def _insist(self, press: Press) -> None:
        """Press until there is an answer: the last fault may be a Hub that goes down just now."""
        while True:
            if await self._press(press):
                return
            await asyncio.sleep(LOOK)

    async def _press(self, press: Press) -> int:
        """Returns the HTTP status of the answer; 0 for none."""
        self.note(press.user, f"presses {press.button} {press.server!r}")
        hub = self.hub
        if hub is None or not hub.listening:
            self.note(press.user, "the Hub is away")
            return 0
        if press.button == "stop":
            self.checker.stop_pressed(press.user, press.server)
        try:
            status = await hub.call(hub.press(press.button, press.user, press.server))
        except ConnectionError:
            status = 0
            self.note(press.user, "no answer from the Hub")
        except Exception as error:
            # What JupyterHub raises becomes a page with a 500; the user sees no more than that.
            status = 500
            self.note(press.user, "is answered 500", type(error).__name__, error)
        else:
            self.note(press.user, f"is answered {status}")
        if press.button == "stop" and status < 400:
            # JupyterHub gives a start a second to notice that it is cancelled, and then stops
            # what is there: another start, if its user was quicker.
            self.checker.stop_pressed(press.user, press.server)
        return status

    # -- the Hub -----------------------------------------------------------------------------

    def _start_hub(self) -> None:
        if self.hub is None:
            self.note("hub", "starts")
            # The loop is the world's, but a killed Hub takes its place in a queue with it.
            slices._turnstiles.clear()
            self.hub = hubs.Hub(self)

    def _crash(self, crash: Crash) -> None:
        if self.hub is None or self.calm:
            return
        self._down = crash.down
        if crash.how == "clean":
            self.note("hub", "SIGTERM")
            hub = self.hub
            hub.start(hub.shut_down())
            # Whatever started it loses its patience.
            self.outside(self.loop.call_later, SHUTDOWN, hub.kill)
        elif crash.fuse:
            self.hub.fuse = crash.fuse
        else:
            self.hub.kill()

    def hub_is_gone(self) -> None:
        """Called as it is killed: it comes up again."""
        self.note("hub", f"is gone for {self._down:.1f} s")
        gone, self.hub = self.hub, None
        if gone is not None:
            self._gone.append(gone)
            gone.close_session()
        self.outside(self.loop.call_later, self._down, self._start_hub)

    async def knock(self, server: Any, timeout: float) -> Any:
        """The Hub's HTTP request to a server, until it answers."""
        at = urlsplit(server.url).netloc
        deadline = self.loop.time() + timeout
        while self.loop.time() < deadline:
            if any(job.alive and self._at(job) == at for job in self.scheduler.jobs.values()):
                return SimpleNamespace(headers={})
            await asyncio.sleep(1.0)
        self.note("hub", f"knocks in vain at {server.base_url}")
        for wish in self.checker.wishes.values():
            if server.base_url == f"/user/{wish.user}/{wish.server}".rstrip("/") + "/":
                wish.over("it does not answer")
        raise TimeoutError

    # -- jobs --------------------------------------------------------------------------------

    def _run(self, job: Job, done: Callable[[int], None]) -> Launcher:
        def ended(code: int) -> None:
            self._explain_exit(job, launcher)
            done(code)

        def stops() -> None:
            self._explain_stop(job, launcher)

        launcher = Launcher(self.loop, self.rng, job, self._post, self.note, stops, ended)
        return launcher

    def _explain_stop(self, job: Job, launcher: Launcher) -> None:
        """Why does a launcher end its server? Told before the Hub can take it for ended."""
        why, true = launcher.session.stopping, self._true(job)
        if why.endswith(TIME_IS_UP):
            now = self.loop.time()
            # An extension may cross the Hub's word on its way.
            crossed = now - job.extended < CROSSING
            self.checker.time_is_up(true, job.left(now), job.limit, crossed=crossed)
        elif why.startswith("ended by the Hub"):
            self.checker.ends(true, "told so")
        elif not (why.startswith("stopped by") and job.ending):
            self.checker.gave_up(true, why)

    def _explain_exit(self, job: Job, launcher: Launcher) -> None:
        """Why did a launcher end its job without a server?"""
        said = " / ".join(launcher.said)
        true = self._true(job)
        if "no longer wants" in said:
            self.checker.ends(true, "told so")
        elif "gave up" in said and self.loop.time() - job.started < 800 and not job.requeued:
            self.checker.gave_up(true, said)

    def submitted(self, job: Job) -> None:
        self.note("slurm", f"job {job.id} is for spawn {job.spawn_id}")

    def cancelled(self, job: Job) -> None:
        self.checker.ends(self._true(job), "cancelled")

    def _post(self, launcher: Launcher, body: bytes, arrived: Callable[[Any], None]) -> None:
        self.task(self._exchange(launcher, body, arrived))

    async def _exchange(
        self, launcher: Launcher, body: bytes, arrived: Callable[[Any], None]
    ) -> None:
        window = None
        for each in self.faults("channel"):
            if each.chance >= 1 or self.rng.random() < each.chance:
                window = each
        kind = window.kind if window else ""
        what = json.loads(body)["message"]
        await asyncio.sleep(self.rng.uniform(0.005, 0.05))
        got: Any
        if kind == "refused" or (kind == "lost" and self.rng.random() < 0.5):
            got = ConnectionRefusedError()
        elif kind == "hang":
            return
        elif kind.isdigit() or kind == "login":
            got = (int(kind) if kind.isdigit() else 200, HTML)
        else:
            if kind == "slow" and window:
                await asyncio.sleep(window.seconds)
            got = await self._ask_hub(body)
            if kind == "lost":
                got = ConnectionResetError()
        said = kind or (got[1][:100].decode() if isinstance(got, tuple) else type(got).__name__)
        self.note(f"job {launcher.job.id}", f"{what}:", said)
        arrived(got)

    async def _ask_hub(self, body: bytes) -> Any:
        hub = self.hub
        if hub is None or not hub.listening:
            return ConnectionRefusedError()
        try:
            return await hub.call(hub.hear(body))
        except OSError as error:
            return error

    # -- truth and belief --------------------------------------------------------------------

    def _at(self, job: Job) -> str:
        launcher: Any = job.program
        if launcher is None or not launcher.listening:
            return ""
        return f"{launcher.server.addresses[0]}:{launcher.server.port}"

    def _true(self, job: Job) -> TrueJob:
        """A job whose server has ended is as good as ended: it only says goodbye. So is one that
        the scheduler began anew: its server is gone."""
        launcher: Any = job.program
        server = launcher.server if launcher is not None else None
        ended = launcher is not None and server is not None and server.status is not None
        token = server.env.get("JUPYTERHUB_API_TOKEN", "") if server is not None else ""
        alive = job.alive and not ended and not job.requeued
        return TrueJob(job.id, job.user, job.spawn_id, alive, self._at(job), token)

    def job_of(self, spawner: FirecRESTSpawner) -> TrueJob | None:
        """What really became of a spawner's job, if the Hub knows its number."""
        state = spawner.get_state()
        job = self.scheduler.jobs.get(state.get("job_id") or "")
        if job is None or job.spawn_id != state.get("spawn_id"):
            return None
        return self._true(job)

    def _snapshot(self) -> Snapshot:
        hub = self.hub
        assert hub is not None
        mine = [job for job in self.scheduler.jobs.values() if job.spawn_id]
        jobs = [TrueJob(j.id, j.user, j.spawn_id, j.alive, self._at(j), self._true(j).token)
                for j in mine]  # fmt: skip
        known = {user.name: user for user in hub.users.values()}
        beliefs = [
            belief(known.get(user), user, server, state)
            for user, server, state in self.database.servers()
        ]
        tokens = self.database.tokens()
        hashes = [hashed for *_, hashed in tokens]
        valid = {
            job.token for job in jobs if job.alive and job.token and accepted(job.token, hashes)
        }
        routes = frozenset(
            (user, server, urlsplit(host).netloc)
            for (user, server), host in self.proxy.routes.items()
        )
        names = [(user, server) for user, server, _ in tokens]
        return Snapshot(jobs, beliefs, routes, names, frozenset(valid))


def belief(user: Any, name: str, server: str, state: dict[str, Any]) -> Belief:
    """What the Hub believes of one server; ``user`` is its object for the user, if it has one."""
    spawner = user.spawners.get(server) if user is not None else None
    status, at = "stopped", ""
    if spawner is not None and spawner.active:
        status, state = str(spawner.pending), spawner.get_state()
        if spawner.ready:
            status, at = "ready", urlsplit(spawner.server.host).netloc
    return Belief(name, server, status, state.get("spawn_id", ""), state.get("job_id", ""), at)


def run(plan: Plan, *, log: bool = False) -> Result:
    """Play one schedule."""
    with bound(plan.seed) as loop, contextlib.ExitStack() as stack:
        if not log:
            logging.disable(logging.CRITICAL)
        world = World(loop, plan)
        for module, name, value in (
            (client, "AsyncFirecrest", wire.client(world.wire)),
            (service, "TokenClient", hubs.token_client(world)),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(on_stage())
        stack.enter_context(hubs.installed(b"k" * 32, world.knock))
        loop.run_until_complete(loop.create_task(world.play()))
        for job in world.scheduler.jobs.values():
            if job.program is not None:
                job.program.kill()
        if loop.trouble:
            raise loop.trouble[0]
        journal = [
            f"{when:9.3f} {who:8} {' '.join(str(each) for each in what if each != '')}"
            for when, who, what in world.events
        ]
        return Result(plan.seed, world.checker.violations, journal, loop.time())
