"""On whose requests does the Hub look at a login again, and what follows from what it finds?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.journeys.logins import cookie_id, is_logged_in, logged_in, personal_token, program
from tests.journeys.site import Site, eventually

#: Each request that comes a second after the last one makes the Hub look again, and each look needs
#: the issuer.
ALWAYS = "c.Authenticator.auth_refresh_age = 1\n"
SHORT = 60.0
SSO = "c.FirecRESTAuthenticator.session_policy = 'sso'\n"
CULLER_TOKEN = "the-culler-s-own-token"
CULLER = f"""
c.FirecRESTSpawner.stop_patience = 2
c.JupyterHub.services = [{{"name": "culler", "api_token": {CULLER_TOKEN!r}}}]
c.JupyterHub.load_roles = [{{
    "name": "culler",
    "services": ["culler"],
    "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
}}]
"""


@pytest.mark.parametrize("strict", [True, False])
def test_no_program_is_refused_because_a_session_has_ended(
    make_site: Callable[..., Site], strict: bool
):
    """R5, R7: under policy sso the server's own token, a personal one, and the idle culler do what
    they may, before and after the session at the Hub has ended."""
    config = f"{ALWAYS}{SSO}{CULLER}c.Authenticator.auth_refresh_strict = {strict}\n"
    site = make_site(access_token_lifetime=SHORT, extra_config=config)
    with logged_in(site) as alice:
        alice.start()
        server, personal = site.api_token("alice"), personal_token(alice)
        before = cookie_id(site, "alice")

        def ask_all() -> None:
            for token in (server, personal):
                assert program(alice, token, "GET", "api/user").status_code == 200
            activity: dict[str, Any] = {"servers": {"": {"last_activity": "2026-01-01T00:00:00Z"}}}
            answer = program(alice, server, "POST", "api/users/alice/activity", json=activity)
            assert answer.status_code == 200
            assert program(alice, CULLER_TOKEN, "GET", "api/users").status_code == 200

        ask_all()
        assert cookie_id(site, "alice") == before
        site.issuer.end_session("alice")

        def ended() -> bool:
            ask_all()
            return cookie_id(site, "alice") != before

        eventually(ended, what="the session at the Hub has ended")
        ask_all()
        assert not is_logged_in(alice)
        assert [job.state for job in site.unfinished("alice")] == ["RUNNING"]
        answer = program(alice, CULLER_TOKEN, "DELETE", "api/users/alice/server")
        assert answer.status_code in (202, 204)
    eventually(lambda: not site.unfinished(), 30, "the server has ended")
    eventually(lambda: not site.remains(), what="nothing remains")


def test_what_an_admin_does_for_a_user_depends_on_no_login_of_theirs(
    make_site: Callable[..., Site],
):
    """R5, R7: alice's session has ended. The admin stops her server, reads why it cannot be
    started, and is not logged out; nor is alice of the session at the Hub, by policy hub."""
    config = f"{ALWAYS}c.FirecRESTSpawner.stop_patience = 2\nc.JupyterHub.load_roles = [{ADMIN}]\n"
    site = make_site(access_token_lifetime=SHORT, extra_config=config)
    with logged_in(site) as alice, logged_in(site, "admin") as admin:
        alice.start()
        site.issuer.end_session("alice")
        assert admin.api("DELETE", admin.hub("api/users/alice/server")).status_code in (202, 204)
        alice.wait_until_gone()
        path = admin.hub("api/users/alice/server")
        headers = admin._xsrf_header(path)
        answer = admin._http.post(f"{admin.url}{path}", json={}, headers=headers)
        assert answer.status_code == 403
        assert "Log in again" in answer.json()["message"]
        assert is_logged_in(admin)
        assert is_logged_in(alice)
    eventually(lambda: not site.unfinished(), 30, "the server has ended")


ADMIN = '{"name": "operator", "users": ["admin"], "scopes": ["admin:servers"]}'


def test_with_policy_sso_lab_in_the_browser_asks_for_a_login_too(make_site: Callable[..., Site]):
    """R5: at once where the Hub has told this browser; the server and its kernel go on."""
    site = make_site(access_token_lifetime=SHORT, extra_config=ALWAYS + SSO)
    with logged_in(site) as alice:
        alice.start()
        alice.open_lab()
        kernel = alice.start_kernel()
        alice.run(kernel, "x = 41")
        site.issuer.end_session("alice")
        eventually(lambda: not is_logged_in(alice), what="a login is asked for")
        assert "/hub/login" in str(alice.look_at(alice.lab("lab")).url)
        assert "Traceback" not in site.hub_log.read_text()
        alice.log_in()
        alice.open_lab()
        assert alice.run(kernel, "x + 1") == "42"
        alice.stop()


def test_a_hub_that_is_never_to_look_learns_of_an_end_all_the_same(make_site: Callable[..., Site]):
    """R5: with ``auth_refresh_age = 0`` pages go on until the issuer says so; a start asks for its
    own token. The Hub says at its start what this means for policy sso."""
    config = f"{SSO}c.Authenticator.auth_refresh_age = 0\n"
    site = make_site(access_token_lifetime=SHORT, extra_config=config)
    assert "but auth_refresh_age is 0" in site.hub_log.read_text()
    with logged_in(site) as alice:
        logout = site.issuer.logout_token("alice")
        site.issuer.end_session("alice")
        assert is_logged_in(alice)
        path = alice.hub("api/users/alice/server")
        headers = alice._xsrf_header(path)
        answer = alice._http.post(f"{alice.url}{path}", json={}, headers=headers)
        assert answer.status_code == 403
        assert "Log in again" in answer.json()["message"]
        assert site.jobs() == []
        assert is_logged_in(alice)
        form = {"logout_token": logout}
        assert alice._http.post(
            f"{alice.url}{alice.hub('firecrest/backchannel-logout')}", data=form
        ).status_code == 200  # fmt: skip
        assert not is_logged_in(alice)


def test_groups_and_admin_follow_the_claims(make_site: Callable[..., Site]):
    """R4: by oauthenticator's own settings, at the next refresh, in both directions."""
    site = make_site(
        access_token_lifetime=SHORT,
        extra_config=f"{ALWAYS}c.FirecRESTAuthenticator.manage_groups = True\n"
        "c.FirecRESTAuthenticator.admin_groups = {'operators'}\n"
        "c.FirecRESTAuthenticator.userinfo_age = 0\n",
    )
    with logged_in(site) as alice:

        def is_now(groups: list[str], admin: bool) -> bool:
            model = alice.model()
            return (sorted(model["groups"]), model["admin"]) == (groups, admin)

        assert is_now(["researchers"], False)
        assert alice.look_at(alice.hub("admin")).status_code == 403
        site.issuer.update_user("alice", groups=("engineers", "operators"))
        eventually(partial(is_now, ["engineers", "operators"], True), what="groups have changed")
        assert alice.look_at(alice.hub("admin")).status_code == 200
        # While the issuer's userinfo is away, what is known is kept.
        site.issuer.faults.set("userinfo", status=503)
        site.issuer.update_user("alice", groups=())

        def kept() -> bool:
            assert is_now(["engineers", "operators"], True)
            return "What is known of alice is kept" in site.hub_log.read_text()

        eventually(kept, what="a refresh without userinfo")
        assert is_now(["engineers", "operators"], True)
        site.issuer.faults.clear()
        eventually(partial(is_now, [], False), what="groups have changed back")
        assert alice.look_at(alice.hub("admin")).status_code == 403


def test_a_hook_of_the_site_that_fails_logs_nobody_out(make_site: Callable[..., Site]):
    """R5, S1: what it raises is named by its kind; its 403 is a refusal."""
    hook = """
import pathlib
from tornado.web import HTTPError

def hook(authenticator, auth_state):
    mood = pathlib.Path("mood")
    if mood.exists():
        raise {"403": HTTPError(403), "ill": RuntimeError("the hook is ill")}[mood.read_text()]
    return auth_state

c.FirecRESTAuthenticator.modify_auth_state_hook = hook
c.FirecRESTAuthenticator.manage_groups = True
c.FirecRESTAuthenticator.permission_contact = "the wizards"
"""
    site = make_site(access_token_lifetime=SHORT, extra_config=ALWAYS + hook)
    mood = site.directory / "mood"
    with logged_in(site) as alice:
        mood.write_text("ill")
        kept = "What is known of alice is kept: RuntimeError"

        def looked() -> bool:
            assert is_logged_in(alice)
            return kept in site.hub_log.read_text()

        eventually(looked, what="the hook has failed")
        mood.write_text("403")
        eventually(lambda: not is_logged_in(alice), what="the hook refuses")
