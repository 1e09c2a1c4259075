"""How is a spawn refused so that the user reads why, and the log says more?

JupyterHub 6.0 has SpawnException, which is logged in one line. Its pages, like those of 5.x, show
an exception's ``jupyterhub_message``: of an exception without one the spawn form and the progress
show ``str()``, and the page of a failed start shows nothing. The REST API of 5.x shows what the log
does (APIHandler.write_error), so that there the log's line is written here.
"""

from __future__ import annotations

import html
from http.client import responses
from typing import Any

from jupyterhub.utils import url_escape_path
from tornado.web import HTTPError

from . import links
from .errors import Error, LoginRequired

try:
    from jupyterhub.spawner import SpawnException
except ImportError:
    SpawnException = None


#: The words of a LoginRequired that become a link.
LINKED = "Log in again"


def refuse(error: Error, spawner: Any) -> Exception:
    """The exception to raise from ``Spawner.start`` for an error of ours.

    The user sees ``error.message``, in which *Log in again* is a link that comes back to the
    server's spawn page; the Hub logs one line with ``error.detail``.
    """
    refusal = _exception(error)
    if SpawnException is None:
        spawner.log.warning("%s: not started: %s", spawner._log_name, error.detail)
    # JupyterHub 5.4 reads them of every HTTPError (SpawnHandler.post); tornado's has none.
    refusal.headers = {}
    refusal.jupyterhub_message = error.message
    shown = html.escape(error.message)
    if isinstance(error, LoginRequired) and _is_the_users_own(spawner):
        shown = shown.replace(LINKED, _link(spawner), 1)
    refusal.jupyterhub_html_message = shown
    return refusal


def _is_the_users_own(spawner: Any) -> bool:
    """Whether its user starts the server: an admin who logs in again has won nothing."""
    viewer = getattr(spawner.handler, "current_user", None)
    return getattr(viewer, "name", None) == spawner.user.name


def _link(spawner: Any) -> str:
    page = f"{spawner.hub.base_url}spawn/{spawner.user.escaped_name}"
    if spawner.name:
        page += f"/{url_escape_path(spawner.name)}"
    target = html.escape(links.reauth(spawner.hub.base_url, page))
    return f'<a class="alert-link" href="{target}">{LINKED}</a>'


def _exception(error: Error) -> Any:
    if SpawnException is None:
        return HTTPError(
            error.status,
            "%s",
            error.message,
            reason=responses.get(error.status, error.reason),
        )
    return SpawnException(
        error.message,
        reason=error.reason,
        log_message=error.detail,
        status_code=error.status,
    )
