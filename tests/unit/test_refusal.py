"""Does a refused user read why, and find the way to log in again?"""

from __future__ import annotations

import html
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner import refusal
from firecrestspawner.errors import LoginRequired, OptionsError, ProviderUnavailable
from firecrestspawner.oauth import LOGIN_REQUIRED
from firecrestspawner.refusal import LINKED, refuse


def spawner(viewer: str | None = "alice", name: str = "", user: str = "alice") -> Any:
    handler = SimpleNamespace(current_user=viewer and SimpleNamespace(name=viewer))
    return SimpleNamespace(
        handler=handler if viewer else None,
        hub=SimpleNamespace(base_url="/jupyter/hub/"),
        user=SimpleNamespace(name=user, escaped_name=user.replace("@", "%40")),
        name=name,
        log=logging.getLogger("hub"),
        _log_name=user,
    )


def shown(error: Exception) -> str:
    text: str = error.jupyterhub_html_message  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize(
    ("name", "page"),
    [("", "spawn%2Falice"), ("big", "spawn%2Falice%2Fbig"), ("a b", "spawn%2Falice%2Fa%2520b")],
)
def test_who_has_to_log_in_gets_a_link_back_to_the_spawn_page(name: str, page: str) -> None:
    text = shown(refuse(LoginRequired(LOGIN_REQUIRED), spawner(name=name)))
    assert f'href="/jupyter/hub/firecrest/reauth?next=%2Fjupyter%2Fhub%2F{page}"' in text
    assert text.count("<a ") == 1 and f">{LINKED}</a>" in text


@pytest.mark.parametrize("viewer", ["admin", None])
def test_whoever_starts_anothers_server_gets_none(viewer: str | None) -> None:
    text = shown(refuse(LoginRequired(LOGIN_REQUIRED), spawner(viewer)))
    assert text == html.escape(LOGIN_REQUIRED)


def test_other_refusals_have_no_link_and_no_markup_of_others() -> None:
    for error in (ProviderUnavailable("Away. Log in again?"), OptionsError("<b>Log in again</b>")):
        assert shown(refuse(error, spawner())) == html.escape(error.message)


def test_users_read_the_sentence_and_the_log_has_the_detail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """S9: by JupyterHub 5.4's REST API, too, which shows what an exception has for the log."""
    monkeypatch.setattr(refusal, "SpawnException", None)
    problem: Any = refuse(ProviderUnavailable("Away, 100 %.", detail="ConnectError"), spawner())
    assert problem.log_message % problem.args == "Away, 100 %."
    assert caplog.messages == ["alice: not started: ConnectError"]
