"""Is one request enough for many, is a token in use always fresh, and do the clients take it?"""

from __future__ import annotations

import asyncio
import shlex
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from firecrest import TokenCommandAuth
from firecrest.v1 import AsyncFirecrest as AsyncFirecrest1
from firecrest.v1 import Firecrest as Firecrest1
from firecrest.v2 import AsyncFirecrest, Firecrest

from firecrestspawner import hub_token, notebook
from firecrestspawner.hub_token import AccessToken
from firecrestspawner.notebook import HubTokenAuth, HubTokenError, LoginRequired, TryLater
from tests.unit.client.api import Site
from tests.unit.issuer_client import wait_until
from tests.unit.notebook.hub_end import HubEnd

MANY = 30
TOKEN = AccessToken("token.0", None, 300.0, "", time.monotonic())
Get = Callable[[str], Awaitable[int]]


class Clock:
    """Takes the place of monotonic time in hub_token."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.monotonic
        monkeypatch.setattr(hub_token, "time", self)
        self.monotonic = lambda: real() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


# --- the cache ------------------------------------------------------------------------------


def test_a_token_is_used_again_while_it_lives_long_enough(hub: HubEnd, clock: Clock) -> None:
    auth = HubTokenAuth(min_validity=60)
    assert auth.get_access_token() == "token.1"
    clock.ahead = 238
    assert auth.get_access_token() == "token.1"
    clock.ahead = 242
    assert auth.get_access_token() == "token.2"
    assert hub.asked == ["min_validity=120"] * 2


@pytest.mark.parametrize(("life", "margin"), [(60, 45), (79, 59), (100, 60), (40, 35)])
def test_tokens_that_are_short_are_used_for_a_while(
    hub: HubEnd, clock: Clock, life: float, margin: float
) -> None:
    hub.expires_in = life
    auth = HubTokenAuth(min_validity=60)
    assert auth.get_access_token() == "token.1"
    clock.ahead = life - margin - 2
    assert auth.get_access_token() == "token.1"
    clock.ahead = life - margin + 1
    assert auth.get_access_token() == "token.2"


def test_a_token_whose_life_nobody_knows_is_used_once(hub: HubEnd) -> None:
    hub.expires_in = None
    auth = HubTokenAuth()
    assert [auth.get_access_token(), auth.get_access_token()] == ["token.1", "token.2"]


def test_the_clock_of_the_node_does_not_matter(hub: HubEnd, clock: Clock) -> None:
    hub.answer = (200, hub.token(expires_at=1.0), {})
    auth = HubTokenAuth()
    assert auth.get_access_token() == auth.get_access_token()
    assert len(hub.asked) == 1


def test_the_time_the_answer_took_counts_as_life(
    hub: HubEnd, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_token, "DEADLINE", 1e6)
    hub.hold.clear()
    auth = HubTokenAuth()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(auth.get_access_token)
        wait_until(lambda: bool(hub.asked))
        clock.ahead = 250
        hub.hold.set()
        assert answer.result(10) == "token.1"
    assert auth.get_access_token() == "token.2"


@pytest.mark.parametrize("rounds", range(5))
async def test_who_is_cancelled_as_the_token_comes_is_cancelled(hub: HubEnd, rounds: int) -> None:
    """By the user's own deadline, which has no second try (asyncio.timeout)."""
    hub.hold.clear()
    auth = HubTokenAuth()

    async def ask_and_go_on() -> None:
        await auth.aget_access_token()
        await asyncio.Event().wait()

    asking = asyncio.ensure_future(ask_and_go_on())
    await asyncio.sleep(0)
    assert auth._flight is not None
    auth._flight._land(TOKEN)
    for _ in range(rounds):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking], timeout=1)
    assert asking.cancelled()


def test_many_threads_make_one_request(hub: HubEnd) -> None:
    hub.hold.clear()
    auth = HubTokenAuth()
    barrier = threading.Barrier(MANY + 1)

    def ask() -> str:
        barrier.wait(10)
        return auth.get_access_token()

    with ThreadPoolExecutor(MANY) as pool:
        answers = [pool.submit(ask) for _ in range(MANY)]
        barrier.wait(10)
        wait_until(lambda: bool(hub.asked))
        hub.hold.set()
        assert {answer.result(10) for answer in answers} == {"token.1"}
    assert len(hub.asked) == 1


