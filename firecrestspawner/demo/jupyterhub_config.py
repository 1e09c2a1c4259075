"""How does a site configure its Hub? This is the whole of it, for the demo's site.

A real site's file looks the same, with https addresses, and without what is marked as the
demo's own. Client secrets and keys come from the environment: OAUTH_CLIENT_ID,
OAUTH_CLIENT_SECRET, FIRECREST_URL, SA_CLIENT_ID, SA_CLIENT_SECRET, SA_AUTH_TOKEN_URL,
JUPYTERHUB_CRYPT_KEY and CONFIGPROXY_AUTH_TOKEN are read by the classes they belong to.
"""

import os

from firecrestspawner import configure

c = get_config()

# The authenticator, the spawner, the pages, and what they need of the Hub.
configure(c)

# Who logs in: everybody the centre's single sign-on lets in.
c.FirecRESTAuthenticator.issuer = os.environ["DEMO_ISSUER"]
c.FirecRESTAuthenticator.oauth_callback_url = os.environ["DEMO_URL"] + "/hub/oauth_callback"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin"}

# Where they start.
c.FirecRESTSpawner.system = os.environ["DEMO_SYSTEM"]
low, high = os.environ["DEMO_PORT_RANGE"].split("-")
c.FirecRESTSpawner.port_range = (int(low), int(high))
# Where jobs find the Hub.
c.FirecRESTSpawner.hub_connect_url = os.environ["DEMO_HUB_URL"]

# The demo's own: its compute nodes are loopback addresses of this machine, which are refused
# unless a site lists them.
nodes = os.environ["DEMO_NODES"].split()
c.FirecRESTSpawner.connect_networks = nodes
if len(nodes) == 1:
    # Servers, too, listen where nobody else's machine can reach them.
    c.FirecRESTSpawner.ip = nodes[0]
# There are no language servers here; looking for them would run npm at each start of a server.
c.FirecRESTSpawner.args = ["--LanguageServerManager.autodetect=False"]
if os.getuid() == 0:
    # JupyterLab refuses to run as root without being told so.
    c.FirecRESTSpawner.args.append("--allow-root")

# The Hub itself, and a proxy that outlives its restarts.
c.JupyterHub.bind_url = os.environ["DEMO_URL"]
c.JupyterHub.hub_bind_url = os.environ["DEMO_HUB_URL"]
c.JupyterHub.db_url = os.environ["DEMO_DB_URL"]
c.JupyterHub.cookie_secret_file = "cookie_secret"
c.JupyterHub.log_level = os.environ["DEMO_LOG_LEVEL"]
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = os.environ["DEMO_PROXY_API_URL"]
c.JupyterHub.allow_named_servers = True
