"""What do many needs of fresh tokens cost, while the issuer takes two seconds for each answer?

The Hub's own token store, database (SQLite, in a file) and encryption; the issuer is a process of
its own. Beside them ticks what any other page of the Hub would be: the lateness of the event loop.
No stall can be shorter than one of an idle loop on this machine, and where pages come to the
database, than one commit on this disk: both are measured, too.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from jupyterhub import orm
from jupyterhub.crypto import CryptKeeper, encrypt
from jupyterhub.user import User
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from benchmarks.measure import Load, load
from firecrestspawner.models import Secret, TokenSet
from firecrestspawner.oauth import TokenClient
from firecrestspawner.oidc import Provider
from firecrestspawner.slices import freeze
from firecrestspawner.tokens import TokenStore, write_tokens
from firecrestspawner.vault import UserVault

#: Seconds.
DELAY, PAUSE = 2.0, 0.03
ONE, MANY = 50, 200


def run(rounds: int) -> None:
    """Print the worst of ``rounds`` rounds."""
    with issuer() as (pipe, url), tempfile.TemporaryDirectory() as directory:
        asyncio.run(_measure(pipe, url, directory, rounds))


async def _measure(pipe: Connection, url: str, directory: str, rounds: int) -> None:
    CryptKeeper.instance(keys=[os.urandom(32)])
    db = orm.new_session_factory(f"sqlite:///{directory}/hub.sqlite")()
    client = TokenClient("jupyterhub", Secret("demo-hub-secret"))
    store = TokenStore(Provider(url, client), UserVault)
    rows = [orm.User(name=f"user-{number}") for number in range(MANY)]
    writer = orm.User(name="writer")
    db.add_all([*rows, writer])
    db.commit()
    freeze()  # as the Hub does, once it has read its users
    people = [User(row, {}, db=db) for row in rows]
    async with load() as idle:
        await asyncio.sleep(DELAY)
    commits = [_commit(db, person) for person in people[:20]]
    ones = [await _needs(pipe, store, people[:1], ONE) for _ in range(rounds)]
    manys = [await _needs(pipe, store, people, MANY) for _ in range(rounds)]
    busy = [await _needs(pipe, store, people, MANY, writer) for _ in range(rounds)]
    await store.aclose()
    CryptKeeper.clear_instance()
    db.close()
    print(f"tokens, from an issuer that takes {DELAY:g} s (worst of {rounds} rounds)")
    print(f"  {ONE} needs of one user           {max(n.requests for n in ones):5} requests")
    _print(f"  {MANY} users at once", manys)
    print("    (goals: about 2 s, a stall of 20 ms at most)")
    _print(f"  while the Hub commits every {PAUSE * 1000:.0f} ms", busy)
    print(f"  an idle loop was late by at most {idle.stall * 1000:7.1f} ms")
    print(f"  one commit alone, median         {statistics.median(commits) * 1000:7.1f} ms")


def _print(what: str, needs: list[Needs]) -> None:
    print(f"{what}              {max(n.requests for n in needs):5} requests")
    loads = [each.load for each in needs]
    took = statistics.median(each.took for each in loads)
    print(
        f"    all served within          {max(each.took for each in loads):7.2f} s"
        f" (median {took:.2f} s)"
    )
    cpu = statistics.median(each.cpu for each in loads) / MANY
    print(f"    CPU for each, median       {cpu * 1000:7.1f} ms")
    print(f"    longest stall of the loop  {max(each.stall for each in loads) * 1000:7.1f} ms")
    late = [tick for each in loads for tick in each.late]
    print(f"    its lateness, 99 of 100    {statistics.quantiles(late, n=100)[-1] * 1000:7.1f} ms")


class Needs(NamedTuple):
    """What it took to serve them all."""

    requests: int
    load: Load


def _commit(db: Any, person: Any) -> float:
    """Seconds for storing a user's tokens as the Hub does."""
    person.encrypted_auth_state = os.urandom(5000)
    began = time.perf_counter()
    db.commit()
    return time.perf_counter() - began


@asynccontextmanager
async def _writing(db: Any, writer: Any) -> AsyncIterator[None]:
    """Pages that write: every PAUSE seconds, unless there is no ``writer``."""

    async def write() -> None:
        while True:
            writer.last_activity = datetime.now(timezone.utc).replace(tzinfo=None)
            db.commit()
            await asyncio.sleep(PAUSE)

    if writer is None:
        yield
        return
    writes = asyncio.ensure_future(write())
    try:
        yield
    finally:
        writes.cancel()
        await asyncio.wait([writes])


async def _needs(
    pipe: Connection, store: TokenStore, people: list[Any], count: int, writer: Any = None
) -> Needs:
    """``count`` needs at the same moment, of people whose tokens have all expired."""
    for person in people:
        expired = TokenSet.from_response(answer(), now=time.time() - 300)
        person.encrypted_auth_state = await encrypt(write_tokens(expired))
    people[0].db.commit()
    before = _requests(pipe)
    async with _writing(people[0].db, writer), load() as measured:
        await asyncio.gather(*(store.get(people[n % len(people)]) for n in range(count)))
    return Needs(_requests(pipe) - before, measured)


def _requests(pipe: Connection) -> int:
    pipe.send("?")
    requests: int = pipe.recv()
    return requests


# -- the issuer ----------------------------------------------------------------------------------


@contextmanager
def issuer() -> Iterator[tuple[Connection, str]]:
    """An issuer in another process: what answers the number of its token requests, and its address.

    The demo's own serves two dozen requests at a time; this one any number, and signs nothing.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    process.start()
    theirs.close()
    try:
        yield ours, ours.recv()
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection) -> None:
    asyncio.run(_serve_until_closed(pipe))


async def _serve_until_closed(pipe: Connection) -> None:
    requests = 0

    class Token(RequestHandler):
        async def post(self) -> None:
            nonlocal requests
            requests += 1
            await asyncio.sleep(DELAY)
            self.finish(answer())

    class Discovery(RequestHandler):
        def get(self) -> None:
            names = ("token", "authorization", "userinfo")
            endpoints = {f"{name}_endpoint": f"{url}/{name}" for name in names}
            self.finish({"issuer": url, "jwks_uri": f"{url}/keys", **endpoints})

    sockets = bind_sockets(0, "127.0.0.1", backlog=1024)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    routes = [("/token", Token), ("/.well-known/openid-configuration", Discovery)]
    HTTPServer(Application(routes, log_function=lambda handler: None)).add_sockets(sockets)
    closed = asyncio.Event()

    def asked() -> None:
        try:
            pipe.recv()
        except EOFError:
            closed.set()
            asyncio.get_running_loop().remove_reader(pipe.fileno())
        else:
            pipe.send(requests)

    asyncio.get_running_loop().add_reader(pipe.fileno(), asked)
    pipe.send(url)
    await closed.wait()


def answer() -> dict[str, Any]:
    """What an issuer that rotates says, of the size of Keycloak's tokens."""
    names = ("access_token", "refresh_token", "id_token")
    tokens = {name: secrets.token_urlsafe(900) for name in names}
    return {**tokens, "token_type": "Bearer", "expires_in": 300, "refresh_expires_in": 1800}


if __name__ == "__main__":
    run(3)
