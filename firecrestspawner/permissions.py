"""Does an access token hold the permissions that the Hub requires? Claims in, what lacks out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import PermissionDenied

#: Where Keycloak puts realm roles, the roles of a client, and every issuer scopes (RFC 9068,
#: section 2.2.3). ``{client_id}`` stands for the Hub's own client.
CLAIMS = ("realm_access.roles", "resource_access.{client_id}.roles", "scope")


def held(claims: Mapping[str, Any], paths: Iterable[str], client_id: str) -> set[str]:
    """The permissions that the claims at the dotted ``paths`` grant.

    A list grants its texts, a text its words (RFC 6749 section 3.3); anything else grants nothing.
    """
    found: set[str] = set()
    for path in paths:
        for value in _values(claims, path.replace("{client_id}", client_id)):
            if isinstance(value, str):
                found.update(value.split())
            elif isinstance(value, list):
                found.update(each for each in value if isinstance(each, str))
    return found


def check(required: Iterable[str], granted: set[str], contact: str) -> None:
    """Raise PermissionDenied, naming what is missing and whom to ask, unless all are granted."""
    missing = [name for name in required if name not in granted]
    if missing:
        raise PermissionDenied(
            f"Your account lacks a permission that is required here: {', '.join(missing)}. "
            f"Please ask {contact} for it, and log in again.",
            detail=f"the access token lacks {', '.join(missing)}",
        )


def _values(claims: Any, path: str) -> Iterable[Any]:
    # A claim's name may have dots of its own, as namespaced claims and some client ids do.
    if not isinstance(claims, Mapping):
        return
    if path in claims:
        yield claims[path]
    for at, letter in enumerate(path):
        if letter == "." and path[:at] in claims:
            yield from _values(claims[path[:at]], path[at + 1 :])
