"""Is the end of a file read as the user, and does a file system that hangs harm no job?"""

from __future__ import annotations

import logging

import pytest

from firecrestspawner.client import FirecREST
from firecrestspawner.errors import BadAnswer, BadRequest, Forbidden, NotFound, Unwell
from firecrestspawner.isolation import State
from firecrestspawner.models import Secret
from tests.unit.client.api import Site, failure


@pytest.fixture
def log(site: Site) -> str:
    """A file of alice's, as the API calls it."""
    (site.executor.home_of("alice") / "lab.log").write_text("first\n" + "x" * 100 + "\nl\u00e4st\n")
    return "/home/alice/lab.log"


async def test_the_end_of_a_file_is_read(site: Site, firecrest: FirecREST, log: str) -> None:
    assert await firecrest.tail(site.alice, "demo", log, size=7) == "\nl\u00e4st\n"
    assert (await firecrest.tail(site.alice, "demo", log, size=999)).startswith("first\n")


async def test_a_character_cut_in_two_is_no_error(
    site: Site, firecrest: FirecREST, log: str
) -> None:
    assert (await firecrest.tail(site.alice, "demo", log, size=4)).endswith("st\n")


async def test_a_file_that_is_not_there_or_not_the_users_is_told_apart(
    site: Site, firecrest: FirecREST, log: str
) -> None:
    await failure(firecrest.tail(site.alice, "demo", "/home/alice/no", size=9), NotFound)
    await failure(firecrest.tail(site.service, "demo", log, size=9), Forbidden)
    await failure(firecrest.tail(site.alice, "demo", "/etc/passwd", size=9), BadRequest)


@pytest.mark.parametrize("path", ["/home/alice/it's", "/home/alice/\nx", "lab.log", ""])
async def test_a_path_that_a_shell_could_read_otherwise_is_not_sent(
    site: Site, firecrest: FirecREST, path: str
) -> None:
    before = len(site.standin.requests)
    await failure(firecrest.tail(site.alice, "demo", path, size=9), BadRequest)
    assert len(site.standin.requests) == before


@pytest.mark.parametrize("body", [{"output": None}, {"output": {"content": 7}}, {}, []])
async def test_an_odd_answer_is_an_error_of_ours(
    site: Site, firecrest: FirecREST, log: str, body: object
) -> None:
    site.standin.faults.set("tail", status=200, body=body)
    await failure(firecrest.tail(site.alice, "demo", log, size=9), BadAnswer)


async def test_what_a_shell_adds_is_cut(site: Site, firecrest: FirecREST, log: str) -> None:
    """R10: a chatty ~/.bashrc, of which there may be megabytes."""
    site.standin.faults.set("tail", body={"output": {"content": "hi\n" * 10**5 + "end"}})
    assert len(await firecrest.tail(site.alice, "demo", log, size=1000)) == 1000


@pytest.mark.parametrize("status", [424, 503])
async def test_a_file_system_that_is_down_keeps_no_job_from_being_seen(
    site: Site, firecrest: FirecREST, log: str, status: int
) -> None:
    """R9: calls for files stand before a guard of their own."""
    site.standin.faults.set("tail", status=status)
    bob = Secret(site.issuer.log_in("bob")["access_token"])
    for user in (site.alice, site.service, bob):
        await failure(firecrest.tail(user, "demo", log, size=9), Unwell)
    assert firecrest.guard("demo", beside="files").breaker.state is State.OPEN
    assert firecrest.guard("demo").breaker.state is State.CLOSED
    assert (await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)).jobs == []


async def test_a_scheduler_that_is_down_keeps_nobody_from_reading(
    site: Site, firecrest: FirecREST, log: str
) -> None:
    """R9."""
    site.standin.faults.set("list", status=503)
    bob = Secret(site.issuer.log_in("bob")["access_token"])
    for user in (site.alice, site.service, bob):
        call = firecrest.jobs(user, "demo", name="hub-x", all_users=False)
        await failure(call, Unwell)
    assert firecrest.guard("demo").breaker.state is State.OPEN
    assert await firecrest.tail(site.alice, "demo", log, size=3) == "st\n"


async def test_no_path_and_no_line_of_a_file_reaches_the_log(
    site: Site, firecrest: FirecREST, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S9."""
    caplog.set_level(logging.DEBUG, logger="firecrestspawner")
    await firecrest.tail(site.alice, "demo", log, size=999)
    error = await failure(firecrest.tail(site.alice, "demo", "/home/alice/no", size=9), NotFound)
    assert "xxx" not in caplog.text and "alice/no" not in f"{error.detail}{error.message}"
