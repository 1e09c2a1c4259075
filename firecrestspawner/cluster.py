"""What all spawners of one system share: client, service account, monitor, node list.

:class:`Clusters` is the Hub's one set of them. It owns the background tasks (a monitor's loop for
each system) and closes the HTTP clients when the Hub shuts down.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any

from . import address
from .client import FirecREST, as_service
from .deadline import in_time
from .errors import AddressRefused, BadAnswer, Error, FirecRESTError, OptionsError
from .isolation import State
from .metrics import JOBS, SNAPSHOT_AGE, observe
from .models import Job, JobRequest, JobState, Secret, System
from .monitor import JobMonitor
from .service import ServiceAccount
from .shared import Shared
from .shutdown import at_shutdown
from .slices import Slices
from .watch import Watch

log = logging.getLogger(__name__)

#: The lists of nodes and systems are asked for again when older than this (seconds).
LIST_AGE = 300.0
#: Seconds after a lost answer for its job to appear in the list: FirecREST lets a command run for
#: five, and runs three of them at most for one request.
SETTLING = 20.0
#: A page that says which systems are unwell has it asked again when it is older (seconds).
HEALTH_AGE = 30.0
#: Whoever reads /metrics is told of jobs as they were so many seconds ago at most.
COUNT_AGE = 1.0
#: What FirecREST looks after (its BackendServiceType), in words.
SERVICES = {
    "scheduler": "scheduler",
    "ssh": "login node",
    "filesystem": "file systems",
    "s3": "file transfers",
}
#: Seconds for one name look-up.
RESOLVE_DEADLINE = 5.0

_ANOTHER_JOB = (
    "The number the cluster gave for your job belongs to another job, so the start was stopped. "
    "Please look for commands in your shell's start-up files (~/.bashrc) that print text or "
    "replace the scheduler's."
)


@dataclass(frozen=True)
class _Nodes:
    """A system's nodes: their ``addresses`` by name, and how many have each of the ``features``."""

    addresses: dict[str, tuple[str, ...]]
    features: Mapping[str, int]


