"""How does a Hub come to have hundreds of running servers, without hundreds of Jupyters?

The rows are written into its database while it is stopped, as it would have written them; one small
server answers for all of theirs, and another one is the FirecREST that knows their jobs.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from typing import Any

from cryptography.fernet import Fernet
from jupyterhub import orm

from benchmarks.cluster import JOB_NAME, Cluster, cluster, user
from firecrestspawner.channel import Line
from firecrestspawner.models import Secret
from firecrestspawner.spawn import Spawn
from tests.journeys.site import Site

#: The cluster's name for the one system it has.
SYSTEM = "0"

_CONFIG = """
c.FirecRESTSpawner.firecrest_url = {url!r}
c.FirecRESTSpawner.system = {system!r}
c.FirecRESTSpawner.job_name = {name!r}
c.JupyterHub.authenticate_prometheus = False
"""


@contextlib.contextmanager
def crowd(servers: int, **settings: Any) -> Iterator[tuple[Site, Cluster]]:
    """A site whose Hub is stopped, and has ``servers`` running servers; and their FirecREST."""
    with cluster(servers) as firecrest:
        config = _CONFIG.format(url=firecrest.url, system=SYSTEM, name=JOB_NAME)
        with Site(extra_config=config, log_level="INFO", **settings) as site:
            site.stop_hub()
            _populate(site, firecrest, servers)
            firecrest.requests()
            yield site, firecrest


def _populate(site: Site, firecrest: Cluster, servers: int) -> None:
    key = bytes.fromhex(site.secrets()["JUPYTERHUB_CRYPT_KEY"])
    fernet = Fernet(base64.urlsafe_b64encode(key))
    host, _, port = firecrest.url.removeprefix("http://").partition(":")
    db = orm.new_session_factory(f"sqlite:///{site.database}")()
    role = db.query(orm.Role).filter_by(name="user").one()
    for number in range(servers):
        name = user(str(number))
        row = orm.User(name=name)
        row.roles.append(role)
        line = Line.new()
        line.nonce, line.ready = "0" * 32, True
        spawn = Spawn(
            line,
            SYSTEM,
            name,
            api_token=Secret(f"token-of-{name}-{'x' * 20}"),
            environment={},
            command=["jupyterhub-singleuser"],
            submitted_at=1_699_999_000.0,
            job_id=str(number),
            address=host,
            port=int(port),
        )
        server = orm.Server(proto="http", ip=host, port=int(port), base_url=f"/user/{name}/")
        state = spawn.to_state(lambda data: fernet.encrypt(data).decode())
        db.add(orm.Spawner(user=row, name="", server=server, state=state))
    db.commit()
    db.close()
    db.get_bind().dispose()
