"""How a spawn is refused so that the user reads why: the Hub's own exception, or its like.

JupyterHub 6.0 has SpawnException for it; 5.x shows an exception's ``jupyterhub_message``.
"""

from __future__ import annotations

import html
from http.client import responses

from tornado.web import HTTPError

from .errors import Error

try:
    from jupyterhub.spawner import SpawnException
except ImportError:
    SpawnException = None


class _Refusal(HTTPError):
    """What JupyterHub 5.x shows instead of its own words."""

    def __init__(self, status: int, message: str, reason: str, detail: str) -> None:
        super().__init__(status, detail.replace("%", "%%"), reason=responses.get(status, reason))
        self.jupyterhub_message = message
        self.jupyterhub_html_message = html.escape(message)


def refuse(error: Error) -> Exception:
    """The exception to raise from ``Spawner.start`` for an error of ours.

    The user sees ``error.message``; the Hub logs one line with ``error.detail``.
    """
    if SpawnException is None:
        return _Refusal(error.status, error.message, error.reason, error.detail)
    return SpawnException(
        error.message,
        reason=error.reason,
        log_message=error.detail,
        status_code=error.status,
    )
