"""Which Hub does a spawner under test live in? Its database and users are JupyterHub's own."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

from jupyterhub import orm, roles
from jupyterhub.crypto import CryptKeeper
from jupyterhub.objects import Hub
from jupyterhub.user import UserDict
from traitlets.config import Config

from firecrestspawner.cluster import Clusters
from firecrestspawner.errors import Error, NotFound
from firecrestspawner.handlers import Switchboard
from firecrestspawner.isolation import Guard
from firecrestspawner.models import (
    Job,
    JobRequest,
    JobState,
    Listing,
    Node,
    Secret,
    System,
    TokenSet,
)
from firecrestspawner.service import ServiceAccount
from firecrestspawner.spawner import FirecRESTSpawner

NAME = "hub-1"
URL = "http://api"


def job(job_id: str, state: JobState = JobState.PENDING, **fields: Any) -> Job:
    nodes = "" if state is JobState.PENDING else "nid001"
    return Job(id=job_id, state=state, **{"name": NAME, "user": "alice", "nodes": nodes, **fields})


class Api:
    """FirecREST. Answers of submits are used up one by one; an error among them is raised."""

    url = URL

    def __init__(self) -> None:
        self.described = System("daint")
        #: Further systems; an error is raised in place of the whole list.
        self.others: list[System] = []
        self.systems_error: Error | None = None
        self.submits: list[str | Error] = []
        self.requests: list[JobRequest] = []
        self.jobs_by_id: dict[str, Job] = {}
        self.calls: list[str] = []
        self.list_error: Error | None = None
        #: Users' files by path; None for a file system that hangs.
        self.files: dict[str, str] | None = {}
        self.reading = asyncio.Event()
        #: What jobs were started and cancelled with.
        self.tokens: list[str] = []
        self.titles: dict[str, str] = {}

    def guard(self, system: str) -> Guard:
        return Guard(system)

    def put(self, *jobs: Job) -> None:
        self.jobs_by_id |= {job.id: job for job in jobs}

    async def systems(self, token: Secret) -> dict[str, System]:
        self.calls.append("systems")
        if self.systems_error is not None:
            raise self.systems_error
        return {each.name: each for each in (self.described, *self.others)}

    async def nodes(self, token: Secret, system: str) -> list[Node]:
        return [Node("nid001", ("10.1.0.1",))]

    async def submit(self, token: Secret, system: str, request: JobRequest) -> str:
        self.calls.append("submit")
        self.tokens.append(token.reveal())
        self.requests.append(request)
        answer = self.submits.pop(0)
        if isinstance(answer, Error):
            raise answer
        self.put(job(answer))
        return answer

    async def jobs(
        self, token: Secret, system: str, *, name: str, all_users: bool, window: str | None = None
    ) -> Listing:
        if not all_users:
            self.calls.append("list")
        if self.list_error is not None:
            raise self.list_error
        return Listing(list(self.jobs_by_id.values()))

    async def job(self, token: Secret, system: str, job_id: str) -> Job:
        self.calls.append(f"job {job_id}")
        if job_id not in self.jobs_by_id:
            raise NotFound("No such job.")
        return self.jobs_by_id[job_id]

    async def cancel(self, token: Secret, system: str, job_id: str) -> None:
        self.calls.append(f"cancel {job_id}")
        self.tokens.append(token.reveal())
        self.put(job(job_id, JobState.CANCELLED))

    async def tail(self, token: Secret, system: str, path: str, *, size: int) -> str:
        self.calls.append(f"tail {path}")
        self.tokens.append(token.reveal())
        self.reading.set()
        if self.files is None:
            await asyncio.Event().wait()
        elif path in self.files:
            return self.files[path][-size:]
        raise NotFound("No such file.")

    async def aclose(self) -> None:
        pass


class Account(ServiceAccount):
    """A service account that always has a token."""

    def check(self) -> None:
        pass

    async def get(self, min_validity: float = 0) -> Secret:
        return Secret("service")

    async def aclose(self) -> None:
        pass


class Logins:
    """The users' tokens and the issuer; ``error`` is why there is no token."""

    def __init__(self) -> None:
        self.error: Error | None = None
        self.token_store = self.provider = self
        self.manage_roles = False

    async def get(self, user: Any) -> TokenSet:
        if self.error is not None:
            raise self.error
        return TokenSet(Secret("alices"), None)

    async def claims(self, token: Secret) -> dict[str, Any]:
        return {"preferred_username": "alice"}


class Scene:
    """A Hub with one user, alice. ``restart`` makes a new process of it, over the same database."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.logins = Logins()
        self.config = Config(
            FirecRESTSpawner={
                "firecrest_url": URL,
                "system": "daint",
                "job_name": NAME,
                "stop_patience": 1,
                "hub_connect_url": "http://10.0.0.9:8081",
            }
        )
        self.factory = orm.new_session_factory("sqlite:///:memory:")
        self.db = self.factory()
        self.row = orm.User(name="alice")
        self.db.add_all([self.row, orm.OAuthClient(identifier="jupyterhub")])
        self.db.commit()
        self.key = self.old_key = b""
        self.new_key()
        self._clusters: list[Clusters] = []
        self.restart()

    def restart(self) -> None:
        self._clusters.append(Clusters(Account(config=self.config), frozenset()))
        self.switchboard = Switchboard()
        settings = {
            "firecrest_switchboard": self.switchboard,
            "firecrest_clusters": self._clusters[-1],
            "spawner_class": FirecRESTSpawner,
            "authenticator": self.logins,
            "config": self.config,
            "hub": Hub(),
            # JupyterHub 5 counts failed starts with it.
            "statsd": SimpleNamespace(incr=lambda name: None),
        }
        self.users = UserDict(lambda: self.db, settings)
        self.user = self.users.add(self.row)

    def let_users_spawn(self) -> None:
        """Through User.spawn: with the roles that it gives tokens by, and an authenticator."""
        for role in roles.get_default_roles():
            roles.create_role(self.db, role)
        roles.assign_default_roles(self.db, entity=self.row)
        self.logins.pre_spawn_start = self.logins.post_spawn_stop = lambda user, spawner: None  # type: ignore[attr-defined]

    def new_key(self) -> bytes:
        """Another JUPYTERHUB_CRYPT_KEY than before. Returns the one before."""
        before = self.key
        self.key = os.urandom(32)
        CryptKeeper.clear_instance()
        CryptKeeper.instance().keys = [self.key]
        return before

    def spawner(self, name: str = "") -> Any:
        """The spawner of one of alice's servers, with an API token as the Hub gives it."""
        if name not in self.row.orm_spawners:
            self.db.add(orm.Spawner(name=name, user=self.row))
            self.db.commit()
        spawner = self.user.spawners[name]
        spawner.user_options = {}
        if not spawner.api_token:
            note = f"Server at /user/alice/{name}"
            spawner.api_token = self.row.new_api_token(note=note, scopes=[])
        return spawner

    def state(self, name: str = "") -> dict[str, Any]:
        """What is stored of a server, but for what its last end was."""
        state = dict(self.row.orm_spawners[name].state or {})
        state.pop("ending", None)
        return state

    async def aclose(self) -> None:
        for clusters in self._clusters:
            await clusters.aclose()
        self.db.close()
        self.factory.kw["bind"].dispose()
        CryptKeeper.clear_instance()
