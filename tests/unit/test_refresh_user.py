"""Whom does refresh_user send to a login? Nobody but a browser whose login is over."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from firecrestspawner import sessions
from firecrestspawner.authenticator import FirecRESTAuthenticator
from firecrestspawner.errors import (
    ConfigurationError,
    LoginRequired,
    PermissionDenied,
    ProviderUnavailable,
)

USER = SimpleNamespace(name="alice", id=1)


class Handler:
    """One request. JupyterHub 5.4 sets no ``_jupyterhub_user`` before it refreshes."""

    base_url = "/"
    subdomain_host = ""
    hub = SimpleNamespace(cookie_name="hub-login", base_url="/hub/")

    def __init__(self, **marks: Any) -> None:
        self.cleared: list[str] = []
        vars(self).update(marks)

    def clear_cookie(self, name: str, path: str) -> None:
        self.cleared.append(name)


COOKIES: dict[str, dict[str, Any]] = {
    "6.x": {"_jupyterhub_user": USER},
    "5.4": {},
}
OTHERS: dict[str, dict[str, Any] | None] = {
    "a token": {"_jupyterhub_user": USER, "_token_authenticated": True},
    "a token, 5.4": {"_token_authenticated": True},
    "an admin": {"_jupyterhub_user": SimpleNamespace(name="admin")},
    "a service": {
        "_jupyterhub_user": SimpleNamespace(kind="service"),
        "_token_authenticated": True,
    },
    "nobody": None,
}


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Users whose sessions at the Hub were ended."""
    users: list[Any] = []
    monkeypatch.setattr(sessions, "end", users.append)
    return users


def authenticator(policy: str, problem: Exception | None, **settings: Any) -> Any:
    async def get(user: Any) -> None:
        if problem is not None:
            raise problem

    made: Any = FirecRESTAuthenticator(
        issuer="http://127.0.0.1:9", client_id="hub", session_policy=policy, **settings
    )
    made.token_store = SimpleNamespace(get=get)
    return made


@pytest.mark.parametrize("version", COOKIES)
@pytest.mark.parametrize(
    ("policy", "problem", "stays"),
    [
        ("hub", None, True),
        ("sso", None, True),
        ("hub", LoginRequired("over"), True),
        ("sso", LoginRequired("over"), False),
        ("hub", PermissionDenied("no"), False),
        ("sso", PermissionDenied("no"), False),
        ("sso", ProviderUnavailable("away"), True),
        ("sso", ConfigurationError("wrong"), True),
    ],
)
async def test_a_browser_is_sent_to_a_login_when_it_is_over(
    ended: list[Any], version: str, policy: str, problem: Exception | None, stays: bool
) -> None:
    """R5: and it forgets its session, in a way that JupyterHub 6.1.1 survives."""
    handler = Handler(**COOKIES[version])
    assert await authenticator(policy, problem).refresh_user(USER, handler) is stays
    assert ended == ([] if stays else [USER])
    assert handler.cleared == ([] if stays else ["jupyterhub-session-id", "hub-login"])
    assert stays or handler._token_authenticated is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("policy", ["hub", "sso"])
@pytest.mark.parametrize("problem", [LoginRequired("over"), PermissionDenied("no"), None])
async def test_nobody_else_is_refused_but_the_hub_looks(
    ended: list[Any], kind: str, policy: str, problem: Exception | None
) -> None:
    """R5: what is found ends the browsers' sessions all the same."""
    marks = OTHERS[kind]
    handler = None if marks is None else Handler(**marks)
    made = authenticator(policy, problem)
    assert await made.refresh_user(USER, handler) is True
    await asyncio.gather(*made._tasks)
    over = isinstance(problem, PermissionDenied) or (problem is not None and policy == "sso")
    assert ended == ([USER] if over else [])
    assert handler is None or handler.cleared == []


async def test_a_page_waits_no_longer_than_it_is_to(ended: list[Any]) -> None:
    """R8, R5."""
    made = authenticator("sso", None, refresh_patience=0.01)
    cancelled = False

    async def get(user: Any) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    made.token_store = SimpleNamespace(get=get)
    assert await made.refresh_user(USER, Handler(_jupyterhub_user=USER)) is True
    assert cancelled and ended == []


async def test_what_goes_wrong_in_the_background_is_said_without_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """S1."""
    made = authenticator("hub", RuntimeError("refresh_token=secret"))
    assert await made.refresh_user(USER, None) is True
    await asyncio.gather(*made._tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text
