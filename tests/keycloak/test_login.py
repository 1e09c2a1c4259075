"""Does a day with the Hub go well when a real Keycloak says who is who?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.journeys.site import eventually
from tests.keycloak.site import LIFETIME, REALM, KeycloakSite, Member, unverified


def test_alice_logs_in_starts_a_server_works_and_stops_it(site: KeycloakSite, alice: Member):
    """Her tokens are Keycloak's, and FirecREST takes them; nothing is left of her server."""
    stored = site.auth_state("alice")
    claims = unverified(stored["access_token"])
    assert claims["iss"] == site.keycloak.issuer
    assert 0 < stored["expires_at"] - time.time() <= LIFETIME
    assert {"sub", "preferred_username", "groups"} <= set(stored["oauth_user"])
    alice.start()
    kernel = alice.start_kernel()
    assert alice.run(kernel, "6 * 7") == "42"
    (job,) = site.unfinished("alice")
    alice.stop()
    eventually(lambda: not site.remains(), what=f"gone are {site.remains()}")
    assert site.jobs("alice")[-1].id == job.id


@pytest.mark.parametrize(("name", "admin"), [("bob", False), ("admin", True)])
def test_everybody_is_who_keycloak_says(
    site: KeycloakSite, person: Callable[[str], Member], name: str, admin: bool
):
    model = person(name).model()
    assert (model["name"], model["admin"]) == (name, admin)


def test_the_realm_as_it_ships_lets_nobody_in(site: KeycloakSite):
    """Of what this Keycloak's users and clients log in with, nothing stands in the shipped file."""
    shipped = json.loads(REALM.read_text())
    assert [user for user in shipped["users"] if "credentials" in user] == []
    assert [client for client in shipped["clients"] if "secret" in client] == []
    # What has no secret is given one by Keycloak, not none.
    assert len(site.keycloak.realm.client("firecrest")["secret"]) > 30
    users = site.keycloak.realm.users()
    assert all(users[name]["credentials"] for name in ("alice", "bob", "admin"))


def test_the_hubs_address_is_filled_in(site: KeycloakSite):
    """``HUB_PUBLIC_URL`` of Keycloak's environment; no other address is allowed to log in."""
    client = site.keycloak.realm.client("jupyterhub")
    assert client["redirectUris"] == [f"{site.url}/hub/oauth_callback"]
    assert client["attributes"]["post.logout.redirect.uris"] == f"{site.url}/*"
    backchannel = client["attributes"]["backchannel.logout.url"]
    assert backchannel == f"{site.url}/hub/firecrest/backchannel-logout"
