"""Which Hub runs in the schedules? JupyterHub's own users, pages, start-up and database.

Only what would need a network is replaced: the proxy, the issuer, and the knock at a server's door.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from jupyterhub import objects
from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.crypto import CryptKeeper
from jupyterhub.user import UserDict
from tornado.web import HTTPError
from traitlets.config import Config

from firecrestspawner import resume
from firecrestspawner.cluster import Clusters
from firecrestspawner.errors import LoginRequired, ProviderUnavailable
from firecrestspawner.handlers import JobChannelHandler, Switchboard
from firecrestspawner.models import Secret, TokenSet
from firecrestspawner.service import ServiceAccount
from firecrestspawner.spawner import FirecRESTSpawner
from tests.chaos.clock import Killed, Process
from tests.chaos.wire import SYSTEM

CONFIG = Config(
    FirecRESTSpawner={
        "firecrest_url": "http://api",
        "system": SYSTEM,
        "job_name": "hub-1",
        "hub_connect_url": "http://10.0.0.9:8081",
        "batch_script": "#!/bin/bash\n{{cmd}}\n",
        # JupyterHub's own default; a slower look costs the recovery time, not the promise.
        "poll_interval": 30,
    },
    ServiceAccount={"client_id": "service", "client_secret": "x", "token_url": "http://issuer"},
)
#: Seconds the Hub knocks at a server before it gives up (Spawner.http_timeout's default).
INIT_SPAWNERS_TIMEOUT = 10.0


class Logins(Authenticator):
    """The users' tokens, as the issuer gives them."""

    def __init__(self, world: Any) -> None:
        super().__init__()
        self.world = world
        self.token_store = self.provider = self
        self.manage_roles = False

    async def get(self, user: Any) -> TokenSet:
        """TokenStore.get."""
        await asyncio.sleep(self.world.rng.uniform(0, 0.05))
        if self.world.fault("issuer", "away", user.name):
            await asyncio.sleep(5)
            raise ProviderUnavailable("The login service cannot be reached.")
        if self.world.fault("issuer", "session ended", user.name):
            raise LoginRequired("Your login has ended.")
        return TokenSet(Secret(user.name), None)

    async def claims(self, token: Secret) -> dict[str, Any]:
        """Provider.claims."""
        return {"preferred_username": token.reveal()}


def token_client(world: Any) -> Any:
    """What asks for the service account's token, for ``firecrestspawner.service.TokenClient``."""

    class Client:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        async def token(self, url: str, form: Any) -> dict[str, Any]:
            await asyncio.sleep(0.02)
            if world.fault("issuer", "service away", "*"):
                raise ProviderUnavailable("The login service cannot be reached.")
            return {"access_token": "service", "expires_in": 300}

        async def aclose(self) -> None:
            pass

    return Client


