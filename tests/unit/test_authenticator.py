"""What does the authenticator make of an issuer's answers, at a login and at a refresh?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from tornado.web import HTTPError

from firecrestspawner import sessions
from firecrestspawner.authenticator import FirecRESTAuthenticator
from firecrestspawner.errors import LoginRequired, PermissionDenied, ProviderUnavailable
from firecrestspawner.models import Secret, TokenSet

USER = SimpleNamespace(name="alice", id=1)
TOKENS = TokenSet(Secret("at"), None)
ID_TOKEN = jwt.encode({"sub": "me", "sid": "s"}, "k" * 32, "HS256")


class Provider:
    """An issuer that answers what a test wants, or raises it."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked_about: list[str | None] = []

    def _answer(self, name: str) -> Any:
        answer = self._answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def token(self, form: dict[str, str]) -> Any:
        return self._answer("token")

    async def claims(self, token: Secret) -> Any:
        return self._answer("claims")

    async def userinfo(self, token: Secret, *, sub: str | None = None) -> Any:
        self.asked_about.append(sub)
        return self._answer("userinfo")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    users: list[Any] = []
    monkeypatch.setattr(sessions, "end", users.append)
    return users


def authenticator(provider: Provider, **settings: Any) -> Any:
    made: Any = FirecRESTAuthenticator(
        issuer="http://127.0.0.1:9", client_id="hub", allow_all=True, **settings
    )
    made.provider = provider
    return made


# --- login ----------------------------------------------------------------------------------


async def test_userinfo_has_to_be_about_who_the_id_token_names() -> None:
    """OpenID Connect Core section 5.3.2."""
    provider = Provider(userinfo={"sub": "me"})
    made = authenticator(provider)
    await made.token_to_user({"access_token": "at", "id_token": ID_TOKEN})
    await made.token_to_user({"access_token": "at"})
    assert provider.asked_about == ["me", None]


async def test_an_answer_without_an_access_token_is_the_issuers_trouble() -> None:
    made = authenticator(Provider(token={"token_type": "Bearer"}))
    with pytest.raises(HTTPError) as refusal:
        await made.get_token_info(None, {"code": "c"})
    assert refusal.value.status_code == 503


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "openid"}, 403),
        (LoginRequired("It cannot be verified."), 403),
        (ProviderUnavailable("away"), 503),
    ],
)
async def test_who_lacks_a_permission_is_not_logged_in_whatever_allow_all_says(
    monkeypatch: pytest.MonkeyPatch, claims: Any, status: int
) -> None:
    made = authenticator(Provider(claims=claims), required_permissions=["hpc-user"])

    async def authenticate(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"name": "alice", "admin": None, "auth_state": {"access_token": "at"}}

    monkeypatch.setattr(FirecRESTAuthenticator.__mro__[1], "authenticate", authenticate)
    with pytest.raises(HTTPError) as refusal:
        await made.get_authenticated_user(None, {})
    assert refusal.value.status_code == status


# --- refresh --------------------------------------------------------------------------------


async def test_a_lost_permission_ends_the_session_at_the_hub(ended: list[Any]) -> None:
    """By whatever way it was found out."""
    made = authenticator(Provider(claims={"scope": "openid"}), required_permissions=["hpc-user"])
    with pytest.raises(PermissionDenied):
        await made._revise(USER, {}, TOKENS)
    assert ended == [USER]


@pytest.mark.parametrize("problem", [LoginRequired("no such key"), ProviderUnavailable("away")])
async def test_a_token_that_cannot_be_verified_right_now_changes_nothing(
    ended: list[Any], problem: Exception
) -> None:
    """R5: the issuer has just refreshed it; a new key may not be published yet."""
    made = authenticator(Provider(claims=problem), required_permissions=["hpc-user"])
    with pytest.raises(ProviderUnavailable):
        await made._revise(USER, {}, TOKENS)
    assert ended == []


async def test_the_issuer_is_asked_for_claims_only_where_they_are_used_and_old() -> None:
    """C1: a refresh costs one request, not two."""
    provider = Provider(userinfo={"sub": "me", "groups": ["new"]})
    state = {"id_token": ID_TOKEN, "oauth_user": {"sub": "me", "groups": ["old"]}}
    assert await authenticator(provider)._revise(USER, state, TOKENS) is None
    made = authenticator(provider, manage_groups=True, userinfo_age=1000.0)
    recent = made.build_auth_state_dict({"access_token": "at"}, state["oauth_user"])
    revision = await made._revise(USER, recent, TOKENS)
    assert revision.auth_state == recent and provider.asked_about == []
    revision = await made._revise(USER, {**state, "userinfo_at": 1.0}, TOKENS)
    assert revision.auth_state["oauth_user"]["groups"] == ["new"]
    assert provider.asked_about == ["me"]


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (HTTPError(403), PermissionDenied),
        (HTTPError(500), ProviderUnavailable),
        (RuntimeError("refresh_token=secret"), ProviderUnavailable),
        (KeyError("groups"), ProviderUnavailable),
    ],
)
async def test_a_hook_of_the_site_that_fails_concludes_nothing_but_its_403(
    ended: list[Any], raised: Exception, kind: type[Exception]
) -> None:
    """R5, S1."""

    def groups(auth_state: dict[str, Any]) -> list[str]:
        raise raised

    made = authenticator(Provider(), manage_groups=True, auth_state_groups_key=groups)
    with pytest.raises(kind) as refusal:
        await made._revise(USER, {"userinfo_at": 9e9}, TOKENS)
    assert "secret" not in repr(vars(refusal.value))
    assert refusal.value.__suppress_context__
    assert ended == ([USER] if kind is PermissionDenied else [])
