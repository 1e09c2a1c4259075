"""What must hold, whatever goes wrong? Pure: it is told what happens, and compares what is.

*Wishes* are what users asked for: a wish begins with a start and ends with the user's stop, with
the Hub's word that the start failed, or with the server's own end. The rules:

1. One wish causes one submit at most (R3).
2. Nobody but its user, and nothing but its own end, ends a job that is known and wanted (R1, R6,
   R7), or that its time is nearly over: a minute, and a tenth of it, at most.
3. The Hub takes no server for ended that is not (R1).
4. Once all faults are over the Hub's belief is the truth: every job that lives belongs to a server
   that is ready, and the other way round; routes and API tokens as well (R6, R7, S10).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrueJob:
    """What really is. ``at`` is host:port of a server that listens; ``token`` its API token."""

    id: str
    user: str
    spawn_id: str
    alive: bool
    at: str = ""
    token: str = ""


@dataclass(frozen=True)
class Belief:
    """What the Hub takes one server to be: ``ready``, ``stopped``, or pending what."""

    user: str
    server: str
    status: str
    spawn_id: str = ""
    job_id: str = ""
    at: str = ""

    def __str__(self) -> str:
        return f"{self.user}'s server {self.server!r}"


@dataclass(frozen=True)
class Snapshot:
    """Truth and belief at one moment. ``routes`` are (user, server, host:port); ``tokens`` are the
    API tokens of servers that the Hub accepts, by (user, server)."""

    jobs: Sequence[TrueJob]
    beliefs: Sequence[Belief]
    routes: frozenset[tuple[str, str, str]]
    tokens: Sequence[tuple[str, str]]
    valid: frozenset[str] = frozenset()

    def differences(self) -> list[str]:
        """Where belief and truth differ; in words."""
        return [*self._jobs(), *self._servers(), *self._around()]

    def _jobs(self) -> Iterable[str]:
        ready = {belief.spawn_id: belief for belief in self.beliefs if belief.status == "ready"}
        owned = [belief.job_id for belief in self.beliefs if belief.status == "ready"]
        for job in self.jobs:
            if not job.alive:
                continue
            belief = ready.get(job.spawn_id)
            if belief is None:
                yield f"job {job.id} of {job.user} is an orphan: no server of the Hub's owns it"
            elif belief.job_id != job.id:
                yield f"{belief} has job {job.id}, and the Hub takes {belief.job_id!r} for its job"
            elif owned.count(job.id) > 1:
                yield f"job {job.id} is taken for that of several servers"
            if job.token and job.token not in self.valid:
                yield f"job {job.id} of {job.user} runs with a token the Hub does not accept"

    def _servers(self) -> Iterable[str]:
        alive = {job.spawn_id: job for job in self.jobs if job.alive}
        for belief in self.beliefs:
            if belief.status == "stopped":
                if belief.spawn_id:
                    yield f"{belief} is stopped, and its state is kept"
            elif belief.status != "ready":
                yield f"{belief} is pending {belief.status}"
            elif belief.spawn_id not in alive:
                yield f"{belief} is ready in the Hub's eyes, and has no job"
            elif alive[belief.spawn_id].at != belief.at:
                there = alive[belief.spawn_id].at or "nowhere"
                yield f"{belief} listens at {there}, and the Hub looks for it at {belief.at}"

    def _around(self) -> Iterable[str]:
        ready = [belief for belief in self.beliefs if belief.status == "ready"]
        wanted = frozenset((each.user, each.server, each.at) for each in ready)
        for user, server, host in sorted(self.routes - wanted):
            yield f"the proxy leads to {user}'s server {server!r} at {host}, which is not there"
        for user, server, host in sorted(wanted - self.routes):
            yield f"the proxy does not lead to {user}'s server {server!r} at {host}"
        names = sorted((each.user, each.server) for each in ready)
        if sorted(self.tokens) != names:
            yield f"ready are {names}, and there are API tokens for {sorted(self.tokens)}"

    def remains(self) -> list[str]:
        """What is left; in words. Once all servers are stopped, nothing may be."""
        left = [f"job {job.id} of {job.user}" for job in self.jobs if job.alive]
        left += [f"{each}: {each.status}" for each in self.beliefs if each.status != "stopped"]
        return left + self.differences()


@dataclass(eq=False)
class Wish:
    """One server that a user asked for."""

    user: str
    server: str
    spawn_ids: set[str] = field(default_factory=set)
    submits: int = 0
    wanted: bool = True
    #: The Hub has told that it is ready.
    ready: bool = False
    #: Its user's own shell told the Hub a wrong job id.
    deceived: bool = False
    why: str = ""

    def __str__(self) -> str:
        return f"{self.user}'s server {self.server!r}"

    def over(self, why: str) -> None:
        if self.wanted:
            self.wanted, self.why = False, why


class Checker:
    """Watches one schedule; ``violations`` is what it saw."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.wishes: dict[tuple[str, str], Wish] = {}
        self._by_spawn: dict[str, Wish] = {}

    def blame(self, what: str) -> None:
        """Note a violation, once."""
        if what not in self.violations:
            self.violations.append(what)

    # -- what users do -----------------------------------------------------------------------

    def began(self, user: str, server: str) -> Wish:
        """The Hub starts a server: the wish that is so fulfilled, an earlier one if it is open."""
        wish = self.wishes.get((user, server))
        if wish is None or not wish.wanted:
            wish = self.wishes[user, server] = Wish(user, server)
        return wish

    def stop_pressed(self, user: str, server: str) -> None:
        if wish := self.wishes.get((user, server)):
            wish.over("its user stopped it")

    def start_failed(self, user: str, server: str, why: str, job: TrueJob | None) -> None:
        """The Hub says that a start failed; ``job`` is what it knows to be the start's job."""
        wish = self.wishes[user, server]
        if wish.wanted and job is not None and job.alive:
            self.blame(f"the start of {wish} is given up ({why}), and its job {job.id} lives")
        wish.over(f"the start failed: {why}")

    # -- what the Hub does -------------------------------------------------------------------

    def uses(self, user: str, server: str, spawn_id: str) -> None:
        """The Hub stores a spawn for this server."""
        wish = self.wishes.get((user, server))
        if wish is not None and spawn_id not in self._by_spawn:
            wish.spawn_ids.add(spawn_id)
            self._by_spawn[spawn_id] = wish

    def of(self, spawn_id: str) -> Wish | None:
        return self._by_spawn.get(spawn_id)

    def submits(self, spawn_id: str) -> None:
        """A submit reaches FirecREST, whatever comes of it."""
        wish = self.of(spawn_id)
        if wish is None:
            self.blame(f"a job is submitted for the spawn {spawn_id}, which nobody stored before")
            return
        wish.submits += 1
        if wish.submits > 1:
            self.blame(f"{wish} is submitted {wish.submits} times")

    def lied_to(self, spawn_id: str) -> None:
        """The answer to a submit names another job."""
        if wish := self.of(spawn_id):
            wish.deceived = True

    def ends(self, job: TrueJob, how: str) -> None:
        """The Hub ends a job: cancels it, or tells it so."""
        wish = self.of(job.spawn_id)
        if wish is None:
            self.blame(f"job {job.id} is ended ({how}), and it is no server of the Hub's")
        elif wish.wanted:
            self.blame(f"job {job.id} of {wish} is ended ({how}), and nobody asked for that")

    def time_is_up(self, job: TrueJob, left: float, limit: float, *, crossed: bool) -> None:
        """The Hub ends a server whose job has ``left`` seconds of its ``limit``; ``crossed`` if the
        job has been extended since the Hub could know that."""
        wish = self.of(job.spawn_id)
        if wish is not None and wish.wanted:
            # Schedulers tell whole seconds.
            if left > min(60.0, limit / 10) + 1 and not crossed:
                self.blame(f"{wish} is ended, and its job {job.id} has {left:.0f} s left")
            wish.over("its time was nearly over")

    def takes_for_ended(self, user: str, server: str, job: TrueJob | None) -> None:
        """The Hub says that a server has ended. ``job`` is None if it has none."""
        wish = self.wishes.get((user, server))
        if wish is None or not wish.wanted:
            return
        if job is not None and job.alive:
            self.blame(f"{wish} is taken for ended, and its job {job.id} lives")
        wish.over("it ended")

    def gave_up(self, job: TrueJob, why: str) -> None:
        """A launcher ended its job without the Hub's word, for no good reason."""
        self.blame(f"job {job.id} of {job.user} ended itself: {why}")
