"""Does a link to choices lead to the form that is filled in with them, through a login, too?"""

from __future__ import annotations

from selenium.webdriver import Chrome

from tests.browser.pages import Window
from tests.journeys.site import Site

FIELDS = ("Partition", "Run time")
CHOICES = "system=demo&partition=debug&runtime=00%3A20%3A00"


def filled_in(window: Window) -> list[str | None]:
    """What the form shows, once a link has filled it in."""
    window.see("#spawn_form")
    window.see_text("#firecrest-link", "Filled in from a link")
    return [window.field(label).get_attribute("value") for label in FIELDS]


def test_a_link_survives_a_login(site: Site, window: Window):
    """At the Hub's own page with its button, and at the issuer's. It starts nothing."""
    before = site.jobs("bob")
    window.open(f"/hub/firecrest/choose?{CHOICES}")
    window.see("a[href*='oauth_login']").click()
    window.see("input[name=password]")
    window.enter_password("bob")
    assert filled_in(window) == ["debug", "00:20:00"]
    assert "Not taken from it" not in window.text()
    assert site.jobs("bob") == before
    window.open(f"/hub/firecrest/choose?{CHOICES.replace('debug', 'normal')}")
    assert filled_in(window) == ["normal", "00:20:00"]


def test_what_the_button_copies_is_such_a_link(window: Window):
    """The clipboard has it, and another person's browser that was never here follows it."""
    browser = window.browser
    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": window.url},
    )
    window.open_login()
    window.log_in("alice")
    window.fill_in(Partition="debug", Run_time="00:20:00")
    window.see("#firecrest-copy").click()
    window.see_text("#firecrest-link", "The link is copied.")
    link = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert link.startswith(f"{window.url}/hub/firecrest/choose?")
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.get(link)
    window.see("a[href*='oauth_login']").click()
    window.see("input[name=password]")
    window.enter_password("bob")
    assert filled_in(window) == ["debug", "00:20:00"]


def test_a_link_survives_a_login_that_begins_by_itself(browser: Chrome):
    """With auto_login: the Hub shows no page of its own before the issuer's."""
    with Site(extra_config="c.Authenticator.auto_login = True\n", log_level="INFO") as site:
        window = Window(browser, site.url)
        window.open(f"/hub/firecrest/choose?{CHOICES}")
        window.see("input[name=password]")
        window.enter_password("bob")
        assert filled_in(window) == ["debug", "00:20:00"]
        assert not site.jobs("bob")
