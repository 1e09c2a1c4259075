"""What becomes of FirecREST's answers: the good ones, and those with another status?"""

from __future__ import annotations

import asyncio
import logging

import pytest

from firecrestspawner.client import FirecREST
from firecrestspawner.errors import (
    BadAnswer,
    BadRequest,
    FirecRESTError,
    Forbidden,
    NotFound,
    Unauthorized,
    Unwell,
)
from firecrestspawner.models import JobRequest, JobState, Node, Secret
from tests.unit.client.api import REQUEST, SCRIPT, SECRET, Site, failure, shown

# -- what goes well ------------------------------------------------------------------------------


async def test_a_job_is_submitted_seen_and_cancelled(site: Site, firecrest: FirecREST) -> None:
    job_id = await firecrest.submit(site.alice, "demo", REQUEST)
    job = await firecrest.job(site.service, "demo", job_id)
    assert (job.id, job.user, job.name, job.state) == (job_id, "alice", "hub-x", JobState.PENDING)
    listed = await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)
    assert job_id in [job.id for job in listed.jobs]
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
    assert Node("nid001", ("127.0.0.2", "nid001"), ("demo",)) in nodes


async def test_the_name_filter_holds_on_servers_that_ignore_it(
    site: Site, firecrest: FirecREST
) -> None:
    """FirecREST 2.5 lists every job of everybody, whatever the name; the answer tells."""
    site.executor.plant("bob", "another")
    filtered = await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)
    assert filtered.others == 0
    mine = await firecrest.submit(site.alice, "demo", REQUEST)
    site.standin.version = "2.5.6"
    try:
        listing = await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)
    finally:
        site.standin.version = "2.x.x"
    assert mine in [job.id for job in listing.jobs]
    assert {job.name for job in listing.jobs} == {"hub-x"}
    assert listing.others >= 1 and listing.rows == len(listing.jobs) + listing.others


async def test_a_name_of_other_case_is_no_sign_of_an_ignored_filter(
    site: Site, firecrest: FirecREST
) -> None:
    """The accounting database compares without regard to case."""
    rows = [{"jobId": "5", "name": "HUB-X", "status": {"state": "RUNNING"}, "user": "bob"}]
    site.standin.faults.set("list", status=200, body={"jobs": rows})
    listing = await firecrest.jobs(site.service, "demo", name="hub-x", all_users=True)
    assert (listing.jobs, listing.others) == ([], 0)


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


# -- refusals and failures with a status ---------------------------------------------------------

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


async def test_who_has_no_ssh_key_at_firecrest_is_told_so(site: Site, firecrest: FirecREST) -> None:
    """R3: nothing was run. The answer is that of shared/firecrest: auth_user_without_ssh_key."""
    body = {
        "errorType": "error",
        "message": "Error executing Slurm command.",
        "causedBy": ["No SSH credentials found for user:eve"],
    }
    site.standin.faults.set("submit", status=500, body=body)
    error = await failure(firecrest.submit(site.alice, "demo", REQUEST), Forbidden)
    assert "no SSH key of yours" in error.message and not error.ambiguous
    assert "eve" not in error.detail


async def test_no_such_job_is_not_found(site: Site, firecrest: FirecREST) -> None:
    await failure(firecrest.job(site.service, "demo", "987654"), NotFound)


async def test_a_job_that_pbs_does_not_know_is_not_found(site: Site, firecrest: FirecREST) -> None:
    """An OpenPBS's qstat says so whoever asks, and FirecREST says 500. (Of a job that one may not
    see qstat says nothing, which FirecREST answers with 404.)"""
    message = (
        "Unexpected PBS qstat response. exit_status:153 std_err:qstat: Unknown Job Id 77.pbs01\n"
    )
    site.standin.faults.set("job", status=500, body={"errorType": "error", "message": message})
    error = await failure(firecrest.job(site.service, "demo", "77"), NotFound)
    assert "pbs01" not in error.detail and not error.away


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("qdel: Job has finished 77.pbs01", "Job has finished"),
        ("qdel: Unknown Job Id 77.pbs01", "Unknown Job Id"),
        ("qdel: Unauthorized Request  77.pbs01", "Unauthorized Request"),
    ],
)
async def test_why_pbs_cancels_nothing_is_in_the_log(
    site: Site, firecrest: FirecREST, said: str, reason: str
) -> None:
    message = f"Unexpected PBS qdel response. exit_status:35 std_err:{said}\n"
    site.standin.faults.set("cancel", status=500, body={"errorType": "error", "message": message})
    error = await failure(firecrest.cancel(site.alice, "demo", "77"), Unwell)
    assert error.detail.endswith(f"({reason})")


@pytest.mark.parametrize("suffix", ["7", "_1"], ids=["another job", "a task of an array"])
async def test_an_answer_about_another_job_is_none(
    site: Site, firecrest: FirecREST, suffix: str
) -> None:
    """R1, R10: what was not asked for is no answer, and no "not found" either."""
    body = {"jobs": [{"jobId": f"12{suffix}", "name": "hub-x", "status": {"state": "FAILED"}}]}
    site.standin.faults.set("job", status=200, body=body)
    await failure(firecrest.job(site.service, "demo", "12"), BadAnswer)


@pytest.mark.parametrize("name", ["../status", "a/b", "", "a b", "x" * 101, "demo?x=1"])
async def test_a_malformed_system_or_job_id_is_never_sent(
    site: Site, firecrest: FirecREST, name: str
) -> None:
    before = len(site.standin.requests)
    await failure(firecrest.submit(site.alice, name, REQUEST), BadRequest)
    await failure(firecrest.job(site.alice, "demo", name), BadRequest)
    await failure(firecrest.cancel(site.alice, "demo", name), BadRequest)
    assert len(site.standin.requests) == before
