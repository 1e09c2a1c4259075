"""How does a whole site run on one machine, and leave nothing behind?

:class:`Demo` is the site: an issuer and a FirecREST in this process, the real proxy and a real
JupyterHub as processes of their own, so that the Hub can be stopped, killed and started again
under its users. ``firecrestspawner demo`` shows it to people (:func:`run`); the journeys among the
tests use it as a fixture::

    with Demo() as demo:
        browser.get(demo.url)
        demo.kill_hub()
        demo.start_hub()

Everything listens on loopback addresses only.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

import httpx
import psutil

from firecrestspawner.demo import children, proxy
from firecrestspawner.demo.children import LOOPBACK, Child, DemoError
from firecrestspawner.demo.cluster import Executor, SchedulerError
from firecrestspawner.demo.executors import LocalExecutor
from firecrestspawner.demo.firecrest import FirecREST, System
from firecrestspawner.demo.issuer import DEFAULT_CLIENTS, DEFAULT_USERS, DemoUser, Issuer
from firecrestspawner.demo.slurm_executor import SlurmExecutor, unix_users

SYSTEM = "demo"
# Where jobs' servers listen: nobody else does.
SERVERS = "127.0.0.2"
# Ports that single-user servers may use: many more than the local cluster has slots.
JOB_PORTS = 50
# Seconds. JupyterHub imports and migrates for a while on a slow machine.
READY_TIMEOUT = 60.0
# Variables of the caller's own Hub, issuer or web proxy that must not reach the demo's Hub.
FOREIGN = ("JUPYTERHUB_", "CONFIGPROXY_", "OAUTH", "FIRECREST_", "SA_", "DEMO_")
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WEB_PROXIES = {"http_proxy", "https_proxy", "all_proxy"}


# typing.Self is for Python 3.11 and newer.
DemoT = TypeVar("DemoT", bound="Demo")


class Demo:
    """A site on this machine; as a context manager it is ready inside, and gone after.

    ``port``: of the public URL; 0 is any free one. ``directory``: where everything lies and
    stays; without it, a temporary one that is removed at the end. ``executor``: ``"local"``,
    ``"slurm"``, or an object that runs jobs. ``users``: who can log in.
    ``access_token_lifetime`` and ``session_lifetime`` are the issuer's, in seconds.
    ``extra_config``: text appended to the Hub's configuration file, ``environ``: variables added
    to the Hub's environment; both are read at each start of the Hub.

    Attributes: ``url`` (public, without a slash at the end), ``hub_url`` (the Hub's own, as jobs
    see it), ``directory``, ``hub_log``, ``proxy_log``, ``database`` (the Hub's, SQLite),
    ``temporary`` (whether the directory is), ``users``, ``unix_users`` (login -> whom its jobs run
    as; empty unless on Slurm), ``issuer``, ``issuer_url`` (its identifier), ``firecrest``,
    ``executor``, ``hub`` and ``proxy`` (:class:`.children.Child`).
    """

    def __init__(
        self,
        *,
        port: int = 0,
        directory: Path | None = None,
        executor: "str | Executor" = "local",
        users: Iterable[DemoUser] = DEFAULT_USERS,
        access_token_lifetime: float = 300.0,
        session_lifetime: float = 36000.0,
        log_level: str = "INFO",
        extra_config: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.extra_config = extra_config
        self.environ = dict(environ or {})
        self.log_level = log_level
        self.temporary = directory is None
        self._given_directory = directory
        self._given_port = port
        self._given_executor = executor
        self.users = tuple(users)
        self.unix_users: Mapping[str, str] = {}
        self._lifetimes = (access_token_lifetime, session_lifetime)
        self._mark = secrets.token_hex(16)
        self._secrets = {
            "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(32),
        }
        self._cleanup = contextlib.ExitStack()

    # -- the whole -------------------------------------------------------------------------

    def __enter__(self: DemoT) -> DemoT:
        try:
            self._prepare()
            self._start_services()
            self._start_proxy()
            self.start_hub()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything, in order: Hub, proxy, jobs, FirecREST, issuer, files.

        Raises :class:`DemoError` that names processes which had to be ended by force.
        """
        self._cleanup.close()

    def leftovers(self) -> list[psutil.Process]:
        """Processes of jobs: those that work in the users' homes of the local cluster."""
        return children.inside(self.directory / "cluster")

    # -- the Hub ---------------------------------------------------------------------------

    def start_hub(self, wait: bool = True) -> None:
        """Start the Hub's process and, unless told otherwise, wait until it serves.

        Raises :class:`DemoError`, with the end of the Hub's log, when it does not come up.
        """
        config = self.directory / "jupyterhub_config.py"
        shipped = Path(__file__).with_name("jupyterhub_config.py").read_text()
        config.write_text(f"{shipped}\n{self.extra_config}")
        argv = [sys.executable, "-m", "jupyterhub", "-f", str(config)]
        self.hub.start(argv, self._hub_environ(), self.directory)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until the Hub answers through the proxy; :class:`DemoError` after ``timeout``."""

        def ready() -> bool:
            # The Hub itself first: the proxy would log each look that it cannot pass on.
            return _answers(f"{self.hub_url}/hub/health") and _answers(f"{self.url}/hub/health")

        self.hub.wait_until(ready, timeout)

    def stop_hub(self, with_signal: int = signal.SIGTERM) -> int:
        """Stop the Hub, killing it if it will not; its exit code (negative: the signal)."""
        return self.hub.stop(with_signal)

    def kill_hub(self) -> None:
        """kill -9: the Hub gets no chance to save anything."""
        self.hub.stop(signal.SIGKILL)

    def restart_hub(self) -> None:
        """A clean restart, as a service manager does it."""
        self.stop_hub()
        self.start_hub()

    def routes(self) -> dict[str, Any]:
        """The proxy's routing table: path -> target and data (its REST API, ``/api/routes``)."""
        token = self._secrets["CONFIGPROXY_AUTH_TOKEN"]
        with httpx.Client(trust_env=False) as client:
            answer = client.get(
                f"{self._proxy_api}/api/routes", headers={"Authorization": f"token {token}"}
            )
        answer.raise_for_status()
        routes: dict[str, Any] = answer.json()
        return routes

    # -- how it is put together ------------------------------------------------------------

    def _prepare(self) -> None:
        """Choose directory and ports. They stay the same however often the Hub restarts."""
        if self._given_port and not children.is_free(self._given_port):
            raise DemoError(
                f"Port {self._given_port} of {LOOPBACK} is taken, or only root may use it; "
                "choose another with --port."
            )
        if self._given_directory is None:
            self.directory = Path(tempfile.mkdtemp(prefix="firecrestspawner-")).resolve()
            self._cleanup.callback(shutil.rmtree, self.directory, ignore_errors=True)
        else:
            self.directory = self._given_directory.resolve()
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise DemoError(
                    f"The demo cannot use {self.directory}: {error.strerror}"
                ) from error
        public, api, hub, *self._service_ports = children.free_ports(5)
        self.url = f"http://{LOOPBACK}:{self._given_port or public}"
        self.hub_url = f"http://{LOOPBACK}:{hub}"
        self._proxy_api = f"http://{LOOPBACK}:{api}"
        self.hub_log = self.directory / "hub.log"
        self.proxy_log = self.directory / "proxy.log"
        self.database = self.directory / "jupyterhub.sqlite"
        nursery = ThreadPoolExecutor(1, thread_name_prefix="demo-nursery")
        self._cleanup.callback(nursery.shutdown)
        self.proxy = Child("proxy", self.proxy_log, nursery)
        self.hub = Child("Hub", self.hub_log, nursery)
        self._cleanup.callback(self._end_strays)

    def _start_services(self) -> None:
        issuer_port, firecrest_port = self._service_ports
        self.issuer_url = self._start_issuer(issuer_port)
        self.executor = self._executor()
        self._node_addresses = _node_addresses(self.executor)
        if self._given_executor == "slurm":
            # The nodes are this machine, whose own addresses the Hub refuses (S8).
            self._node_addresses = [SERVERS]
        self._job_ports = children.free_port_range(JOB_PORTS, self._node_addresses)
        self.firecrest = FirecREST(
            f"{self._openid_connect}/certs",
            systems=[System(name=SYSTEM, executor=self.executor)],
            port=firecrest_port,
        )
        self.firecrest.start()
        self._cleanup.callback(self.firecrest.stop)
        # Jobs end before the FirecREST that could be asked about them.
        self._cleanup.callback(self.executor.stop)

    def _start_issuer(self, port: int) -> str:
        """Start who logs people in; the issuer's identifier. The tests put a Keycloak here."""
        self.issuer = Issuer(
            port=port,
            users=self.users,
            access_token_lifetime=self._lifetimes[0],
            session_lifetime=self._lifetimes[1],
        )
        self.issuer.start()
        self._cleanup.callback(self.issuer.stop)
        return self.issuer.url

    def _executor(self) -> Executor:
        if self._given_executor == "local":
            # One node, so that the Hub can tell servers the one address to listen on.
            return LocalExecutor(self.directory / "cluster", nodes=[("nid001", SERVERS)])
        if self._given_executor == "slurm":
            return self._slurm()
        if isinstance(self._given_executor, str):
            raise DemoError(f"There is no executor {self._given_executor!r}: local or slurm.")
        return self._given_executor

    def _slurm(self) -> Executor:
        if shutil.which("sbatch") is None:
            raise DemoError("There is no Slurm here: no sbatch on PATH.")
        service = DEFAULT_CLIENTS[1].service_account
        self.unix_users = unix_users([*(user.name for user in self.users), service])
        return SlurmExecutor(self.unix_users)

    def _start_proxy(self) -> None:
        port, api = self.url.rpartition(":")[2], self._proxy_api.rpartition(":")[2]
        argv = [*proxy.command(), "--ip", LOOPBACK, "--port", port]
        argv += ["--api-ip", LOOPBACK, "--api-port", api]
        argv += ["--error-target", f"{self.hub_url}/hub/error", "--log-level", "warn"]
        # The Hub comes before the proxy in the order of ending things.
        self._cleanup.callback(self.proxy.stop)
        self._cleanup.callback(self.hub.stop)
        self.proxy.start(argv, self._child_environ("CONFIGPROXY_AUTH_TOKEN"), self.directory)
        # 403: the proxy's API wants its token.
        self.proxy.wait_until(lambda: _answers(f"{self._proxy_api}/api/routes", 403), READY_TIMEOUT)

    def _child_environ(self, *names: str) -> dict[str, str]:
        """This process's environment without what is another site's, plus the secrets named."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(FOREIGN) and name.lower() not in WEB_PROXIES
        }
        return kept | {name: self._secrets[name] for name in names} | {children.MARK: self._mark}

    @property
    def _openid_connect(self) -> str:
        """Where Keycloak has a realm's endpoints."""
        return f"{self.issuer_url}/protocol/openid-connect"

    def _hub_environ(self) -> dict[str, str]:
        login, service = DEFAULT_CLIENTS
        return {
            **self._child_environ(*self._secrets),
            "PYTHONUNBUFFERED": "1",
            "DEMO_URL": self.url,
            "DEMO_HUB_URL": self.hub_url,
            "DEMO_PROXY_API_URL": self._proxy_api,
            "DEMO_DB_URL": f"sqlite:///{self.database}",
            "DEMO_LOG_LEVEL": self.log_level,
            "DEMO_ISSUER": self.issuer_url,
            "OAUTH_CLIENT_ID": login.client_id,
            "OAUTH_CLIENT_SECRET": login.client_secret,
            "FIRECREST_URL": self.firecrest.url,
            "SA_CLIENT_ID": service.client_id,
            "SA_CLIENT_SECRET": service.client_secret,
            "SA_AUTH_TOKEN_URL": f"{self._openid_connect}/token",
            "DEMO_SYSTEM": SYSTEM,
            "DEMO_NODES": " ".join(self._node_addresses),
            "DEMO_PORT_RANGE": "{}-{}".format(*self._job_ports),
            **self.environ,
        }

    def _end_strays(self) -> None:
        strays = children.carrying(self._mark)
        if strays:
            names = ", ".join(f"{stray.pid}" for stray in strays)
            children.end(strays)
            raise DemoError(f"These processes outlived the demo and were ended: {names}")


def _node_addresses(executor: Executor) -> list[str]:
    """The nodes' addresses as numbers: a scheduler may list names.

    Raises :class:`DemoError` if one is another machine's: jobs there would not find the Hub.
    """
    try:
        names = {node["address"] for node in executor.nodes()}
        numbers = sorted({socket.gethostbyname(name) for name in names})
    except (SchedulerError, OSError) as error:
        raise DemoError(f"The cluster's nodes cannot be listed: {error}") from error
    elsewhere = [number for number in numbers if not children.is_free(0, number)]
    if elsewhere:
        raise DemoError(
            "The demo listens on loopback addresses only, so all nodes of the cluster must be "
            f"this machine. These are not: {', '.join(elsewhere[:3])}"
        )
    return numbers


def _answers(url: str, status: int = 200) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5.0).status_code == status
    except httpx.TransportError:
        return False


