"""JupyterHub spawner and authenticator for clusters behind FirecREST v2.

``from firecrestspawner import configure; configure(c)`` in ``jupyterhub_config.py`` sets what every
deployment needs. Everything else is imported only when it is used.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["__version__", "configure"]


def configure(c: Any) -> None:
    """Set what a Hub with this spawner and authenticator needs, and nothing the site has set.

    Parameters
    ----------
    c: the configuration object of ``jupyterhub_config.py``.
    """
    settings = {
        ("JupyterHub", "authenticator_class"): "firecrest",
        ("JupyterHub", "spawner_class"): "firecrest",
        # The Hub's default stops every server whenever the Hub itself stops.
        ("JupyterHub", "cleanup_servers"): False,
        # The Hub's default, 100, counts jobs that wait in a queue.
        ("JupyterHub", "concurrent_spawn_limit"): 0,
        ("Authenticator", "enable_auth_state"): True,
    }
    for (section, name), value in settings.items():
        if name not in c.get(section, {}):
            c[section][name] = value
    _add_pages(c)


def _add_pages(c: Any) -> None:
    """Let the Hub find our pages: after the site's own, and before the stock ones they extend."""
    pages = str(Path(__file__).with_name("templates") / "hub")
    paths = c.JupyterHub.template_paths
    if isinstance(paths, list):
        # The Hub itself puts the stock ones behind a site's list.
        if pages not in paths:
            paths.append(pages)
    elif (-1, pages) not in paths.to_dict().get("inserts", ()):
        # Not set yet: a change of the default, which is the stock ones alone.
        paths.insert(-1, pages)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("firecrestspawner")
    raise AttributeError(f"module 'firecrestspawner' has no attribute {name!r}")
