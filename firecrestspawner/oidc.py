"""What is said to an OpenID Connect issuer that is found by discovery, and what is believed?

:class:`Provider` knows its endpoints and keys. What its tokens say counts once the signature has
been verified; that an issuer is away is ProviderUnavailable and concludes nothing (R5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from .errors import ConfigurationError, LoginRequired, ProviderUnavailable
from .models import Secret, TokenSet
from .oauth import LOGIN_REQUIRED, UNAVAILABLE, Answer, TokenClient, json_object, token_set
from .shared import Shared

# Algorithms an issuer may sign with: asymmetric ones only, so that a public key can never be
# mistaken for an HMAC secret (RFC 8725 section 3.1).
_ALGORITHMS = [kind + bits for kind in ("RS", "PS", "ES") for bits in ("256", "384", "512")]
_ALGORITHMS.append("EdDSA")

#: Seconds of difference between the issuer's clock and ours that do no harm.
LEEWAY = 300.0

_METADATA_AGE = 3600.0
_METADATA_COOLDOWN = 30.0
_KEYS_COOLDOWN = 10.0

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type's name


class Provider:
    """An OpenID Connect issuer, found by discovery (OpenID Connect Discovery 1.0 section 4)."""

    def __init__(self, issuer: str, client: TokenClient) -> None:
        self.issuer = issuer.rstrip("/")
        self.client = client
        self._metadata = Shared(self._discover, cooldown=_METADATA_COOLDOWN)
        self._keys = Shared(self._fetch_keys)

    async def metadata(self) -> dict[str, Any]:
        """The issuer's discovery document; a stale one is used while the issuer is away.

        Raises ProviderUnavailable when there has never been one, ConfigurationError when the
        document speaks for another issuer.
        """
        return await self._metadata.get(_METADATA_AGE)

    async def _discover(self) -> dict[str, Any]:
        url = f"{self.issuer}/.well-known/openid-configuration"
        answer = await self.client.fetch("GET", url)
        document = json_object(answer)
        if answer.status != 200 or document is None:
            raise ProviderUnavailable(
                UNAVAILABLE, detail=f"discovery at {url} answered {answer.status}"
            )
        if str(document.get("issuer", "")).rstrip("/") != self.issuer:
            raise ConfigurationError(
                "The login service is configured wrongly. Please tell the administrators.",
                detail=f"{url} speaks for another issuer: set FirecRESTAuthenticator.issuer to the "
                "value of its 'issuer' field",
            )
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(document.get(name), str):
                raise ProviderUnavailable(UNAVAILABLE, detail=f"{url} names no {name}")
        return document

    async def token(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Ask the discovered token endpoint; errors as TokenClient.token."""
        return await self.client.token((await self.metadata())["token_endpoint"], form)

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        """Exchange the refresh token (RFC 6749 section 6); what the answer omits is kept.

        Tried again while the issuer is in trouble: a refresh whose answer was lost has either had
        no effect, or has spent the token, and then the second is refused as any later one would be.
        """
        if tokens.refresh_token is None:
            raise LoginRequired(LOGIN_REQUIRED, detail="no refresh token is stored")
        form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token.reveal()}
        url = (await self.metadata())["token_endpoint"]
        return token_set(await self.client.token(url, form, again=True)).kept_from(tokens)

    async def exchange(self, access_token: Secret, audience: str, scope: str = "") -> TokenSet:
        """An access token for another audience, in the user's name (RFC 8693 section 2).

        Raises LoginRequired when the issuer no longer takes the token, ProviderUnavailable when
        there is no answer or the issuer does not allow the exchange.
        """
        form = {
            "grant_type": _EXCHANGE,
            "subject_token": access_token.reveal(),
            "subject_token_type": _ACCESS_TOKEN,
            "requested_token_type": _ACCESS_TOKEN,
            "audience": audience,
            "scope": scope,
        }
        url = (await self.metadata())["token_endpoint"]
        answer = await self.client.token(url, {k: v for k, v in form.items() if v}, again=True)
        return token_set(answer)

    async def revoke(self, token: Secret) -> None:
        """Revoke a token, a refresh token as a rule (RFC 7009).

        Without effect when the issuer names no endpoint for it. Raises ProviderUnavailable when
        the issuer does not confirm it.
        """
        url = (await self.metadata()).get("revocation_endpoint")
        if not isinstance(url, str):
            return
        form = {"token": token.reveal(), "token_type_hint": "refresh_token"}
        answer = await self.client.post(url, form)
        if answer.status != 200:
            raise ProviderUnavailable(
                UNAVAILABLE, detail=f"the revocation endpoint answered {answer.status}"
            )

    async def userinfo(self, access_token: Secret, *, sub: str | None = None) -> dict[str, Any]:
        """The userinfo answer, plain or signed (OpenID Connect Core sections 5.3.2 and 5.3.4).

        ``sub``: whom the ID token names; an answer about somebody else is not believed. Raises
        LoginRequired when the issuer refuses the token, ProviderUnavailable otherwise.
        """
        url = (await self.metadata()).get("userinfo_endpoint")
        if not isinstance(url, str):
            raise ProviderUnavailable(UNAVAILABLE, detail="the issuer names no userinfo_endpoint")
        answer = await self.client.fetch(
            "GET", url, headers={"Authorization": f"Bearer {access_token.reveal()}"}
        )
        # 401 is about the token (RFC 6750 section 3.1); 403 is about scopes, so the deployer's.
        if answer.status == 401:
            raise LoginRequired(LOGIN_REQUIRED, detail="userinfo answered 401")
        if answer.status != 200:
            raise ProviderUnavailable(UNAVAILABLE, detail=f"userinfo answered {answer.status}")
        claims = await self._read_userinfo(answer)
        if sub is not None and claims.get("sub") != sub:
            raise ProviderUnavailable(UNAVAILABLE, detail="userinfo is about another user")
        return claims

    async def _read_userinfo(self, answer: Answer) -> dict[str, Any]:
        if answer.kind != "application/jwt":
            body = json_object(answer)
            if body is None:
                raise ProviderUnavailable(UNAVAILABLE, detail="userinfo is no JSON object")
            return body
        try:
            claims = await self.verified(Secret(answer.body.decode("utf-8", "replace").strip()))
        except LoginRequired as error:
            # No refusal of the user: an answer that nobody can vouch for.
            detail = f"signed userinfo: {error.detail}"
            raise ProviderUnavailable(UNAVAILABLE, detail=detail) from None
        audience = claims.get("aud", self.client.client_id)
        if self.client.client_id not in ([audience] if isinstance(audience, str) else audience):
            raise ProviderUnavailable(UNAVAILABLE, detail="userinfo is for another client")
        return claims

    async def claims(self, token: Secret) -> dict[str, Any]:
        """The claims of an access token, after verifying signature, issuer and times (RFC 9068).

        Five minutes of clock skew are forgiven. Raises LoginRequired for a token that does not
        verify, ProviderUnavailable when the issuer's keys cannot be had.
        """
        return await self.verified(token, require=("exp",))

    async def verified(
        self,
        token: Secret,
        *,
        audience: str | None = None,
        require: Sequence[str] = (),
        leeway: float = LEEWAY,
    ) -> dict[str, Any]:
        """The claims of anything the issuer signed: its ``iss`` and what times it states are right.

        Parameters
        ----------
        audience: has to be among the token's ``aud``; None leaves the audience to the caller.
        require: claims that have to be there, besides ``iss``.
        leeway: seconds of clock skew that are forgiven.

        Raises LoginRequired for a token that does not verify, ProviderUnavailable when the
        issuer's keys cannot be had.
        """
        try:
            header = jwt.get_unverified_header(token.reveal())
            key = await self._key(str(header.get("kid", "")))
            return jwt.decode(
                token.reveal(),
                key=key,
                algorithms=_ALGORITHMS,
                audience=audience,
                issuer=(await self.metadata())["issuer"],
                leeway=leeway,
                options={"verify_aud": audience is not None, "require": ["iss", *require]},
            )
        # ValueError: text that cannot even be encoded.
        except (jwt.PyJWTError, ValueError) as error:
            raise LoginRequired(
                "The login service issued a token that cannot be verified. Log in again; if that "
                "does not help, tell the administrators.",
                detail=f"a token does not verify: {type(error).__name__}",
            ) from None

    async def _key(self, kid: str) -> jwt.PyJWK:
        """The issuer's key ``kid``; keys are fetched anew when it is not among the known ones."""
        keys = await self._keys.get(float("inf"))
        found = _find(keys, kid)
        if found is None and self._keys.age > _KEYS_COOLDOWN:
            found = _find(await self._keys.get(_KEYS_COOLDOWN, or_older=False), kid)
        if found is None:
            raise jwt.InvalidKeyError("no such key")
        return found

    async def _fetch_keys(self) -> jwt.PyJWKSet:
        answer = await self.client.fetch("GET", (await self.metadata())["jwks_uri"])
        body = json_object(answer)
        if answer.status != 200 or body is None:
            raise ProviderUnavailable(UNAVAILABLE, detail=f"the issuer's keys: {answer.status}")
        return _key_set(body)

    async def aclose(self) -> None:
        await self.client.aclose()


def _key_set(body: dict[str, Any]) -> jwt.PyJWKSet:
    try:
        return jwt.PyJWKSet.from_dict(body)
    # Others than PyJWT's own come from entries that are no objects.
    except (jwt.PyJWTError, TypeError, AttributeError, ValueError):
        raise ProviderUnavailable(UNAVAILABLE, detail="the issuer's keys cannot be read") from None


def _find(keys: jwt.PyJWKSet, kid: str) -> jwt.PyJWK | None:
    for key in keys.keys:
        # A set of one unnamed key serves tokens that name none (RFC 7517 section 4.5).
        if key.key_id == kid or (not kid and len(keys.keys) == 1):
            return key
    return None
