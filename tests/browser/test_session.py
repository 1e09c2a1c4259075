"""Does a person whose session at the issuer has ended get back to work, losing nothing?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By

from tests.browser.pages import Window
from tests.journeys.site import Site, eventually

#: Seconds an access token lives here: shorter than the spawner's margin, so that every start
#: needs the issuer, and longer than the least that FirecREST accepts.
SHORT_LIFE = 45.0


@pytest.fixture
def short_tokens(site: Site) -> Iterator[None]:
    usual = site.issuer.lifetimes.access_token
    site.issuer.lifetimes.access_token = SHORT_LIFE
    yield
    site.issuer.lifetimes.access_token = usual


@pytest.mark.usefixtures("short_tokens")
def test_an_ended_session_is_begun_again_from_the_page_that_says_so(site: Site, window: Window):
    """R5, S6: the server runs on, the Hub's session too; the link above the page leads through the
    issuer and back to the same page, where a start works again."""
    window.open_login()
    window.log_in("alice")
    window.fill_in(Partition="", Run_time="")  # an earlier test's choice is remembered
    window.start()
    window.land_in_lab()
    window.open("/hub/home")
    window.see("#stop")
    assert not window.browser.find_elements(By.ID, "firecrest-session")

    window.open("/hub/spawn/alice/second")
    site.issuer.end_session("alice")
    window.start()
    assert window.refusal() == (
        "Your login has ended at the identity provider. Log in again to continue."
    )
    window.open("/hub/home")
    assert "Your single sign-on session has ended." in window.notice("Log in again")
    assert window.see("#stop").is_displayed()

    window.log_in_again("alice")
    window.see("#stop")
    assert not window.browser.find_elements(By.ID, "firecrest-session")
    assert [job.state for job in site.unfinished("alice")] == ["RUNNING"]

    # The same from the spawn form, with the link of the refusal.
    window.open("/hub/spawn/alice/second")
    site.issuer.end_session("alice")
    window.start()
    window.refusal()
    window.log_in_again("alice")
    window.see("#spawn_form")
    window.start()
    window.land_in_lab()
    assert len(site.unfinished("alice")) == 2

    window.open("/hub/home")
    window.press("#stop-second")
    window.see("#start-second")
    window.stop()
    eventually(lambda: not site.remains(), what="nothing is left")
