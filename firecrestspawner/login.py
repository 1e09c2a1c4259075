"""What happens between browser, Hub and issuer at a login, a re-login, a link to choices?"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from jupyterhub.handlers.base import BaseHandler
from oauthenticator.oauth2 import (
    OAuthCallbackHandler,
    OAuthLoginHandler,
    _deserialize_state,
    _serialize_state,
)
from tornado.httputil import url_concat
from tornado.web import HTTPError, authenticated

from .errors import Error, PermissionDenied
from .links import choices, local_path

T = TypeVar("T")


async def or_page(awaitable: Awaitable[T]) -> T:
    """Await; one of our errors becomes the page it describes."""
    try:
        return await awaitable
    except Error as error:
        raise page(error) from None


def page(error: Error) -> Any:
    """The exception whose page shows ``error.message``, and whose log line ``error.detail``."""
    problem: Any = HTTPError(error.status, "%s", error.detail)
    problem.jupyterhub_message = error.message
    return problem


class LoginHandler(OAuthLoginHandler):
    """Sends the browser to the issuer; says so with 503 when there is no issuer to send it to."""

    async def get(self) -> None:
        await or_page(self.authenticator.discover())
        super().get()


class ReauthHandler(LoginHandler):
    """``GET /hub/firecrest/reauth?next=``: a login that keeps the session at the Hub.

    It comes back to ``next``, a path on this Hub, with fresh tokens; the home page by default.
    """

    _hint = ""

    async def get(self) -> None:
        target = self._target()
        user = self.current_user
        if user is None:
            # An ordinary login then, which comes back to the same page.
            self.redirect(url_concat(self.settings["login_url"], {"next": target}))
            return
        self._hint = await self.authenticator.login_hint(user)
        await super().get()

    def _target(self) -> str:
        given = self.request.arguments
        if set(given) - {"next"} or len(given.get("next", [])) > 1:
            raise HTTPError(400, "reauth takes one argument: next")
        target = local_path(
            self.get_query_argument("next", f"{self.hub.base_url}home", strip=False), self.base_url
        )
        if target is None:
            raise HTTPError(400, "reauth: next is no path on this Hub")
        return target

    def _get_next_url(self) -> str:
        return self._target()

    def set_state_cookie(self, state_cookie_value: str) -> None:
        """Called by the base class's get(): the callback is to know who is expected back."""
        state = {**_deserialize_state(state_cookie_value), "expected": self.current_user.name}
        super().set_state_cookie(_serialize_state(state))

    def authorize_redirect(self, *args: Any, **kwargs: Any) -> None:
        """Called by the base class's get(): who logs in is known already (login_hint)."""
        extra = {**(kwargs.pop("extra_params", None) or {}), "login_hint": self._hint}
        super().authorize_redirect(*args, extra_params=extra, **kwargs)


class CallbackHandler(OAuthCallbackHandler):
    """Takes the browser back from the issuer."""

    async def get(self) -> None:
        await or_page(self.authenticator.discover())
        await super().get()

    async def authenticate(self, data: Any) -> dict[str, Any] | None:
        """Called by login_user(), which stores what it answers: the last chance to refuse."""
        model = await super().authenticate(data)
        expected = _deserialize_state(self.get_state_cookie()).get("expected")
        if model is not None and expected is not None:
            here = self.current_user
            if model["name"] != expected or (here is not None and here.name != expected):
                raise page(
                    PermissionDenied(
                        "You logged in again as somebody else than who is logged in here. Nothing "
                        "was changed; log out first to change the account.",
                        detail=f"{expected} was to log in again, and somebody else came back",
                    )
                )
        return model

    async def login_user(self, data: Any = None) -> Any:
        """Called by the base class's get()."""
        user = await super().login_user(data)
        if user is not None:
            await self.authenticator.note_login(user)
        return user


class ChooseHandler(BaseHandler):
    """``GET /hub/firecrest/choose?system=NAME&...``: the spawn form with these choices.

    Starts nothing, stores nothing. Browsers send nobody what is behind a ``#``, so that a login
    would lose it; a query comes back from one.
    """

    @authenticated
    async def get(self) -> None:
        """302 to the form, for whoever is logged in; others are sent to do that, and come back."""
        try:
            target = choices(self.hub.base_url, self.request.query)
        except ValueError:
            raise HTTPError(400, "This is no link to choices.") from None
        self.redirect(target)
