"""How do a user's tokens stay fresh? One refresh at a time, rotation included (R4)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from .errors import LoginRequired, PermissionDenied, ProviderUnavailable
from .metrics import REFRESHES
from .models import Secret, TokenSet, optional_secret
from .oauth import LOGIN_REQUIRED, UNAVAILABLE
from .oidc import Provider
from .slices import Turnstile

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds of life a token has when it is handed out: FirecREST refuses those with less than 30.
MARGIN = 60.0
_AS_FRESH_AS_THEY_GET = 10.0
#: So many answers are encrypted in one round of the event loop, a fifth of a millisecond for each.
_ANSWERS = 10
#: Seconds that a Hub which shuts down waits for refreshes.
PATIENCE = 5.0


class Vault(Protocol):
    """One user's encrypted auth_state: what TokenStore needs of the Hub."""

    name: str

    async def load(self) -> tuple[dict[str, Any] | None, bytes | None]:
        """The decrypted auth_state, and the very bytes it was decrypted from.

        ``(None, None)`` where nothing is stored, ``(None, bytes)`` where it cannot be decrypted.
        """

    async def seal(self, auth_state: dict[str, Any]) -> bytes:
        """Encrypt."""

    def swap(self, old: bytes | None, new: bytes | None) -> bool:
        """Store and commit ``new`` if ``old`` is still what is stored; does not await."""

    async def save(self, old: bytes | None, new: bytes | None) -> bool:
        """As :meth:`swap`, perhaps in a commit with other users'; has been committed on return."""


def read_tokens(auth_state: Mapping[str, Any]) -> TokenSet:
    """The tokens inside an auth_state. Raises ValueError when there is no access token."""
    tokens = TokenSet.from_response(
        {key: auth_state.get(key) for key in ("access_token", "refresh_token", "id_token", "scope")}
    )
    return TokenSet(
        tokens.access_token,
        _float(auth_state.get("expires_at")),
        tokens.refresh_token,
        _float(auth_state.get("refresh_expires_at")),
        tokens.id_token,
        tokens.scope,
        issued_at=_float(auth_state.get("issued_at")),
    )


def write_tokens(tokens: TokenSet) -> dict[str, Any]:
    """The auth_state fields of a token set: plain strings, for encryption only."""
    return {
        "access_token": tokens.access_token.reveal(),
        "expires_at": tokens.expires_at,
        "refresh_token": tokens.refresh_token.reveal() if tokens.refresh_token else None,
        "refresh_expires_at": tokens.refresh_expires_at,
        "id_token": tokens.id_token.reveal() if tokens.id_token else None,
        "scope": tokens.scope.split(),
        "issued_at": tokens.issued_at,
    }


def begin_login(tokens: TokenSet) -> dict[str, Any]:
    """As :func:`write_tokens`, for a login: with a mark that all its refreshes keep."""
    return {**write_tokens(tokens), "login": secrets.token_hex(8)}


@dataclass(frozen=True)
class Session:
    """A user's session at the issuer, as far as it is known here.

    ``expires_at`` is when it ends unless it is used (Unix seconds), None when the issuer gives its
    sessions no end that it tells.
    """

    valid: bool
    expires_at: float | None


def read_session(auth_state: Mapping[str, Any] | None, *, now: float | None = None) -> Session:
    """What a stored auth_state says of the session; asks nobody."""
    now = time.time() if now is None else now
    try:
        tokens = read_tokens(auth_state or {})
    except ValueError:
        return Session(False, None)
    ends = tokens.expires_at if tokens.refresh_token is None else tokens.refresh_expires_at
    return Session(ends is None or ends > now, ends)


@dataclass(frozen=True)
class Revision:
    """What a refresh changes about a user besides the tokens (groups, roles, admin).

    ``auth_state`` is the whole new one. ``apply`` is called, without an await in between, right
    after it has been stored: for what the Hub keeps in rows of its own.
    """

    auth_state: dict[str, Any] = field(repr=False)
    apply: Callable[[], None] = lambda: None


#: Looks at a user again after a refresh: user, auth_state with the fresh tokens, those tokens.
#: Answers None for "nothing changes"; raises PermissionDenied to keep the tokens from being used.
Revise = Callable[[Any, dict[str, Any], TokenSet], Awaitable[Revision | None]]


class Forgotten(NamedTuple):
    """What there is to revoke, and by what the issuer knows the session it belongs to.

    That session may go on without a refresh token: the login here ends with a lost answer, too.
    """

    refresh_token: Secret | None
    id_token: Secret | None


