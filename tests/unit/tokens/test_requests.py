"""Whom does the Hub speak to when it speaks to an issuer, how far, and through what?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from firecrestspawner import oauth
from firecrestspawner.errors import ProviderUnavailable
from firecrestspawner.models import Secret
from firecrestspawner.oauth import TokenClient
from tests.unit import raw_server
from tests.unit.certificate import certificate
from tests.unit.raw_server import RawServer

__all__ = ["certificate"]

OK = raw_server.answer("200 OK", b'{"access_token": "t"}')
FORM = {"grant_type": "client_credentials"}


@pytest.fixture
async def client_of(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., TokenClient]]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # Both are kept for a process's life, in which its environment does not change.
    oauth._proxy.cache_clear()
    oauth._tls.cache_clear()
    made = []

    def make(verify: bool = True) -> TokenClient:
        made.append(TokenClient("me", Secret("swordfish"), deadline=5, verify=verify))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()
    oauth._proxy.cache_clear()
    oauth._tls.cache_clear()


@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
async def test_the_environments_proxy_is_used(
    client_of: Callable[..., TokenClient], monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    with RawServer(OK) as proxy:
        monkeypatch.setenv(name, proxy.url.replace("http://", f"{scheme}user:word@"))
        assert await client_of().token("http://issuer.invalid/token", FORM)
        [request] = proxy.received
    assert request.startswith(b"POST http://issuer.invalid/token HTTP/1.1\r\n")
    assert b"\r\nproxy-authorization: basic dxnlcjp3b3jk\r\n" in request.lower()


async def test_what_is_for_the_issuer_is_told_to_no_proxy(
    client_of: Callable[..., TokenClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1: through a tunnel, as the issuer's address is https."""
    with RawServer(raw_server.answer("403 Forbidden", b"")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(ProviderUnavailable):
            await client_of().token("https://issuer.invalid/token", FORM)
        [request] = proxy.received
    assert request.startswith(b"CONNECT issuer.invalid:443 HTTP/1.1\r\n")
    assert b"authorization" not in request.lower()


async def test_what_is_excepted_goes_through_no_proxy(
    client_of: Callable[..., TokenClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(OK) as issuer, RawServer(OK) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "example.org,127.0.0.1")
        assert await client_of().token(f"{issuer.url}/token", FORM)
        assert proxy.received == [] and len(issuer.received) == 1


async def test_an_issuer_that_nobody_vouches_for_is_told_nothing(
    client_of: Callable[..., TokenClient], certificate: Path
) -> None:
    """S1: unless the deployer says that it is to be believed."""
    with RawServer(OK, certificate) as issuer:
        with pytest.raises(ProviderUnavailable) as caught:
            await client_of().token(issuer.url, FORM)
        assert "Certificate" in caught.value.detail
        assert await client_of(verify=False).token(issuer.url, FORM)
        assert len(issuer.received) == 1, "the first was told, too"


async def test_an_issuer_whom_the_deployers_authorities_vouch_for_is_believed(
    client_of: Callable[..., TokenClient], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1: its own name only."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with RawServer(OK, certificate) as issuer:
        named = issuer.url.replace("127.0.0.1", "localhost")
        assert await client_of().token(named, FORM)
        with pytest.raises(ProviderUnavailable):
            await client_of().token(issuer.url, FORM)
        assert len(issuer.received) == 1


async def test_an_answer_without_an_end_is_not_read_to_it(
    client_of: Callable[..., TokenClient],
) -> None:
    """R8: nor kept."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    with RawServer(head + b"x" * (4 << 20)) as issuer:
        answer = await client_of().fetch("GET", issuer.url)
    assert 1 << 20 < len(answer.body) < 2 << 20
    assert oauth.json_object(answer) is None


async def test_a_redirect_is_not_followed(client_of: Callable[..., TokenClient]) -> None:
    """S1: the client's secret goes where the deployer said."""
    with RawServer(OK) as elsewhere:
        location = f"Location: {elsewhere.url}"
        with RawServer(raw_server.answer("307 Temporary Redirect", b"", location)) as issuer:
            with pytest.raises(ProviderUnavailable):
                await client_of().token(issuer.url, FORM)
            assert len(issuer.received) == 1
        assert elsewhere.received == []


@pytest.mark.parametrize("url", ["", "issuer", "http://", "http://[", "ftp://issuer", "http://a b"])
async def test_what_is_no_address_is_an_outage(
    client_of: Callable[..., TokenClient], url: str
) -> None:
    """R5."""
    with pytest.raises(ProviderUnavailable):
        await client_of().token(url, FORM)
