"""Does the Hub start when it should, and refuse with a reason when it cannot work?"""

from __future__ import annotations

import os
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from tests.journeys.person import Person
from tests.journeys.site import Site

CONFIG = """
from firecrestspawner import configure
configure(c)
c.JupyterHub.bind_url = "http://127.0.0.1:1"
c.Authenticator.allow_all = True
c.FirecRESTAuthenticator.issuer = "http://127.0.0.1:1/realms/demo"
c.FirecRESTAuthenticator.client_id = "jupyterhub"
"""


def test_without_its_issuer_the_hub_starts_and_says_so(site: Site):
    """R5: the login page answers 503 with a sentence; once the issuer is back, logging in works."""
    site.issuer.stop()
    try:
        site.restart_hub()
        with Person(site, "alice") as alice:
            login = alice.open(alice.hub("login")).link_to("/hub/oauth_login")
            answer = alice.look_at(login)
            assert answer.status_code == 503
            assert "The login service cannot be reached right now" in unescape(answer.text)
            site.issuer.start()
            alice.log_in()
    finally:
        site.issuer.start()


@pytest.mark.parametrize(
    ("wrong", "environ", "names"),
    [
        ("", {}, ("JUPYTERHUB_CRYPT_KEY",)),
        ("c.Authenticator.enable_auth_state = False", {"JUPYTERHUB_CRYPT_KEY": "00" * 32},
         ("c.Authenticator.enable_auth_state = True",)),
        ("c.FirecRESTAuthenticator.issuer = ''", {"JUPYTERHUB_CRYPT_KEY": "00" * 32},
         ("c.FirecRESTAuthenticator.issuer",)),
        ("", {"JUPYTERHUB_CRYPT_KEY": "00" * 32}, ("c.ServiceAccount.client_id", "SA_CLIENT_ID")),
    ],
    ids=["no key", "no auth_state", "no issuer", "no service account"],
)  # fmt: skip
def test_a_hub_that_cannot_work_does_not_start(
    tmp_path: Path, wrong: str, environ: dict[str, str], names: tuple[str, ...]
):
    """Its exit code says so, and one sentence of its log names what to set."""
    config = tmp_path / "jupyterhub_config.py"
    config.write_text(f"{CONFIG}\n{wrong}\n")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "jupyterhub", "-f", str(config)],
        cwd=tmp_path,
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    log = done.stdout + done.stderr
    lines = [line for line in log.splitlines() if all(name in line for name in names)]
    assert len(lines) == 1, log
    assert "Traceback" not in log
