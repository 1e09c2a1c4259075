"""What can the stand-in do that tests of the product rely on, beyond answering well?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from firecrest.v2 import AsyncFirecrest

from firecrestspawner.demo.faults import GARBAGE
from firecrestspawner.demo.processes import MARKER
from tests.contract.conftest import Site
from tests.contract.issuer import Issuer

JOBS = "/compute/cluster/jobs"
JOB = {"job": {"workingDirectory": "/home/alice", "script": "#!/bin/bash\nsleep 60\n"}}


def eventually(met: Callable[[], bool], what: str, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    pause = threading.Event()
    while not met():
        assert time.monotonic() < deadline, what
        pause.wait(0.01)


# -- faults ----------------------------------------------------------------------------------


def test_a_fault_happens_as_often_as_it_was_asked_to(site: Site) -> None:
    fault = site.firecrest.faults.set("job", status=503, times=2)
    job_id = site.submit()
    codes = [site.client("alice").get(f"{JOBS}/{job_id}").status_code for _ in range(3)]
    assert (codes, fault.hits) == ([503, 503, 200], 2)


def test_a_submit_that_is_refused_creates_no_job(site: Site) -> None:
    site.firecrest.faults.set("submit", status=500)
    assert site.client("alice").post(JOBS, json=JOB).status_code == 500
    assert site.executor.jobs("alice") == []


@pytest.mark.parametrize("status", [408, 500])
def test_an_answer_can_be_lost_after_the_job_was_created(status: int, site: Site) -> None:
    site.firecrest.faults.set("submit", status=status, processed=True, times=1)
    answer = site.client("alice").post(JOBS, json=JOB)
    assert (answer.status_code, answer.json()["errorType"]) == (status, "error")
    assert len(site.executor.jobs("alice")) == 1


@pytest.mark.parametrize(("processed", "jobs"), [(False, 0), (True, 1)])
def test_a_connection_can_be_reset_before_and_after_processing(
    processed: bool, jobs: int, site: Site
) -> None:
    site.firecrest.faults.set("submit", reset=True, processed=processed, times=1)
    with pytest.raises(httpx.ReadError):
        site.client("alice").post(JOBS, json=JOB)
    assert len(site.executor.jobs("alice")) == jobs
    assert site.client("alice").get(JOBS).status_code == 200


def test_an_answer_can_be_garbage(site: Site) -> None:
    site.firecrest.faults.set("list", body=GARBAGE)
    with pytest.raises(ValueError):
        site.client("alice").get(JOBS).json()


def test_a_list_can_be_empty_although_there_are_jobs(site: Site) -> None:
    site.submit()
    site.firecrest.faults.set("list", body={"jobs": []}, times=1)
    lengths = [len(site.client("alice").get(JOBS).json()["jobs"]) for _ in range(2)]
    assert lengths == [0, 1]


def test_a_fault_can_be_for_one_user_and_one_job(site: Site) -> None:
    first, second = site.submit(), site.submit()
    site.firecrest.faults.set("job", status=404, user="alice", job_id=first)
    ask = [(user, job) for user in ("alice", "bob") for job in (first, second)]
    codes = [site.client(user).get(f"{JOBS}/{job}").status_code for user, job in ask]
    assert codes == [404, 200, 200, 200]


def test_a_request_can_be_held_until_the_test_lets_it_go(site: Site) -> None:
    go, answered = threading.Event(), threading.Event()
    fault = site.firecrest.faults.set("systems", until=go)

    def ask() -> None:
        site.client("alice").get("/status/systems")
        answered.set()

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: fault.hits == 1, "the request has arrived")
    assert not answered.is_set()
    # Others are served meanwhile.
    assert site.client("bob").get("/status/cluster/nodes").status_code == 200
    go.set()
    asking.join(10)
    assert answered.is_set()


def test_clearing_ends_faults_and_forgeries(site: Site) -> None:
    site.firecrest.faults.set("*", status=500)
    site.firecrest.faults.forge("alice", lambda operation, body: {"jobs": []})
    site.firecrest.faults.clear()
    job_id = site.submit()
    assert site.client("alice").get(f"{JOBS}/{job_id}").json()["jobs"][0]["jobId"] == job_id


# -- lies ------------------------------------------------------------------------------------


def evil(operation: str, body: Any) -> Any:
    if operation == "submit":
        return {"jobId": "42"}
    for row in body.get("jobs", []):
        row.update(nodes="evil.example.com", user="bob")
    return body


def test_a_hostile_login_shell_deceives_its_own_user_only(site: Site) -> None:
    """R10: what the stand-in forges for one user's token, no other token gets to see."""
    site.firecrest.faults.forge("alice", evil)
    answer = site.client("alice").post(JOBS, json=JOB)
    assert answer.json() == {"jobId": "42"}
    (job,) = site.executor.jobs("alice")

    def seen(user: str) -> tuple[str, str]:
        row = site.client(user).get(f"{JOBS}/{job.id}").json()["jobs"][0]
        return row["nodes"], row["user"]

    assert seen("alice") == ("evil.example.com", "bob")
    assert seen("bob") == seen("svc") == (job.nodes, "alice")


