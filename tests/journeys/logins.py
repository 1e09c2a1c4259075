"""How does a test see whether somebody is logged in, and by which way do programs come?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.journeys.person import Person
from tests.journeys.site import Site


@contextmanager
def logged_in(site: Site, name: str = "alice") -> Iterator[Person]:
    with Person(site, name) as person:
        person.log_in()
        yield person


def log_in_silently(person: Person) -> None:
    """The session at the issuer lives, so that nobody asks for a password."""
    person.open(person.open(person.hub("login")).link_to("/hub/oauth_login"))


def is_logged_in(person: Person) -> bool:
    """Whether the Hub shows the person their home page."""
    page = person.open(person.hub("home"))
    return urlsplit(page.address).path == person.hub("home")


def program(person: Person, token: str, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """What a program with that token is answered on the person's site."""
    headers = {"Authorization": f"token {token}"}
    url = f"{person.url}{person.hub(path)}"
    return httpx.request(method, url, headers=headers, trust_env=False, timeout=30, **kwargs)


def script(person: Person, token: str, path: str) -> int:
    """The status alone, of a question."""
    return program(person, token, "GET", path).status_code


def personal_token(person: Person) -> str:
    answer = person.api("POST", person.hub(f"api/users/{person.name}/tokens"), {})
    token: str = answer.json()["token"]
    return token


def cookie_id(site: Site, name: str) -> str:
    """What the user's cookies at the Hub name; it changes when their sessions there end."""
    [(found,)] = site.query("SELECT cookie_id FROM users WHERE name = ?", name)
    return str(found)
