"""Does a program's server start and stop as the service account, and nobody else's? (S5)"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "service_account.py"
TOKEN = secrets.token_hex(16)
CONFIG = f"""
c.ServiceAccount.role = "service-account"
c.JupyterHub.services = [{{"name": "nightly", "api_token": "{TOKEN}"}}]
c.JupyterHub.load_roles = [
    {{"name": "service-account", "users": ["robot"]}},
    {{
        "name": "nightly",
        "scopes": ["servers!user=robot", "access:servers!user=robot", "servers!user=alice"],
        "services": ["nightly"],
    }},
]
"""
ACCOUNT = "service-account-jupyterhub-service"


@pytest.fixture
def hub(make_site: Callable[..., Site]) -> Site:
    return make_site(extra_config=CONFIG)


def run_script(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={**os.environ, "JUPYTERHUB_URL": site.url, "JUPYTERHUB_API_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_script_starts_uses_and_stops_a_server_nobody_has_logged_in_for(hub: Site):
    """S5, R7: the job is the service account's, from its submit to its cancel."""
    # Only what ran in the server can know that.
    code = "import os; print(os.environ['JUPYTERHUB_USER'], os.environ['SLURM_JOB_USER'])"
    done = run_script(hub, "robot", "runtime=00:10:00", "--code", code)
    assert (done.returncode, done.stdout) == (0, f"robot {ACCOUNT}\n"), done.stderr
    assert "100 %" in done.stderr
    (job,) = hub.jobs()
    assert (job.user, job.cancelled_by, job.state.split()[0]) == (ACCOUNT, ACCOUNT, "CANCELLED")
    submit = next(r for r in hub.firecrest.requests if r.operation == "submit")
    assert submit.username == ACCOUNT
    eventually(lambda: not hub.remains(), what=f"nothing remains: {hub.remains()}")


def test_nobody_else_is_started_as_the_service_account(hub: Site):
    """S5: alice's server is hers, also when a program starts it; when her session is over nothing
    is submitted for her at all."""
    start = f"{hub.url}/hub/api/users/alice/server"
    headers = {"Authorization": f"token {TOKEN}"}
    # Less than the spawner wants: every use of her token needs her session at the issuer.
    hub.issuer.lifetimes.access_token = 45
    with (
        Person(hub, "alice") as alice,
        httpx.Client(trust_env=False, headers=headers, timeout=30) as program,
    ):
        alice.log_in()
        assert program.post(start, json={}).status_code in (201, 202)
        alice.wait_until_ready()
        assert program.delete(start).status_code in (202, 204)
        alice.wait_until_gone()
        hub.issuer.end_session("alice")
        assert program.post(start, json={}).status_code == 403
        assert not alice.servers()
    assert [(job.user, job.cancelled_by) for job in hub.jobs()] == [("alice", "alice")]
    submits = [r.username for r in hub.firecrest.requests if r.operation == "submit"]
    assert submits == ["alice"]


def test_a_server_of_a_program_gets_no_token_of_the_service_accounts(hub: Site):
    """S5: a notebook is given its user's token or none."""
    code = (
        "from firecrestspawner.notebook import HubTokenAuth, LoginRequired\n"
        "try:\n    HubTokenAuth().get_access_token()\n"
        "except LoginRequired:\n    print('none')\n"
    )
    done = run_script(hub, "robot", "--code", code)
    assert (done.returncode, done.stdout) == (0, "none\n"), done.stderr
