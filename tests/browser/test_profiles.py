"""Can a profile be chosen whose system has no use for what it sets, and is it said why not?"""

from __future__ import annotations

from selenium.webdriver import Chrome

from firecrestspawner.demo.firecrest import System
from tests.browser.accessibility import problems
from tests.browser.centre import Centre
from tests.browser.pages import Window


class Rested(Centre):
    """The centre, where FirecREST reaches the scheduler of ``mini`` over its REST API."""

    def _start_services(self) -> None:
        super()._start_services()
        self.firecrest.systems["mini"] = System("mini", self.mini, connection_mode="rest")


def test_what_its_system_cannot_honour_is_seen_and_not_chosen(browser: Chrome) -> None:
    with Rested() as centre:
        window = Window(browser, centre.url)
        window.open_login()
        window.log_in("alice")

        def known() -> bool:
            """FirecREST has told the Hub meanwhile, for no page waits for that."""
            window.open("/hub/spawn")
            window.see("#spawn_form")
            return bool(window.field("Small").get_property("disabled"))

        window.wait(known, "Small cannot be chosen")
        why = "One CPU for an hour: starts soon. It cannot be chosen: its system has no use for "
        assert f"{why}CPUs per task, Run time." in window.text()
        assert window.field("GPU").is_selected(), "the default one that can be started"
        assert problems(browser) == []
        window.see("label[for=firecrest-profile-small]").click()
        assert window.field("GPU").is_selected()
        window.start()
        window.land_in_lab()
        (job,) = centre.unfinished("alice")
        assert job.nodes == "nid001"
