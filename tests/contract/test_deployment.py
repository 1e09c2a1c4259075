"""Which requests must any FirecREST deployment answer alike, the stand-in included?

Set FIRECREST_CONTRACT_URL, FIRECREST_CONTRACT_TOKEN and FIRECREST_CONTRACT_SYSTEM to run the
table against a deployment too: it submits one job of a minute, reads its output, and cancels it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.contract.conftest import Site

JOB_NAME = "fcs-contract"
STAND_IN_MODES = {"cluster": "ssh", "c24-rest": "rest"}
TARGETS = [
    "cluster",
    "c24-rest",
    *(["deployment"] if "FIRECREST_CONTRACT_URL" in os.environ else []),
]
ERROR_KEYS = {"errorType", "message", "causedBy", "data", "user"}
JOB_KEYS = (
    "jobId name status tasks time account allocationNodes cluster group nodes partition "
    "killRequestUser user workingDirectory priority"
)


@dataclass
class Target:
    """A FirecREST, with a client that holds a token, and a running job of its user."""

    client: httpx.Client
    system: str
    home: str
    mode: str
    user: str
    job_id: str = ""

    def send(self, case: Case) -> httpx.Response:
        words = {"system": self.system, "job": self.job_id, "home": self.home}
        path = case.path.format(**words)
        query = {name: value.format(**words) for name, value in case.query.items()}
        headers = {"Authorization": case.authorization} if case.authorization is not None else {}
        body: dict[str, Any] = {}
        if case.raw is not None:
            body = {"content": case.raw}
            headers["Content-Type"] = "application/json"
        if case.job is not None:
            directory = {"workingDirectory": self.home} if case.in_home else {}
            body = {"json": {"job": directory | case.job}}
        request = self.client.build_request(
            case.method, path, params=query, headers=headers, **body
        )
        if case.authorization == "":
            del request.headers["Authorization"]
        return self.client.send(request)


@dataclass(frozen=True)
class Case:
    """A request and what is expected: status, part of the message, keys (of the first row below
    ``at``). ``authorization`` None is the target's token, "" none at all; ``raw`` a body as is."""

    id: str
    path: str
    status: int = 200
    method: str = "GET"
    query: dict[str, str] = field(default_factory=dict)
    job: dict[str, Any] | None = None
    in_home: bool = True
    raw: str | None = None
    authorization: str | None = None
    says: str = ""
    at: str = ""
    keys: str = ""
    modes: tuple[str, ...] = ("ssh", "rest", "hybrid")


JOBS = "/compute/{system}/jobs"
FILES = "/filesystem/{system}/ops"
SCRIPT = "#!/bin/bash\ntrue\n"