def test_the_service_account_is_never_deceived(site: Site) -> None:
    site.firecrest.faults.forge("svc", evil)
    job_id = site.submit()
    row = site.client("svc").get(f"{JOBS}/{job_id}").json()["jobs"][0]
    assert row["user"] == "alice"


# -- lists -----------------------------------------------------------------------------------


def names(site: Site, user: str, **query: str) -> list[str]:
    answer = site.client(user).get(JOBS, params=query)
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json()["jobs"]]


def planted(site: Site) -> None:
    long_ago = int(time.time()) - 3 * 3600
    site.executor.plant("alice", "hub")
    site.executor.plant("bob", "hub")
    site.executor.plant("alice", "other", account="proj2")
    site.executor.plant("alice", "old", state="COMPLETED", start=long_ago, end=long_ago + 5)


def test_a_list_is_filtered_by_user_name_account_and_window(site: Site) -> None:
    planted(site)
    assert names(site, "alice") == ["hub", "other", "old"]
    assert names(site, "svc") == []
    assert names(site, "svc", allusers="true") == ["hub", "hub", "other", "old"]
    assert names(site, "svc", allusers="true", name="hub") == ["hub", "hub"]
    assert names(site, "alice", account="proj2") == ["other"]
    assert names(site, "alice", time_window="1h") == ["hub", "other"]
    assert names(site, "alice", time_window="8h", name="old,hub") == ["hub", "old"]


def test_release_2_5_6_ignores_name_and_window_silently(issuer: Issuer, tmp_path: Path) -> None:
    site = Site(issuer, tmp_path, version="2.5.6")
    site.firecrest.start()
    try:
        planted(site)
        assert names(site, "alice", name="hub", time_window="bad") == ["hub", "other", "old"]
        answer = site.client("alice").get("/status/systems")
        assert answer.headers["f7t-appversion"] == "2.5.6"
    finally:
        site.close()


def test_one_finished_job_with_a_pipe_in_its_name_breaks_the_list_for_everybody(
    site: Site,
) -> None:
    site.submit()
    site.submit("#SBATCH -J 'a|b'\nsleep 60", "bob")
    assert site.client("svc").get(JOBS, params={"allusers": "true"}).status_code == 500
    assert names(site, "svc", allusers="true", name="sbatch") == ["sbatch"]
    assert site.client("alice").get(JOBS).status_code == 200


# -- sessions and connections ----------------------------------------------------------------