def test_several_event_loops_and_threads_make_one_request(hub: HubEnd) -> None:
    hub.hold.clear()
    auth = HubTokenAuth()

    async def ask() -> set[str]:
        return set(await asyncio.gather(*(auth.aget_access_token() for _ in range(MANY))))

    with ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(asyncio.run, ask()) for _ in range(3)]
        thread = pool.submit(auth.get_access_token)
        wait_until(lambda: bool(hub.asked))
        hub.hold.set()
        assert [loop.result(10) for loop in loops] == [{"token.1"}] * 3
        assert thread.result(10) == "token.1"
    assert len(hub.asked) == 1


async def test_the_event_loop_goes_on_while_the_hub_is_asked(hub: HubEnd) -> None:
    hub.hold.clear()
    answer = asyncio.ensure_future(HubTokenAuth().aget_access_token())
    await asyncio.to_thread(wait_until, lambda: bool(hub.asked))
    # Reached before the Hub has answered only if nothing blocks this loop.
    hub.hold.set()
    assert await answer == "token.1"


async def test_one_who_stops_waiting_spoils_it_for_nobody(hub: HubEnd) -> None:
    hub.hold.clear()
    auth = HubTokenAuth()
    first = asyncio.ensure_future(auth.aget_access_token())
    second = asyncio.ensure_future(auth.aget_access_token())
    await asyncio.to_thread(wait_until, lambda: bool(hub.asked))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    hub.hold.set()
    assert await second == "token.1"
    assert len(hub.asked) == 1


async def test_a_failure_is_everybodys_and_is_not_kept(hub: HubEnd) -> None:
    hub.hold.clear()
    hub.answer = (503, {}, {})
    auth = HubTokenAuth()
    asked = [asyncio.ensure_future(auth.aget_access_token()) for _ in range(MANY)]
    await asyncio.to_thread(wait_until, lambda: bool(hub.asked))
    hub.hold.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, TryLater) for answer in answers)
    assert len(hub.asked) == 1
    hub.answer = None
    assert await auth.aget_access_token() == "token.1"


async def test_the_deadline_holds_for_those_who_await_too(
    hub: HubEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_token, "DEADLINE", 0.2)
    hub.hold.clear()
    auth = HubTokenAuth()
    with pytest.raises(TryLater):
        await auth.aget_access_token()
    monkeypatch.setattr(hub_token, "DEADLINE", 30.0)
    hub.hold.set()
    assert (await auth.aget_access_token()).startswith("token.")


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_a_validity_that_makes_no_sense_is_refused_at_once(wrong: float) -> None:
    with pytest.raises(ValueError, match="min_validity"):
        HubTokenAuth(wrong)


def test_no_repr_shows_a_token(hub: HubEnd) -> None:
    auth = HubTokenAuth()
    auth.get_access_token()
    shown = f"{auth} {vars(auth)} {auth._flight} {auth._flight and vars(auth._flight)}"
    assert "token.1" not in shown


# --- httpx ----------------------------------------------------------------------------------


def api_that_refuses(hub: HubEnd, *refused: str, status: int = 401) -> None:
    def answer() -> tuple[int, object, dict[str, str]]:
        last = hub.others[-1] or ""
        return (status if last.removeprefix("Bearer ") in refused else 200, {}, {})

    hub.elsewhere = answer


@pytest.fixture
def http(hub: HubEnd) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, auth=HubTokenAuth(), trust_env=False) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
async def get(hub: HubEnd, request: pytest.FixtureRequest) -> AsyncIterator[Get]:
    """GET by one of httpx's two clients; the answer's status."""
    settings: dict[str, Any] = {"base_url": hub.url, "auth": HubTokenAuth(), "trust_env": False}
    with httpx.Client(**settings) as client:
        async with httpx.AsyncClient(**settings) as aclient:

            async def status(path: str) -> int:
                if request.param == "async":
                    return (await aclient.get(path)).status_code
                return (await asyncio.to_thread(client.get, path)).status_code

            yield status


async def test_an_httpx_request_carries_the_token(hub: HubEnd, get: Get) -> None:
    assert [await get("/x"), await get("/x")] == [200, 200]
    assert hub.others == ["Bearer token.1", "Bearer token.1"]
    assert len(hub.asked) == 1


async def test_a_401_is_answered_once_with_another_token(hub: HubEnd, get: Get) -> None:
    api_that_refuses(hub, "token.1")
    assert [await get("/x"), await get("/x")] == [200, 200]
    assert hub.others == [f"Bearer token.{number}" for number in (1, 2, 2)]


async def test_a_second_401_is_the_answer(hub: HubEnd, get: Get) -> None:
    api_that_refuses(hub, "token.1", "token.2")
    assert await get("/x") == 401
    assert len(hub.others) == 2


