"""How does one Hub serve two systems that differ? A GPU system with a container, and a CPU one.

Both stand behind one FirecREST. Client ids, secrets and keys come from the environment, as in
jupyterhub_config.py at the repository's root: FIRECREST_URL, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET,
SA_CLIENT_ID, SA_CLIENT_SECRET, SA_AUTH_TOKEN_URL, JUPYTERHUB_CRYPT_KEY.
"""

from typing import Any

from firecrestspawner import configure

c = get_config()  # noqa: F821 - JupyterHub's to define

configure(c)
c.FirecRESTAuthenticator.issuer = "https://sso.example.org/realms/hpc"
c.FirecRESTAuthenticator.oauth_callback_url = "https://jupyter.example.org/hub/oauth_callback"
# Only members of these groups of the issuer (its "groups" claim) may log in.
c.FirecRESTAuthenticator.manage_groups = True
c.FirecRESTAuthenticator.auth_state_groups_key = "oauth_user.groups"
c.FirecRESTAuthenticator.allowed_groups = {"hpc-jupyter"}
c.FirecRESTAuthenticator.admin_groups = {"hpc-operators"}

# What differs between the systems, by the names of FirecREST's /status/systems. Every setting of
# the spawner may stand here but firecrest_url and job_name, which the Hub needs after a restart.
SYSTEMS: dict[str, dict[str, Any]] = {
    "alps": {
        "workdir": "/scratch/{username}",
        "batch_script": "/etc/jupyterhub/alps.sh.j2",
        "req_image": "/apps/images/jupyter-2026.sif",
        "connect_networks": ["10.100.0.0/16"],
    },
    "rigi": {
        "workdir": "/home/{username}",
        "req_partition": "interactive",
        "req_cpus": "4",
        "req_memory": "16G",
        "req_prologue": "module load jupyter/2026",
        "connect_networks": ["10.2.0.0/20", "10.3.0.0/20"],
        "port_range": (20000, 20999),
    },
}


def settings_of_the_system(spawner: Any) -> None:
    """Give the spawner what its system needs, and take away what the last one needed.

    A name that is not here is left for the spawner to refuse: options are checked after this hook.
    """
    chosen = spawner.user_options.get("system") or spawner.system
    for name in {name for settings in SYSTEMS.values() for name in settings}:
        default = spawner.traits()[name].default()
        setattr(spawner, name, SYSTEMS.get(chosen, {}).get(name, default))


c.FirecRESTSpawner.pre_spawn_hook = settings_of_the_system
c.FirecRESTSpawner.system = "alps"
c.FirecRESTSpawner.systems = list(SYSTEMS)
c.FirecRESTSpawner.option_fields = ["account", "partition", "reservation", "runtime", "gpus"]
c.FirecRESTSpawner.hub_connect_url = "https://jupyter.example.org"
# Two Hubs of one centre must not share this name; both would take the other's jobs for theirs.
c.FirecRESTSpawner.job_name = "jupyter-prod"

# Named servers: one on each system at the same time, say.
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 3
