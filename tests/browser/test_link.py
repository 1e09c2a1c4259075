"""What does the form's script do with a link to choices, and with what partitions there are?

The form alone, in a real browser: what it needs of a Hub is nothing but a page around it.
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from firecrestspawner import form, profiles, settings
from firecrestspawner.config import SpawnerConfig
from tests.browser.chromium import NoBrowserError, chromium

SYSTEMS = {
    "daint": {"option_fields": ["gpus", "runtime"]},
    "eiger": {"option_fields": {"runtime": {"choices": {"01:00:00": "An hour"}}, "account": {}}},
}
READY_MADE = [{"display_name": "Small"}, {"display_name": "Large"}]


def opened(browser: Chrome, directory: Path, link: str, **traits: Any) -> dict[str, str]:
    """What a form would post that was opened by a link with ``link`` behind its "#"."""
    config = SpawnerConfig(**{"system": "daint", "systems": SYSTEMS, **traits})
    names = settings.names(config.systems, config.system)
    listed = profiles.read(config.profile_list, lambda name, value: None)
    panels = [form.Panel(settings.on(config, name)) for name in names]
    page = directory / "form.html"
    text = form.render(panels, {"gpus": "3"}, listed)
    secret = '<input type="hidden" name="_xsrf" value="secret">'
    page.write_text(f"<!DOCTYPE html><title>Form</title><form>{secret}{text}</form>")
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#{link}")
    return posted(browser)


def posted(browser: Chrome) -> dict[str, str]:
    script = "return Object.fromEntries(new FormData(document.forms[0]))"
    return browser.execute_script(script)


def said(browser: Chrome) -> str:
    return browser.find_element(By.ID, "firecrest-link").text


def test_a_link_fills_the_fields_of_the_system_that_it_names(browser: Chrome, tmp_path: Path):
    link = "account=proj1&runtime=01:00:00&system=eiger"
    assert opened(browser, tmp_path, link) == {
        **{"_xsrf": "secret", "system": "eiger"},
        **{"runtime@eiger": "01:00:00", "account@eiger": "proj1"},
    }
    assert said(browser) == "Filled in from a link: look at these choices before you start."


def test_what_is_not_offered_is_named_and_nothing_else_is_touched(browser: Chrome, tmp_path: Path):
    """S2: a link is somebody else's text, which is only ever shown, or the value of a field."""
    markup = "%3Cimg src=x onerror=document.title=1%3E"
    link = f"_xsrf=mine&system=eiger&runtime=99&gpus=1&account={markup}&{markup}=1"
    found = opened(browser, tmp_path, link)
    assert found["_xsrf"] == "secret"
    assert found["runtime@eiger"] == ""
    assert found["account@eiger"].startswith("<img src")
    for name in ("_xsrf = mine", "runtime = 99", "gpus = 1", "<img src"):
        assert name in said(browser)
    assert "account" not in said(browser)
    assert not browser.find_elements(By.TAG_NAME, "img")


def test_a_link_chooses_a_profile_or_the_plain_fields(browser: Chrome, tmp_path: Path):
    found = opened(browser, tmp_path, "profile=large", profile_list=READY_MADE)
    assert found == {"_xsrf": "secret", "profile": "large"}
    found = opened(browser, tmp_path, "system=daint&gpus=2", profile_list=READY_MADE)
    assert (found["profile"], found["gpus@daint"]) == ("custom", "2")


def test_what_a_profile_needs_is_required_of_those_who_start_it(browser: Chrome, tmp_path: Path):
    own = {"enabled": True, "spawner_override": {"req_image": "{value}"}}
    image = {"display_name": "Image", "unlisted_choice": own}
    listed = [*READY_MADE, {"display_name": "Own", "profile_options": {"image": image}}]
    valid = "return document.forms[0].checkValidity()"
    for link, complete in (
        ("profile=small", True),
        ("profile=own", False),
        ("profile=own&image--unlisted-choice=/a.sif", True),
    ):
        opened(browser, tmp_path, link, profile_list=listed)
        assert browser.execute_script(valid) is complete, link


def test_the_link_that_is_made_chooses_the_same(browser: Chrome, tmp_path: Path):
    first = opened(browser, tmp_path, "system=daint&gpus=2&runtime=02:00:00")
    browser.find_element(By.ID, "firecrest-copy").click()
    link = browser.current_url.partition("#")[2]
    assert "gpus=2" in link and "secret" not in link
    assert opened(browser, tmp_path, link) == first


def test_where_the_page_may_not_copy_the_link_is_selected(tmp_path: Path):
    """As on a site without HTTPS, where browsers have no clipboard for pages."""
    serve = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server, ExitStack() as stack:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        try:
            mapped = "--host-resolver-rules=MAP hub.example.org 127.0.0.1"
            browser = stack.enter_context(chromium(mapped))
        except NoBrowserError as error:
            pytest.skip(str(error))
        opened(browser, tmp_path, "")
        browser.get(f"http://hub.example.org:{server.server_port}/form.html")
        assert browser.execute_script("return navigator.clipboard === undefined")
        before = posted(browser)
        browser.find_element(By.ID, "firecrest-copy").click()
        WebDriverWait(browser, 10).until(lambda _: "selected" in said(browser))
        link = browser.execute_script("return window.getSelection().toString()")
        assert link == browser.current_url and "gpus=3" in link
        assert posted(browser) == before


