"""What does the end of the session at Keycloak mean for a user's pages, servers and kernels?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from firecrestspawner.demo.visitor import VisitError
from tests.journeys.site import eventually
from tests.keycloak.site import KeycloakSite, Member, unverified

BANNER = 'id="firecrest-session"'
#: Each page that comes a second after the last one asks whether the login is still good.
SSO = """
c.FirecRESTAuthenticator.session_policy = "sso"
c.Authenticator.auth_refresh_age = 1
"""


@pytest.fixture
def kernel(alice: Member) -> Iterator[str]:
    """A kernel of alice's server, which knows an answer; the server is stopped in the end."""
    alice.start()
    kernel = alice.start_kernel()
    assert alice.run(kernel, "answer = 42; answer") == "42"
    yield kernel
    alice.stop()


def _home(member: Member) -> str:
    """The home page's text; the login page's when the Hub asks for a login."""
    return member.look_at(member.hub("home")).text


def _wait_for_keycloaks_word(site: KeycloakSite) -> None:
    """Wait until the Hub has stored the end of alice's login; no page of its makes it look."""
    eventually(lambda: site.auth_state("alice").get("login_ended"), what="Keycloak's word")


def _is_asked_to_log_in(member: Member) -> bool:
    return "/hub/login" in str(member.look_at(member.hub("home")).url)


def test_by_default_the_hub_says_so_and_everything_goes_on(
    site: KeycloakSite, alice: Member, kernel: str
):
    """R5: policy "hub". Keycloak's administrator ends the session, and Keycloak tells the Hub
    (back-channel logout); server and kernel go on, and logging in again returns to the page."""
    (job,) = site.unfinished("alice")
    assert BANNER not in _home(alice)
    assert site.keycloak.realm.end_sessions("alice")
    _wait_for_keycloaks_word(site)
    assert BANNER in _home(alice)
    assert alice.session()["valid"] is False
    assert alice.run(kernel, "answer + 1") == "43"
    assert alice.servers()[""]["ready"]
    alice.log_in_again("token")
    assert BANNER not in _home(alice)
    assert alice.session(check=True)["valid"] is True
    assert alice.run(kernel, "answer + 2") == "44"
    assert [each.id for each in site.unfinished("alice")] == [job.id]


def test_without_keycloaks_word_the_hub_learns_it_when_it_asks(site: KeycloakSite, alice: Member):
    """R5: Keycloak cannot reach every Hub. Until the next refresh nothing is different."""
    with site.keycloak.realm.attributes("jupyterhub", backchannel__logout__url=""):
        assert site.keycloak.realm.end_sessions("alice")
    assert alice.session()["valid"] is True
    assert alice.session(check=True)["valid"] is False
    assert BANNER in _home(alice)
    with pytest.raises(VisitError):
        alice.ask_for_server()
    alice.log_in_again()
    assert BANNER not in _home(alice)


@pytest.mark.parametrize("settings", [SSO], ids=["sso"])
@pytest.mark.parametrize("told", [True, False], ids=["told by Keycloak", "found by itself"])
def test_with_policy_sso_a_login_is_asked_for_and_the_server_goes_on(
    site: KeycloakSite, alice: Member, kernel: str, told: bool
):
    """R5: the session at the Hub ends with Keycloak's; servers and their kernels do not."""
    (job,) = site.unfinished("alice")
    attributes = {} if told else {"backchannel__logout__url": ""}
    with site.keycloak.realm.attributes("jupyterhub", **attributes):
        assert site.keycloak.realm.end_sessions("alice")
    eventually(lambda: _is_asked_to_log_in(alice), what="the Hub asks for a login")
    assert [each.id for each in site.unfinished("alice")] == [job.id]
    alice.log_in()
    # The browser's session at the server, too, has to be made anew.
    alice.open_lab()
    assert alice.run(kernel, "answer + 1") == "43"


def test_logging_out_of_the_hub_ends_the_session_at_keycloak(site: KeycloakSite, alice: Member):
    """RP-initiated logout: nobody is asked anything, and the next login wants the password."""
    before = unverified(site.auth_state("alice")["access_token"])["sid"]
    refresh_token = site.auth_state("alice")["refresh_token"]
    page = alice.open(alice.hub("logout"))
    assert page.address == f"{site.url}/hub/login"
    assert before not in [each["id"] for each in site.keycloak.realm.sessions("alice")]
    assert site.spend(refresh_token) == 400
    assert site.query("SELECT encrypted_auth_state FROM users WHERE name = 'alice'") == [(None,)]
    assert _is_asked_to_log_in(alice)
    # Through Keycloak's form: log_in() looks for a field for the password.
    alice.log_in()


def test_a_logout_ends_the_session_at_keycloak_that_a_lost_answer_left(
    site: KeycloakSite, alice: Member
):
    """The Hub's refresh token is spent; the browser's session would log in whoever comes next."""
    # After whatever the login has begun in the background: this one is not being refreshed.
    assert alice.session(check=True)["valid"] is True
    left = unverified(site.auth_state("alice")["access_token"])["sid"]
    assert site.spend(site.auth_state("alice")["refresh_token"]) == 200
    assert alice.session(check=True)["valid"] is False
    assert left in [each["id"] for each in site.keycloak.realm.sessions("alice")]
    page = alice.open(alice.hub("logout"))
    assert page.address == f"{site.url}/hub/login"
    assert left not in [each["id"] for each in site.keycloak.realm.sessions("alice")]


def test_a_logout_when_keycloaks_session_is_over_comes_back(site: KeycloakSite, alice: Member):
    """Whoever ended it: there is nothing to end, and nothing to be asked."""
    assert site.keycloak.realm.end_sessions("alice")
    _wait_for_keycloaks_word(site)
    page = alice.open(alice.hub("logout"))
    assert page.address == f"{site.url}/hub/login"
    assert site.query("SELECT encrypted_auth_state FROM users WHERE name = 'alice'") == [(None,)]


def test_a_logout_elsewhere_ends_it_for_the_hub(site: KeycloakSite, alice: Member):
    """Back-channel logout again, after a restart: the Hub has to look up whose session it was."""
    site.restart_hub()
    page = alice.open(f"{site.issuer_url}/protocol/openid-connect/logout")
    (form,) = page.forms
    alice.submit(form)
    _wait_for_keycloaks_word(site)
    assert BANNER in _home(alice)
    alice.log_in_again()
