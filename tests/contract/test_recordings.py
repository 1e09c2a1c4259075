"""Does the stand-in answer as a real FirecREST over Slurm was recorded to answer?

``recordings/exact.json`` are requests that are repeated as they were; ``arranged.json`` are
answers that need a situation first. Ids, times and addresses differ; names and shapes may not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.conftest import Site

RECORDINGS = Path(__file__).parent / "recordings"
EXACT: dict[str, Any] = json.loads((RECORDINGS / "exact.json").read_text())
ARRANGED: dict[str, Any] = json.loads((RECORDINGS / "arranged.json").read_text())

#: Headers that say something; the others are the HTTP library's business.
TELLING = {
    "allow",
    "auth-token",
    "content-type",
    "f7t-appversion",
    "f7t-authusername",
    "f7t-timestamp",
    "location",
    "www-authenticate",
    "x-correlation-id",
    "x-request-id",
}


def telling_headers(answer: httpx.Response) -> list[str]:
    return sorted(TELLING & {name.lower() for name in answer.headers})


def shape(value: Any) -> Any:
    """Keys and types, however many rows there are."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def body_of(answer: httpx.Response) -> Any:
    return answer.json() if answer.content else None


@pytest.mark.parametrize("name", EXACT)
def test_a_recorded_request_gets_the_recorded_answer(name: str, shared_site: Site) -> None:
    recorded = EXACT[name]
    scheme, user = recorded["authorization"], recorded["user"].replace("-", "alice")
    site, headers = shared_site, {}
    if scheme:
        odd = site.issuer.odd_tokens().get(name)
        headers["Authorization"] = f"{scheme} {odd or site.issuer.token(user)}"
    sent = recorded["body"]
    content = sent if isinstance(sent, str) else None if sent is None else json.dumps(sent)
    answer = site.client(None).request(
        recorded["method"],
        recorded["path"],
        params=recorded["query"],
        content=content,
        headers=headers,
    )
    assert (answer.status_code, body_of(answer)) == (recorded["status"], recorded["answer"])
    assert telling_headers(answer) == recorded["headers"]
    if "auth-token" in answer.headers:
        assert answer.headers["auth-token"] == headers["Authorization"].split(" ", 1)[1]


# -- situations ------------------------------------------------------------------------------


def by_id(site: Site, job_id: str, user: str = "alice", system: str = "cluster") -> httpx.Response:
    return site.client(user).get(f"/compute/{system}/jobs/{job_id}")


def running(site: Site) -> httpx.Response:
    return by_id(site, site.submit("#SBATCH -t 5\nsleep 60"))


def held(site: Site) -> httpx.Response:
    return by_id(site, site.submit("#SBATCH --hold"))


def ended(script: str, **fields: str) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        job_id = site.submit(script, **fields)
        site.executor.wait_until(job_id, lambda job: job.end is not None)
        return by_id(site, job_id)

    return arrange


def cancelled(by: str, script: str = "sleep 60") -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        job_id = site.submit(script)
        # Known before svc, so that svc's made-up id is the recorded one.
        for user in ("alice", "bob", "svc"):
            site.executor.userinfo(user)
        assert site.client(by).delete(f"/compute/cluster/jobs/{job_id}").status_code == 204
        return by_id(site, job_id)

    return arrange


def waiting(nodes: int, second: bool) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        site.submit()
        site.submit(f"#SBATCH -N {nodes}")
        return by_id(site, "2" if not second else site.submit(f"#SBATCH -N {nodes}"))

    return arrange


def metadata(user: str, script: str = "sleep 60") -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        job_id = site.submit(script)
        return site.client(user).get(f"/compute/cluster/jobs/{job_id}/metadata")

    return arrange


def get(path: str, user: str = "alice", /, **query: object) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        home = site.executor.home_of("alice")
        (home / "out-3.log").write_text("hello\n")
        (home / "sub").mkdir()
        return site.client(user).get(path, params={k: str(v) for k, v in query.items()})

    return arrange


def file(operation: str, user: str = "alice", **query: object) -> Callable[[Site], httpx.Response]:
    path = str(query.pop("path", "/home/alice/out-3.log"))
    return get(f"/filesystem/cluster/ops/{operation}", user, path=path, **query)


