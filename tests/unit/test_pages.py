"""What do pages say of a session, and do they find the words?"""

from __future__ import annotations

from typing import Any

import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import Config

from firecrestspawner import configure
from firecrestspawner.pages import TEMPLATES, Notice, session_notice

NOW = 1_000_000.0
TOKENS = {"access_token": "a", "expires_at": NOW + 300, "refresh_token": "r"}


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (601, None),
        (600, Notice(ended=False, minutes=10)),
        (121, Notice(ended=False, minutes=3)),
        (1, Notice(ended=False, minutes=1)),
        (0, Notice(ended=True)),
        (-1, Notice(ended=True)),
    ],
)
def test_the_end_is_announced_in_whole_minutes(left: float, said: Notice | None) -> None:
    state = {**TOKENS, "refresh_expires_at": NOW + left}
    assert session_notice(state, warning=600, now=NOW) == said


@pytest.mark.parametrize("state", [None, {}, {"access_token": None, "login_ended": NOW - 1}])
def test_without_tokens_the_session_has_ended(state: dict[str, Any] | None) -> None:
    assert session_notice(state, warning=600, now=NOW) == Notice(ended=True)


def test_a_session_without_an_end_is_no_news() -> None:
    assert session_notice({**TOKENS, "refresh_expires_at": None}, warning=600, now=NOW) is None


def template_paths(c: Config) -> list[str]:
    """As the Hub has them in the end (JupyterHub.init_tornado_settings)."""
    app = JupyterHub(config=c)
    stock = app._template_paths_default()[0]
    paths: list[str] = app.template_paths
    if stock not in paths:
        paths.append(stock)
    return ["stock" if path == stock else "ours" if path == TEMPLATES else path for path in paths]


def test_our_pages_come_after_the_sites_and_before_the_stock_ones() -> None:
    nothing = Config()
    configure(nothing)
    assert template_paths(nothing) == ["ours", "stock"]

    before = Config()
    before.JupyterHub.template_paths = ["/site"]
    configure(before)
    configure(before)
    assert template_paths(before) == ["/site", "ours", "stock"]

    after = Config()
    configure(after)
    after.JupyterHub.template_paths.insert(0, "/site")
    assert template_paths(after) == ["/site", "ours", "stock"]

    lazily = Config()
    lazily.JupyterHub.template_paths.insert(0, "/site")
    configure(lazily)
    assert template_paths(lazily) == ["/site", "ours", "stock"]
