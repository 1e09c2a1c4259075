"""Does the home page's countdown say what the Hub would say, and warn before the end?"""

from __future__ import annotations

from selenium.webdriver.common.by import By

from firecrestspawner.pages import Overview
from tests.browser.pages import Window
from tests.journeys.site import Site, eventually

#: As if so many seconds were left when the page was made, and the person came back to it now.
SET = """
document.querySelector("[data-firecrest-left]").dataset.firecrestLeft = arguments[0];
document.dispatchEvent(new Event("visibilitychange"));
"""


def test_the_time_left_counts_down_in_the_page_and_turns_into_a_warning(site: Site, window: Window):
    window.open_login()
    window.log_in("alice")
    window.fill_in(Partition="", Run_time="")
    window.start()
    window.land_in_lab()
    window.open("/hub/home")
    window.see("[data-firecrest-left]")
    warning = window.browser.find_element(By.CSS_SELECTOR, "#firecrest-servers [role=alert]")
    assert not warning.is_displayed()
    for left in (200_000, 86_400 + 120, 3720, 1020):
        # Some seconds have gone by since the page was loaded, at most.
        window.browser.execute_script(SET, left + 30)
        said = window.see("[data-firecrest-left]").text
        near = {Overview("", "", "", "", "", left + more, 0).time_left for more in range(31)}
        assert said in near
        assert not warning.is_displayed()
    window.browser.execute_script(SET, 890)
    assert window.see("[data-firecrest-left]").text == "14 min"
    assert warning.is_displayed()
    window.browser.execute_script(SET, 0)
    assert window.see("[data-firecrest-left]").text == "none"
    window.stop()
    cards = (By.ID, "firecrest-servers")
    window.wait(
        lambda: not window.browser.find_elements(*cards),
        "the page knows that the server is stopped, without being loaded anew",
    )
    eventually(lambda: not site.remains(), what="nothing is left")