CASES = [
    Case(
        "liveness needs no token",
        "/status/liveness/",
        authorization="",
        keys="healthcheckRuns lastUpdate",
    ),
    Case("no token", "/status/systems", 401, authorization="", says="Not authenticated"),
    Case(
        "not a bearer token",
        "/status/systems",
        401,
        authorization="Basic eDp5",
        says="Not authenticated",
    ),
    Case(
        "no JWT",
        "/status/systems",
        401,
        authorization="Bearer not.a.token",
        says="Access token is invalid.",
    ),
    Case("no such path", "/nosuch", 404, says="Not Found"),
    Case("no such method", JOBS, 405, "PATCH", says="Method Not Allowed"),
    Case(
        "systems",
        "/status/systems",
        at="systems",
        keys="name ssh scheduler servicesHealth fileSystems",
    ),
    Case(
        "nodes",
        "/status/{system}/nodes",
        at="nodes",
        keys="name address hostname state partitions cpus",
    ),
    Case(
        "partitions",
        "/status/{system}/partitions",
        at="partitions",
        keys="name cpus totalNodes partition",
    ),
    Case("reservations", "/status/{system}/reservations", keys="reservations"),
    Case("userinfo", "/status/{system}/userinfo", keys="user group groups accounts"),
    Case("no such system", "/compute/nosuch/jobs", 404, says="System not found"),
    Case("no such job", f"{JOBS}/999999", 404, says="Job not found."),
    Case(
        "metadata of no such job",
        f"{JOBS}/999999/metadata",
        404,
        says="Job not found.",
        modes=("ssh",),
    ),
    Case(
        "metadata over REST",
        f"{JOBS}/999999/metadata",
        501,
        says="Scheduler can't handle this request",
        modes=("rest",),
    ),
    Case("a job id with an underscore", f"{JOBS}/12_3", 400, says="validation error"),
    Case(
        "an unknown time window", JOBS, 400, query={"time_window": "30m"}, says="validation error"
    ),
    Case(
        "no boolean",
        JOBS,
        400,
        query={"allusers": "maybe"},
        says="unable to interpret input",
    ),
    Case("capitals in a path", "/Status/SYSTEMS", at="systems", keys="name"),
    Case("no body", JOBS, 400, "POST", raw="", says="'loc': ('body',)"),
    Case("a job that is nothing", JOBS, 400, "POST", raw='{"job": null}', says="model_attributes"),
    Case(
        "no working directory",
        JOBS,
        400,
        "POST",
        job={"script": SCRIPT},
        in_home=False,
        says="field required",
    ),
    Case(
        "a number in env",
        JOBS,
        400,
        "POST",
        job={"script": SCRIPT, "env": {"N": 1}},
        says="input should be a valid string",
    ),
    Case(
        "an unknown partition",
        JOBS,
        500,
        "POST",
        job={"script": SCRIPT, "partition": "no-such-one"},
        says="nvalid partition name specified",
    ),
    Case(
        "an unknown option",
        JOBS,
        500,
        "POST",
        job={"script": "#!/bin/bash\n#SBATCH --nosuchoption=1\n"},
        says="unrecognized option",
        modes=("ssh",),
    ),
    Case(
        "no shebang",
        JOBS,
        500,
        "POST",
        job={"script": "true\n"},
        says="does not look like a batch script",
        modes=("ssh",),
    ),
    Case(
        "cancelling nothing",
        f"{JOBS}/999999",
        500,
        "DELETE",
        says="Invalid job id specified",
        modes=("ssh",),
    ),
    Case("cancelling nothing over REST", f"{JOBS}/999999", 204, "DELETE", modes=("rest",)),
    Case(
        "a relative path",
        f"{FILES}/view",
        400,
        query={"path": "up.txt"},
        says="is not an absolute path",
    ),
    Case(
        "a path elsewhere",
        f"{FILES}/view",
        400,
        query={"path": "/etc/passwd"},
        says="does not match any of the defined filesystem paths",
    ),
    Case(
        "a missing file",
        f"{FILES}/tail",
        404,
        query={"path": "{home}/no-such-file"},
        says="No such file or directory",
    ),
    Case("a listing", f"{FILES}/ls", query={"path": "{home}"}, keys="output"),
    Case("the job by its id", f"{JOBS}/{{job}}", at="jobs", keys=JOB_KEYS),
    Case(
        "the job by its name",
        JOBS,
        query={"name": JOB_NAME, "time_window": "1h"},
        at="jobs",
        keys=JOB_KEYS,
    ),
    Case(
        "the job's files",
        f"{JOBS}/{{job}}/metadata",
        at="jobs",
        keys="jobId script standardInput standardOutput standardError",
        modes=("ssh",),
    ),
]


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    if request.param != "deployment":
        site: Site = request.getfixturevalue("shared_site")
        url, system, token = site.firecrest.url, request.param, site.issuer.token("alice")
    else:
        url, system, token = (
            os.environ[f"FIRECREST_CONTRACT_{name}"] for name in ("URL", "SYSTEM", "TOKEN")
        )
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        target = describe(client, system)
        target.job_id = submit(target)
        yield target
        client.delete(f"/compute/{system}/jobs/{target.job_id}")


def describe(client: httpx.Client, system: str) -> Target:
    (found,) = (
        each for each in client.get("/status/systems").json()["systems"] if each["name"] == system
    )
    user = client.get(f"/status/{system}/userinfo").json()["user"]["name"]
    root = next(each["path"] for each in found["fileSystems"] if each["defaultWorkDir"])
    return Target(client, system, f"{root}/{user}", found["scheduler"]["connectionMode"], user)


