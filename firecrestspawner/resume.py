"""How does a start that was under way go on in a restarted Hub?

*Spawn again and adopt.* JupyterHub would take a server that is still starting for one that runs,
and stop it because nothing answers. So before it looks (init_spawners), the server row of such a
start is taken away, and the start is shown as pending. Once the Hub serves, it goes through
User.spawn again, whose ``start()`` finds that there is a job, and waits for it. None of this needs
FirecREST or the issuer, and a Hub that is killed in the middle of it begins anew: what is stored of
a start changes only when its job does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from jupyterhub import orm
from jupyterhub.utils import url_escape_path, url_path_join

from .deadline import in_time
from .errors import Error, JobEnded
from .models import Secret
from .spawn import Spawn, claims, earlier, under_way
from .stored import StoredSpawner, stored_states

#: Seconds between two starts that are taken up again: each keeps the event loop for some
#: milliseconds, and other users wait for it (R8).
PACE = 0.01
#: However long ago its submit was: seconds that a job has to introduce itself to a restarted Hub.
GRACE = 600
#: Seconds between two looks for a job whose number is not known: at first, and at last.
LOOKS = (2.0, 30.0)


def take_up(app: Any) -> None:
    """Let the starts that were under way go on, once the Hub serves.

    ``app`` is the JupyterHub application, before its init_spawners.
    """
    if not issubclass(app.spawner_class, StoredSpawner):
        return
    rows = [row for row in app.db.query(orm.Spawner) if row.user is not None]
    starts = [row for row in rows if under_way(row.state or {})]
    for row in starts:
        row.server = None
    app.db.commit()
    pace = asyncio.Lock()
    for row in starts:
        user = app.users[row.user]
        spawner = user.spawners[row.name]
        token = spawner.spawn.api_token if spawner.spawn is not None else Secret("")
        discard_tokens(app.db, user, row.name, besides=token)
        # From now on it is pending, for pages, for the REST API and for the proxy's table.
        spawner._spawn_pending = True
        spawner._spawn_future = asyncio.ensure_future(_go_on(app, user, spawner, pace))
        spawner._spawn_future.add_done_callback(lambda done, spawner=spawner: _over(spawner, done))
    for row in rows:
        if row.server is not None and "spawn_id" not in (row.state or {}):
            # Killed before anything was stored: the Hub finds by itself that nothing runs.
            discard_tokens(app.db, app.users[row.user], row.name, besides=Secret(""))
    if starts:
        app.log.info("%i starts were under way, and go on", len(starts))


def discard_tokens(db: Any, user: Any, name: str, *, besides: Secret) -> None:
    """Delete the API tokens that interrupted starts of a server have left (S10).

    User.spawn stores one at its beginning, and knows it by value only.
    """
    note = f"Server at {url_path_join(user.base_url, url_escape_path(name), '/')}"
    for token in db.query(orm.APIToken).filter_by(user_id=user.id, note=note):
        if not (besides and token.match(besides.reveal())):
            db.delete(token)
    db.commit()


async def _go_on(app: Any, user: Any, spawner: Any, pace: asyncio.Lock) -> None:
    """What JupyterHub does for a start (BaseHandler.spawn_single_user), without a request."""
    # Shielded: whoever cancels this start does not mean the Hub's.
    await asyncio.shield(app._start_future)
    async with pace:
        await asyncio.sleep(PACE)
    spawn = spawner.spawn
    if spawn is None or spawn.line.ended or user.name in app.authenticator.blocked_users:
        # Nothing to go on with; or the Hub died in the middle of a stop; or its user may not.
        await _give_up(user, spawner)
        return
    spawner.adopts = bool(spawn.submitted_at)  # else nothing was submitted: it begins anew
    configured = spawner.start_timeout
    if spawner.adopts:
        left = spawn.submitted_at + configured - time.time()
        spawner.start_timeout = min(configured, max(int(left), GRACE))
    try:
        await user.spawn(spawner.name)
        spawner._proxy_pending = True
        await app.proxy.add_user(user, spawner.name)
    except Exception:
        # User.spawn stops what it could not start, but for what fails before its start().
        if spawner.spawn is not None:
            await _give_up(user, spawner)
        raise
    finally:
        spawner._proxy_pending = False
        spawner.adopts = False
        spawner.start_timeout = configured
    spawner.add_poll_callback(_stopped, app, user, spawner.name)


async def _give_up(user: Any, spawner: Any) -> None:
    spawner.adopts = False
    await user.stop(spawner.name)


async def _stopped(app: Any, user: Any, name: str) -> None:
    """A server has ended by itself (as the Hub's init_spawners has it)."""
    app.log.warning("User %s server stopped", user.name)
    await app.proxy.delete_user(user, name)
    await user.stop(name)


def _over(spawner: Any, done: asyncio.Task[None]) -> None:
    # An exception is kept, as JupyterHub does: its pages show it.
    if done.cancelled() or done.exception() is None:
        spawner._spawn_future = None
    spawner._spawn_pending = False


async def find_job(
    spawner: StoredSpawner, spawn: Spawn, token: Callable[[], Awaitable[Secret]]
) -> None:
    """Settle a submit whose answer the Hub did not live to read (R3).

    Returns once the job's number is known: it is the one of the user's list that no other start can
    have, or the job has introduced itself. While nobody can say, waits. Raises JobEnded when it is
    certain that there is none. ``token`` answers with what the user's jobs are listed with.
    """
    pause = LOOKS[0]
    while not spawn.job_id:
        spawner._news.clear()
        try:
            await _look_for_job(spawner, spawn, token)
        except JobEnded:
            raise
        except Error as error:
            spawner.log.info("%s: not looking for its job: %s", spawner._log_name, error.detail)
        if not spawn.job_id:
            with suppress(asyncio.TimeoutError):
                await in_time(spawner._news.wait(), pause)
        pause = min(pause * 2, LOOKS[1])


async def _look_for_job(
    spawner: StoredSpawner, spawn: Spawn, token: Callable[[], Awaitable[Secret]]
) -> None:
    cluster = spawner._cluster(spawn.system)
    # In the user's turn: no other submit is under way whose job this one could be taken for.
    async with cluster.turn(spawn.user):
        settled = cluster.settled(spawn.submitted_at)
        listed = await cluster.own_jobs(await token())
        states = await stored_states(spawner.user.db)
        if listed is None or spawn.job_id:
            return
        states = [state for state in states if state.get("spawn_id") != spawn.id]
        jobs, lost = earlier(states, spawn.system, besides=spawn.id)
        new = [job.id for job in listed if job.id not in jobs and not job.state.terminal]
        # Another start of the user may look for its job, or one that was given up have one yet.
        others = claims(states, spawn.system, spawn.user)[2] or any(
            not cluster.settled(submitted_at) for submitted_at in lost
        )
        if len(new) == 1 and not others:
            spawner._name_job(spawn, new[0])
        elif not new and settled:
            raise JobEnded(
                "The Hub was restarted before your job reached the cluster. Please start the "
                "server again."
            )