def test_too_many_parallel_queries_of_one_account_are_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.system.max_sessions = 10
    go = threading.Event()
    monkeypatch.setattr(site.executor, "jobs", lambda *_: go.wait(10) and [])
    answers: list[httpx.Response] = []
    headers = {"Authorization": f"Bearer {site.issuer.token('alice')}"}
    with httpx.Client(base_url=site.firecrest.url, headers=headers) as client:
        threads = [
            threading.Thread(target=lambda: answers.append(client.get(JOBS))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: len(answers) == 3, "three of eight are refused: a query needs two")
        go.set()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [500] * 3 + [200] * 5
    assert answers[0].json()["causedBy"] == ["Unable to open a new SSH channel."]
    assert site.firecrest.peak_sessions["cluster", "alice"] == 10


def test_after_an_unexpected_error_the_connection_is_gone(site: Site) -> None:
    body = {"job": {**JOB["job"], "env": ["A=1"]}}
    with httpx.Client(
        base_url=site.firecrest.url,
        headers={"Authorization": f"Bearer {site.issuer.token('alice')}"},
    ) as client:
        first = client.post(JOBS, json=body)
        assert first.status_code == 500
        stream = first.extensions["network_stream"]
        eventually(lambda: bool(stream.get_extra_info("is_readable")), "the server has hung up")


def test_the_server_comes_back_on_its_port_and_its_jobs_run_on(site: Site) -> None:
    job_id, url = site.submit(), site.firecrest.url
    site.firecrest.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/status/liveness/")
    site.firecrest.start()
    assert site.firecrest.url == url
    answer = httpx.get(
        f"{url}{JOBS}/{job_id}", headers={"Authorization": f"Bearer {site.issuer.token('alice')}"}
    )
    assert answer.json()["jobs"][0]["status"]["state"] == "RUNNING"


# -- records ---------------------------------------------------------------------------------


def test_requests_are_recorded_with_bodies_of_submits_only(site: Site) -> None:
    site.submit("true", env={"NAME": "value"})
    site.client("alice").get("/status/systems")
    submit, systems = site.firecrest.requests
    assert (submit.method, submit.path, submit.operation) == ("POST", JOBS, "submit")
    assert (submit.status, submit.username) == (201, "alice")
    assert submit.body["job"]["env"] == {"NAME": "value"}
    assert submit.answer_size == len('{"jobId":"1"}')
    assert systems.body is None
    assert site.firecrest.count("submit", "alice") == 1
    assert site.firecrest.count(username="bob") == 0


def test_records_and_requests_show_no_secrets_when_printed(site: Site) -> None:
    """S1: a record's repr holds neither script nor environment nor token."""
    site.submit("echo ticket-123", env={"NAME": "value-456"})
    job = site.executor.metadata("alice", "1", False)
    text = repr((list(site.firecrest.requests), job))
    assert "ticket-123" not in text
    assert "value-456" not in text
    assert site.issuer.token("alice").split(".")[0] not in text


def test_the_keys_are_fetched_once_and_only_when_needed(tmp_path: Path) -> None:
    issuer = Issuer()
    site = Site(issuer, tmp_path)
    site.firecrest.start()
    try:
        assert site.client(None).get("/status/liveness/").status_code == 200
        assert issuer.asked == 0
        for _ in range(3):
            assert site.client("alice").get("/status/systems").status_code == 200
        assert issuer.asked == 1
    finally:
        site.close()
        issuer.close()


# -- with the centre's own client --------------------------------------------------------------


class Fixed:
    """An authorization object for pyfirecrest."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_access_token(self) -> str:
        return self._token


async def test_pyfirecrest_submits_sees_reads_and_cancels(site: Site) -> None:
    client = AsyncFirecrest(site.firecrest.url, authorization=Fixed(site.issuer.token("alice")))
    try:
        script = "#!/bin/bash\n#SBATCH -o out\necho hello; sleep 60\n"
        home = "/home/alice"
        job = await client.submit("cluster", home, script_str=script, env_vars={"A": "b"})
        (row,) = await client.job_info("cluster", job["jobId"])
        assert row["status"]["state"] == "RUNNING"
        out = site.executor.home_of("alice") / "out"
        eventually(lambda: out.exists() and out.read_text() == "hello\n", "the job has spoken")
        assert (await client.tail("cluster", f"{home}/out", num_lines=1))["content"] == "hello\n"
        assert [node["name"] for node in await client.nodes("cluster")][:1] == ["nid001"]
        assert (await client.userinfo("cluster"))["user"]["name"] == "alice"
        assert [system["name"] for system in await client.systems()] == ["cluster", "c24-rest"]
        await client.cancel_job("cluster", job["jobId"])
        (row,) = await client.job_info("cluster", name="sbatch", time_window="1h")
        assert row["status"]["state"].startswith("CANCELLED by")
    finally:
        await client.close_session()


# -- as a process of its own -------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_as_a_process_it_leaves_no_job_behind(
    number: signal.Signals, issuer: Issuer, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "firecrestspawner.demo.firecrest"]
    options = ["--jwks-url", issuer.jwks_url, "--workdir", str(tmp_path), "--system", "cluster"]
    server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    headers = {"Authorization": f"Bearer {issuer.token('alice')}"}
    script = "#!/bin/bash\nsetsid sleep 60 &\necho up > up\nsleep 60\n"
    job = {"workingDirectory": "/home/alice", "script": script}
    assert httpx.post(url + JOBS, json={"job": job}, headers=headers).status_code == 201
    up = tmp_path / "home" / "alice" / "up"
    eventually(up.exists, "the job is running")
    home = str(up.parent)

    def of_the_job() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                env = process.environ()
            except psutil.Error:
                continue
            if env.get("HOME") == home and MARKER in env:
                found.append(process)
        return found

    assert len(of_the_job()) >= 2
    os.kill(server.pid, number)
    server.wait(20)
    server.stdout.close()
    eventually(lambda: not of_the_job(), "the job's processes are gone", within=20)