def submit(target: Target) -> str:
    job = {
        "workingDirectory": target.home,
        "name": JOB_NAME,
        "script": "#!/bin/bash\n#SBATCH --time=2\nsleep 60\n",
        "env": {"PLAIN": "a b"},
    }
    answer = target.client.post(f"/compute/{target.system}/jobs", json={"job": job})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobId"])


@pytest.mark.parametrize(
    ("target", "case"),
    [
        pytest.param(name, case, id=f"{name}: {case.id}")
        for name in TARGETS
        for case in CASES
        if name == "deployment" or STAND_IN_MODES[name] in case.modes
    ],
    indirect=["target"],
    # Without it pytest would make a target, and its job, for every case.
    scope="module",
)
def test_a_request_of_the_table_is_answered_as_the_table_says(case: Case, target: Target) -> None:
    if target.mode not in case.modes:
        pytest.skip(f"not in connection mode {target.mode}")
    check(case, target)


def check(case: Case, target: Target) -> None:
    """Send the case's request and compare the answer."""
    answer = target.send(case)
    assert answer.status_code == case.status, answer.text
    assert {"f7t-appversion", "f7t-timestamp", "x-request-id"} <= set(answer.headers)
    if case.status == 204:
        return
    body = answer.json()
    if case.status >= 400:
        assert set(body) == ERROR_KEYS
        assert case.says.lower() in body["message"].lower()
        return
    row = body[case.at][0] if case.at else body
    assert set(case.keys.split()) <= set(row)


@pytest.mark.parametrize("header", ["x-request-id", "x-correlation-id"])
def test_a_request_s_own_id_comes_back_if_it_is_a_uuid(target: Target, header: str) -> None:
    mine = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    answer = target.client.get("/status/systems", headers={header: mine})
    assert answer.headers[header] == mine
    refused = target.client.get("/status/systems", headers={header: "mine"})
    assert (refused.status_code, refused.content) == (400, b"")
    assert not [name for name in refused.headers if name.startswith(("f7t-", "x-"))]


@pytest.mark.parametrize("name", [JOB_NAME.upper(), "", f"other,{JOB_NAME}"])
def test_a_list_s_filter_by_name_is_wider_than_it_looks(target: Target, name: str) -> None:
    """Capitals do not count, an empty name is none, a comma separates: rows are to be checked."""
    answer = target.client.get(f"/compute/{target.system}/jobs", params={"name": name})
    assert target.job_id in [row["jobId"] for row in answer.json()["jobs"]]


def test_a_401_echoes_the_token_in_a_header(target: Target) -> None:
    answer = target.client.get("/status/systems", headers={"Authorization": "Bearer not.a.token"})
    assert answer.headers["auth-token"] == "not.a.token"


def test_the_system_s_name_may_be_written_in_capitals(target: Target) -> None:
    path = f"/compute/{target.system.upper()}/jobs/{target.job_id}"
    assert target.client.get(path).json()["jobs"][0]["jobId"] == target.job_id


def state_of(answer: httpx.Response) -> str:
    """The job's state; "" while it has left the queue and has not arrived in accounting."""
    if answer.status_code == 404:
        return ""
    assert answer.status_code == 200, answer.text
    return str(answer.json()["jobs"][0]["status"]["state"])


def test_a_job_is_submitted_seen_cancelled_and_still_there_afterwards(target: Target) -> None:
    job_id = submit(target)
    path = f"/compute/{target.system}/jobs/{job_id}"
    row = target.client.get(path).json()["jobs"][0]
    assert (row["jobId"], row["name"], row["user"]) == (job_id, JOB_NAME, target.user)
    assert row["status"]["state"] in ("PENDING", "RUNNING")
    assert target.client.delete(path).status_code == 204
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not state_of(target.client.get(path)).startswith("CANCELLED"):
        assert time.monotonic() < deadline
        pause.wait(0.1)
    if target.mode == "ssh":
        again = target.client.delete(path)
        assert again.status_code == 500
        assert "already completing or completed" in again.json()["message"]
