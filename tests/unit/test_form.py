"""Does the form show what may be chosen, for each system, to whoever reads it by whatever means?"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from firecrestspawner import form, settings
from firecrestspawner.config import SpawnerConfig
from firecrestspawner.form import Panel
from firecrestspawner.models import System


class Page(HTMLParser):
    """What a form holds: attributes of each control by its name; ids, labels and references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.controls: dict[str, dict[str, str | None]] = {}
        self.options: dict[str, list[str]] = {}
        self.selected: dict[str, str] = {}
        self.radios: list[str] = []
        self.ids: list[str] = []
        self.labelled: list[str] = []
        self.described: list[str] = []
        self._select = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        # What has no name is not posted: it only shows something.
        if tag in ("input", "select") and "name" in found:
            name = found["name"] or ""
            if found.get("type") == "radio":
                self.radios.append(found["id"] or "")
                if "checked" in found:
                    self.selected[name] = found["value"] or ""
            else:
                assert name not in self.controls
                self.controls[name] = found
            self._select = name if tag == "select" else ""
        if tag == "option" and self._select:
            self.options.setdefault(self._select, []).append(found["value"] or "")
            if "selected" in found:
                self.selected[self._select] = found["value"] or ""
        self.ids += [found["id"] or ""] if "id" in found else []
        self.labelled += [found["for"] or ""] if tag == "label" else []
        self.described += [found["aria-describedby"] or ""] if "aria-describedby" in found else []


def panels(**traits: Any) -> list[Panel]:
    config = SpawnerConfig(**{"system": "daint", **traits})
    names = settings.names(config.systems, config.system)
    return [Panel(settings.on(config, name)) for name in names]


def page(chosen: dict[str, Any] | None = None, **traits: Any) -> Page:
    return Page(form.render(panels(**traits), chosen or {}))


def accessible(found: Page) -> bool:
    """Every control has a label, every reference leads somewhere, and no id is given twice."""
    assert len(found.ids) == len(set(found.ids))
    controls = {control["id"] for control in found.controls.values()}
    assert controls | set(found.radios) == set(found.labelled)
    assert set(found.described) <= set(found.ids)
    return True


TWO = {
    "daint": {"display_name": "Daint <GPU>", "option_fields": ["gpus", "runtime"]},
    "eiger": {"option_fields": {"runtime": {"choices": {"01:00:00": "An hour"}}}},
}


def test_what_was_chosen_is_shown_and_escaped() -> None:
    text = form.render(
        panels(systems=["daint", "eiger"], option_fields=["partition"]),
        {"system": "eiger", "partition": '"><script>'},
    )
    assert text.count("<script>") == 1, "the form's own"
    found = Page(text)
    assert accessible(found)
    assert found.selected == {"system": "eiger"}
    assert found.controls["partition"]["value"] == '"><script>'
    assert found.controls["partition"]["id"] == "firecrest-partition"


def test_one_system_without_fields_needs_no_form() -> None:
    assert form.render(panels(option_fields=[]), {}) == ""
    assert form.render([], {}) == ""
    assert form.render(panels(option_fields=[], systems=["daint", "eiger"]), {})


def test_systems_that_differ_have_fields_of_their_own() -> None:
    found = page({"system": "eiger", "runtime": "01:00:00"}, systems=TWO)
    assert accessible(found)
    assert [*found.controls] == ["system", "gpus@daint", "runtime@daint", "runtime@eiger"]
    assert found.selected == {"system": "eiger", "runtime@eiger": "01:00:00"}
    assert found.controls["runtime@daint"]["value"] == "", "that was chosen for eiger"
    assert found.options["runtime@eiger"] == ["", "01:00:00"]
    assert "Daint &lt;GPU&gt;" in form.render(panels(systems=TWO), {})


def test_without_an_earlier_choice_the_default_system_shows_what_else_was_chosen() -> None:
    found = page({"runtime": "02:00:00"}, systems=TWO)
    assert found.selected["system"] == "daint"
    assert found.controls["runtime@daint"]["value"] == "02:00:00"


