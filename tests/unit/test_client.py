"""Does every way in which FirecREST can fail become one typed, quiet, unambiguous error?"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from firecrest.FirecrestException import FirecrestException

from firecrestspawner.client import FirecREST, JobRequest
from firecrestspawner.demo.executors import LocalExecutor
from firecrestspawner.demo.faults import GARBAGE
from firecrestspawner.demo.firecrest import FirecREST as StandIn
from firecrestspawner.demo.firecrest import System
from firecrestspawner.demo.issuer import Issuer
from firecrestspawner.errors import (
    BadAnswer,
    BadRequest,
    FirecRESTError,
    Forbidden,
    NotFound,
    SubmissionRejected,
    Unauthorized,
    Unreachable,
    Unwell,
)
from firecrestspawner.models import JobState, Secret
from tests.unit import raw_server
from tests.unit.raw_server import RawServer

SCRIPT = "#!/bin/bash\n#SBATCH --job-name=hub-x\nsleep 60\n"
REQUEST = JobRequest("/home/alice", Secret(SCRIPT))
SECRET = "ticket-0123456789-very-secret"


class Site:
    """An issuer and a stand-in whose cluster starts no job."""

    def __init__(self, directory: Path) -> None:
        self.issuer = Issuer().start()
        self.executor = LocalExecutor(directory / "ssh", hold=True, max_submit=2)
        self.rest_executor = LocalExecutor(directory / "rest", hold=True)
        self.standin = StandIn(
            f"{self.issuer.url}/protocol/openid-connect/certs",
            [
                System("demo", self.executor),
                System("rested", self.rest_executor, connection_mode="rest"),
            ],
        ).start()
        self.alice = Secret(self.issuer.log_in("alice")["access_token"])
        self.service = Secret(self.issuer.service_token()["access_token"])

    def close(self) -> None:
        self.standin.close()
        self.issuer.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    shared.standin.faults.clear()
    for job in shared.executor.jobs("alice"):
        if job.state == "PENDING":
            shared.executor.cancel("alice", job.id, operator=True)


@pytest.fixture
async def firecrest(site: Site) -> AsyncIterator[FirecREST]:
    client = FirecREST(site.standin.url, deadline=5)
    yield client
    await client.aclose()


async def failure(call: Awaitable[Any], kind: type[FirecRESTError]) -> FirecRESTError:
    """The error of a call, after looking at what every error has to be."""
    with pytest.raises(FirecRESTError) as caught:
        await call
    error = caught.value
    assert type(error) is kind
    assert error.message.endswith(".") and "\n" not in error.message
    assert error.detail and "\n" not in error.detail
    # S9: exceptions of pyfirecrest and httpx carry headers and bodies.
    assert error.__cause__ is None
    assert error.__suppress_context__ or not isinstance(
        error.__context__, FirecrestException | httpx.HTTPError
    )
    return error


def shown(error: BaseException, log: pytest.LogCaptureFixture) -> str:
    """Everything a log or a page could show of an error, and what was logged anyway."""
    return "\n".join([*traceback.format_exception(error), repr(vars(error)), log.text])


# -- what goes well ----------------------------------------------------------------------------


async def test_a_job_is_submitted_seen_and_cancelled(site: Site, firecrest: FirecREST) -> None:
    job_id = await firecrest.submit(site.alice, "demo", REQUEST)
    job = await firecrest.job(site.service, "demo", job_id)
    assert (job.id, job.user, job.name, job.state) == (job_id, "alice", "hub-x", JobState.PENDING)
    listed = await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)
    assert job_id in [job.id for job in listed]
    await firecrest.cancel(site.alice, "demo", job_id)
    assert (await firecrest.job(site.alice, "demo", job_id)).state is JobState.CANCELLED


async def test_the_script_travels_byte_for_byte(site: Site, firecrest: FirecREST) -> None:
    script = SCRIPT + "echo 'a,b' \"$x\" \\ \u00e9\u4e2d # ,\n\n"
    job_id = await firecrest.submit(site.alice, "demo", JobRequest("/home/alice", Secret(script)))
    metadata = site.executor.metadata("alice", job_id, operator=False)
    assert metadata is not None and metadata.script == script


async def test_systems_say_whether_directives_count(site: Site, firecrest: FirecREST) -> None:
    systems = await firecrest.systems(site.alice)
    assert systems["demo"].honours_directives
    assert not systems["rested"].honours_directives


async def test_nodes_come_with_the_addresses_known_for_them(
    site: Site, firecrest: FirecREST
) -> None:
    nodes = await firecrest.nodes(site.service, "demo")
    assert nodes["nid001"] == ("127.0.0.2", "nid001")


async def test_the_name_filter_holds_on_servers_that_ignore_it(
    site: Site, firecrest: FirecREST
) -> None:
    """FirecREST 2.5 lists every job of everybody, whatever the name."""
    site.executor.plant("bob", "another")
    mine = await firecrest.submit(site.alice, "demo", REQUEST)
    site.standin.version = "2.5.6"
    try:
        jobs = await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)
    finally:
        site.standin.version = "2.x.x"
    assert mine in [job.id for job in jobs]
    assert {job.name for job in jobs} == {"hub-x"}


async def test_users_share_the_client_and_not_their_tokens(
    site: Site, firecrest: FirecREST
) -> None:
    """S5: calls that overlap are each made with their own token."""
    bob = Secret(site.issuer.log_in("bob")["access_token"])
    before = len(site.standin.requests)
    site.standin.faults.set("job", delay=0.05)
    await asyncio.gather(
        *(
            firecrest.jobs(token, "demo", name="hub-x", all_users=False)
            for token in [site.alice, bob, site.service] * 5
        )
    )
    asked = [record.username for record in list(site.standin.requests)[before:]]
    assert sorted(str(name) for name in asked) == sorted(
        ["alice", "bob", "service-account-jupyterhub-service"] * 5
    )


# -- refusals and failures with a status -------------------------------------------------------

#: status -> error, whether the job may exist all the same (R3), a word of the user's sentence.
STATUSES: list[tuple[int, type[FirecRESTError], bool, str]] = [
    (400, BadRequest, False, "did not accept the request"),
    (401, Unauthorized, False, "Log out and in again"),
    (403, Forbidden, False, "not allowed"),
    (404, NotFound, False, "nothing by that name"),
    (408, Unwell, True, "too long"),
    (413, BadRequest, False, "did not accept the request"),
    (424, Unwell, False, "login node"),
    (429, Unwell, False, "busy"),
    (500, Unwell, True, "problem"),
    (502, Unwell, True, "not available"),
    (503, Unwell, False, "unwell"),
    (504, Unwell, True, "problem"),
]


@pytest.mark.parametrize(("status", "kind", "ambiguous", "words"), STATUSES)
async def test_each_status_of_a_submit_is_a_typed_error(
    site: Site,
    firecrest: FirecREST,
    status: int,
    kind: type[FirecRESTError],
    ambiguous: bool,
    words: str,
) -> None:
    """R3: the error says whether the job may exist; and a submit is never repeated."""
    fault = site.standin.faults.set("submit", status=status)
    error = await failure(firecrest.submit(site.alice, "demo", REQUEST), kind)
    assert error.ambiguous is ambiguous
    assert words in error.message
    assert f"HTTP {status}" in error.detail and "submit to demo" in error.detail
    assert fault.hits == 1


@pytest.mark.parametrize(("status", "kind", "ambiguous", "words"), STATUSES)
async def test_no_failed_question_is_ambiguous(
    site: Site,
    firecrest: FirecREST,
    status: int,
    kind: type[FirecRESTError],
    ambiguous: bool,
    words: str,
) -> None:
    """R3: what only reads has no effect to be unsure about."""
    site.standin.faults.set("job", status=status)
    error = await failure(firecrest.job(site.alice, "demo", "1"), kind)
    assert not error.ambiguous
    assert f"HTTP {status}" in error.detail


async def test_a_gateways_html_page_is_not_quoted(
    site: Site, firecrest: FirecREST, caplog: pytest.LogCaptureFixture
) -> None:
    """S9."""
    caplog.set_level(logging.DEBUG)
    site.standin.faults.set("submit", status=502, body=f"<html>{SECRET}</html>".encode())
    error = await failure(firecrest.submit(site.alice, "demo", REQUEST), Unwell)
    assert error.ambiguous
    assert SECRET not in shown(error, caplog)


async def test_an_unknown_system_is_said_to_be_unknown(site: Site, firecrest: FirecREST) -> None:
    error = await failure(firecrest.submit(site.alice, "nowhere", REQUEST), NotFound)
    assert "does not know this system" in error.message and not error.ambiguous


async def test_no_such_job_is_not_found(site: Site, firecrest: FirecREST) -> None:
    await failure(firecrest.job(site.service, "demo", "987654"), NotFound)


async def test_an_answer_about_another_job_is_not_found(site: Site, firecrest: FirecREST) -> None:
    """R10: what was not asked for is not taken for an answer."""
    other = await firecrest.submit(site.alice, "demo", REQUEST)
    row = site.executor.jobs("alice", other)[0]
    body = {"jobs": [{"jobId": row.id, "name": row.name, "status": {"state": "FAILED"}}]}
    site.standin.faults.set("job", status=200, body=body)
    await failure(firecrest.job(site.service, "demo", "1" + other), NotFound)


@pytest.mark.parametrize("name", ["../status", "a/b", "", "a b", "x" * 101, "demo?x=1"])
async def test_a_malformed_system_or_job_id_is_never_sent(
    site: Site, firecrest: FirecREST, name: str
) -> None:
    before = len(site.standin.requests)
    await failure(firecrest.submit(site.alice, name, REQUEST), BadRequest)
    await failure(firecrest.job(site.alice, "demo", name), BadRequest)
    await failure(firecrest.cancel(site.alice, "demo", name), BadRequest)
    assert len(site.standin.requests) == before


# -- the scheduler's own refusals --------------------------------------------------------------


async def test_sbatchs_own_sentence_reaches_the_user(site: Site, firecrest: FirecREST) -> None:
    request = JobRequest("/home/alice", Secret(SCRIPT), partition="nosuch")
    error = await failure(firecrest.submit(site.alice, "demo", request), SubmissionRejected)
    assert error.status == 400 and not error.ambiguous
    assert "invalid partition specified: nosuch" in error.message
    assert "Invalid partition name specified" in error.message
    assert "Invalid partition name specified" in error.detail


async def test_slurmrestds_own_reason_reaches_the_user(site: Site, firecrest: FirecREST) -> None:
    """Its ``description`` is the same for every refusal; the reason is in ``error``."""
    request = JobRequest("/home/alice", Secret(SCRIPT), partition="nosuch", name="hub-x")
    error = await failure(firecrest.submit(site.alice, "rested", request), SubmissionRejected)
    assert not error.ambiguous
    assert "Invalid partition name specified" in error.message


async def test_slurmrestds_slashes_are_unescaped(site: Site, firecrest: FirecREST) -> None:
    request = JobRequest("/home/alice", Secret(SCRIPT), account="nosuch", name="hub-x")
    error = await failure(firecrest.submit(site.alice, "rested", request), SubmissionRejected)
    assert "account or account/partition combination" in error.message


async def test_a_quota_is_the_schedulers_refusal_although_it_is_a_403(
    site: Site, firecrest: FirecREST
) -> None:
    for _ in range(2):
        await firecrest.submit(site.alice, "demo", REQUEST)
    error = await failure(firecrest.submit(site.alice, "demo", REQUEST), SubmissionRejected)
    assert "AssocMaxSubmitJobLimit" in error.message and not error.ambiguous


async def test_an_unknown_option_is_named(site: Site, firecrest: FirecREST) -> None:
    script = Secret("#!/bin/bash\n#SBATCH --nosuchoption=1\n")
    error = await failure(
        firecrest.submit(site.alice, "demo", JobRequest("/home/alice", script)), SubmissionRejected
    )
    assert "unrecognized option '--nosuchoption=1'" in error.message


@pytest.mark.parametrize(
    "reason",
    [
        "Socket timed out on send/recv operation",
        "Zero Bytes were transmitted or received",
    ],
)
async def test_an_sbatch_that_lost_its_answer_has_refused_nothing(
    site: Site, firecrest: FirecREST, reason: str
) -> None:
    """R3: slurmctld may have taken the job; sbatch cannot know either."""
    message = (
        "Unexpected Slurm command response. exit_status:1 std_err:sbatch: error: Batch job "
        f"submission failed: {reason}\n"
    )
    body = {"errorType": "error", "message": message}
    site.standin.faults.set("submit", status=500, body=body)
    with pytest.raises(FirecRESTError) as caught:
        await firecrest.submit(site.alice, "demo", REQUEST)
    assert caught.value.ambiguous
    assert reason in caught.value.message


# -- secrets in errors -------------------------------------------------------------------------


async def test_a_400_that_echoes_the_request_is_not_quoted(
    site: Site, firecrest: FirecREST, caplog: pytest.LogCaptureFixture
) -> None:
    """S9: FirecREST's validation errors hold the whole request, env values included."""
    caplog.set_level(logging.DEBUG)
    env: Any = {"JUPYTERHUB_API_TOKEN": SECRET, "N": 1}
    request = JobRequest("/home/alice", Secret(SCRIPT), env=env)
    error = await failure(firecrest.submit(site.alice, "demo", request), BadRequest)
    everything = shown(error, caplog)
    assert SECRET not in everything
    assert site.alice.reveal() not in everything


