"""Who may use the Hub, and where users' tokens live: FirecRESTAuthenticator.

A GenericOAuthenticator that finds its endpoints by discovery, keeps tokens with absolute expiries
in the encrypted auth_state, and logs nobody out because an issuer is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

from jupyterhub import roles
from jupyterhub.crypto import CryptKeeper
from oauthenticator.generic import GenericOAuthenticator
from tornado.web import HTTPError
from traitlets import Bool, Enum, Float, List, Unicode, default

from . import permissions, resume, sessions
from .cluster import own_addresses
from .deadline import in_time
from .endpoints import HintsHandler, SessionHandler, TokenHandler
from .entitlements import Desk
from .errors import Error, LoginRequired, PermissionDenied, ProviderUnavailable
from .handlers import JobChannelHandler, Switchboard
from .handout import Handout
from .login import CallbackHandler, ChooseHandler, LoginHandler, ReauthHandler, or_page, page
from .logout import BackchannelLogoutHandler, LogoutHandler, LogoutTokens
from .models import Secret, TokenSet
from .oauth import UNAVAILABLE, TokenClient, token_set
from .oidc import Provider
from .pages import add_to
from .reading import OutputHandler, Shelf
from .shutdown import at_shutdown, before_shutdown
from .slices import freeze
from .strays import Strays
from .submission import unworkable
from .tokens import Revision, TokenStore, begin_login
from .vault import UserVault

log = logging.getLogger(__name__)


class FirecRESTAuthenticator(GenericOAuthenticator):
    """OpenID Connect login whose tokens FirecREST accepts.

    Authorization Code with PKCE (RFC 7636) against any issuer that offers discovery.
    """

    login_handler = LoginHandler
    callback_handler = CallbackHandler
    logout_handler = LogoutHandler

    issuer = Unicode(
        help="The issuer's identifier; endpoints and keys are found by discovery. "
        "Example: ``https://sso.example.org/realms/hpc``"
    ).tag(config=True)

    # Tokens have to be stored for a spawner to use them.
    enable_auth_state = Bool(True, help="Keep users' tokens, encrypted. Has to stay on.").tag(
        config=True
    )

    session_policy = Enum(
        ["hub", "sso"],
        "hub",
        help="What the end of the single sign-on session means for the session at the Hub. "
        "``hub``: nothing; only what needs a token asks for a new login. ``sso``: the Hub asks for "
        "a login again, and so do servers in the browser. Servers go on either way.",
    ).tag(config=True)

    required_permissions = List(
        Unicode(),
        help="Roles or scopes that a user's access token must have, all of them. They are checked "
        "at login, whatever ``allow_all`` says, and at each refresh of the token. "
        "Example: ``['hpc-user']``",
    ).tag(config=True)

    permission_claims = List(
        Unicode(),
        list(permissions.CLAIMS),
        help="The claims of the access token that hold permissions, as dotted paths: lists, or "
        "words in a text. ``{client_id}`` stands for this Hub's client.",
    ).tag(config=True)

    permission_contact = Unicode(
        "the administrators of this service",
        help="Whom users without a required permission are told to ask for it. "
        "Example: ``the help desk, help@example.org,``",
    ).tag(config=True)

    userinfo_age = Float(
        600.0,
        help="Seconds. With ``manage_groups`` or ``manage_roles``, a refresh of the token asks the "
        "issuer for the user's claims anew if they are older.",
    ).tag(config=True)

    session_warning = Float(
        600.0,
        help="Seconds. The home page warns when the single sign-on session ends sooner.",
    ).tag(config=True)

    refresh_patience = Float(
        3.0,
        help="Seconds that a page waits, once every ``auth_refresh_age``, for the issuer to say "
        "whether the login is still good. After that it is shown all the same.",
    ).tag(config=True)

    @default("client_id")
    def _client_id_from_environment(self) -> str:
        return os.environ.get("OAUTH_CLIENT_ID", "")

    @default("client_secret")
    def _client_secret_from_environment(self) -> str:
        return os.environ.get("OAUTH_CLIENT_SECRET", "")

    @default("login_service")
    def _login_service_name(self) -> str:
        return os.environ.get("LOGIN_SERVICE", "your centre's account")

    @default("username_claim")
    def _username_claim_of_oidc(self) -> str:
        # OpenID Connect Core section 5.1; what FirecREST takes for the cluster user.
        return "preferred_username"

    @default("scope")
    def _scope_of_oidc(self) -> list[str]:
        return ["openid", "profile", "email"]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        client = TokenClient(
            self.client_id,
            Secret(self.client_secret),
            basic=self.basic_auth,
            verify=self.validate_server_cert,
        )
        self.provider = Provider(self.issuer, client)
        self.token_store = TokenStore(self.provider, UserVault, revise=self._revise)
        self.origins = sessions.Origins(self.user_auth_state_key)
        self.logout_tokens = LogoutTokens(self.provider, self.client_id)
        self.strays = Strays(self.token_store, self.provider)
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- start-up ----------------------------------------------------------------------------

    def get_handlers(self, app: Any) -> list[Any]:
        """The login's handlers and the job channel's (called by the Hub before init_spawners)."""
        logging.getLogger("firecrestspawner").parent = app.log
        self._refuse_to_start_unless_configured(app)
        _warn_about_lifetimes(app)
        self._warn_about_sessions(app)
        switchboard = app.tornado_settings["firecrest_switchboard"] = Switchboard()
        # Here, because looking names up blocks, and the Hub does not serve yet.
        app.tornado_settings["firecrest_own_addresses"] = own_addresses(_hub_hosts(app))
        add_to(app, self.session_warning)
        freeze()
        before_shutdown(app, self.token_store.settle)
        handout = Handout(self.token_store, self.provider)
        resume.take_up(app)
        return [
            *super().get_handlers(app),
            (r"/api/firecrest/job", JobChannelHandler, {"switchboard": switchboard}),
            (r"/api/firecrest/session", SessionHandler),
            (r"/api/firecrest/hints", HintsHandler, {"desk": Desk()}),
            (r"/api/firecrest/token", TokenHandler, {"handout": handout}),
            (r"/firecrest/output", OutputHandler, {"shelf": Shelf()}),
            (r"/firecrest/choose", ChooseHandler),
            (r"/firecrest/reauth", ReauthHandler),
            (r"/firecrest/backchannel-logout", BackchannelLogoutHandler),
        ]

    def _refuse_to_start_unless_configured(self, app: Any) -> None:
        """Exit with one sentence that names what to set."""
        problem = ""
        if not self.issuer:
            problem = "set c.FirecRESTAuthenticator.issuer to your OpenID Connect issuer's URL"
        elif not self.client_id:
            problem = "set c.FirecRESTAuthenticator.client_id (or OAUTH_CLIENT_ID)"
        elif not self.enable_auth_state:
            problem = (
                "set c.Authenticator.enable_auth_state = True: servers are started with the "
                "user's own token, which is kept there"
            )
        elif not CryptKeeper.instance(config=app.config).keys:
            problem = (
                "set the environment variable JUPYTERHUB_CRYPT_KEY (make one with `openssl rand "
                "-hex 32`, and keep it): tokens are stored encrypted, or not at all"
            )
        problem = problem or unworkable(app)
        if problem:
            app.log.critical("FirecRESTAuthenticator cannot work: %s", problem)
            app.exit(1)

    async def discover(self) -> None:
        """Fill in the endpoints oauthenticator's handlers read. Raises ProviderUnavailable."""
        if self._keeper is None:
            self._keeper = at_shutdown(self.token_store.aclose)
        metadata = await self.provider.metadata()
        self.authorize_url = metadata["authorization_endpoint"]
        self.token_url = metadata["token_endpoint"]
        self.userdata_url = metadata.get("userinfo_endpoint", "")

    # -- login -------------------------------------------------------------------------------

    async def authenticate(
        self, handler: Any, data: Any = None, **kwargs: Any
    ) -> dict[str, Any] | None:
        """Who logs in (called by the Hub before it asks whom ``allow_all`` and the like admit)."""
        model = await super().authenticate(handler, data, **kwargs)
        if model is not None:
            await or_page(self._require(Secret(model["auth_state"]["access_token"])))
        return model

    async def _require(self, access_token: Secret) -> None:
        """Raise PermissionDenied unless the token has the required permissions."""
        if not self.required_permissions:
            return
        claims = await self.provider.claims(access_token)
        granted = permissions.held(claims, self.permission_claims, self.client_id)
        permissions.check(self.required_permissions, granted, self.permission_contact)

    async def get_token_info(self, handler: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Redeem the code (called by authenticate); with a deadline, and errors without secrets."""
        form = {k: v for k, v in params.items() if k not in ("client_id", "client_secret")}
        try:
            answer = await self.provider.token(form)
            token_set(answer)
            return answer
        except LoginRequired:
            # A code is good once; going back sends it again (RFC 6749 section 4.1.2).
            raise HTTPError(
                403, reason="This login attempt is no longer valid; please log in again."
            ) from None
        except Error as error:
            raise page(error) from None

    async def token_to_user(self, token_info: dict[str, Any]) -> dict[str, Any]:
        """The user's claims from userinfo (called by authenticate)."""
        tokens = TokenSet.from_response(token_info)
        about = sessions.Origin.of(token_info, self.user_auth_state_key).sub
        return await or_page(self.provider.userinfo(tokens.access_token, sub=about or None))

    def build_auth_state_dict(
        self, token_info: dict[str, Any], user_info: dict[str, Any]
    ) -> dict[str, Any]:
        """What is kept: the tokens with absolute expiries, and the user's claims with their age.

        Not the token answer as a whole, unlike oauthenticator: after a refresh it would be stale.
        """
        now = time.time()
        tokens = TokenSet.from_response(token_info, now=now)
        return {
            **begin_login(tokens),
            self.user_auth_state_key: user_info,
            "userinfo_at": now,
        }

    async def note_login(self, user: Any) -> None:
        """Called by the callback's handler once the login is stored."""
        state, _ = await UserVault(user).load()
        self.origins.note(user.id, state or {})
        self.run(self.strays.end(user))

    async def login_hint(self, user: Any) -> str:
        """The name the user has at the issuer, as far as it is known (OpenID Connect Core)."""
        state, _ = await UserVault(user).load()
        claims = (state or {}).get(self.user_auth_state_key) or {}
        return str(claims.get("preferred_username") or user.name)

    # -- refresh -----------------------------------------------------------------------------

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> bool:
        """Called by the Hub for users it has not looked at for ``auth_refresh_age`` seconds.

        False, for a browser's request alone, when the login is over and this policy ends the
        session at the Hub with it. A request with a token, or of somebody else for this user, is
        never refused: it only makes the Hub look (R5). A model is never returned, because the Hub
        would overwrite with it what a refresh stores meanwhile.
        """
        if not _is_own_page(user, handler):
            self.run(self._look_after(user))
            return True
        try:
            over = await in_time(self._is_over(user), self.refresh_patience)
        except asyncio.TimeoutError:
            return True
        if over:
            sessions.end(user)
            sessions.end_in_browser(handler)
        return not over

    async def _look_after(self, user: Any) -> None:
        if await self._is_over(user):
            sessions.end(user)

    async def _is_over(self, user: Any) -> bool:
        """Whether the session at the Hub is to end; refreshes the tokens if need be."""
        try:
            await self.token_store.get(user)
        except LoginRequired:
            return self.session_policy == "sso"
        except PermissionDenied:
            return True
        except Error as error:
            log.info("The login of %s was not checked: %s", user.name, error.detail)
        return False

    async def _revise(
        self, user: Any, auth_state: dict[str, Any], tokens: TokenSet
    ) -> Revision | None:
        """What follows from fresh tokens: permissions, groups, roles, admin (called by TokenStore).

        Raises PermissionDenied, and ProviderUnavailable when nothing can be said.
        """
        self.origins.note(user.id, auth_state)
        try:
            await self._require(tokens.access_token)
            if not (self.manage_groups or self.manage_roles):
                return None
            model = await self._model(user, auth_state, tokens)
        except LoginRequired as error:
            # A key that is not published yet, a userinfo endpoint that lags behind: the refresh
            # itself has just succeeded.
            raise ProviderUnavailable(error.message, detail=error.detail) from None
        except PermissionDenied:
            # In whatever way it was found out: also when refresh_user is never called.
            sessions.end(user)
            raise
        return Revision(model["auth_state"], lambda: self._apply(user, model))

    async def _model(
        self, user: Any, auth_state: dict[str, Any], tokens: TokenSet
    ) -> dict[str, Any]:
        """The auth model as at a login, by the site's own hooks and settings."""
        state = dict(auth_state)
        if time.time() - float(state.get("userinfo_at") or 0) >= self.userinfo_age:
            about = sessions.Origin.of(state, self.user_auth_state_key).sub
            state[self.user_auth_state_key] = await self.provider.userinfo(
                tokens.access_token, sub=about or None
            )
            state["userinfo_at"] = time.time()
        admin = True if user.name in self.admin_users else None
        try:
            if self.modify_auth_state_hook is not None:
                state = await self._call_modify_auth_state_hook(state)
            model = {"name": user.name, "admin": admin, "auth_state": state}
            model = await self.update_auth_model(model)
            return await self._apply_managed_groups(model)
        except Error:
            raise
        # The site's own code may raise anything, and the Hub would take the user for nobody: only
        # the site's 403 is a refusal.
        except Exception as error:
            if isinstance(error, HTTPError) and error.status_code == 403:
                raise PermissionDenied(
                    "Your account may not use this service any more. Please ask "
                    f"{self.permission_contact}.",
                    detail="a hook of this site answered 403",
                ) from None
            raise ProviderUnavailable(
                UNAVAILABLE, detail=f"{type(error).__name__} in a hook of this site"
            ) from None

    def _apply(self, user: Any, model: dict[str, Any]) -> None:
        """The Hub's rows follow the model (as BaseHandler.auth_to_user does at a login)."""
        if model["admin"] is not None and model["admin"] != user.admin:
            user.admin = model["admin"]
            roles.assign_default_roles(user.db, entity=user)
            user.db.commit()
        if self.manage_groups:
            user.sync_groups(model["groups"])
        if self.manage_roles and model.get("roles") is not None:
            user.sync_roles(model["roles"])

    # -- tasks -------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have something done beside the request, whatever becomes of that; failures are logged."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Its kind only: what comes from elsewhere may quote tokens (S1).
            log.error("Looking after a login failed: %s", type(task.exception()).__name__)

    def _warn_about_sessions(self, app: Any) -> None:
        if self.session_policy == "sso" and not self.auth_refresh_age:
            app.log.warning(
                "FirecRESTAuthenticator.session_policy is 'sso', but auth_refresh_age is 0: only "
                "the issuer's back-channel logout ends sessions at the Hub."
            )


def _is_own_page(user: Any, handler: Any) -> bool:
    """Whether it is the user's own browser that asks, with its cookie."""
    if handler is None or getattr(handler, "_token_authenticated", False):
        return False
    # Until JupyterHub 6.1 it is not set yet while the user of the request itself is looked at.
    return getattr(handler, "_jupyterhub_user", user) is user


def _hub_hosts(app: Any) -> list[str]:
    """The hosts of the Hub, its proxy and the proxy's API: jobs' servers are elsewhere (S8)."""
    urls = (app.bind_url, app.hub_bind_url, getattr(app.proxy, "api_url", ""))
    return [host for host in (urlsplit(url).hostname for url in urls if url) if host]


def _warn_about_lifetimes(app: Any) -> None:
    """R6: settings with which a restart of the Hub would end servers, or a queue a start."""
    if app.cleanup_servers:
        app.log.warning(
            "JupyterHub.cleanup_servers is True: stopping the Hub stops every server. "
            "firecrestspawner.configure(c) sets it to False."
        )
    if app.concurrent_spawn_limit:
        app.log.warning(
            "JupyterHub.concurrent_spawn_limit is %i and counts queued jobs too: 0 lifts it.",
            app.concurrent_spawn_limit,
        )
    timeout = app.config.get("Spawner", {}).get("start_timeout")
    own = app.config.get("FirecRESTSpawner", {}).get("start_timeout", timeout)
    if isinstance(own, int) and own < 3600:
        app.log.warning(
            "Spawner.start_timeout is %i s: jobs that wait longer in the queue are cancelled.", own
        )