def test_an_earlier_choice_that_is_not_offered_any_more_is_not_chosen() -> None:
    found = page(
        {"system": "gone", "runtime": "05:00:00"}, systems={"eiger": TWO["eiger"]}, system=""
    )
    assert found.selected == {}
    assert found.options == {"runtime": ["", "01:00:00"]}


def test_an_empty_field_says_what_it_means() -> None:
    found = page(
        req_partition="normal",
        option_fields={"partition": {}, "account": {}, "nodes": {"default": 2}, "workdir": {}},
    )
    shown = {name: control["placeholder"] for name, control in found.controls.items()}
    assert shown == {
        "partition": "normal",
        "account": "your default account",
        "nodes": "2",
        "workdir": "/home/{username}",
    }


def test_bounds_and_choices_are_shown() -> None:
    text = form.render(
        panels(
            option_fields={
                "nodes": {"minimum": 1, "maximum": 4},
                "partition": {"choices": {"normal": "The usual"}},
            }
        ),
        {"nodes": 3},
    )
    found = Page(text)
    assert accessible(found)
    assert "How many (1 to 4), for example 1" in text
    assert found.controls["nodes"]["value"] == "3"
    assert found.controls["partition"]["list"] in found.ids, "several may be written, with a comma"
    assert '<option value="normal">The usual</option>' in text


def test_a_default_is_told_from_the_same_value_when_it_is_chosen() -> None:
    """Of the two the first follows the site when it changes its mind."""
    fields = {"runtime": {"choices": {"01:00:00": "An hour"}, "default": "01:00:00"}, "qos": {}}
    text = form.render(panels(option_fields=fields), {})
    assert '<option value="">An hour (default)</option>' in text
    assert '<option value="01:00:00">An hour</option>' in text
    assert text.count("(default)") == 1


def test_trouble_is_said_beside_the_systems() -> None:
    both = panels(systems=["daint", "eiger"])
    both[1] = Panel(both[1].settings, "eiger does not answer at the moment.")
    text = form.render(both, {})
    assert accessible(Page(text))
    assert re.search(r'value="eiger">eiger \(has trouble\)', text)
    assert "eiger does not answer at the moment. A new server may not start there." in text


def test_what_a_system_cannot_honour_is_not_offered_and_the_reason_said() -> None:
    (panel,) = panels(option_fields=["partition", "runtime", "gpus", "workdir"])
    rest = System("daint", connection_mode="rest")
    text = form.render([Panel(panel.settings, "", rest)], {})
    assert [*Page(text).controls] == ["partition", "workdir"]
    assert "Run time, GPUs: cannot be asked for here" in text
    assert "in rest mode" in text


def test_what_the_user_may_use_is_filled_in_by_the_browser_where_nothing_else_is_offered() -> None:
    fields = {"account": {}, "partition": {"choices": ["normal"]}, "nodes": {}}
    text = form.render(panels(option_fields=fields), {}, hints="/hub/api/firecrest/hints")
    found = Page(text)
    assert accessible(found)
    assert re.findall(r'data-firecrest-hints="(\w+)"', text) == ["account"]
    assert found.controls["account"]["list"] in found.ids
    assert "list" not in found.controls["nodes"]
    assert 'data-firecrest-hints-from="/hub/api/firecrest/hints"' in text
    without = form.render(panels(option_fields=fields), {})
    assert "data-firecrest-hints-from" not in without


def test_bounds_are_those_of_the_partition_that_an_empty_field_means() -> None:
    limits = {"debug": {"nodes": "2"}}

    def usual(**traits: Any) -> str | None:
        fields = {"partition": {"limits": limits, **traits.pop("partition", {})}, "nodes": {}}
        control = page(option_fields={**fields, "environment": {}}, **traits).controls["partition"]
        assert json.loads(control["data-firecrest-limits"] or "") == limits
        return control["data-firecrest-usual"]

    assert usual() == ""
    assert usual(req_partition="debug") == "debug"
    assert usual(req_partition="normal", partition={"default": "debug"}) == "debug"
    elsewhere = {"big": {"values": {"req_partition": "large"}}, "usual": {}}
    assert usual(req_partition="debug", environments=elsewhere) == "", "it depends on another field"
    assert usual(req_partition="debug", environments={"usual": {}}) == "debug"
