"""Does a profile set what its site says, leave what it offers, and refuse the rest by name?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets import TraitError

from firecrestspawner import form, options, profiles, settings
from firecrestspawner.config import SpawnerConfig
from firecrestspawner.errors import OptionsError
from firecrestspawner.form import Panel
from firecrestspawner.profiles import Profile
from tests.unit.test_form import Page, accessible

UNLISTED_IMAGE: dict[str, Any] = {
    "enabled": True,
    "display_name": "Another image",
    "validation_regex": "[a-z/.]+",
    "validation_message": "It is a path.",
    "spawner_override": {"req_image": "/images{value}"},
}
GIVEN: list[dict[str, Any]] = [
    {
        "display_name": "Small: one CPU",
        "spawner_override": {"req_cpus": "1", "req_runtime": "01:00:00"},
    },
    {
        "display_name": "GPU",
        "slug": "gpu",
        "description": "One <GPU> or more",
        "default": True,
        "spawner_override": {"system": "daint", "environment": "torch", "req_gpus": "1"},
        "profile_options": {
            "size": {
                "display_name": "GPUs",
                "choices": {
                    "one": {"display_name": "One", "spawner_override": {"req_gpus": "1"}},
                    "four": {
                        "display_name": "Four",
                        "default": True,
                        "spawner_override": {"req_gpus": "4", "req_options": ["--exclusive"]},
                    },
                },
            },
            "image": {
                "display_name": "Image",
                "choices": {"usual": {"spawner_override": {"req_image": "/apps/usual.sif"}}},
                "unlisted_choice": UNLISTED_IMAGE,
            },
        },
    },
]


def read(given: Any) -> tuple[Profile, ...]:
    return profiles.read(given, SpawnerConfig().check_request)


def sets(**chosen: Any) -> dict[str, Any]:
    found = profiles.choose(read(GIVEN), chosen)
    assert found is not None
    return found.chosen(chosen)


def test_a_profile_sets_what_its_site_says_and_options_add_to_it() -> None:
    assert sets(profile="small-one-cpu") == {"req_cpus": "1", "req_runtime": "01:00:00"}
    common = {"system": "daint", "environment": "torch"}
    assert sets(profile="gpu") == {
        **common, "req_gpus": "4", "req_options": ["--exclusive"], "req_image": "/apps/usual.sif",
    }  # fmt: skip
    own = {"image--unlisted-choice": "/mine.sif"}
    assert sets(profile="gpu", size="one", **own) == {
        **common, "req_gpus": "1", "req_image": "/images/mine.sif",
    }  # fmt: skip


def test_who_asks_for_nothing_gets_the_default_and_who_names_fields_the_plain_ones() -> None:
    assert sets()["environment"] == "torch"
    found = read(GIVEN)
    assert profiles.choose(found, {"profile": "custom"}) is None
    assert profiles.choose(found, {"runtime": "1"}) is None
    assert profiles.choose([], {}) is None


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"profile": "big"}, "'big'"),
        ({"profile": ["gpu"]}, "profile"),
        ({"profile": "gpu", "size": "three"}, "'size'"),
        ({"profile": "gpu", "size": 1}, "'size'"),
        ({"profile": "gpu", "runtime": "1"}, "'runtime'"),
        ({"profile": "gpu", "size--unlisted-choice": "3"}, "size--unlisted-choice"),
        ({"profile": "small-one-cpu", "size": "one"}, "'size'"),
        ({"profile": "gpu", "image--unlisted-choice": "UP"}, "It is a path"),
        ({"profile": "gpu", "image--unlisted-choice": "/x\n"}, "image--unlisted-choice"),
        ({"profile": "gpu", "image--unlisted-choice": "x" * 100_000}, "image"),
        ({"profile": "gpu", "image--unlisted-choice": 1}, "image"),
    ],
)
def test_what_a_profile_does_not_offer_is_refused_by_name(chosen: Any, named: str) -> None:
    """S2."""
    with pytest.raises(OptionsError, match=named) as caught:
        sets(**chosen)
    assert len(caught.value.message) < 250


def test_a_value_of_the_users_own_is_of_the_fields_type_whatever_the_sites_pattern_admits() -> None:
    """S2."""
    given = [dict(GIVEN[1])]
    unlisted = {"enabled": True, "spawner_override": {"req_account": "{value}"}}
    given[0]["profile_options"] = {"who": {"choices": {"a": {}}, "unlisted_choice": unlisted}}
    (profile,) = read(given)
    assert profile.chosen({"who--unlisted-choice": "proj1"})["req_account"] == "proj1"
    with pytest.raises(OptionsError):
        profile.chosen({"who--unlisted-choice": "$(id)"})


def own_image_only() -> list[dict[str, Any]]:
    image = {"display_name": "Image", "unlisted_choice": dict(UNLISTED_IMAGE)}
    return [{**GIVEN[1], "profile_options": {"image": image}}]


def test_an_option_may_be_a_value_of_the_users_own_alone() -> None:
    """As with kubespawner: it is needed then, as nothing says what stands for it."""
    (profile,) = read(own_image_only())
    own = "image--unlisted-choice"
    assert profile.chosen({own: "/mine.sif"})["req_image"] == "/images/mine.sif"
    for chosen in ({}, {own: ""}, {"image": "usual"}):
        with pytest.raises(OptionsError, match=f"Image: a value is needed .option '{own}'"):
            profile.chosen(chosen)
    assert profile.honoured(["gpus"]).options == profile.options
    assert profile.honoured(["image"]).options == {}


def test_a_value_without_end_is_not_even_looked_at() -> None:
    """R8: a site's pattern is tried on the Hub's event loop."""
    given = [dict(GIVEN[1])]
    entry = {
        "enabled": True,
        "validation_regex": "([a-z]+/?)*:x",  # ever twice as long with each letter
        "spawner_override": {"req_account": "{value}"},
    }
    given[0]["profile_options"] = {"o": {"choices": {"a": {}}, "unlisted_choice": entry}}
    (profile,) = read(given)
    for value in ("a" * 600, "a" * 65):
        with pytest.raises(OptionsError):
            profile.chosen({"o--unlisted-choice": value})


#: What somebody might write into a profile_list, or forget to.
_KEYS = st.sampled_from(
    [
        *("display_name", "slug", "description", "default", "profile_options"),
        *("spawner_override", "choices", "unlisted_choice", "enabled", "validation_regex"),
        *("req_gpus", "req_image", "system", "o"),
    ]
)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", "{value}", "("]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(_KEYS | st.integers(0, 1), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(_ANYTHING, _ANYTHING, _ANYTHING)
def test_no_list_breaks_its_reader(override: Any, option: Any, unlisted_choice: Any) -> None:
    """A callable gives what it gives: it is refused with the name of the setting, or works."""
    entry = {"display_name": "x", "spawner_override": override}
    o = {"choices": {"a": {}}, "unlisted_choice": unlisted_choice}
    for made in (
        override,
        [override],
        [entry],
        [{"display_name": "x", "profile_options": {"o": option}}],
        [{"display_name": "x", "profile_options": {"o": o}}],
    ):
        try:
            read(made)
        except (ValueError, TraitError):
            continue


def unlisted(**changes: Any) -> list[dict[str, Any]]:
    entry = {"enabled": True, "spawner_override": {"req_image": "{value}"}, **changes}
    return [
        {
            "display_name": "x",
            "profile_options": {"o": {"choices": {"a": {}}, "unlisted_choice": entry}},
        }
    ]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([{"slug": "x"}], "display_name"),
        ([{"display_name": "x", "slug": "a b"}], "slug"),
        ([{"display_name": "x"}, {"display_name": "X"}], "'x'"),
        ([{"display_name": "Custom"}], "'custom'"),
        ([{"display_name": "x", "kubespawner_override": {}}], "kubespawner_override"),
        ([{"display_name": "x", "spawner_override": {"image": "y"}}], "'image'"),
        ([{"display_name": "x", "spawner_override": {"req_gpus": 1}}], "req_gpus"),
        ([{"display_name": "x", "spawner_override": {"system": 1}}], "'system'"),
        ([{"display_name": "x", "profile_options": {"o": {}}}], "choices"),
        ([{"display_name": "x", "profile_options": {"o@p": {"choices": {"a": {}}}}}], "o@p"),
        (
            [{"display_name": "x", "profile_options": {"o": {"unlisted_choice": {}}}}],
            "choices",
        ),
        (unlisted(spawner_override={}), "spawner_override"),
        (unlisted(spawner_override={"req_prologue": "{value}"}), "req_prologue"),
        (unlisted(spawner_override={"req_options": "{value}"}), "req_options"),
        (unlisted(spawner_override={"req_workdir": "{value}"}), "req_workdir"),
        (unlisted(spawner_override={"system": "{value}"}), "system"),
        (unlisted(validation_regex="("), "validation_regex"),
    ],
)
def test_a_list_that_makes_no_sense_is_named_at_start_up(given: Any, named: str) -> None:
    with pytest.raises(TraitError, match=named):
        SpawnerConfig(profile_list=given)


# --- the form -------------------------------------------------------------------------------


def rendered(chosen: dict[str, Any], given: Any = GIVEN, **traits: Any) -> str:
    config = SpawnerConfig(system="daint", **traits)
    names = settings.names(config.systems, config.system)
    panels = [Panel(settings.on(config, name)) for name in names]
    return form.render(panels, chosen, read(given))


def posted(page: Page, **changes: str) -> dict[str, str]:
    """What a browser without scripts posts, everything in the form being sent."""
    sent = {name: [each.get("value") or ""] for name, each in page.controls.items()}
    sent |= {name: [value] for name, value in page.selected.items()}
    return options.from_form({**sent, **{name: [value] for name, value in changes.items()}})


def test_the_form_has_the_profiles_and_the_plain_fields() -> None:
    text = rendered({})
    page = Page(text)
    assert accessible(page)
    assert "One &lt;GPU&gt; or more" in text
    assert page.selected == {"profile": "gpu", "size@@gpu": "four", "image@@gpu": "usual"}
    assert "partition@" in page.controls
    assert posted(page) == {"profile": "gpu", "size": "four", "image": "usual"}


def test_an_option_without_choices_is_a_field_that_has_to_be_filled_in() -> None:
    """By who starts its profile; a browser without scripts shows the fields of all."""
    page = Page(rendered({}, own_image_only()))
    assert accessible(page)
    field = page.controls["image--unlisted-choice@@gpu"]
    assert "data-firecrest-needed" in field and "image@@gpu" not in page.controls
    assert "required" not in field
    usual = Page(rendered({})).controls["image--unlisted-choice@@gpu"]
    assert "data-firecrest-needed" not in usual


@pytest.mark.parametrize(
    "systems",
    [[], ["daint", "eiger"], {"daint": {}, "eiger": {"req_qos": "x", "option_fields": ["qos"]}}],
)
def test_what_is_posted_is_that_of_the_chosen_entry(systems: Any) -> None:
    page = Page(rendered({}, systems=systems))
    assert accessible(page)
    assert posted(page, profile="small-one-cpu") == {"profile": "small-one-cpu"}
    fields = {name for name in page.controls if name.startswith(("account@", "qos@eiger"))}
    custom = posted(page, profile="custom", **dict.fromkeys(fields, "p1"))
    assert custom.pop("system", "daint") == "daint"
    assert custom == {"profile": "custom", "account": "p1"}


def test_the_last_choice_is_shown_again() -> None:
    own = "image--unlisted-choice"
    chosen = {"profile": "gpu", "size": "one", own: '/m"'}
    page = Page(rendered(chosen))
    assert page.selected["size@@gpu"] == "one"
    assert posted(page) == {**chosen, "image": "usual"}
    for plain in ({"profile": "custom", "account": "p2"}, {"account": "p2"}):
        page = Page(rendered(plain))
        assert page.selected["profile"] == "custom"
        assert posted(page) == {"profile": "custom", "account": "p2"}
    assert Page(rendered({"profile": "gone"})).selected["profile"] == "gpu"


def test_without_plain_fields_there_is_no_custom_entry() -> None:
    text = rendered({}, option_fields=[])
    assert accessible(Page(text))
    assert 'value="custom"' not in text


@pytest.mark.parametrize("odd", [[], {}, ["one"], {"a": 1}, None, True, 1.5, 7, "x" * 100_000])
@pytest.mark.parametrize("name", ["size", "image--unlisted-choice", "profile", "system", "account"])
def test_the_form_appears_whatever_was_asked_for_before(name: str, odd: Any) -> None:
    """The Hub stores a refused request's options, and gives them to the next form."""
    for systems in ([], ["daint", "eiger"]):
        text = rendered({"profile": "gpu", name: odd}, systems=systems)
        assert accessible(Page(text))
        assert "xxxxx" not in text
