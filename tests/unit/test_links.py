"""May a redirect leave the Hub, and does the re-login link come back?"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from firecrestspawner.links import local_path, reauth

ELSEWHERE = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "\\evil",
    "https:evil",
    "https://evil.example/hub/home",
    "javascript:alert(1)",
    "data:text/html,x",
    "hub/home",
    "",
    " /hub/home",
    "/\t/evil.example",
    "/hub/ho\nme",
    "/hub/\x00",
    "/..//evil.example",
    "/hub/%2e%2E//evil.example",
    "/hub//evil.example",
    "/hub/h\u00f6me",
    "/" + "a" * 3000,
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_what_is_no_plain_path_is_refused(target: str):
    """S6."""
    assert local_path(target, "/") is None


@pytest.mark.parametrize("target", ["/", "/hub/home", "/user/alice/lab?x", "/hub/spawn?a=//b#c"])
def test_a_path_on_the_hub_is_taken_as_it_is(target: str):
    """S6."""
    assert local_path(target, "/") == target


def test_a_path_beside_the_hubs_prefix_is_refused():
    """S6: what else the host serves is another application."""
    assert local_path("/jupyter/hub/home", "/jupyter/") == "/jupyter/hub/home"
    assert local_path("/other/page", "/jupyter/") is None
    assert local_path("/jupyter/../other", "/jupyter/") is None


def test_the_link_to_log_in_again_names_the_page_to_come_back_to():
    link = urlsplit(reauth("/jupyter/hub/", "/jupyter/hub/spawn?opt-a=1&b=2"))
    assert link.path == "/jupyter/hub/firecrest/reauth"
    assert parse_qs(link.query) == {"next": ["/jupyter/hub/spawn?opt-a=1&b=2"]}
