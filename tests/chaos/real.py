"""What becomes of a schedule with a real Hub process, the real proxy and real servers?

The demo's site with its stand-ins, kill -9 included, looked at by the same checker as in virtual
time. One schedule after another; real time is not repeated to the millisecond, but a seed brings
back who presses what, what fails, and when the Hub dies.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.chaos.checker import Belief, Snapshot, TrueJob
from tests.chaos.cluster import spawn_id
from tests.chaos.result import Result
from tests.journeys.person import Person
from tests.journeys.relay import Relay
from tests.journeys.site import UNFINISHED, Site

#: Seconds that things go wrong, within which belief is truth afterwards, and within which all ends.
TROUBLE = 8.0
RECOVERY = 120.0
LOOK = 0.5
USERS = ("alice", "bob")

CONFIG = """
import firecrestspawner.cluster
firecrestspawner.cluster.SETTLING = 2.0  # seconds: the stand-in is quick
c.FirecRESTSpawner.hub_connect_url = "{relay}"
c.FirecRESTSpawner.stop_patience = 10
c.JupyterHub.allow_named_servers = True
"""

#: What FirecREST may do, by operation; the issuer, and the way from a job to its Hub.
FAILURES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("submit", {"status": 500, "processed": True}),
    ("submit", {"status": 408, "processed": True}),
    ("submit", {"reset": True, "processed": True}),
    ("submit", {"reset": True}),
    ("submit", {"status": 503}),
    ("cancel", {"status": 500}),
    ("cancel", {"reset": True, "processed": True}),
    ("list", {"status": 500}),
    ("list", {"body": b"<html>"}),
    ("list", {"body": {"jobs": []}}),
    ("job", {"status": 404}),
    ("job", {"status": 500}),
    ("*", {"status": 503}),
    ("*", {"delay": 3.0}),
    ("issuer", {"status": 503}),
    ("channel", {}),
)


class Stage:
    """One site for many schedules."""

    def __init__(self, stack: ExitStack) -> None:
        self.relay = stack.enter_context(Relay())
        self.site = stack.enter_context(
            Site(extra_config=CONFIG.format(relay=self.relay.url), log_level="INFO")
        )
        self.relay.target = self.site.hub_url
        self.people = {name: stack.enter_context(Person(self.site, name)) for name in USERS}
        for person in self.people.values():
            person.log_in()

    def calm(self) -> None:
        """Nothing fails any more."""
        self.site.firecrest.faults.clear()
        self.site.issuer.faults.clear()
        self.relay.lose = lambda path, body: False
        self.site.executor.release()

    # -- truth and belief --------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """What runs, and what the Hub believes."""
        servers = {
            (user, name): json.loads(state or "null") or {}
            for user, name, state in self.site.query(
                "SELECT users.name, spawners.name, spawners.state FROM spawners"
                " JOIN users ON users.id = spawners.user_id"
            )
        }
        active = {name: person.servers() for name, person in self.people.items()}
        beliefs = [
            _belief(user, name, state, active.get(user, {}).get(name))
            for (user, name), state in servers.items()
        ]
        at = {belief.spawn_id: belief for belief in beliefs if belief.at}
        jobs = [self._true(job, at) for job in self.site.jobs() if job.user in USERS]
        routes = frozenset(
            (*_server(path.removeprefix("/user/")), urlsplit(route["target"]).netloc)
            for path, route in self.site.routes().items()
            if path.startswith("/user/")
        )
        notes = self.site.query("SELECT note FROM api_tokens WHERE note LIKE 'Server at /user/%'")
        tokens = [_server(note.removeprefix("Server at /user/")) for (note,) in notes]
        valid = frozenset(job.token for job in jobs if job.token and self._accepts(job.token))
        return Snapshot(jobs, beliefs, routes, tokens, valid)

    def _true(self, job: Any, at: dict[str, Belief]) -> TrueJob:
        """A job, and whether a server of it answers where the Hub looks for it."""
        found = self.site.executor.metadata(job.user, job.id, operator=True)
        spawn = spawn_id(found.script) if found is not None else ""
        alive = job.state in UNFINISHED
        belief = at.get(spawn) if alive else None
        if belief is None:
            return TrueJob(job.id, job.user, spawn, alive)
        path = f"/user/{belief.user}/{belief.server}".rstrip("/")
        there = _answers(f"http://{belief.at}{path}/api")
        token = self.site.api_token(belief.user, belief.server)
        return TrueJob(job.id, job.user, spawn, alive, belief.at if there else "", token)

    def _accepts(self, token: str) -> bool:
        return self.site.hub_status(token) == 200


def _belief(user: str, server: str, state: dict[str, Any], model: Any) -> Belief:
    status = "stopped" if model is None else "ready" if model["ready"] else str(model["pending"])
    at = f"{state['address']}:{state['port']}" if state.get("address") else ""
    return Belief(
        user, server, status, state.get("spawn_id", ""), state.get("job_id", ""),
        at if status == "ready" else "",
    )  # fmt: skip


def _server(path: str) -> tuple[str, str]:
    user, _, server = path.partition("/")
    return user, server.strip("/")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


class Schedule:
    """One schedule: ``steps`` are seconds, words and deeds."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.seed = stage, seed
        self.rng = random.Random(f"real {seed}")
        self.journal: list[str] = []
        self.violations: list[str] = []
        self.began = time.monotonic()
        self.steps: list[tuple[float, str, Callable[[], object]]] = []
        self._threads = ThreadPoolExecutor(8)
        self._plan()

    def note(self, what: str) -> None:
        self.journal.append(f"{time.monotonic() - self.began:9.3f} {what}")

    def _plan(self) -> None:
        rng, site = self.rng, self.stage.site
        moments = []
        for user in rng.sample(USERS, rng.choice((1, 1, 2))):
            at = rng.uniform(0, 2)
            for button in ("start", "stop", "start")[: rng.choice((1, 1, 2, 2, 3))]:
                moments.append(at)
                self._step(at, f"{user} presses {button}", partial(self._ask, user, button))
                at += rng.choice((0.1, 1.0, 4.0)) * rng.uniform(0.5, 1.5)
        if rng.random() < 0.4:
            self._step(0, "the queue stands still", site.executor.hold)
            self._step(rng.uniform(0, TROUBLE), "the queue moves", site.executor.release)
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = max(0.0, rng.choice(moments) - rng.choice((0.05, 1.0)))
            place, settings = rng.choice(FAILURES)
            self._step(at, f"{place} fails: {settings}", partial(self._break, place, settings))
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = rng.choice(moments) + rng.choice((0.0, 0.1, 0.5, 3.0)) * rng.random()
            self._step(at, "kill -9 of the Hub", self._kill)
        self.steps.sort(key=lambda step: step[0])

    def _step(self, at: float, what: str, act: Callable[[], object]) -> None:
        self.steps.append((at, what, act))

    def _ask(self, user: str, button: str) -> None:
        self._threads.submit(self._press, user, button)

    def _press(self, user: str, button: str) -> None:
        person = self.stage.people[user]
        try:
            if button == "stop":
                status = person.press_stop().status_code
            else:
                status = person.api("POST", f"/hub/api/users/{user}/server").status_code
        except Exception as error:
            # A Hub that dies meanwhile answers in many ways: the user sees that it failed.
            self.note(f"{user} gets no answer to {button}: {type(error).__name__}")
        else:
            self.note(f"{user} is answered {status} to {button}")

    def _break(self, place: str, settings: dict[str, Any]) -> None:
        if place == "channel":
            self.stage.relay.lose = lambda path, body: random.random() < 0.5
        elif place == "issuer":
            self.stage.site.issuer.faults.set("token", **settings)
        else:
            self.stage.site.firecrest.faults.set(place, **settings)

    def _kill(self) -> None:
        self.stage.site.kill_hub()
        self.stage.site.start_hub()

    def run(self) -> Result:
        """Play it, let everything recover, and end all that runs."""
        for at, what, act in self.steps:
            time.sleep(max(0.0, self.began + at - time.monotonic()))
            self.note(what)
            act()
        time.sleep(max(0.0, self.began + TROUBLE - time.monotonic()))
        self.stage.calm()
        self.note("the faults are over")
        self._until(lambda now: now.differences(), "belief is not truth")
        self._submitted_once()
        if not self.violations:
            self._until(self._end, "not all has ended")
        self._threads.shutdown()
        return Result(self.seed, self.violations, self.journal, time.monotonic() - self.began)

    def _end(self, now: Snapshot) -> list[str]:
        for belief in now.beliefs:
            if belief.status == "ready":
                self._press(belief.user, "stop")
        return now.remains()

    def _until(self, differences: Callable[[Snapshot], list[str]], what: str) -> None:
        deadline = time.monotonic() + RECOVERY
        while found := self._look(differences):
            if time.monotonic() > deadline:
                self.violations += [f"{what} after {RECOVERY:.0f} s: {each}" for each in found]
                return
            time.sleep(LOOK)

    def _look(self, differences: Callable[[Snapshot], list[str]]) -> list[str]:
        try:
            return differences(self.stage.snapshot())
        except (httpx.TransportError, KeyError) as error:
            # What is looked at changes meanwhile.
            return [f"a look failed: {type(error).__name__}: {error}"]

    def _submitted_once(self) -> None:
        spawns = [job.spawn_id for job in self.stage.snapshot().jobs]
        for twice in {spawn for spawn in spawns if spawns.count(spawn) > 1}:
            self.violations.append(f"the start of spawn {twice} is submitted twice")


def runs(seed: int, count: int, *, seconds: float = float("inf")) -> Iterator[Result]:
    """Schedules from ``seed`` on: ``count`` of them, or as many as begin within ``seconds``."""
    ends = time.monotonic() + seconds
    done = 0
    while done < count and time.monotonic() < ends:
        with ExitStack() as stack:
            stage = Stage(stack)
            while done < count and time.monotonic() < ends:
                result = Schedule(stage, seed + done).run()
                done += 1
                if result.violations:
                    result.journal += stage.site.log_end(60).splitlines()
                yield result
                if result.violations:
                    break  # whatever is left must not be held against the next ones
