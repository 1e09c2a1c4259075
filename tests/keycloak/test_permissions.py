"""Who may use the Hub, when Keycloak gives roles and takes them away?"""

from __future__ import annotations

import time
from collections.abc import Callable
from html import unescape

import pytest

from firecrestspawner.demo.visitor import VisitError
from tests.journeys.site import eventually
from tests.keycloak.site import KeycloakSite, Member, unverified

REQUIRED = 'c.FirecRESTAuthenticator.required_permissions = ["hpc-user"]\n'
EXCHANGED = 'c.FirecRESTSpawner.notebook_token_audience = "firecrest"\n'
GROUPS = """
c.FirecRESTAuthenticator.manage_groups = True
c.FirecRESTAuthenticator.auth_state_groups_key = "oauth_user.groups"
c.FirecRESTAuthenticator.userinfo_age = 0
"""


@pytest.mark.parametrize("settings", [REQUIRED], ids=["a role is required"])
def test_a_role_that_is_taken_away_ends_access_at_the_next_refresh(
    site: KeycloakSite, person: Callable[[str], Member]
):
    """``allow_all`` does not help. The 403 page names the role; with the role all is as before."""
    bob = person("bob")
    with site.keycloak.realm.without_role("bob", "hpc-user"):
        refused = bob.look_at(bob.hub("api/firecrest/session?check=1"))
        assert refused.status_code == 403
        eventually(lambda: "/hub/login" in str(bob.look_at(bob.hub("home")).url), what="logged out")
        login = bob.open(bob.hub("login")).link_to("/hub/oauth_login")
        answer = bob.look_at(login)
        assert answer.status_code == 403
        assert "hpc-user" in unescape(answer.text)
        with pytest.raises(VisitError, match="403"):
            bob.model()
    bob.open(login)
    assert bob.model()["name"] == "bob"


@pytest.mark.parametrize("settings", [GROUPS], ids=["groups are managed"])
def test_groups_are_keycloaks_also_after_a_refresh(
    site: KeycloakSite, person: Callable[[str], Member]
):
    bob = person("bob")
    assert bob.model()["groups"] == ["engineers"]
    with site.keycloak.realm.member("bob", "operators"):
        bob.session(check=True)
        assert sorted(bob.model()["groups"]) == ["engineers", "operators"]
    bob.session(check=True)
    assert bob.model()["groups"] == ["engineers"]


@pytest.mark.parametrize("settings", [GROUPS], ids=["groups are managed"])
def test_signed_userinfo_is_read(site: KeycloakSite, person: Callable[[str], Member]):
    """Keycloak's client setting *User Info Signed Response Algorithm*: ``application/jwt``."""
    algorithm = {"user__info__response__signature__alg": "RS256"}
    with site.keycloak.realm.attributes("jupyterhub", **algorithm):
        bob = person("bob")
        assert site.auth_state("bob")["oauth_user"]["groups"] == ["engineers"]
        with site.keycloak.realm.member("bob", "operators"):
            bob.session(check=True)
            assert sorted(bob.model()["groups"]) == ["engineers", "operators"]
    bob.session(check=True)
    assert bob.model()["groups"] == ["engineers"]


@pytest.mark.parametrize("settings", [EXCHANGED], ids=["tokens are exchanged"])
def test_a_notebook_gets_a_token_for_the_configured_audience(site: KeycloakSite, alice: Member):
    """Keycloak's standard token exchange (RFC 8693): the audience, and nothing but it."""
    with site.keycloak.realm.audience("jupyterhub", "jupyterhub-service"):
        alice.log_in_again()
        alice.start()
        whole = unverified(site.auth_state("alice")["access_token"])
        assert set(whole["aud"]) == {"firecrest", "jupyterhub-service"}
        body = site.notebook_token("alice")
        claims = unverified(body["access_token"])
        assert claims["aud"] == "firecrest"
        assert (claims["preferred_username"], claims["iss"]) == ("alice", site.keycloak.issuer)
        assert body["expires_at"] > time.time()
        alice.stop()