class Cluster:
    """One system behind one FirecREST API.

    Parameters
    ----------
    systems: the API's list of systems, shared by all systems of that API.
    own: the addresses of the Hub's and the proxy's hosts (S8).
    title: what users are shown for the system; its name where that is empty.
    """

    def __init__(
        self,
        monitor: JobMonitor,
        systems: Shared[dict[str, System]],
        own: frozenset[address.IPAddress],
        title: str = "",
    ) -> None:
        self.monitor = monitor
        self.name = monitor.system
        self.title = title or self.name
        self.firecrest = monitor.firecrest
        self._account = monitor.account
        self._systems = systems
        self._own = own
        self._nodes = Shared(self._fetch_nodes)
        self._submitting: dict[str, asyncio.Lock] = {}
        self._warned: set[str] = set()

    def warn_once(self, sentence: str) -> None:
        """Log a warning about the system's set-up at the first spawn that meets it."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            log.warning("%s", sentence)

    def check(self) -> None:
        """Raise ConfigurationError unless there is a service account to look with."""
        self._account.check()

    @property
    def trouble(self) -> str:
        """What is known to be wrong with the system, as a sentence; empty when nothing is."""
        if self.firecrest.guard(self.name).breaker.state is not State.CLOSED:
            return f"{self.title} does not answer at the moment."
        described = self.described
        if described is None or not described.unhealthy:
            return ""
        parts = {SERVICES.get(service, "services") for service in described.unhealthy}
        return f"{self.title} has trouble with its {' and '.join(sorted(parts))}."

    @property
    def described(self) -> System | None:
        """The system's own description as it was last heard; None while it was not."""
        return (self._systems.latest or {}).get(self.name)

    async def system(self) -> System:
        """The system's own description. Raises OptionsError when the API has no such system."""
        found = (await self._systems.get(LIST_AGE)).get(self.name)
        if found is None:
            found = (await self._systems.get(max_age=30.0)).get(self.name)
        if found is None:
            raise OptionsError(
                f"There is no system called {self.title!r} here.",
                detail=f"FirecREST has no system called {self.name!r}",
            )
        return found

    async def _fetch_nodes(self) -> _Nodes:
        nodes = await as_service(
            self._account, lambda token: self.firecrest.nodes(token, self.name)
        )
        slices, counted = Slices(), Counter[str]()
        for node in nodes:
            await slices.breathe()
            counted.update(set(node.features))
        return _Nodes({node.name: node.addresses for node in nodes}, counted)

    async def features(self) -> Mapping[str, int]:
        """How many nodes have each feature, from the list that all users share.

        Raises FirecRESTError and ProviderUnavailable.
        """
        return (await self._nodes.get(LIST_AGE)).features

    def turn(self, user: str) -> asyncio.Lock:
        """Held from before a submit until its job is stored: a user's submits are kept apart (R3).

        So after an ambiguous answer a new job in the user's own list can only be that one.
        """
        return self._submitting.setdefault(user, asyncio.Lock())

    async def settle(
        self,
        token: Secret,
        jobs: set[str],
        unsettled: Sequence[float],
        *,
        wanted: Callable[[], bool],
    ) -> tuple[set[str], bool]:
        """The ids that a user's next job cannot have, and whether those are all there are.

        ``jobs`` are those of the user's other starts, ``unsettled`` the times (Unix seconds) of
        submits whose answers were lost: their jobs, too, are in the user's list, or will be, or
        never were. Waits until that is certain, SETTLING seconds at most after the last of them,
        and no longer than the start is ``wanted``.
        """
        seen = jobs | {watch.job_id for watch in self.monitor.watches}
        listed: list[Job] | None = []
        while unsettled and wanted():
            listed = await self.own_jobs(token)
            if listed is not None:
                strangers = [job for job in listed if job.id not in seen and not job.state.terminal]
                if len(strangers) >= len(unsettled):
                    break
            if self.settled(max(unsettled)):
                break
            await asyncio.sleep(min(2.0, SETTLING))
        # Of others only what an answer by id has borne out: numbers are given one after the other,
        # and whoever claims those to come must not have everybody's starts refused (R10).
        proven = {watch.job_id for watch in self.monitor.watches if watch.confirmed is not None}
        return jobs | proven | {job.id for job in listed or ()}, listed is not None

    def settled(self, submitted_at: float) -> bool:
        """Whether a job submitted then (Unix seconds) is listed by now, if there is one."""
        return not 0 <= time.time() - submitted_at < SETTLING

    async def submit(
        self, token: Secret, request: JobRequest, known: set[str], *, adopt: bool = True
    ) -> str:
        """Submit once with the user's token, in the user's turn, and return the job's id (R3).

        ``known`` and ``adopt`` are what :meth:`settle` answered: without ``adopt`` no job of the
        list is taken for this one. Raises FirecRESTError; when that is ``ambiguous`` the job may
        exist although it is not listed.
        """
        claimed = {watch.job_id for watch in self.monitor.watches}
        before = known | claimed | set(self.monitor.snapshot)
        try:
            job_id = await self.firecrest.submit(token, self.name, request)
            if job_id not in known:
                return job_id
            # What the user's shell prints at its start can be taken for the answer (R10).
            raise BadAnswer(
                _ANOTHER_JOB,
                detail=f"a submit on {self.name} was answered with the known job {job_id}",
                ambiguous=True,
            )
        except FirecRESTError as error:
            if not error.ambiguous or not adopt:
                raise
            listed = await self.own_jobs(token) or []
            new = [job.id for job in listed if job.id not in before and not job.state.terminal]
            if len(new) != 1:
                raise  # whoever refuses the start logs it
            log.warning("%s; the user's new job %s is the one", error.detail, new[0])
            return new[0]

    async def own_jobs(self, token: Secret) -> list[Job] | None:
        """The user's jobs of this Hub; None when FirecREST does not say."""
        try:
            listing = await self.firecrest.jobs(
                token, self.name, name=self.monitor.name, all_users=False, window="1h"
            )
        except FirecRESTError as error:
            log.info("A user's own jobs on %s: %s", self.name, error.detail)
            return None
        return listing.jobs

    async def locate(
        self,
        watch: Watch,
        addresses: Sequence[str],
        port: int,
        *,
        networks: Sequence[address.IPNetwork],
        ports: tuple[int, int],
        template: str = "",
    ) -> tuple[str, int]:
        """Where to connect to, after all checks of S8, as a numeric address and a port.

        Raises AddressRefused, or FirecRESTError and ProviderUnavailable while nobody can tell.
        """
        job = watch.confirmed
        if job is None or not job.nodes:
            job = await self.monitor.confirm(watch)
        if watch.stranger:
            raise stranger(watch, self.name)
        if job is None or not job.nodes:
            raise NodesUnknown("The cluster has not said yet on which node the job runs.")
        nodes = (await self._nodes.get(LIST_AGE)).addresses
        if not set(address.expand(job.nodes)) <= set(nodes):
            nodes = (await self._nodes.get(max_age=10.0)).addresses
        return await address.choose(
            addresses,
            port,
            job_nodes=job.nodes,
            nodes=nodes,
            networks=networks,
            own=self._own,
            ports=ports,
            resolve=resolve,
            template=template,
        )


def stranger(watch: Watch, system: str) -> AddressRefused:
    """The error for a job number that turned out to be somebody else's (R10)."""
    return AddressRefused(
        _ANOTHER_JOB,
        detail=f"job {watch.job_id} on {system} is not {watch.user}'s job of this Hub",
    )


class NodesUnknown(Error):
    """The job's nodes are not known yet: ask again."""

    status = 503
    reason = "nodes-unknown"