def mkdir(times: int) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        body = {"sourcePath": "/home/alice/.jhub", "parent": False}
        path = "/filesystem/cluster/ops/mkdir"
        return [site.client("alice").post(path, json=body) for _ in range(times)][-1]

    return arrange


def upload(site: Site) -> httpx.Response:
    path = "/filesystem/cluster/ops/upload?path=/home/alice"
    answer = site.client("alice").post(path, files={"file": ("up.txt", b"secret=1\n")})
    assert (site.executor.home_of("alice") / "up.txt").read_bytes() == b"secret=1\n"
    return answer


def cancel(user: str, times: int = 1) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        path = f"/compute/cluster/jobs/{site.submit()}"
        return [site.client(user).delete(path) for _ in range(times)][-1]

    return arrange


def quota(site: Site) -> httpx.Response:
    site.executor.max_submit = 1
    site.submit("#SBATCH --hold", "bob")
    body = ARRANGED["submit_quota_exceeded"]["body"]
    return site.client("bob").post("/compute/cluster/jobs", json=body)


def unhealthy(service: str, name: str) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        site.system.unhealthy.add(service)
        recorded = ARRANGED[name]
        method, path, query = (recorded[key] for key in ("method", "path", "query"))
        body = recorded["body"]
        return site.client("alice").request(method, path, params=query, json=body)

    return arrange


def piped(site: Site) -> httpx.Response:
    return by_id(site, site.submit("#SBATCH -J 'j|pipe'\nsleep 60"))


def polluted(site: Site) -> httpx.Response:
    site.firecrest.faults.forge("alice", lambda operation, body: {"jobId": "42"})
    body = ARRANGED["submit_with_polluted_bashrc"]["body"]
    return site.client("alice").post("/compute/cluster/jobs", json=body)


def forged(site: Site) -> httpx.Response:
    fake = ARRANGED["job_info_with_user_controlled_shell"]["answer"]
    site.firecrest.faults.forge("alice", lambda operation, body: fake)
    return by_id(site, site.executor.plant("alice", "n").id)


def rest(ending: str) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        script = "exit 3" if ending == "fail" else "sleep 60"
        job_id = site.submit(script, system="c24-rest")
        path = f"/compute/c24-rest/jobs/{job_id}"
        if ending == "fail":
            site.rest_executor.wait_until(job_id, lambda job: job.end is not None)
        if ending == "other":
            return site.client("bob").delete(path)
        if ending == "svc":
            site.client("svc").delete(path)
        suffix = "/metadata" if ending == "metadata" else ""
        return site.client("alice").get(path + suffix)

    return arrange


def private(method: str, user: str, suffix: str = "") -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        site.system.private_data = True
        job_id = site.submit()
        path = "/compute/cluster/jobs" + ("" if suffix == "?" else f"/{job_id}{suffix}")
        return site.client(user).request(method, path, params={"allusers": "true"})

    return arrange


def resubmit(name: str) -> Callable[[Site], httpx.Response]:
    def arrange(site: Site) -> httpx.Response:
        recorded = ARRANGED[name]
        return site.client("alice").post(recorded["path"], json=recorded["body"])

    return arrange


def anonymous_liveness(site: Site) -> httpx.Response:
    # The recorded server had one system.
    del site.firecrest.systems["c24-rest"]
    return site.client(None).get("/status/liveness/")


