"""Can everybody choose, wait, understand and go on, whatever they look at it with or type it on?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver import Keys

from tests.browser.accessibility import overhang, problems
from tests.browser.centre import Centre
from tests.browser.chromium import NARROW, WIDTH, look
from tests.browser.conftest import SITE
from tests.browser.pages import Window
from tests.browser.tour import tour
from tests.journeys.site import eventually


@pytest.fixture(scope="module")
def centre() -> Iterator[Centre]:
    with Centre() as centre:
        yield centre


@pytest.fixture
def site(request: pytest.FixtureRequest, centre: Centre) -> Centre:
    """Instead of the site of the other files."""
    request.node.stash[SITE] = centre
    return centre


def test_a_start_is_chosen_and_sent_by_keyboard_alone(site: Centre, window: Window):
    window.open_login()
    window.log_in("bob")
    site.mini.hold()
    window.tab_to("Small")
    window.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert window.field("Custom").is_selected()
    window.tab_to("System")
    window.keys("Mini")
    window.tab_to("Partition")
    window.keys("debug")
    window.tab_to("Run time")
    window.keys("00:20:00")
    window.tab_to_button("#spawn_form button[type=submit]")
    window.keys(Keys.ENTER)
    window.progress("Resources")
    (job,) = site.unfinished("bob")
    assert (job.partition, job.limit) == ("debug", 1200)
    assert site.mini.jobs("bob"), "it is a job of the chosen system"

    window.tab_to_button("#stop-server-btn")
    window.keys(Keys.ENTER)
    window.see_text("#start", "Start My Server")
    site.mini.release()
    eventually(lambda: not site.remains(), what="nothing is left")


def test_the_pending_page_stops_the_server_that_it_speaks_of(site: Centre, window: Window):
    """Of two of one user: the other one goes on."""
    window.open_login()
    window.log_in("bob")
    window.pick("Small")
    window.start()
    window.land_in_lab()
    site.mini.hold()
    window.open("/hub/spawn/bob/second")
    window.pick("Small")
    window.start()
    window.progress("Resources")
    window.see("#stop-server-btn").click()
    window.see("#start-second")
    first, second = site.jobs("bob")[-2:]
    assert first.state == "RUNNING" and second.state.startswith("CANCELLED")
    site.mini.release()
    window.open("/hub/home")
    window.press("#stop")
    eventually(lambda: not site.remains(), what="nothing is left")


def test_a_link_to_choices_fills_the_form_and_starts_nothing(site: Centre, window: Window):
    window.open_login()
    window.log_in("bob")
    window.browser.get(f"{site.url}/hub/spawn#system=mini&partition=debug&account=nobodys&gpus=2")
    assert window.field("Custom").is_selected()
    assert window.chosen("System").startswith("Mini")
    window.see_text("#firecrest-link", "not offered here: gpus = 2")
    window.see("#firecrest-copy").click()
    window.see_text("#firecrest-link", "link")
    link = window.browser.current_url
    assert "partition=debug&" in link and "account=nobodys" in link and "_xsrf" not in link
    assert not site.unfinished("bob"), "what starts a server is the button"


@pytest.mark.timeout(300)
def test_every_page_on_the_way_can_be_read_by_everybody(site: Centre, window: Window):
    """Choices, a refusal, a failure with its log, a retry, the queue, two systems, what is
    remembered, an ended session, FirecREST away: light and dark, on a telephone and on a desk."""
    found = []
    for page in tour(site, window):
        for width in (NARROW, WIDTH):
            for dark in (True, False):
                look(window.browser, width, dark=dark)
                where = f"{page}, {width} px, {'dark' if dark else 'light'}"
                found += [f"{where}: {each}" for each in problems(window.browser)]
                if over := overhang(window.browser):
                    found.append(f"{where}: it is {over} px too wide")
    assert not found, "\n".join(found)
