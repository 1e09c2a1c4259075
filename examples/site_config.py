"""How does one Hub serve two systems that differ? A GPU system with a container, and a CPU one.

Both stand behind one FirecREST. Client ids, secrets and keys come from the environment, as in
jupyterhub_config.py at the repository's root: FIRECREST_URL, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET,
SA_CLIENT_ID, SA_CLIENT_SECRET, SA_AUTH_TOKEN_URL, JUPYTERHUB_CRYPT_KEY.
"""

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

# What differs between the systems, by the names of FirecREST's /status/systems.
c.FirecRESTSpawner.system = "alps"
c.FirecRESTSpawner.systems = {
    "alps": {
        "display_name": "Alps (GPU)",
        "workdir": "/scratch/{username}",
        "batch_script": "/etc/jupyterhub/alps.sh.j2",
        "req_image": "/apps/images/jupyter-2026.sif",
        "connect_networks": ["10.100.0.0/16"],
    },
    "rigi": {
        "display_name": "Rigi (CPU)",
        "workdir": "/home/{username}",
        "req_partition": "interactive",
        "req_cpus": "4",
        "req_memory": "16G",
        "req_prologue": "module load jupyter/2026",
        "connect_networks": ["10.2.0.0/20", "10.3.0.0/20"],
        "port_range": (20000, 20999),
        "option_fields": {"account": {}, "runtime": {"maximum": "12:00:00"}},
    },
}
c.FirecRESTSpawner.option_fields = ["account", "partition", "reservation", "runtime", "gpus"]
c.FirecRESTSpawner.hub_connect_url = "https://jupyter.example.org"
# Two Hubs of one centre must not share this name; both would take the other's jobs for theirs.
c.FirecRESTSpawner.job_name = "jupyter-prod"

# Named servers: one on each system at the same time, say.
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 3