def test_without_a_link_the_form_is_as_it_was(browser: Chrome, tmp_path: Path):
    for link in ("", "main"):
        assert opened(browser, tmp_path, link)["gpus@daint"] == "3"
        assert said(browser) == ""


def test_a_job_asks_for_no_more_than_its_site_says_a_partition_has(browser: Chrome, tmp_path: Path):
    """As the Hub would refuse it; a run time is read as Slurm reads it."""
    limits = {"debug": {"runtime": "00:30:00", "nodes": 2}, "long": {"runtime": "2-0"}}
    fields = {"partition": {"limits": limits}, "runtime": {}, "nodes": {}}
    config = SpawnerConfig(system="daint", option_fields=fields, req_partition="debug")
    page = tmp_path / "form.html"
    chosen = {"runtime": "31"}  # of a time when there was more
    text = form.render([form.Panel(settings.on(config, "daint"))], chosen)
    page.write_text(f"<!DOCTYPE html><title>Form</title><form>{text}</form>")
    browser.get(page.as_uri())
    problem = "return document.getElementsByName('runtime')[0].validationMessage"
    assert browser.execute_script(problem) == "There is at most 00:30:00 in this partition."
    controls = [browser.find_element(By.NAME, name) for name in ("partition", "runtime", "nodes")]
    for queue, time, number, told in (
        ("debug", "30", "2", ["", ""]),
        ("debug", "31", "3", ["00:30:00", "2"]),
        ("", "00:30:01", "2", ["00:30:00", ""]),
        ("long", "48:00:00", "99", ["", ""]),
        ("long", "2-1", "", ["2-0", ""]),
        ("long", "2880:01", "", ["2-0", ""]),
        ("other", "9-0", "99", ["", ""]),
    ):
        for control, value in zip(controls, (queue, time, number), strict=True):
            control.clear()
            control.send_keys(value, Keys.TAB)
        problems = [control.get_property("validationMessage") for control in controls[1:]]
        wanted = [f"There is at most {most} in this partition." if most else "" for most in told]
        assert problems == wanted, (queue, time, number)


def test_a_job_is_no_larger_than_its_partition(browser: Chrome, tmp_path: Path):
    """As far as FirecREST tells; what nobody knows is not bounded."""
    fields = {"partition": {"default": "debug"}, "nodes": {}}
    config = SpawnerConfig(system="daint", option_fields=fields)
    panel = form.Panel(settings.on(config, "daint"))
    told = {"partition": [{"value": "debug", "label": "2 nodes", "nodes": 2}, {"value": "odd"}]}
    answers = f"async () => ({{ok: true, json: async () => ({json.dumps(told)})}})"
    page = tmp_path / "form.html"
    text = form.render([panel], {}, hints="/hints")
    page.write_text(
        f"<!DOCTYPE html><title>Form</title><script>fetch = {answers}</script><form>{text}</form>"
    )
    browser.get(page.as_uri())
    partition, nodes = (browser.find_element(By.NAME, name) for name in ("partition", "nodes"))
    WebDriverWait(browser, 10).until(
        lambda _: browser.find_elements(By.CSS_SELECTOR, "datalist option")
    )
    for queue, number, problem in (
        ("debug", "3", "debug has only 2 nodes."),
        ("debug", "2", ""),
        ("odd", "3", ""),
        ("other", "3", ""),
        ("", "3", "debug has only 2 nodes."),
        ("", "2", ""),
    ):
        for control, value in ((partition, queue), (nodes, number)):
            control.clear()
            control.send_keys(value, Keys.TAB)
        assert nodes.get_property("validationMessage") == problem, (queue, number)


def test_what_a_site_offers_is_marked_with_what_is_known_of_it(browser: Chrome, tmp_path: Path):
    """A list of choices of the site's own has accounts that are not the user's, too."""
    fields = {
        "partition": {"choices": {"debug": "For tests", "odd": "Odd"}},
        "account": {"choices": ["proj1", "proj2"], "default": "proj2"},
    }
    panel = form.Panel(settings.on(SpawnerConfig(system="daint", option_fields=fields), "daint"))
    told = {
        "account": [{"value": "proj1", "label": "your default"}],
        "partition": [{"value": "debug", "label": "not up, 2 nodes", "nodes": 2}],
        "complete": ["account"],
    }
    answers = f"async () => ({{ok: true, json: async () => ({json.dumps(told)})}})"
    page = tmp_path / "form.html"
    text = form.render([panel], {"account": "proj2"}, hints="/hints")
    page.write_text(
        f"<!DOCTYPE html><title>Form</title><script>fetch = {answers}</script><form>{text}</form>"
    )
    browser.get(page.as_uri())
    options = browser.find_elements(By.CSS_SELECTOR, "option:not([value=''])")
    WebDriverWait(browser, 10).until(
        lambda _: "(" in (options[0].get_attribute("textContent") or "")
    )
    assert [option.get_attribute("textContent") for option in options] == [
        "For tests (not up, 2 nodes)",
        "Odd",
        "proj1 (your default)",
        "proj2 (not yours)",
    ]
    assert posted(browser)["account"] == "proj2"
