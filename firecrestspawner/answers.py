"""What does it mean when FirecREST does not answer as asked? Sentences, and lines for the log.

Its answers may echo what was sent, so nothing is quoted but the scheduler's own words, and phrases
of a list (S9).
"""

from __future__ import annotations

import json
import re

import httpx

from .errors import (
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
from .models import TEXT_LIMIT

AWAY = "The cluster's API (FirecREST) cannot be reached right now. Please try again in a moment."
UNREADABLE = "FirecREST gave an answer that cannot be understood. Please try again."


def failure(what: str, response: httpx.Response | None, write: bool) -> FirecRESTError:
    """The error for an answer with an unexpected status; ``response`` is None for none at all.

    ``what`` was asked for, for the log; ``write`` says whether it was to change something, which
    may have happened all the same (R3).
    """
    if response is None:
        return Unreachable(AWAY, detail=f"{what}: no answer", ambiguous=write)
    status = response.status_code
    message = _server_message(response)
    detail = f"{what}: HTTP {status}"
    # Only these carry the scheduler's words; a 400 may quote the whole request (S9).
    if status in (403, 500) and (refusal := _refusal(message)):
        return _refused(refusal, f"{detail}: {refusal}")
    if status < 300:
        return BadAnswer(UNREADABLE, detail=detail, ambiguous=write)
    if status == 401:
        return Unauthorized(
            "The cluster's API does not accept your login. Log out and in again; if that does not "
            "help, ask the centre's support whether your account may use FirecREST.",
            detail=f"{detail} ({_reason_401(message)})",
        )
    if status == 403:
        return Forbidden("You are not allowed to do this on the cluster.", detail=detail)
    if status == 404:
        if message.startswith("System"):
            return NotFound("The cluster's API does not know this system.", detail=detail)
        return NotFound("The cluster's API found nothing by that name.", detail=detail)
    if status == 500 and "qstat: Unknown Job Id" in message:
        # Whoever asks: of another's job that may not be seen qstat says nothing, and FirecREST 404.
        return NotFound("The cluster's API found nothing by that name.", detail=detail)
    if status == 500 and _NO_KEY in response.text:
        return Forbidden(
            "FirecREST cannot log in to the cluster as you: it has no SSH key of yours. Please ask "
            "the centre's support how your account gets one.",
            detail=f"{detail} ({_NO_KEY})",
        )
    if status in (408, 424, 429) or status >= 500:
        return Unwell(
            f"{_TROUBLE.get(status, 'The cluster has a problem')} (HTTP {status}). "
            "Please try again in a moment.",
            detail=f"{detail} ({_known_cause(message)})",
            # 424, 429 and 503 are answered before anything is run on the cluster.
            ambiguous=write and status not in (424, 429, 503),
            # 408 and 500 may be about one user's shell, or one job's name.
            away=status not in (408, 500),
        )
    return BadRequest(
        f"The cluster's API did not accept the request (HTTP {status}).",
        detail=detail,
        ambiguous=False,
    )


#: FirecREST's ``causedBy`` when it knows no way to be the user on the system.
_NO_KEY = "No SSH credentials found"

_TROUBLE = {
    408: "The cluster took too long to answer",
    424: "The cluster's login node cannot be reached",
    429: "The cluster's API is busy",
    502: "The cluster's API is not available",
    503: "The cluster is marked as unwell",
}


def _server_message(response: httpx.Response) -> str:
    try:
        message = response.json().get("message")
    except (ValueError, AttributeError):
        return ""
    return message if isinstance(message, str) else ""


# sbatch's and qsub's own lines, in which FirecREST quotes nothing of ours but option values.
_STDERR = re.compile(rf"(?:sbatch|qsub): (?:error: )?([^\n]{{1,{TEXT_LIMIT}}})")
# sbatch and qsub lost their own answer (Slurm's slurm_errno.c, PBS's pbs_error.h): as unsure as a
# reset of ours.
_LOST = re.compile(
    r"timed out|Zero Bytes|(receive|send|shutdown) failure|End of File|Premature end", re.IGNORECASE
)


def _refused(refusal: str, detail: str) -> FirecRESTError:
    if _LOST.search(refusal):
        return Unwell(
            f"The scheduler did not say whether it took the job: {refusal}.",
            detail=detail,
            ambiguous=True,
        )
    return SubmissionRejected(f"The scheduler refused the job: {refusal}.", detail=detail)


def _refusal(message: str) -> str:
    """The scheduler's sentence inside FirecREST's error, or nothing (500 and 403 carry it)."""
    if "Slurm API response" in message:
        lines = _slurmrestd_reasons(message)
    else:
        lines = _STDERR.findall(message)
    sentence = ", ".join(line.strip(" .") for line in lines[:3])
    return "".join(c for c in sentence if c.isprintable())[:TEXT_LIMIT]


def _slurmrestd_reasons(message: str) -> list[str]:
    # The descriptions beside them say no more than that the submission failed.
    try:
        errors = json.loads(message[message.index("{") :])["errors"]
        return [each["error"] for each in errors if isinstance(each["error"], str)]
    except (ValueError, KeyError, TypeError):
        return []


def _reason_401(message: str) -> str:
    for known in ("expired", "invalid", "Not authenticated", "public key not found"):
        if known in message:
            return known
    return "reason not stated"


def _known_cause(message: str) -> str:
    # Only phrases from this list: the rest of a server's message may quote what was sent (S9).
    for known in (
        "unhealthy",
        "Error executing Slurm command",
        "Command execution timeout limit exceeded",
        "Unable to open a new SSH channel",
        "Unable to establish SSH connection",
        "Channel not open for sending",
        "Connection refused",
        "already completing or completed",
        "Invalid job id specified",
        "Access/permission denied",
        "Unknown Job Id",
        "Job has finished",
        "Unauthorized Request",
        "cannot connect to server",
    ):
        if known in message:
            return known
    return "cause not stated"