@pytest.mark.parametrize("status", [403, 429, 500])
def test_no_other_refusal_is_repeated(hub: HubEnd, http: httpx.Client, status: int) -> None:
    api_that_refuses(hub, "token.1", status=status)
    assert http.get("/x").status_code == status
    assert len(hub.others) == 1


def test_a_body_that_cannot_be_read_again_is_not_sent_again(
    hub: HubEnd, http: httpx.Client
) -> None:
    api_that_refuses(hub, "token.1")
    answer = http.request("GET", "/x", content=iter([b"once"]))
    assert answer.status_code == 401
    assert http.request("GET", "/x", content=b"twice").status_code == 200


def test_a_login_that_is_needed_is_said_instead_of_the_401(hub: HubEnd, http: httpx.Client) -> None:
    api_that_refuses(hub, "token.1")
    http.auth.get_access_token()  # type: ignore[union-attr]
    hub.answer = (403, {"login_url": "/hub/firecrest/reauth?next=%2Fhub%2Fhome"}, {})
    with pytest.raises(LoginRequired):
        http.get("/x")


def test_the_token_goes_to_no_other_host(hub: HubEnd, http: httpx.Client) -> None:
    with HubEnd() as other:
        hub.elsewhere = lambda: (302, b"", {"Location": f"{other.url}/y"})
        assert http.get("/x", follow_redirects=True).status_code == 200
        assert (hub.others, other.others) == (["Bearer token.1"], [None])


# --- pyfirecrest ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture
def alice(hub: HubEnd, site: Site) -> HubEnd:
    hub.mint = lambda: str(site.issuer.log_in("alice")["access_token"])
    return hub


def test_pyfirecrest_submits_and_lists_jobs_with_it(alice: HubEnd, site: Site) -> None:
    client = Firecrest(site.standin.url, authorization=HubTokenAuth())
    job = client.submit("demo", "/home/alice", script_str="#!/bin/bash\nsleep 60\n")
    assert str(job["jobId"]) in {str(each["jobId"]) for each in client.job_info("demo")}
    assert site.standin.requests[-1].username == "alice"
    assert len(alice.asked) == 1
    client.close_session()


async def test_pyfirecrests_async_client_awaits_it(alice: HubEnd, site: Site) -> None:
    client = AsyncFirecrest(site.standin.url, authorization=HubTokenAuth())
    alice.hold.clear()
    systems = asyncio.ensure_future(client.systems())
    await asyncio.to_thread(wait_until, lambda: bool(alice.asked))
    # Reached before the Hub has answered only if the client does not block this loop.
    assert not systems.done()
    alice.hold.set()
    assert {each["name"] for each in await systems} == {"demo", "rested"}
    await client.close_session()


async def test_pyfirecrests_sync_client_works_beside_a_running_loop(
    alice: HubEnd, site: Site
) -> None:
    """As in a notebook, whose kernel runs one."""
    client = Firecrest(site.standin.url, authorization=HubTokenAuth())
    assert len(client.systems()) == 2
    client.close_session()


def test_pyfirecrests_clients_of_v1_send_it(hub: HubEnd) -> None:
    hub.elsewhere = lambda: (200, {"out": [{"system": "demo"}]}, {})
    assert Firecrest1(hub.url, authorization=HubTokenAuth()).all_systems()

    async def ask() -> None:
        client = AsyncFirecrest1(hub.url, authorization=HubTokenAuth())
        client.time_between_calls = dict.fromkeys(client.time_between_calls, 0)
        assert await client.all_systems()
        await client.close_session()

    asyncio.run(ask())
    assert hub.others == ["Bearer token.1", "Bearer token.2"]


def test_pyfirecrests_token_command_runs_the_command(alice: HubEnd, site: Site) -> None:
    command = Path(sys.executable).with_name("firecrestspawner")
    client = Firecrest(
        site.standin.url, authorization=TokenCommandAuth(f"{shlex.quote(str(command))} token")
    )
    assert len(client.systems()) == 2
    client.close_session()
    alice.answer = (503, {}, {"Retry-After": "5"})
    with pytest.raises(RuntimeError, match=r"exit 4.*Try again in 5 seconds"):
        client.systems()


def test_the_names_for_notebooks_are_all_there() -> None:
    assert sorted(notebook.__all__) == [
        "HubTokenAuth", "HubTokenError", "LoginRequired", "Refused", "TryLater",
    ]  # fmt: skip
    assert issubclass(HubTokenAuth, httpx.Auth)
    assert issubclass(notebook.Refused, HubTokenError)
