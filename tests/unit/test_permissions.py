"""Are the permissions in a token found where they are, and nowhere else?"""

from __future__ import annotations

from typing import Any

import pytest

from firecrestspawner.errors import PermissionDenied
from firecrestspawner.permissions import CLAIMS, check, held

CLAIM_SET: dict[str, Any] = {
    "scope": "openid profile",
    "realm_access": {"roles": ["hpc-user", 7, None]},
    "resource_access": {"hub": {"roles": ["jupyter"]}, "other": {"roles": ["root"]}},
    "https://hpc.example.org/roles": ["dotted"],
    "preferred_username": "admin",
}


def test_realm_roles_the_hubs_client_roles_and_scopes_are_permissions():
    assert held(CLAIM_SET, CLAIMS, "hub") == {"openid", "profile", "hpc-user", "jupyter"}


def test_a_path_may_name_a_claim_with_dots_of_its_own():
    assert held(CLAIM_SET, ["https://hpc.example.org/roles"], "hub") == {"dotted"}
    dotted = {"resource_access": {"hub.example.org": {"roles": ["jupyter"]}}}
    assert held(dotted, CLAIMS, "hub.example.org") == {"jupyter"}


@pytest.mark.parametrize(
    "claims",
    [{}, {"scope": 7}, {"realm_access": "roles"}, {"realm_access": {"roles": {"hpc-user": True}}}],
)
def test_what_is_no_list_and_no_text_grants_nothing(claims: dict[str, Any]):
    assert held(claims, CLAIMS, "hub") == set()


def test_all_that_is_required_has_to_be_there():
    check(["a", "b"], {"a", "b", "c"}, "the help desk")
    with pytest.raises(PermissionDenied) as caught:
        check(["a", "b", "c"], {"b"}, "the help desk")
    assert "required here: a, c. Please ask the help desk" in caught.value.message