class Clusters:
    """The Hub's one set of clusters, with what they share."""

    def __init__(self, account: ServiceAccount, own: frozenset[address.IPAddress]) -> None:
        self.account = account
        self._own = own
        self._apis: dict[str, tuple[FirecREST, Shared[dict[str, System]]]] = {}
        self._clusters: dict[tuple[str, str], Cluster] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None

    def get(
        self,
        url: str,
        system: str,
        *,
        job_name: str,
        slow: float,
        fast: float = 2.0,
        title: str = "",
    ) -> Cluster:
        """The cluster ``system``, to users ``title``, behind ``url``; its monitor runs at once."""
        key = (url.rstrip("/"), system)
        if key not in self._clusters:
            firecrest, systems = self._api(key[0])
            firecrest.titles[system] = title or system
            monitor = JobMonitor(firecrest, system, self.account, job_name, fast=fast, slow=slow)
            self._clusters[key] = Cluster(monitor, systems, self._own, title)
            self._keep(monitor.keep_running())
            _show(monitor)
        return self._clusters[key]

    def look_after(self, url: str) -> None:
        """Have the health of the systems behind ``url`` asked for unless it is known (C3).

        Returns at once: no page waits for FirecREST.
        """
        _, systems = self._api(url.rstrip("/"))
        if systems.age > HEALTH_AGE and url not in self._looks:
            self._looks[url] = self._keep(self._look(url, systems))

    def listed(self, url: str) -> list[str]:
        """The names of the systems behind ``url``, as they were last heard; none before that."""
        return sorted(self._api(url.rstrip("/"))[1].latest or {})

    async def glance(self, url: str, patience: float) -> None:
        """Have the systems behind ``url`` asked for as :meth:`look_after` does.

        Waits for the answer, at most ``patience`` seconds, only while there never was one.
        """
        self.look_after(url)
        _, systems = self._api(url.rstrip("/"))
        look = self._looks.get(url)
        if systems.latest is None and look is not None:
            await asyncio.wait([look], timeout=patience)

    async def ask(self, url: str) -> None:
        """Ask for the systems behind ``url`` unless they are known. Raises FirecRESTError."""
        await self._api(url.rstrip("/"))[1].get(LIST_AGE)

    async def _look(self, url: str, systems: Shared[dict[str, System]]) -> None:
        try:
            await systems.get(HEALTH_AGE)
        except Error as error:
            log.info("The systems' health is not known: %s", error.detail)
        finally:
            self._looks.pop(url, None)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` until the Hub shuts down."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._keeper is None:
            self._keeper = at_shutdown(self.aclose)
        return task

    def _api(self, url: str) -> tuple[FirecREST, Shared[dict[str, System]]]:
        if url not in self._apis:
            firecrest = FirecREST(url)

            async def fetch() -> dict[str, System]:
                return await as_service(self.account, firecrest.systems)

            self._apis[url] = (firecrest, Shared(fetch))
        return self._apis[url]

    async def aclose(self) -> None:
        """End the monitors' loops and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for firecrest, _ in self._apis.values():
            await firecrest.aclose()
        await self.account.aclose()


def _show(monitor: JobMonitor) -> None:
    """Let /metrics read what the monitor knows."""

    def age() -> float:
        return nan if monitor.age is None else monitor.age

    counted: Counter[JobState] = Counter()
    counted_at = -inf

    def count(state: JobState) -> float:
        # Once for all states: one of ten thousand jobs after another holds the loop (R8).
        nonlocal counted, counted_at
        if monitor.clock() - counted_at > COUNT_AGE:
            jobs = (watch.job for watch in monitor.watches)
            counted = Counter(JobState.UNKNOWN if job is None else job.state for job in jobs)
            counted_at = monitor.clock()
        return counted[state]

    observe(SNAPSHOT_AGE, age, system=monitor.system)
    for state in JobState:
        observe(JOBS, partial(count, state), system=monitor.system, state=state.value)


async def resolve(name: str) -> list[str]:
    """The numeric addresses of a host name; none when it cannot be resolved in time."""
    loop = asyncio.get_running_loop()
    try:
        found = await in_time(
            loop.getaddrinfo(name, None, type=socket.SOCK_STREAM), RESOLVE_DEADLINE
        )
    except (OSError, UnicodeError, asyncio.TimeoutError):
        return []
    return [str(entry[4][0]) for entry in found]


def own_addresses(hosts: Sequence[str] = ()) -> frozenset[address.IPAddress]:
    """The addresses of this host's interfaces and of ``hosts``. Blocks: for start-up only."""
    texts = set(_interface_addresses())
    for host in (socket.gethostname(), *hosts):
        try:
            texts |= {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        except (OSError, UnicodeError):
            continue  # a host without an address cannot be connected to either
    numbers = (address.numeric(text.split("%", 1)[0]) for text in texts)
    return frozenset(number for number in numbers if number is not None)


def _interface_addresses() -> list[str]:
    """Linux's own list (proc(5)); elsewhere the host name's addresses have to do."""
    found = []
    try:
        trie = Path("/proc/net/fib_trie").read_text()
        found += re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", trie)
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits = line.split()[0]
            found.append(":".join(digits[i : i + 4] for i in range(0, 32, 4)))
    except OSError:
        pass
    return found
