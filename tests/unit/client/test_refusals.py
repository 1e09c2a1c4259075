"""Which of a scheduler's and a server's words reach user and log, and which never do?"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from firecrestspawner.client import FirecREST
from firecrestspawner.errors import (
    BadRequest,
    FirecRESTError,
    SubmissionRejected,
    Unauthorized,
)
from firecrestspawner.models import JobRequest, Secret
from tests.unit.client.api import REQUEST, SCRIPT, SECRET, Site, failure, shown

# -- the scheduler's own refusals ----------------------------------------------------------------


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


# -- secrets in errors ---------------------------------------------------------------------------


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