async def test_an_echoed_script_is_not_taken_for_the_schedulers_words(
    site: Site, firecrest: FirecREST, caplog: pytest.LogCaptureFixture
) -> None:
    """S9: what looks like sbatch's complaint counts only where sbatch's complaints are."""
    caplog.set_level(logging.DEBUG)
    echoed = {"message": f"1 validation error:\n 'script': '#!/bin/sh\nsbatch: error: {SECRET}'"}
    site.standin.faults.set("submit", status=400, body=echoed)
    error = await failure(firecrest.submit(site.alice, "demo", REQUEST), BadRequest)
    assert SECRET not in shown(error, caplog)


async def test_a_401_that_echoes_the_token_is_not_quoted(
    site: Site, firecrest: FirecREST, caplog: pytest.LogCaptureFixture
) -> None:
    """S9, S1: the token is in the answer's header auth-token; httpcore would log that at DEBUG."""
    caplog.set_level(logging.DEBUG)
    site.issuer.faults.clock_skew = -600
    old = Secret(site.issuer.log_in("alice")["access_token"])
    site.issuer.faults.clear()
    error = await failure(firecrest.submit(old, "demo", REQUEST), Unauthorized)
    assert "expired" in error.detail
    everything = shown(error, caplog)
    assert old.reveal() not in everything
    assert old.reveal().split(".")[2] not in everything


async def test_a_client_does_not_show_tokens_or_scripts(site: Site) -> None:
    """S1."""
    assert "sleep" not in repr(REQUEST)
    assert site.alice.reveal() not in f"{site.alice} {site.alice!r}"


# -- below HTTP --------------------------------------------------------------------------------


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
    with RawServer(raw_server.SILENCE) as server:
        url = server.url
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
    assert [job.id for job in jobs] == ["5"]


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
