"""Which settings a FirecRESTSpawner has. The journeys that use them are in ``spawner``."""

from __future__ import annotations

import os
import re
from typing import Any

from traitlets import (
    Bool,
    Callable,
    Dict,
    Float,
    Integer,
    List,
    TraitError,
    Tuple,
    Unicode,
    Union,
    default,
    validate,
)
from traitlets.config import Configurable

from . import address, profiles, settings
from .fields import FIELDS, directory


class SpawnerConfig(Configurable):
    """The configurable part of FirecRESTSpawner, beside what the Hub's own Spawner has."""

    firecrest_url = Unicode(
        help="Base URL of the FirecREST v2 API, path prefix included. Environment: FIRECREST_URL. "
        "Example: ``https://api.example.org/hpc/firecrest/v2``"
    ).tag(config=True)

    @default("firecrest_url")
    def _firecrest_url_default(self) -> str:
        return os.environ.get("FIRECREST_URL", "")

    system = Unicode(
        help="The system that servers start on unless the user chooses another: a name from "
        "FirecREST's ``/status/systems``. Example: ``daint``"
    ).tag(config=True)

    systems = Union(
        [List(Unicode()), Dict(key_trait=Unicode(), value_trait=Dict(key_trait=Unicode()))],
        default_value=[],
        help="The systems users may choose from; empty for ``system`` alone, ``['*']`` for all "
        "that FirecREST lists. As a dict it says of each what differs there: its ``display_name``, "
        f"every ``req_*``, {', '.join(f'``{name}``' for name in settings.OVERRIDABLE)}. What it "
        "says of ``'*'`` holds for those that are not named. "
        "Example: ``{'daint': {'display_name': 'Daint (GPU)', 'req_gpus': '1'}, 'eiger': {}}``",
    ).tag(config=True)

    @validate("systems")
    def _systems_set_only_what_exists(self, proposal: dict[str, Any]) -> Any:
        systems = proposal["value"]
        for system in systems if isinstance(systems, dict) else ():
            for name, value in systems[system].items():
                where = f"FirecRESTSpawner.systems: {system!r}"
                if name == "display_name":
                    if not isinstance(value, str):
                        raise TraitError(f"{where}: 'display_name' is text: {value!r}")
                elif name in settings.OVERRIDABLE or self._is_request(name):
                    self._check_value(where, name, value)
                else:
                    raise TraitError(f"{where} has no setting {name!r} of its own")
        return systems

    def _is_request(self, name: str) -> bool:
        return name.startswith("req_") and self.has_trait(name)

    def _check_value(self, where: str, name: str, value: Any) -> None:
        """Raise TraitError unless the setting ``name`` could have this value."""
        trait = self.traits()[name]
        try:
            trait._cross_validate(self, trait._validate(self, value))
        except TraitError as error:
            raise TraitError(f"{where}: {error}") from None

    option_fields = Union(
        [List(Unicode()), Dict(key_trait=Unicode(), value_trait=Dict(key_trait=Unicode()))],
        default_value=["partition", "account", "reservation", "runtime"],
        help=f"What users may choose for themselves, out of: {', '.join(FIELDS)}. The form shows "
        "these fields, and the REST API takes them as ``user_options``. As a dict it says of each "
        "what a site wants of it: ``choices``, ``minimum``, ``maximum``, ``pattern``, ``under``, "
        "``limits``, ``default``, ``label``, ``hint``, ``example``. "
        "Example: ``{'runtime': {'maximum': '12:00:00', 'default': '01:00:00'}, 'account': {}}``",
    ).tag(config=True)

    @validate("option_fields")
    def _option_fields_exist(self, proposal: dict[str, Any]) -> Any:
        try:
            settings.fields(proposal["value"])
        except ValueError as error:
            raise TraitError(f"FirecRESTSpawner.option_fields: {error}") from None
        return proposal["value"]

    environments = Dict(
        key_trait=Unicode(),
        value_trait=Dict(key_trait=Unicode()),
        help="Sets of software to choose from, where ``option_fields`` has ``environment``: for "
        "each name a ``display_name``, a ``prologue`` (shell text that follows ``req_prologue``) "
        "and ``values`` of ``req_*`` settings, each of which may be left out. "
        "Example: ``{'torch': {'display_name': 'PyTorch', 'prologue': 'module load torch'}}``",
    ).tag(config=True)

    @validate("environments")
    def _environments_set_only_what_exists(self, proposal: dict[str, Any]) -> dict[str, Any]:
        for name, given in proposal["value"].items():
            where = f"FirecRESTSpawner.environments: {name!r}"
            if not re.fullmatch(FIELDS["environment"].kind.pattern, name, re.ASCII):
                raise TraitError(f"{where} is no name such as 'torch-2.5'")
            for key, value in given.items():
                if key in ("display_name", "prologue"):
                    if not isinstance(value, str):
                        raise TraitError(f"{where}: {key!r} is text: {value!r}")
                elif key != "values" or not isinstance(value, dict):
                    raise TraitError(
                        f"{where} has a 'display_name', a 'prologue' and 'values', a dict: {key!r}"
                    )
            for key, value in given.get("values", {}).items():
                if not self._is_request(key) or key == "req_prologue":
                    raise TraitError(f"{where}: 'values' are of req_* settings: {key!r}")
                self._check_value(where, key, value)
        return proposal["value"]

    profile_list = Union(
        [List(Dict(key_trait=Unicode())), Callable()],
        default_value=[],
        help="Ready-made starts to choose from, beside ``custom`` with the plain fields, in the "
        "convention of kubespawner's setting of that name: dicts with ``display_name``, ``slug``, "
        "``description``, ``default``, ``profile_options`` and ``spawner_override``. The latter "
        "sets ``req_*``, ``system``, ``environment`` and ``workdir``. Or a callable that is given "
        "the spawner and returns such a list; it may be async. "
        "Example: ``[{'display_name': 'One GPU', 'spawner_override': {'req_gpus': '1'}}]``",
    ).tag(config=True)

    @validate("profile_list")
    def _profiles_make_sense(self, proposal: dict[str, Any]) -> Any:
        if not callable(proposal["value"]):
            try:
                profiles.read(proposal["value"], self.check_request)
            except (ValueError, TraitError) as error:
                raise TraitError(f"FirecRESTSpawner.profile_list: {error}") from None
        return proposal["value"]

    def check_request(self, name: str, value: Any) -> None:
        """Raise ValueError or TraitError unless ``name`` is a ``req_*`` that can have ``value``."""
        if not self._is_request(name):
            raise ValueError(f"there is no setting {name!r} for a profile to set")
        self._check_value(name, name, value)

    hint_age = Float(
        60.0,
        help="Seconds for which the spawn form shows what FirecREST has said of a user's accounts, "
        "and of a system's partitions, reservations and features of nodes; 0 for a form that does "
        "not ask.",
    ).tag(config=True)

    batch_script = Unicode(
        help="The batch script: the name of one that ships, or a Jinja2 template as text or as an "
        "absolute path; empty for the plain one of the system's scheduler. Every trait ``req_xyz`` "
        "is ``{{xyz}}``, and ``{{cmd}}`` is the command that starts the server. "
        "Example: ``slurm-apptainer``"
    ).tag(config=True)

    req_partition = Unicode(help="Partition (queue) of the job.").tag(config=True)
    req_account = Unicode(help="Account the job is charged to.").tag(config=True)
    req_reservation = Unicode(help="Reservation the job runs in.").tag(config=True)
    req_runtime = Unicode(help="Time limit, as the scheduler writes it: ``04:00:00``.").tag(
        config=True
    )
    req_nodes = Unicode(help="Number of nodes.").tag(config=True)
    req_ntasks = Unicode(help="Number of tasks. The server runs in the first one.").tag(config=True)
    req_cpus = Unicode(help="CPUs per task.").tag(config=True)
    req_gpus = Unicode(help="GPUs, as ``--gpus`` takes them: ``1`` or ``a100:2``.").tag(config=True)
    req_gres = Unicode(
        help="Generic resources, as Slurm's ``--gres`` takes them: ``gpu:a100:2``."
    ).tag(config=True)
    req_memory = Unicode(help="Memory per node: ``16G``.").tag(config=True)
    req_qos = Unicode(help="Quality of service.").tag(config=True)
    req_constraint = Unicode(help="Constraint on node features.").tag(config=True)
    req_modules = Unicode(
        help="Modules to load after the prologue, separated by commas: ``cuda/12.4,python``."
    ).tag(config=True)
    req_venv = Unicode(
        help="The directory of a Python virtual environment to activate: ``/apps/jupyter/venv``."
    ).tag(config=True)
    req_image = Unicode(
        help="The container's image, for ``slurm-apptainer`` and ``slurm-container``: "
        "``/apps/images/jupyter.sif``."
    ).tag(config=True)
    req_edf = Unicode(
        help="The environment definition file, for ``slurm-environment``: its path, or its name in "
        "the user's search path."
    ).tag(config=True)
    req_uenv = Unicode(help="The uenv, for ``slurm-uenv``: ``prgenv-gnu/24.11:v2``.").tag(
        config=True
    )
    req_view = Unicode(help="The views of that uenv, separated by commas: ``default``.").tag(
        config=True
    )
    req_output = Unicode(
        help="The job's log; a name without a path is in the working directory. Empty for "
        "``jupyter-%j.log`` with Slurm, whose ``%j`` is the job's number, and ``jupyter-`` with an "
        "identifier of the start with PBS. Example: ``logs/jupyter-%j.log``"
    ).tag(config=True)
    req_options = List(
        Unicode(),
        help="Further options for the directive block, one string each, put there as they are: "
        "``['--exclusive']``. Never built from what users say.",
    ).tag(config=True)
    req_prologue = Unicode(
        help="Shell text before the server starts, put there as it is: ``module load jupyter``."
    ).tag(config=True)
    req_epilogue = Unicode(help="Shell text after the server ended, put there as it is.").tag(
        config=True
    )

    workdir = Unicode(
        "/home/{username}",
        help="Working directory of the job on the cluster; ``{username}`` is the cluster user, "
        "``{username[0]}`` its first letter. It must exist and be writable. "
        "Example: ``/users/{username}``",
    ).tag(config=True)

    @validate("workdir")
    def _workdir_is_a_directory(self, proposal: dict[str, Any]) -> str:
        try:
            return directory(proposal["value"])
        except ValueError as error:
            raise TraitError(f"FirecRESTSpawner.workdir: {error}") from None

    python = Unicode(
        "python3",
        help="The interpreter on the compute node that runs the launcher: 3.8 or newer, standard "
        "library only.",
    ).tag(config=True)

    port_range = Tuple(
        Integer(),
        Integer(),
        default_value=(0, 0),
        help="Lowest and highest port servers may listen on, inclusive; ``(0, 0)`` for any. The "
        "launcher picks a free one on the node. Example: ``(20000, 20999)``",
    ).tag(config=True)

    @validate("port_range")
    def _port_range_is_a_range(self, proposal: dict[str, Any]) -> tuple[int, int]:
        low, high = proposal["value"]
        if (low, high) != (0, 0) and not 1 <= low <= high <= 65535:
            raise TraitError(
                f"FirecRESTSpawner.port_range: {low}-{high} is no range of ports such as "
                "(20000, 20999)"
            )
        return (low, high)

    connect_networks = List(
        Unicode(),
        help="The networks servers may be in; empty for exactly the addresses of the job's nodes, "
        "as FirecREST lists them. Loopback addresses are refused unless a loopback network is "
        "named here. Example: ``['10.1.0.0/16']``",
    ).tag(config=True)

    @validate("connect_networks")
    def _connect_networks_parse(self, proposal: dict[str, Any]) -> list[str]:
        try:
            address.parse_networks(proposal["value"])
        except ValueError as error:
            raise TraitError(f"FirecRESTSpawner.connect_networks: {error}") from None
        return proposal["value"]

    # JupyterHub's own setting, here so that it can differ from system to system.
    hub_connect_url = Unicode(
        None,
        allow_none=True,
        help="The Hub as compute nodes see it: scheme, host and port, without path. By default "
        "what ``c.JupyterHub.hub_connect_url`` or ``hub_bind_url`` says. "
        "Example: ``https://jupyter.example.org``",
    ).tag(config=True)

    address_template = Unicode(
        help="The name by which Hub and proxy reach a compute node, where that is another than the "
        "node's own (address translation); ``{node}`` is its name in FirecREST's list. Empty for "
        "the addresses that the job reports. Needs ``connect_networks``. "
        "Example: ``{node}.gateway.example.org``"
    ).tag(config=True)

    @validate("address_template")
    def _address_template_names_the_node(self, proposal: dict[str, Any]) -> str:
        if not re.fullmatch(r"([A-Za-z0-9._-]*\{node\}[A-Za-z0-9._-]*)?", proposal["value"]):
            raise TraitError(
                "FirecRESTSpawner.address_template: a host name with {node} in it, such as "
                f"'{{node}}.gateway.example.org': {proposal['value']!r}"
            )
        return proposal["value"]

    job_name = Unicode(
        help="The name all jobs of this Hub carry, at most 15 of ``A-Za-z0-9_-``, and no other "
        "Hub's. Empty for one derived from the Hub's cookie secret."
    ).tag(config=True)

    @validate("job_name")
    def _job_name_is_short(self, proposal: dict[str, Any]) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]{0,15}", proposal["value"], re.ASCII):
            raise TraitError(
                "FirecRESTSpawner.job_name: at most 15 letters, digits, '_' and '-' (schedulers' "
                f"filters match it exactly): {proposal['value']!r}"
            )
        return proposal["value"]

    fast_poll_interval = Float(
        2.0,
        help="Seconds between looks at a system's jobs while a server starts or stops, one request "
        "for each system. With nothing new the looks become rarer, down to one in "
        "``poll_interval`` seconds. A system that takes long to answer is looked at less often.",
    ).tag(config=True)

    @validate("fast_poll_interval")
    def _fast_poll_interval_is_bearable(self, proposal: dict[str, Any]) -> float:
        if not 1 <= proposal["value"] <= 600:
            raise TraitError(
                "FirecRESTSpawner.fast_poll_interval: 1 to 600 seconds, such as 2: "
                f"{proposal['value']}"
            )
        return proposal["value"]

    username_claim = Unicode(
        "preferred_username",
        help="The claim of the access token that FirecREST takes for the cluster user's name.",
    ).tag(config=True)

    launch_patience = Integer(
        900,
        help="Seconds for which a job that has started tries to reach the Hub before it gives up.",
    ).tag(config=True)

    unknown_patience = Integer(
        86400,
        help="Seconds for which a server goes on although the Hub says it does not know it, as "
        "after its database was restored from a backup.",
    ).tag(config=True)

    stop_patience = Integer(
        45,
        help="Seconds for which a stop waits to see the job gone. A job that is not gone by then "
        "ends itself at its next call.",
    ).tag(config=True)

    grace = Integer(
        10,
        help="Seconds a server has to save its work between SIGTERM and SIGKILL.",
    ).tag(config=True)

    start_timeout = Integer(
        24 * 3600,
        help="Seconds a server may take to start, time in the queue included. "
        "The Hub's own default, one minute, is shorter than most queues. A start that takes longer "
        "fails, and its job is cancelled.",
    ).tag(config=True)

    walltime_warnings = List(
        Integer(min=1),
        [15, 5],
        help="Minutes before a job's time limit at which the server's log says how near it is; "
        "from the earliest on the home page warns, too. Empty for never.",
    ).tag(config=True)

    walltime_grace = Integer(
        60,
        min=0,
        help="Seconds before a job's time limit at which its server is ended, so that kernels can "
        "save: SIGTERM, and SIGKILL after ``grace``. At most a tenth of the limit is taken for it. "
        "Ended is only what FirecREST, asked just then, says is near its limit: a job that was "
        "extended goes on. While nobody can say, and with 0, the scheduler's own signals end the "
        "server; 0 is also for sites where jobs may run over their limit (Slurm's OverTimeLimit).",
    ).tag(config=True)

    notebook_tokens = Bool(
        True,
        help="Whether a running server may fetch its user's access token from the Hub, for code in "
        "the notebook that speaks to FirecREST.",
    ).tag(config=True)

    notebook_token_audience = Unicode(
        help="The audience to exchange the user's access token for (RFC 8693) before a server is "
        "given it; empty for the token as it is. The issuer has to offer token exchange. "
        "Example: ``firecrest``"
    ).tag(config=True)

    notebook_token_scope = Unicode(
        help="The scopes to ask for in that exchange, separated by spaces; empty for the issuer's "
        "choice."
    ).tag(config=True)

    # The Hub's own PATH and virtual environment mean nothing on a cluster.
    @default("env_keep")
    def _env_keep_default(self) -> list[str]:
        return []

    # Every interface: only the node knows its addresses. The launcher chooses the port.
    @default("ip")
    def _ip_default(self) -> str:
        return "0.0.0.0"  # noqa: S104 - see above
