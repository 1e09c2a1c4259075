"""How is a centre's Hub configured? A file to run as it is: all that differs comes from outside.

    export OIDC_ISSUER=https://sso.example.org/realms/hpc ...
    jupyterhub -f jupyterhub_config.py

Each variable is explained in docs/deploy.md, each setting in docs/configuration.md. Sites with more
than one system, or with a container for Jupyter, find more under examples/.
"""

import os
import sys
from urllib.parse import urlsplit

from firecrestspawner import configure

c = get_config()


def words(name: str) -> list[str]:
    """An optional variable that holds a list, separated by blanks."""
    return os.environ.get(name, "").split()


# --- what has to be set ---------------------------------------------------------------------
# The first seven are read by the classes that need them and never written into this file.
REQUIRED = {
    "FIRECREST_URL": "the FirecREST v2 API, e.g. https://api.example.org/hpc/firecrest/v2",
    "OAUTH_CLIENT_ID": "the client through which people log in",
    "OAUTH_CLIENT_SECRET": "its secret",
    "SA_CLIENT_ID": "the service account, which looks at jobs",
    "SA_CLIENT_SECRET": "its secret",
    "SA_AUTH_TOKEN_URL": "the token endpoint of the service account",
    "JUPYTERHUB_CRYPT_KEY": "a key to encrypt tokens with, from `openssl rand -hex 32`; keep it",
    "OIDC_ISSUER": "the issuer people log in at, e.g. https://sso.example.org/realms/hpc",
    "HUB_PUBLIC_URL": "where browsers find the Hub, e.g. https://jupyter.example.org",
    "FIRECREST_SYSTEMS": "the systems to start servers on, the default one first: daint eiger",
    "FIRECREST_WORKDIR": "the directory jobs start in, e.g. /users/{username}",
}
missing = [f"{name} ({what})" for name, what in REQUIRED.items() if not os.environ.get(name)]
if missing:
    sys.exit(f"jupyterhub_config.py: please set {'; '.join(missing)}.")

# --- the spawner, the authenticator, and what they need of the Hub ----------------------------
configure(c)

# --- who logs in ------------------------------------------------------------------------------
public_url = os.environ["HUB_PUBLIC_URL"].rstrip("/")
c.FirecRESTAuthenticator.issuer = os.environ["OIDC_ISSUER"]
c.FirecRESTAuthenticator.oauth_callback_url = f"{public_url}/hub/oauth_callback"
# Everybody the issuer lets in. What they may start is decided by FirecREST and the scheduler, with
# their own token. To let in fewer: c.FirecRESTAuthenticator.allowed_groups, with manage_groups.
c.Authenticator.allow_all = True
c.Authenticator.admin_users = set(words("HUB_ADMINS"))

# --- where their servers run ------------------------------------------------------------------
systems = words("FIRECREST_SYSTEMS")
c.FirecRESTSpawner.system = systems[0]
c.FirecRESTSpawner.systems = systems
c.FirecRESTSpawner.workdir = os.environ["FIRECREST_WORKDIR"]

# What brings python3 and jupyterhub-singleuser into the job's PATH, e.g. `module load jupyter`.
c.FirecRESTSpawner.req_prologue = os.environ.get("FIRECREST_PROLOGUE", "")

# --- who connects to whom ---------------------------------------------------------------------
# Compute nodes -> Hub. The public address will do where the nodes can reach it, and is encrypted.
parts = urlsplit(public_url)
c.FirecRESTSpawner.hub_connect_url = os.environ.get(
    "HUB_CONNECT_URL", f"{parts.scheme}://{parts.netloc}"
)
# Hub and proxy -> compute nodes. Without networks: exactly the addresses of a job's own nodes.
c.FirecRESTSpawner.connect_networks = words("FIRECREST_NETWORKS")
if words("FIRECREST_PORTS"):
    low, high = words("FIRECREST_PORTS")
    c.FirecRESTSpawner.port_range = (int(low), int(high))

# --- the Hub itself ---------------------------------------------------------------------------
# TLS ends at the web server in front. Jobs that do not come by it need a Hub that listens for them.
c.JupyterHub.bind_url = os.environ.get("HUB_BIND_URL", f"http://127.0.0.1:8000{parts.path}")
c.JupyterHub.hub_bind_url = os.environ.get("HUB_API_BIND_URL", "http://127.0.0.1:8081")
# Beside this directory's jupyterhub_cookie_secret, which belongs to the same backup.
c.JupyterHub.db_url = os.environ.get("HUB_DATABASE_URL", "sqlite:///jupyterhub.sqlite")

# A proxy that runs on its own goes on serving notebooks while the Hub restarts. It shares
# CONFIGPROXY_AUTH_TOKEN with the Hub.
if os.environ.get("CONFIGPROXY_API_URL"):
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = os.environ["CONFIGPROXY_API_URL"]