SITUATIONS: dict[str, Callable[[Site], httpx.Response]] = {
    "submit_ok": resubmit("submit_ok"),
    "job_running_by_id_owner": running,
    "job_pending_held": held,
    "job_cancelled_running": cancelled("alice"),
    "job_cancelled_pending": cancelled("alice", "#SBATCH --hold"),
    "job_cancelled_by_svc": cancelled("svc"),
    "job_completed": ended("true"),
    "job_failed": ended("exit 3"),
    "job_failed_signal": ended("kill -9 $$"),
    "job_timeout": ended("#SBATCH -t 0:01\nsleep 60"),
    "job_workdir_missing": ended("true", workingDirectory="/home/alice/nosuchdir"),
    "job_pending_resources": waiting(4, second=False),
    "job_pending_priority": waiting(4, second=True),
    "job_too_many_nodes": lambda site: by_id(site, site.submit("#SBATCH -N99")),
    "job_multinode_running": lambda site: by_id(site, site.submit("#SBATCH -N3\nsleep 60")),
    "job_metadata_running_owner": metadata("alice"),
    "job_metadata_running_other_user": metadata("bob"),
    "job_metadata_pending": metadata("alice", "#SBATCH --hold"),
    "systems_healthy": get("/status/systems"),
    "nodes_idle": get("/status/cluster/nodes"),
    "partitions": get("/status/cluster/partitions"),
    "userinfo_alice": get("/status/cluster/userinfo"),
    "liveness": anonymous_liveness,
    "tail_output": file("tail", lines=5),
    "tail_bytes": file("tail", bytes=20),
    "head_output": file("head", lines=1),
    "view_output": file("view"),
    "view_other_user_denied": file("view", "bob", path="/home/alice/.jhub/up.txt"),
    "ls": file("ls", path="/home/alice"),
    "stat": file("stat"),
    "mkdir": mkdir(1),
    "mkdir_exists": mkdir(2),
    "upload_small": upload,
    "cancel_owner_running": cancel("alice"),
    "cancel_already_finished": cancel("alice", times=2),
    "cancel_by_other_user": cancel("bob"),
    "submit_quota_exceeded": quota,
    "slurmctld_down_submit": unhealthy("scheduler", "slurmctld_down_submit"),
    "sshd_down_unhealthy_tail": unhealthy("ssh", "sshd_down_unhealthy_tail"),
    "job_name_with_pipe": piped,
    "submit_with_polluted_bashrc": polluted,
    "job_info_with_user_controlled_shell": forged,
    "c24rest_submit": resubmit("c24rest_submit"),
    "c24rest_job_running": rest("running"),
    "c24rest_job_failed": rest("fail"),
    "c24rest_job_cancelled_by_svc": rest("svc"),
    "c24rest_cancel_other": rest("other"),
    "c24rest_err_cancel_unknown": lambda s: s.client("alice").delete("/compute/c24-rest/jobs/9999"),
    "c24rest_metadata_running": rest("metadata"),
    "c24rest_nodes": get("/status/c24-rest/nodes"),
    "c24rest_partitions": get("/status/c24-rest/partitions"),
    "privatedata_other_user": private("GET", "bob"),
    "privatedata_other_user_metadata": private("GET", "bob", "/metadata"),
    "privatedata_list_allusers_other": private("GET", "bob", "?"),
    "privatedata_svc": private("GET", "svc"),
    "privatedata_cancel_other": private("DELETE", "bob"),
}

#: Numbers and texts in which a recording and a fresh answer must differ.
_OWN = re.compile(r"(?<=Terminating job )\d+|(?<=job id )\d+")

#: What the recorded cluster measures or says of itself, and the stand-in does not.
_UNMEASURED = {("c24rest_nodes", "freeMemory"), ("c24rest_nodes", "idleCpus")}


def test_every_recording_is_used() -> None:
    assert set(SITUATIONS) == set(ARRANGED)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_recorded_situation_gets_an_answer_of_the_recorded_shape(name: str, site: Site) -> None:
    recorded = ARRANGED[name]
    answer = SITUATIONS[name](site)
    body, expected = body_of(answer), recorded["answer"]
    assert answer.status_code == recorded["status"]
    assert telling_headers(answer) == recorded["headers"]
    if answer.status_code >= 400:
        assert _OWN.sub("", json.dumps(body)) == _OWN.sub("", json.dumps(expected))
        return
    if name == "systems_healthy":
        for health in (*expected["systems"][0]["servicesHealth"],):
            # Slurm's own text about its controllers, or nothing.
            health["message"] = None
    for row in expected.get("nodes", []) if expected else []:
        row.update({key: 0 for where, key in _UNMEASURED if where == name})
    assert shape(body) == shape(expected)
    if expected and "jobs" in expected and "status" in (expected["jobs"] or [{}])[0]:
        ours, theirs = body["jobs"][0], expected["jobs"][0]
        assert ours["status"] == theirs["status"]
        assert [task["status"] for task in ours["tasks"]] == [
            task["status"] for task in theirs["tasks"][:1]
        ]
        for key in ("account", "allocationNodes", "cluster", "user", "group", "partition"):
            assert ours[key] == theirs[key]
