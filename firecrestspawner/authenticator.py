"""Who may use the Hub, and where users' tokens live: FirecRESTAuthenticator.

A GenericOAuthenticator that finds its endpoints by discovery, keeps tokens with absolute expiries
in the encrypted auth_state, and logs nobody out because an issuer is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.crypto import CryptKeeper
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthLoginHandler
from tornado.web import HTTPError
from traitlets import Bool, Enum, Float, Unicode, default

from .cluster import own_addresses
from .endpoints import SessionHandler, TokenHandler
from .errors import Error, LoginRequired
from .handlers import JobChannelHandler, Switchboard
from .handout import Handout
from .models import Secret, TokenSet
from .oauth import TokenClient
from .oidc import Provider
from .pages import add_to
from .shutdown import at_shutdown
from .submission import unworkable
from .tokens import TokenStore, write_tokens
from .vault import UserVault

log = logging.getLogger(__name__)


class LoginHandler(OAuthLoginHandler):
    """Sends the browser to the issuer; says so with 503 when there is no issuer to send it to."""

    async def get(self) -> None:
        await _or_http_error(self.authenticator.discover())
        super().get()


class CallbackHandler(OAuthCallbackHandler):
    """Takes the browser back from the issuer."""

    async def get(self) -> None:
        await _or_http_error(self.authenticator.discover())
        await super().get()


async def _or_http_error(awaitable: Any) -> Any:
    """Await; one of our errors becomes the page it describes."""
    try:
        return await awaitable
    except Error as error:
        raise _http_error(error) from None


def _http_error(error: Error) -> Any:
    """The exception whose page shows ``error.message``, and whose log line ``error.detail``."""
    problem: Any = HTTPError(error.status, "%s", error.detail)
    problem.jupyterhub_message = error.message
    return problem


class FirecRESTAuthenticator(GenericOAuthenticator):
    """OpenID Connect login whose tokens FirecREST accepts.

    Authorization Code with PKCE (RFC 7636) against any issuer that offers discovery.
    """

    login_handler = LoginHandler
    callback_handler = CallbackHandler

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
        "a login again, and so do servers in the browser. Servers and their kernels go on either "
        "way.",
    ).tag(config=True)

    session_warning = Float(
        600.0,
        help="Seconds. The home page warns when the single sign-on session ends sooner.",
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
        self.token_store = TokenStore(self.provider, UserVault)
        self._keeper: asyncio.Task[None] | None = None

    # -- start-up ----------------------------------------------------------------------------

    def get_handlers(self, app: Any) -> list[Any]:
        """The login's handlers and the job channel's (called by the Hub before init_spawners)."""
        logging.getLogger("firecrestspawner").parent = app.log
        self._refuse_to_start_unless_configured(app)
        _warn_about_lifetimes(app)
        switchboard = app.tornado_settings["firecrest_switchboard"] = Switchboard()
        # Here, because looking names up blocks, and the Hub does not serve yet.
        app.tornado_settings["firecrest_own_addresses"] = own_addresses(_hub_hosts(app))
        add_to(app, self.session_warning)
        handout = Handout(self.token_store, self.provider)
        return [
            *super().get_handlers(app),
            (r"/api/firecrest/job", JobChannelHandler, {"switchboard": switchboard}),
            (r"/api/firecrest/session", SessionHandler),
            (r"/api/firecrest/token", TokenHandler, {"handout": handout}),
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

    async def get_token_info(self, handler: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Redeem the code (called by authenticate); with a deadline, and errors without secrets."""
        form = {k: v for k, v in params.items() if k not in ("client_id", "client_secret")}
        try:
            return await self.provider.token(form)
        except LoginRequired:
            # A code is good once; going back sends it again (RFC 6749 section 4.1.2).
            raise HTTPError(
                403, reason="This login attempt is no longer valid; please log in again."
            ) from None
        except Error as error:
            raise _http_error(error) from None

    async def token_to_user(self, token_info: dict[str, Any]) -> dict[str, Any]:
        """The user's claims from userinfo (called by authenticate)."""
        tokens = TokenSet.from_response(token_info)
        return await _or_http_error(self.provider.userinfo(tokens.access_token))

    def build_auth_state_dict(
        self, token_info: dict[str, Any], user_info: dict[str, Any]
    ) -> dict[str, Any]:
        """What is kept: the tokens with absolute expiries, and the user's claims.

        Not the token answer as a whole, unlike oauthenticator: after a refresh it would be stale.
        """
        tokens = TokenSet.from_response(token_info, now=time.time())
        return {**write_tokens(tokens), self.user_auth_state_key: user_info}

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> bool:
        """Called by the Hub for users it has not looked at for ``auth_refresh_age`` seconds.

        Nothing of the Hub itself needs the issuer: who holds a Hub session keeps it, and running
        servers go on, whether the issuer is away or the SSO session has ended (R5). What needs a
        fresh token asks the TokenStore for it.
        """
        return True


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
