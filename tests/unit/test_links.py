"""May a redirect leave the Hub, and does the re-login link come back?"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from firecrestspawner.links import LONGEST_CHOICES, choices, local_path, reauth

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


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_link_to_choices_leads_to_the_spawn_form_and_nowhere_else(target: str):
    """S6: whatever is in it is the value of a name, or refused."""
    for query in (target, f"{target}=1", f"system={target}", f"next={target}"):
        if len(query) > LONGEST_CHOICES:
            with pytest.raises(ValueError, match="longer than"):
                choices("/hub/", query)
            continue
        found = choices("/hub/", query)
        assert found.partition("#")[0] == "/hub/spawn"
        assert found.isascii() and found.isprintable() and " " not in found


def test_a_link_to_choices_names_the_same_in_the_form():
    link = choices("/jupyter/hub/", "system=mini&account=&time--unlisted-choice=02%3A30&x=%23%26")
    path, _, fragment = link.partition("#")
    assert path == "/jupyter/hub/spawn"
    assert parse_qs(fragment, keep_blank_values=True) == {
        "system": ["mini"],
        "account": [""],
        "time--unlisted-choice": ["02:30"],
        "x": ["#&"],
    }
    with pytest.raises(ValueError, match="fields"):
        choices("/hub/", "a=1&" * 101)
