"""Does the stand-in keep the contract when a real Slurm does the work?"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from firecrestspawner.demo.firecrest import FirecREST, System
from firecrestspawner.demo.slurm_executor import SlurmExecutor
from firecrestspawner.demo.slurm_text import node_row
from tests.contract.issuer import Issuer
from tests.contract.test_deployment import CASES, Case, Target, check, submit
from tests.services.slurm import Slurm
from tests.services.users import ALICE, BOB, HOMES, OPERATOR

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd starts jobs as their users: needs root"),
]
JOBS = "/compute/cluster/jobs"


@dataclass
class Cluster:
    """A FirecREST over Slurm, and clients of its users."""

    firecrest: FirecREST
    clients: dict[str, httpx.Client]

    def job(self, user: str, job_id: str) -> dict[str, Any]:
        answer = self.clients[user].get(f"{JOBS}/{job_id}")
        assert answer.status_code == 200, answer.text
        row: dict[str, Any] = answer.json()["jobs"][0]
        return row

    def submit(self, user: str, script: str, **fields: Any) -> str:
        job = {
            "workingDirectory": f"{HOMES}/{user}",
            "script": f"#!/bin/bash\n{script}\n",
            **fields,
        }
        answer = self.clients[user].post(JOBS, json={"job": job})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["jobId"])

    def wait(self, user: str, job_id: str, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline, pause = time.monotonic() + 30, threading.Event()
        while True:
            answer = self.clients[user].get(f"{JOBS}/{job_id}")
            # 404 is no end: accounting may not have heard of a short job yet.
            assert answer.status_code in (200, 404), answer.text
            if answer.status_code == 200 and met(row := answer.json()["jobs"][0]):
                return dict(row)
            assert time.monotonic() < deadline, answer.text
            pause.wait(0.1)


@pytest.fixture(scope="module")
def cluster(issuer: Issuer) -> Iterator[Cluster]:
    with Slurm(nodes=2) as slurm:
        executor = SlurmExecutor(environ=slurm.env)
        system = System("cluster", executor, file_systems=(str(HOMES),))
        with FirecREST(issuer.jwks_url, [system], operators={OPERATOR}) as firecrest:
            clients = {
                user: httpx.Client(
                    base_url=firecrest.url,
                    headers={"Authorization": f"Bearer {issuer.token(user, 3600)}"},
                    timeout=30,
                )
                for user in (ALICE, BOB, OPERATOR)
            }
            yield Cluster(firecrest, clients)
            for client in clients.values():
                client.close()


@pytest.fixture(scope="module")
def target(cluster: Cluster) -> Target:
    target = Target(cluster.clients[ALICE], "cluster", f"{HOMES}/{ALICE}", "ssh", ALICE)
    target.job_id = submit(target)
    # Accounting learns of a job a moment after the scheduler.
    cluster.wait(ALICE, target.job_id, lambda row: row["status"]["state"] == "RUNNING")
    return target


@pytest.mark.parametrize(
    "case", [case for case in CASES if "ssh" in case.modes], ids=lambda c: c.id
)
def test_a_request_of_the_table_is_answered_with_slurm_too(case: Case, target: Target) -> None:
    check(case, target)


def complete(row: dict[str, Any]) -> bool:
    # Accounting may know of a job's end before it knows what the job asked for.
    return row["status"]["state"] == "COMPLETED" and row["partition"] != ""


def test_a_job_runs_as_its_user_with_the_environment_it_was_given(cluster: Cluster) -> None:
    script = "#SBATCH -o seen-%j\nid -un; echo $A-$X; sleep 0"
    job_id = cluster.submit(ALICE, script, env={"A": "a,X=1"})
    row = cluster.wait(ALICE, job_id, complete)
    path = {"path": f"{HOMES}/{ALICE}/seen-{job_id}"}
    answer = cluster.clients[ALICE].get("/filesystem/cluster/ops/view", params=path)
    assert answer.json()["output"] == f"{ALICE}\na-1\n"
    assert (row["user"], row["partition"], row["time"]["limit"]) == (ALICE, "normal", 3600)
    assert [task["name"] for task in row["tasks"]] == ["batch"]


def test_a_pending_job_says_why_it_waits_and_only_its_owner_or_operator_cancels_it(
    cluster: Cluster,
) -> None:
    job_id = cluster.submit(ALICE, "#SBATCH --hold\nsleep 60")
    status = cluster.job(BOB, job_id)["status"]
    assert (status["state"], status["stateReason"]) == ("PENDING", "JobHeldUser")
    denied = cluster.clients[BOB].delete(f"{JOBS}/{job_id}")
    assert denied.status_code == 500
    assert "Access/permission denied" in denied.json()["message"]
    assert cluster.clients[OPERATOR].delete(f"{JOBS}/{job_id}").status_code == 204
    cluster.wait(ALICE, job_id, lambda row: row["status"]["state"].startswith("CANCELLED by"))


def settled(row: dict[str, Any]) -> bool:
    # The queue's row of a job that is completing has an end, but no exit code.
    return row["time"]["end"] is not None and row["status"]["exitCode"] is not None


def test_an_exit_code_and_a_signal_are_told_apart(cluster: Cluster) -> None:
    jobs = [cluster.submit(ALICE, script) for script in ("exit 3", "kill -9 $$")]
    ended = [cluster.wait(ALICE, job, settled) for job in jobs]
    numbers = [(row["status"]["exitCode"], row["status"]["interruptSignal"]) for row in ended]
    assert numbers == [(3, 0), (0, 9)]


def test_nodes_have_the_addresses_that_slurm_knows(cluster: Cluster) -> None:
    rows = cluster.clients[ALICE].get("/status/cluster/nodes").json()["nodes"]
    assert [row["name"] for row in rows] == ["nid001", "nid002"]
    assert all(row["address"].startswith("127.0.0.") for row in rows)


def test_a_node_s_row_is_what_firecrest_makes_of_sinfo(cluster: Cluster) -> None:
    """Sockets in place of cores and threads, all memory as allocated, "(null)" for no features."""
    row, last = cluster.clients[ALICE].get("/status/cluster/nodes").json()["nodes"]
    assert (row["sockets"], row["cores"], row["threads"]) == (4, 4, 4)
    assert (row["allocMemory"], row["features"], len(row["state"])) == (8000, "(null)", 1)
    assert last["features"] == "fast"


@pytest.mark.parametrize(
    ("scontrol", "sinfo"),
    [
        ("IDLE", "IDLE"),
        ("DOWN*", "DOWN"),
        ("IDLE+DRAIN", "DRAIN"),
        ("IDLE*+COMPLETING", "COMPLETING"),
    ],
)
def test_of_a_node_s_states_the_telling_one_is_shown(scontrol: str, sinfo: str) -> None:
    assert node_row({"NodeName": "nid001", "State": scontrol})["state"] == [sinfo]


def test_a_waiting_array_is_listed_under_its_plain_number(cluster: Cluster) -> None:
    job_id = cluster.submit(ALICE, "#SBATCH --hold --array=0-3\ntrue")
    rows = cluster.clients[ALICE].get(f"{JOBS}/{job_id}").json()["jobs"]
    assert job_id in [row["jobId"] for row in rows]
    assert cluster.clients[ALICE].delete(f"{JOBS}/{job_id}").status_code == 204


def test_userinfo_names_the_accounts(cluster: Cluster) -> None:
    info = cluster.clients[ALICE].get("/status/cluster/userinfo").json()
    assert info["user"]["name"] == ALICE
    assert [account["name"] for account in info["accounts"] if account["default"]] == ["proj1"]


def test_a_user_without_an_account_on_the_cluster_is_told_so(
    cluster: Cluster, issuer: Issuer
) -> None:
    headers = {"Authorization": f"Bearer {issuer.token('nobody-at-all')}"}
    answer = httpx.get(f"{cluster.firecrest.url}/status/cluster/userinfo", headers=headers)
    assert answer.status_code == 500
    assert "Unable to establish SSH connection." in answer.json()["causedBy"]