@dataclass
class _Turn:
    """One user's lock, and how the issuer was last asked under it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0
    asked: float = float("-inf")
    answered: float = float("-inf")
    failure: ProviderUnavailable | None = None


class TokenStore:
    """Fresh tokens for users, one refresh at a time for each (R4).

    Parameters
    ----------
    vault_of: the vault of a user, as the callers name users.
    revise: called after each refresh, see :data:`Revise`.

    What is kept in auth_state besides the tokens: ``login``, which tells one login from the next;
    ``login_ended`` (Unix seconds) once the issuer has refused a refresh, and ``denied`` (a message)
    while ``revise`` says that the user may not use the Hub. A login overwrites all of it.
    """

    def __init__(
        self,
        provider: Provider,
        vault_of: Callable[[Any], Vault],
        revise: Revise | None = None,
    ) -> None:
        self._provider = provider
        self._vault_of = vault_of
        self._revise = revise
        self._turnstile = Turnstile()
        self._answered = Turnstile(_ANSWERS)
        # Both hold only what is under way.
        self._turns: dict[str, _Turn] = {}
        self._flights: set[asyncio.Task[Any]] = set()

    # -- for those who need tokens -----------------------------------------------------------

    async def get(self, user: Any, min_validity: float = MARGIN) -> TokenSet:
        """Tokens whose access token lives ``min_validity`` seconds more (at least MARGIN).

        Where the issuer gives less than that, they are as fresh as it makes them. A refresh
        outlives the caller's cancellation, because the issuer may have rotated the refresh token
        by then. Raises LoginRequired, PermissionDenied or ProviderUnavailable.
        """
        return await self._shielded(self._get(user, max(min_validity, MARGIN)))

    async def renew(self, user: Any) -> TokenSet:
        """As :meth:`get`, but the issuer is asked in any case: does the session still exist?

        What it was asked before the call is no answer to that; what it is asked meanwhile is.
        """
        return await self._shielded(self._get(user, MARGIN, renew=True))

    # -- for those who end sessions ----------------------------------------------------------

    async def forget(self, user: Any) -> Forgotten | None:
        """Empty the user's auth_state; what it held, None where there was no login.

        Waits for a refresh under way, whose tokens are the ones to revoke. A login meanwhile wins.
        Goes on if the caller is cancelled.
        """
        return await self._shielded(self._forget(user))

    async def _forget(self, user: Any) -> Forgotten | None:
        vault = self._vault_of(user)
        login = _login(await vault.load())
        async with self._turn(vault.name):
            state, stored = await vault.load()
            # Without a mark it is no other login: another logout was first, or a hook of the site
            # has dropped it in the refresh that was waited for.
            if _login((state, stored)) not in (None, login):
                log.info("A login of %s during a logout wins", vault.name)
                return None
            vault.swap(stored, None)
            if not state:
                return None
            return Forgotten(*(optional_secret(state.get(name)) for name in Forgotten._fields))

    async def end(
        self,
        user: Any,
        why: str,
        *,
        applies: Callable[[Mapping[str, Any]], bool] = lambda auth_state: True,
    ) -> bool:
        """Record that the user's session at the issuer has ended; whether there was one.

        ``why`` is for the log. ``applies`` looks at the auth_state under the lock: by then there
        may have been another login. Goes on if the caller is cancelled.
        """
        return await self._shielded(self._end_session(user, why, applies))

    async def _end_session(
        self, user: Any, why: str, applies: Callable[[Mapping[str, Any]], bool]
    ) -> bool:
        vault = self._vault_of(user)
        async with self._turn(vault.name):
            state, stored = await vault.load()
            if not state or not state.get("access_token") or not applies(state):
                return False
            return await self._record_end(vault, state, stored, why)

    async def settle(self) -> None:
        """Let refreshes under way save what they get; they have PATIENCE seconds."""
        ends = time.monotonic() + PATIENCE
        # Others may begin meanwhile.
        while (left := ends - time.monotonic()) > 0:
            flying = [flight for flight in self._flights if not flight.done()]
            if not flying:
                break
            await asyncio.wait(flying, timeout=left)

    async def aclose(self) -> None:
        """Close the connections, once what is under way has settled."""
        await self.settle()
        await self._provider.aclose()

    # -- one user at a time ------------------------------------------------------------------

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._fly(work))

    def _fly(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        flight = asyncio.ensure_future(work)
        self._flights.add(flight)
        flight.add_done_callback(self._landed)
        return flight

    def _landed(self, flight: asyncio.Task[Any]) -> None:
        self._flights.discard(flight)
        if not flight.cancelled():
            flight.exception()  # fetched, so that a cancelled caller leaves no warning behind

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[_Turn]:
        turn = self._turns.setdefault(name, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield turn
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[name]

    async def _get(self, user: Any, min_validity: float, *, renew: bool = False) -> TokenSet:
        vault = self._vault_of(user)
        began = time.monotonic()
        async with self._turn(vault.name) as turn:
            # Who waited while another asked the issuer shares what came of it: tokens that were
            # refreshed just now are as fresh as they get, and an issuer that is away still is.
            shared = turn.answered >= began
            if shared and turn.failure is not None:
                raise ProviderUnavailable(turn.failure.message, detail=turn.failure.detail)
            if renew:
                shared = turn.asked >= began
            for _ in range(3):
                await self._turnstile.pass_through()
                state, stored = await vault.load()
                tokens = _stored_tokens(vault.name, state, stored)
                # Where the issuer gives none to refresh with, nobody has refreshed these.
                shared = shared and tokens.refresh_token is not None
                if shared or not _wants_refresh(tokens, min_validity, renew):
                    return _unless_denied(state, tokens)
                turn.asked, turn.failure = time.monotonic(), None
                try:
                    fresh = await self._refresh(user, vault, state or {}, stored, tokens)
                except ProviderUnavailable as error:
                    turn.failure = error
                    raise
                finally:
                    turn.answered = time.monotonic()
                if fresh is not None:
                    return fresh
                log.info("A login of %s during a refresh wins", vault.name)
                renew = False
        raise ProviderUnavailable(UNAVAILABLE, detail=f"{vault.name} keeps logging in")

    async def _refresh(
        self, user: Any, vault: Vault, state: dict[str, Any], stored: bytes | None, tokens: TokenSet
    ) -> TokenSet | None:
        """Refresh and save; None when what is stored has changed meanwhile."""
        try:
            await self._turnstile.pass_through()
            fresh = await self._provider.refresh(tokens)
        except ProviderUnavailable as error:
            REFRESHES.labels(error.reason).inc()
            raise
        except LoginRequired as error:
            REFRESHES.labels(error.reason).inc()
            if tokens.refresh_token is None:
                raise
            if await self._record_end(vault, state, stored, error.detail):
                raise
            return None
        REFRESHES.labels("ok").inc()
        await self._answered.pass_through()
        state = {**state, **write_tokens(fresh)}
        if self._revise is None:
            state.pop("denied", None)
        sealed = await vault.seal(state)
        if not await vault.save(stored, sealed):
            return None
        if self._revise is None:
            return fresh
        revising = self._revise(user, {k: v for k, v in state.items() if k != "denied"}, fresh)
        return fresh if await self._look_again(vault, state, sealed, revising) else None

    async def _look_again(
        self,
        vault: Vault,
        state: dict[str, Any],
        stored: bytes,
        revising: Awaitable[Revision | None],
    ) -> bool:
        """Save what ``revise`` says of a refreshed user; False when a login came in between."""
        # What was denied stays so until somebody has said otherwise.
        without = {name: value for name, value in state.items() if name != "denied"}
        refused: PermissionDenied | None = None
        try:
            revision = await revising or Revision(without)
        except ProviderUnavailable as error:
            log.warning("What is known of %s is kept: %s", vault.name, error.detail)
            revision = Revision(state)
            refused = PermissionDenied(state["denied"]) if state.get("denied") else None
        except PermissionDenied as error:
            refused, revision = error, Revision({**without, "denied": error.message})
        except LoginRequired as error:
            if await self._record_end(vault, state, stored, error.detail):
                raise
            return False
        same = revision.auth_state == state
        # Where nothing changes, too: the groups of a login meanwhile are newer than these.
        if not vault.swap(stored, stored if same else await vault.seal(revision.auth_state)):
            return False
        revision.apply()
        if refused is not None:
            log.info("%s may not use the Hub any more: %s", vault.name, refused.detail)
            raise refused
        return True

    async def _record_end(
        self, vault: Vault, state: dict[str, Any], stored: bytes | None, why: str
    ) -> bool:
        """Keep that the session has ended, so that the issuer is not asked again and again.

        False when there was a login meanwhile: the session that ended is not the one that began.
        """
        gone = ("access_token", "expires_at", "issued_at", "refresh_token", "refresh_expires_at")
        ended = {**state, **dict.fromkeys(gone), "login_ended": time.time()}
        if not vault.swap(stored, await vault.seal(ended)):
            return False
        log.info("The login of %s has ended: %s", vault.name, why)
        return True


def _login(loaded: tuple[Mapping[str, Any] | None, bytes | None]) -> Any:
    state, _ = loaded
    return state.get("login") if state else None


def _stored_tokens(name: str, state: Mapping[str, Any] | None, stored: bytes | None) -> TokenSet:
    try:
        return read_tokens(state or {})
    except ValueError:
        if state and state.get("login_ended"):
            detail = f"the login of {name} has ended"
        elif state is None and stored is not None:
            detail = f"what is stored of {name} cannot be decrypted: is JUPYTERHUB_CRYPT_KEY lost?"
        else:
            detail = f"no tokens of {name} are stored"
        raise LoginRequired(LOGIN_REQUIRED, detail=detail) from None


def _wants_refresh(tokens: TokenSet, min_validity: float, renew: bool) -> bool:
    if renew and tokens.refresh_token is not None:
        return True
    if min_validity > MARGIN and time.time() - (tokens.issued_at or 0) < _AS_FRESH_AS_THEY_GET:
        # Who asks for more than the issuer gives does not cost it a token for each need.
        min_validity = MARGIN
    return tokens.expires_soon(min_validity)


def _unless_denied(state: Mapping[str, Any] | None, tokens: TokenSet) -> TokenSet:
    denied = (state or {}).get("denied")
    if denied:
        raise PermissionDenied(str(denied))
    return tokens


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
