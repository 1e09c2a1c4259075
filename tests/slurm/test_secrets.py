"""What can others read of a running server: its user's peers, Slurm's operators, who has root?"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from pathlib import Path

import httpx
import pytest

from tests.journeys.person import Person
from tests.services.users import BOB, OPERATOR
from tests.slurm.cluster import SERVICE, UNIX, SlurmSite, script

SERVER = "watched"


def secrets_of(site: SlurmSite, user: str, service_token: str) -> dict[str, str]:
    """By name: the user's tokens, the server's, the service account's, and the site's own."""
    sealed = site.open_seal(site.state(user, SERVER)["sealed"])
    tokens = site.auth_state(user)
    return {
        **site.secrets(),
        **{name: tokens[name] for name in ("access_token", "refresh_token", "id_token")},
        "service token": service_token,
        "API token": sealed["api_token"],
        "channel secret": sealed["secret"],
    }


def command_lines() -> bytes:
    """What ``ps`` shows to everybody."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended
            found.append(path.read_bytes())
    return b"\n".join(found)


def what_slurm_tells(site: SlurmSite, job_id: str) -> dict[str, bytes]:
    """All that Slurm says to its administrator, but for the script."""
    commands = (
        ("scontrol", "show", "job", "-dd", job_id),
        ("scontrol", "show", "step", f"{job_id}.0"),
        ("squeue", "--format=%all", f"--jobs={job_id}"),
        ("sacct", "--parsable2", "--format=ALL", f"--jobs={job_id}"),
        ("sacct", "--env-vars", f"--jobs={job_id}"),
    )
    return {" ".join(words): site.slurm.administer(*words).encode() for words in commands}


def files_of(directory: Path) -> dict[str, bytes]:
    """What the daemons write: logs, state, spools; their database tells through sacct."""
    places = {}
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_relative_to(directory / "db"):
            with contextlib.suppress(FileNotFoundError):  # state files come and go
                places[str(path)] = path.read_bytes()
    return places


def found(secrets: dict[str, str], places: dict[str, bytes]) -> list[str]:
    return [
        f"{name} in {place}"
        for place, content in places.items()
        for name, secret in secrets.items()
        if secret.encode() in content
    ]


@pytest.fixture
def service_token(site: SlurmSite, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bearer tokens that the service account shows to FirecREST from now on."""
    tokens: list[str] = []
    username = site.firecrest.verifier.username

    def noting(authorization: str | None) -> str:
        name = username(authorization)
        if name == SERVICE and authorization:
            tokens.append(authorization.split()[1])
        return name

    monkeypatch.setattr(site.firecrest.verifier, "username", noting)
    return tokens


def test_slurm_knows_nothing_secret_but_the_ticket_in_the_script(
    site: SlurmSite, alice: Person, service_token: list[str]
):
    """S1, S4: nothing in arguments, records, the environment that came with the job, accounting,
    daemons' files or the job's log. The script is its owner's and the operators', and its ticket
    opens nothing any more."""
    # Behind srun, so that a step and srun's own arguments can be looked at, too.
    site.configure(SERVER, batch_script=script(command="srun {{cmd}}"))
    alice.start(SERVER)
    job_id = site.job_id("alice", SERVER)
    assert alice.run(alice.start_kernel(SERVER), "6*7") == "42"
    secrets = secrets_of(site, "alice", service_token[-1])
    (server,) = site.servers_of(job_id)
    assert server.environ()["JUPYTERHUB_API_TOKEN"] == secrets["API token"]

    write = ["scontrol", "write", "batch_script", job_id, "-"]
    batch_script = site.slurm.run_as(UNIX["alice"], write).stdout
    (blob,) = re.findall(r"^export FIRECREST_TICKET=(\S+)$", batch_script, re.M)
    boot = json.loads(base64.urlsafe_b64decode(blob))
    arguments, told = command_lines(), what_slurm_tells(site, job_id)
    places = {"arguments": arguments, **told, **files_of(site.slurm.directory)}
    places |= {"the script": batch_script.encode()}
    places |= {"the job's log": site.log_of("alice", job_id).encode()}
    assert b"jupyterhub-singleuser" in arguments and all(
        job_id.encode() in t for t in told.values()
    )
    assert found(secrets, places) == []
    ticket = {"ticket": boot["ticket"].partition(".")[2], "its envelope": blob}
    assert found(ticket, {"arguments": arguments, **told}) == []
    assert found(ticket, {"the script": batch_script.encode()}) == ["its envelope in the script"]

    assert site.slurm.run_as(OPERATOR, write).stdout == batch_script
    for words in (write, ["scontrol", "show", "job", job_id], ["sacct", "-j", job_id, "-B"]):
        shown = site.slurm.run_as(BOB, words, check=False)
        assert blob not in shown.stdout and UNIX["alice"] not in shown.stdout
    hello = {"message": "hello", "ticket": boot["ticket"], "nonce": "0" * 32, "job_id": job_id}
    answer = httpx.post(boot["url"], json=hello, trust_env=False)
    assert answer.status_code == 403
    assert found(secrets, {"its answer": answer.content}) == []
    alice.stop(SERVER)