class Proxy:
    """The proxy, a process of its own: its routes outlive the Hub."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], str] = {}

    async def add_user(self, user: Any, server_name: str = "") -> None:
        spawner = user.spawners[server_name]
        if spawner.pending and spawner.pending != "spawn":
            raise RuntimeError(f"{spawner._log_name} is pending {spawner.pending}")
        await asyncio.sleep(0.005)
        self.routes[user.name, server_name] = spawner.server.host

    async def delete_user(self, user: Any, server_name: str = "") -> None:
        await asyncio.sleep(0.005)
        self.routes.pop((user.name, server_name), None)

    async def check_routes(self, users: Any) -> None:
        """What the Hub does when it has started, and every minute."""
        ready = {
            (user.name, name): spawner.server.host
            for user in users.values()
            for name, spawner in user.spawners.items()
            if spawner.ready
        }
        await asyncio.sleep(0.005)
        self.routes = ready


class Hub(Process):
    """One process of the Hub."""

    def __init__(self, world: Any) -> None:
        super().__init__(world.loop, on_kill=world.hub_is_gone)
        self.world = world
        self.listening = False
        self.db = world.database.session(self)
        self.switchboard = Switchboard()
        self.settings: dict[str, Any] = {
            "db": self.db,
            "firecrest_switchboard": self.switchboard,
            "firecrest_own_addresses": frozenset(),
            "spawner_class": world.spawner_class,
            "authenticator": world.logins,
            "config": CONFIG,
            "hub": objects.Hub(),
            "cookie_secret": b"",
            "proxy": world.proxy,
            "eventlog": SimpleNamespace(emit=lambda **_: None),
            "concurrent_spawn_limit": 0,
            "active_server_limit": 0,
            "slow_spawn_timeout": 0,
            "slow_stop_timeout": 0,
            "allow_named_servers": True,
            "log": logging.getLogger("chaos.hub"),
        }
        self.users = self.settings["users"] = UserDict(lambda: self.db, self.settings)
        self.start(self._begin())

    async def _begin(self) -> None:
        """What JupyterHub.initialize and start do."""
        self.settings["firecrest_clusters"] = Clusters(ServiceAccount(config=CONFIG), frozenset())
        serves = asyncio.get_running_loop().create_future()
        app = SimpleNamespace(
            spawner_class=self.settings["spawner_class"],
            _start_future=serves,
            db=self.db,
            users=self.users,
            proxy=self.world.proxy,
            authenticator=self.world.logins,
            log=self.settings["log"],
            log_level=logging.CRITICAL,
        )
        resume.take_up(app)
        init = asyncio.ensure_future(JupyterHub.init_spawners(app))
        await asyncio.wait([init], timeout=INIT_SPAWNERS_TIMEOUT)
        self.listening = True
        serves.set_result(None)
        self.world.note("hub", "serves")
        await init
        while True:
            await self.world.proxy.check_routes(self.users)
            await asyncio.sleep(60)

    async def shut_down(self) -> None:
        """SIGTERM: JupyterHub cancels every task, waits for them, and exits."""
        self.listening = False
        me = asyncio.current_task()
        tasks = [task for task in self.tasks if task is not me and not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.kill()

    def close_session(self) -> None:
        """What it had not committed is lost."""
        with contextlib.suppress(Killed):
            self.db.close()

    # -- what is asked of it -----------------------------------------------------------------

    async def press(self, button: str, user: str, server: str) -> int:
        """A button of the home page, or the REST API. The status of the answer."""
        page = Page(self)
        try:
            if button == "start":
                await inspect.unwrap(UserServerAPIHandler.post)(page, user, server)
            else:
                await inspect.unwrap(UserServerAPIHandler.delete)(page, user, server)
        except HTTPError as error:
            page.set_status(error.status_code)
        return page.status

    async def hear(self, body: bytes) -> tuple[int, bytes]:
        """A message on the job channel; the answer may be on its way before all is done."""
        message = Message(self, body)
        post = asyncio.ensure_future(message.post())
        post.add_done_callback(lambda _: message.finish())
        return await message.answer


def observed(world: Any) -> type[FirecRESTSpawner]:
    """The product's spawner; the checker sees what is asked of it and what it says."""
    checker = world.checker

    class Observed(FirecRESTSpawner):
        async def start(self) -> str:
            wish = checker.began(self.user.name, self.name)
            try:
                url = await super().start()
            except Exception as error:
                # Seen, and raised again.
                why = str(error)
                world.note("hub", f"the start of {wish} failed:", why)
                checker.start_failed(self.user.name, self.name, why, world.job_of(self))
                raise
            wish.ready = True
            world.note("hub", f"{wish} is at {url}")
            return url

        async def stop(self, now: bool = False) -> None:
            wish = checker.wishes.get((self.user.name, self.name))
            job = world.job_of(self)
            if wish is not None and wish.wanted and job is not None and job.alive:
                checker.blame(f"{wish} is stopped, and nobody asked for that")
            world.note("hub", f"stops {self._log_name}", job and job.id)
            await super().stop(now)
            world.note("hub", f"has stopped {self._log_name}")

        async def poll(self) -> int | None:
            status = await super().poll()
            if status is not None:
                checker.takes_for_ended(self.user.name, self.name, world.job_of(self))
            return status

        def get_state(self) -> dict[str, Any]:
            state = super().get_state()
            if "spawn_id" in state:
                checker.uses(self.user.name, self.name, state["spawn_id"])
            return state

    return Observed


class Page(UserServerAPIHandler):
    """A request for the user's servers, by somebody who may."""

    def __init__(self, hub: Hub) -> None:
        self.application = SimpleNamespace(settings=hub.settings)
        self.request = SimpleNamespace(method="POST", path="", uri="", arguments={}, body=b"")
        self.status = 200

    def find_user(self, name: str) -> Any:
        known = [user for user in self.users.values() if user.name == name]
        return known[0] if known else self.users[name]

    def get_json_body(self) -> Any:
        return None

    async def _check_named_server_request(self, *_: Any, **__: Any) -> None:
        pass

    def set_header(self, name: str, value: Any) -> None:
        pass

    def set_status(self, status: int, reason: str | None = None) -> None:
        self.status = status


class Message(JobChannelHandler):
    """A request on the job channel."""

    def __init__(self, hub: Hub, body: bytes) -> None:
        self.application = SimpleNamespace(settings=hub.settings)
        self.request = SimpleNamespace(remote_ip="10.1.0.1")
        self.switchboard = hub.switchboard
        self._body = bytearray(body)
        self._status = 500
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def set_header(self, name: str, value: Any) -> None:
        pass

    def set_status(self, status: int, reason: str | None = None) -> None:
        self._status = status

    def finish(self, chunk: Any = None) -> Any:
        if not self.answer.done():
            self.answer.set_result((self._status, str(chunk).encode()))


@contextlib.contextmanager
def installed(key: bytes, knock: Any) -> Iterator[None]:
    """The Hub's key, and its knock at servers' doors: ``knock(url, timeout)``."""
    CryptKeeper.clear_instance()
    CryptKeeper.instance().keys = [key]

    def wait_up(self: Any, timeout: float = 10, **_: Any) -> Any:
        return knock(self, timeout)

    try:
        with mock.patch.object(objects.Server, "wait_up", wait_up):
            yield
    finally:
        CryptKeeper.clear_instance()
