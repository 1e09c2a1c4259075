"""How is a spawn refused so that the user reads why, and the log says more?

JupyterHub 6.0 has SpawnException, which is logged in one line. Its pages, like those of 5.x, show
an exception's ``jupyterhub_message``: of an exception without one the spawn form and the progress
show ``str()``, which is what is meant for the log, and the page of a failed start shows nothing.
"""

from __future__ import annotations

import html
from http.client import responses
from typing import Any

from tornado.web import HTTPError

from .errors import Error

try:
    from jupyterhub.spawner import SpawnException
except ImportError:
    SpawnException = None


def refuse(error: Error) -> Exception:
    """The exception to raise from ``Spawner.start`` for an error of ours.

    The user sees ``error.message``; the Hub logs one line with ``error.detail``.
    """
    refusal = _exception(error)
    refusal.jupyterhub_message = error.message
    refusal.jupyterhub_html_message = html.escape(error.message)
    return refusal


def _exception(error: Error) -> Any:
    if SpawnException is None:
        return HTTPError(
            error.status,
            error.detail.replace("%", "%%"),
            reason=responses.get(error.status, error.reason),
        )
    return SpawnException(
        error.message,
        reason=error.reason,
        log_message=error.detail,
        status_code=error.status,
    )
