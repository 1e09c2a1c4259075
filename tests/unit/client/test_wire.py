"""What if the trouble is below HTTP, or inside an answer of the right status?"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from firecrestspawner.client import FirecREST
from firecrestspawner.demo.faults import GARBAGE
from firecrestspawner.errors import (
    BadAnswer,
    FirecRESTError,
    Unreachable,
    Unwell,
)
from firecrestspawner.isolation import FAILURES, State
from firecrestspawner.models import Secret
from tests.unit import raw_server
from tests.unit.client.api import REQUEST, Site, failure
from tests.unit.raw_server import RawServer


async def at(url: str, deadline: float, call: Callable[[FirecREST], Awaitable[Any]]) -> Any:
    client = FirecREST(url, deadline=deadline)
    try:
        return await call(client)
    finally:
        await client.aclose()


async def submit_to(behaviour: str | bytes, kind: type[FirecRESTError]) -> FirecRESTError:
    """Submit to a peer that misbehaves; it must be asked once, and once only."""
    with RawServer(behaviour) as server:
        error = await failure(
            at(server.url, 2.0, lambda c: c.submit(Secret("t"), "demo", REQUEST)), kind
        )
        assert len(server.received) == (behaviour != raw_server.RESET_AT_ONCE)
    return error


async def test_a_refused_connection_is_not_ambiguous() -> None:
    """R3: nothing was sent."""
    with raw_server.nobody() as url:
        error = await failure(
            at(url, 2.0, lambda c: c.submit(Secret("t"), "demo", REQUEST)), Unreachable
        )
    assert not error.ambiguous
    assert "ConnectError" in error.detail


@pytest.mark.parametrize(
    "behaviour", [raw_server.RESET_AT_ONCE, raw_server.RESET_AFTER, raw_server.CLOSE_AFTER]
)
async def test_a_connection_that_breaks_after_it_stood_is_ambiguous(behaviour: str) -> None:
    """R3: nobody can tell how far the request came."""
    error = await submit_to(behaviour, Unreachable)
    assert error.ambiguous


async def test_a_deadline_passes_and_is_ambiguous() -> None:
    """R8, R3: every call ends in time, and what was sent may have had its effect."""
    began = time.monotonic()
    with RawServer(raw_server.SILENCE) as server:
        error = await failure(
            at(server.url, 0.3, lambda c: c.submit(Secret("t"), "demo", REQUEST)), Unreachable
        )
    assert error.ambiguous
    assert "no answer in 0.3 s" in error.detail
    assert time.monotonic() - began < 5


async def test_an_answer_that_trickles_in_is_cut_off_at_the_deadline() -> None:
    """R8: one deadline for the whole call, not one for each read."""
    half = b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"
    began = time.monotonic()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(half)
        try:
            while True:
                await asyncio.sleep(0.05)
                writer.write(b" ")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(
            at(
                f"http://127.0.0.1:{port}",
                0.4,
                lambda c: c.submit(Secret("t"), "demo", REQUEST),
            ),
            Unreachable,
        )
    assert error.ambiguous and time.monotonic() - began < 3


@pytest.mark.parametrize(
    "bytes_", [b"garbage\r\n\r\n", b"\x16\x03\x01\x02\x00", b"HTTP/9 x\r\n\r\n"]
)
async def test_what_is_not_http_is_ambiguous(bytes_: bytes) -> None:
    """R3."""
    error = await submit_to(bytes_, Unreachable)
    assert error.ambiguous


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    "body", [GARBAGE, b"", b"<html>Welcome</html>", b"[]", b"null", b'{"jobId": null}', b"{}"]
)
async def test_a_success_that_cannot_be_read_is_ambiguous(
    site: Site, firecrest: FirecREST, status: int, body: bytes
) -> None:
    """R3: whoever said yes may have meant it."""
    site.standin.faults.set("submit", status=status, body=body)
    error = await failure(firecrest.submit(site.alice, "demo", REQUEST), BadAnswer)
    assert error.ambiguous


@pytest.mark.parametrize("job_id", ["1/2", "", " ", "1\n2", "a" * 101, {"x": 1}, True])
async def test_a_job_id_that_cannot_be_one_is_not_believed(
    site: Site, firecrest: FirecREST, job_id: object
) -> None:
    """R10: it would be put into paths and into the database."""
    body = json.dumps({"jobId": job_id}).encode()
    site.standin.faults.set("submit", status=201, body=body)
    error = await failure(firecrest.submit(site.alice, "demo", REQUEST), BadAnswer)
    assert error.ambiguous


@pytest.mark.parametrize(
    "body", [GARBAGE, b"[]", b'{"jobs": 7}', b'{"jobs": [{}]}', b'{"jobs": [[]]}', b"{}"]
)
async def test_garbage_about_a_job_is_a_bad_answer(
    site: Site, firecrest: FirecREST, body: bytes
) -> None:
    site.standin.faults.set("job", status=200, body=body)
    error = await failure(firecrest.job(site.alice, "demo", "1"), BadAnswer)
    assert not error.ambiguous


async def test_one_odd_row_does_not_hide_the_others(site: Site, firecrest: FirecREST) -> None:
    """R9."""
    mine = {"jobId": 5, "name": "hub-x", "user": "alice", "status": {"state": "RUNNING"}}
    rows: list[object] = [None, {"jobId": 4}, {"status": {}}, mine, "text"]
    site.standin.faults.set("list", status=200, body={"jobs": rows})
    jobs = await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)
    assert [job.id for job in jobs.jobs] == ["5"]


@pytest.mark.parametrize("body", [{"jobs": "x"}, {"jobs": {"a": 1}}, {}, []])
async def test_a_list_that_is_none_is_a_bad_answer(
    site: Site, firecrest: FirecREST, body: Any
) -> None:
    """R9: it is not an empty list, from which absence could be read."""
    site.standin.faults.set("list", status=200, body=body)
    await failure(firecrest.jobs(site.service, "demo", name="x", all_users=True), BadAnswer)


async def test_a_query_on_a_connection_the_server_has_dropped_is_asked_again(
    site: Site, firecrest: FirecREST
) -> None:
    """After an unexpected exception FirecREST closes the connection under the next request."""
    job_id = await firecrest.submit(site.alice, "demo", REQUEST)
    fault = site.standin.faults.set("job", reset=True, times=1)
    assert (await firecrest.job(site.service, "demo", job_id)).id == job_id
    assert fault.hits == 1


async def test_a_query_is_asked_again_only_once(site: Site, firecrest: FirecREST) -> None:
    """R8: no unbounded retry."""
    fault = site.standin.faults.set("job", reset=True)
    await failure(firecrest.job(site.service, "demo", "1"), Unreachable)
    assert fault.hits == 2


async def test_a_429_is_not_waited_for(site: Site, firecrest: FirecREST) -> None:
    """R8: pyfirecrest would sleep as long as the answer says, and ask for ever."""
    fault = site.standin.faults.set("job", status=429, headers={"Retry-After": "3600"})
    began = time.monotonic()
    await failure(firecrest.job(site.service, "demo", "1"), Unwell)
    assert fault.hits == 1 and time.monotonic() - began < 5


async def test_a_redirect_is_not_followed_with_the_token(caplog: pytest.LogCaptureFixture) -> None:
    """S1: the token goes to the configured API and nowhere else."""
    with RawServer(raw_server.SILENCE) as elsewhere:
        redirect = raw_server.answer("302 Found", b"", f"Location: {elsewhere.url}/steal")
        with RawServer(redirect) as server, pytest.raises(FirecRESTError):
            await at(server.url, 2.0, lambda c: c.job(Secret("t"), "demo", "1"))
        assert elsewhere.received == []


async def test_an_impossible_url_is_an_error_of_ours() -> None:
    """A typing error in the configuration, not a traceback."""
    with pytest.raises(FirecRESTError) as caught:
        await at("http://[bad", 2.0, lambda c: c.systems(Secret("t")))
    assert not caught.value.ambiguous


async def test_a_call_that_is_cancelled_stays_cancelled(site: Site, firecrest: FirecREST) -> None:
    site.standin.faults.set("job", delay=0.5)
    call = asyncio.ensure_future(firecrest.job(site.service, "demo", "1"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_users_tokens_are_the_users_whichever_of_them_is_the_fresh_one() -> None:
    """R9: one user whom nobody answers is no three users."""
    firecrest = FirecREST("http://127.0.0.1:1")

    async def in_vain(subject: str, number: int) -> State:
        claims = json.dumps({"sub": subject, "jti": number}).encode()
        token = Secret(f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln")
        with pytest.raises(Unreachable):
            await firecrest.job(token, "demo", "1")
        return firecrest.guard("demo").breaker.state

    assert {await in_vain("alice", number) for number in range(FAILURES + 1)} == {State.CLOSED}
    assert [await in_vain(name, 1) for name in ("bob", "carol")] == [State.CLOSED, State.OPEN]
    await firecrest.aclose()