def run(
    *,
    port: int,
    smoke: bool,
    executor: str,
    directory: Path | None,
    access_token_lifetime: float,
    session_lifetime: float,
    log_level: str,
) -> int:
    """``firecrestspawner demo``: show the site until Ctrl-C, or go through it (``smoke``).

    0 when all went well, 1 with the reason on standard error otherwise. SIGTERM and a closed
    terminal end it as Ctrl-C does; from then on no signal interrupts the cleaning up.
    """
    for number in INTERRUPTIONS:
        signal.signal(number, _interrupt)
    demo = Demo(
        port=port,
        directory=directory,
        executor=executor,
        access_token_lifetime=access_token_lifetime,
        session_lifetime=session_lifetime,
        log_level=log_level,
    )
    try:
        return _show(demo, smoke)
    except KeyboardInterrupt:
        return 130 if smoke else 0
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1


def _show(demo: Demo, smoke: bool) -> int:
    print("Starting the demo...", flush=True)
    with demo:
        for user in demo.users if demo.unix_users else ():
            print(f"Jobs of {user.name} run as the Unix user {demo.unix_users[user.name]}.")
        if smoke:
            # Not at the top: the smoke test is a user of this module.
            from firecrestspawner.demo.smoke import smoke as go_through

            return go_through(demo)
        print(_welcome(demo), flush=True)
        while demo.hub.running and demo.proxy.running:
            time.sleep(0.5)
        dead = demo.hub if demo.proxy.running else demo.proxy
        raise DemoError(f"The {dead.name} has ended by itself; see {dead.log}")


def _welcome(demo: Demo) -> str:
    people = ", ".join(f"{user.name} (password: {user.password})" for user in demo.users)
    kept = "removed at the end" if demo.temporary else "kept"
    return "\n".join(
        [
            "",
            f"  JupyterHub   {demo.url}",
            f"  Logins       {people}",
            f"  FirecREST    {demo.firecrest.url}",
            f"  Issuer       {demo.issuer.url}",
            f"  Logs         {demo.hub_log}",
            f"               {demo.proxy_log} ({kept})",
            "",
            "  For trying out only: whoever can log in to this machine can log in here, and run",
            "  programs as you. Ctrl-C ends everything.",
            "",
        ]
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Once is enough: what follows is cleaning up, in bounded time.
    for each in INTERRUPTIONS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
