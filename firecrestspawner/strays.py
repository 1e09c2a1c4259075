"""Which jobs of a user belong to no server any more, and who ends them?

At a login there is a token to cancel with. What is cancelled are jobs that carry this Hub's name
and that it has no use for: whose answer was lost, whose Hub was, whose tombstone came too late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from .errors import Error, FirecRESTError
from .metrics import ORPHANS
from .models import Job, JobState, Secret
from .spawn import claims
from .stored import StoredSpawner, stored_states
from .submission import cluster_user

log = logging.getLogger(__name__)

#: So many users' jobs are looked through at a time, and so many cancelled of one at a login.
USERS, MOST = 4, 20


class Strays:
    """Looks for them, for one user at a time.

    ``token_store`` and ``provider`` are the authenticator's.
    """

    def __init__(self, token_store: Any, provider: Any) -> None:
        self._token_store = token_store
        self._provider = provider
        self._slots = asyncio.Semaphore(USERS)
        self._busy: set[int] = set()

    async def end(self, user: Any) -> None:
        """Cancel a user's strays on every system that is configured, with the user's own token.

        For the background: raises nothing but what is a mistake of ours.
        """
        spawner = user.spawner
        if not isinstance(spawner, StoredSpawner) or user.id in self._busy:
            return
        self._busy.add(user.id)
        try:
            async with self._slots:
                for system in spawner.known_systems():
                    await self._on(system, user, spawner)
        except Error as error:
            log.info("Stray jobs of %s were not looked for: %s", user.name, error.detail)
        finally:
            self._busy.discard(user.id)

    async def _on(self, system: str, user: Any, spawner: Any) -> None:
        token = (await self._token_store.get(user)).access_token
        owner = await cluster_user(spawner, self._provider, token)
        cluster = spawner._cluster(system)
        # In the user's turn no submit is under way whose job would not be known yet.
        async with cluster.turn(owner):
            listed = await cluster.own_jobs(token)
            strays = await self._unclaimed(listed or [], cluster, owner, user)
        for job in strays[:MOST]:
            await self._cancel(job, cluster, token)

    async def _unclaimed(self, listed: list[Job], cluster: Any, owner: str, user: Any) -> list[Job]:
        alive = [
            job
            for job in listed
            if job.belongs_to(owner, cluster.monitor.name) and not job.state.terminal
        ]
        # After most logins their own rows account for all of them, and no more are read.
        own = [row.state or {} for row in user.orm_user.orm_spawners.values()]
        left = _unwanted(alive, own, cluster.name, owner)
        if not left:
            return []
        # Everybody's: two users of the Hub may be one user of the cluster.
        return _unwanted(left, await stored_states(user.db), cluster.name, owner)

    async def _cancel(self, job: Job, cluster: Any, token: Secret) -> None:
        try:
            await cluster.firecrest.cancel(token, cluster.name, job.id)
        except FirecRESTError as error:
            log.info("Stray job %s on %s: %s", job.id, cluster.name, error.detail)
            return
        ORPHANS.labels("cancelled").inc()
        log.warning(
            "Job %s of %s on %s belongs to no server of this Hub: cancelled",
            job.id, job.user, cluster.name,
        )  # fmt: skip


def _unwanted(jobs: list[Job], states: Iterable[Any], system: str, owner: str) -> list[Job]:
    """Those of ``jobs`` for which no server has any use, as the stored ``states`` tell."""
    wanted, ending, unsettled = claims(states, system, owner)
    if unsettled:
        return []  # one of them may be the job of a start that still looks for it
    # A job that runs with a tombstone ends by itself, and saves its work first (R7).
    return [
        job
        for job in jobs
        if job.id not in wanted and (job.id not in ending or job.state is JobState.PENDING)
    ]
