"""What does a person do with the site's pages in a browser?

Every method does what its name says with what is on the screen, and waits for what comes of it:
by conditions, each with a deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from firecrestspawner.demo.issuer import DEFAULT_USERS

T = TypeVar("T")

#: Seconds.
PAGE_TIMEOUT = 15.0
START_TIMEOUT = 40.0
LOOK = 0.05
#: How often somebody presses the tabulator before they give up.
KEYS = 50


class Window:
    """A browser's window on the site at ``url``."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        self.url = url

    # -- looking -----------------------------------------------------------------------------

    def wait(self, condition: Callable[[], T], what: str, timeout: float = PAGE_TIMEOUT) -> T:
        """What ``condition`` answers once that is true. It may look at elements that are not
        there yet, or not any more. Raises AssertionError after ``timeout`` seconds."""
        waiting = WebDriverWait(
            self.browser,
            timeout,
            poll_frequency=LOOK,
            ignored_exceptions=(NoSuchElementException, StaleElementReferenceException),
        )
        try:
            return waiting.until(lambda _: condition() or None)  # type: ignore[return-value]
        except TimeoutException:
            raise AssertionError(
                f"not within {timeout:g} s: {what}; the page {self.browser.current_url} says: "
                f"{self.text()[:500]}"
            ) from None

    def text(self) -> str:
        """All text that is on the page."""
        return str(self.browser.execute_script("return document.body.innerText"))

    def see(self, selector: str, timeout: float = PAGE_TIMEOUT) -> WebElement:
        """The first visible element for a CSS selector."""

        def visible() -> WebElement | None:
            found = self.browser.find_elements(By.CSS_SELECTOR, selector)
            return next((element for element in found if element.is_displayed()), None)

        element = self.wait(visible, f"there is {selector}", timeout)
        assert element is not None
        return element

    def press(self, selector: str) -> None:
        """Press a button of the home page once its script, which comes after the page, listens."""
        button = self.see(selector)
        listens = (
            "const $ = window.require?.defined?.('jquery') && require('jquery');"
            "return Boolean($ && $._data(arguments[0], 'events'))"
        )
        self.wait(
            lambda: self.browser.execute_script(listens, button), f"{selector} can be pressed"
        )
        button.click()

    def see_text(self, selector: str, *parts: str, timeout: float = PAGE_TIMEOUT) -> str:
        """The text of an element once it holds all ``parts``."""

        def text() -> str | None:
            shown = self.browser.find_element(By.CSS_SELECTOR, selector).text
            return shown if shown and all(part in shown for part in parts) else None

        shown = self.wait(text, f"{selector} says {' and '.join(parts) or 'something'}", timeout)
        assert shown is not None
        return shown

    def field(self, label: str) -> WebElement:
        """The input that a label belongs to: of several systems' that are alike, the one shown."""
        found = self.browser.find_elements(By.XPATH, f"//label[normalize-space()='{label}']")
        for each in found:
            if each.is_displayed():
                return self.browser.find_element(By.ID, each.get_attribute("for") or "")
        raise NoSuchElementException(f"no label {label!r}")

    # -- the Hub -----------------------------------------------------------------------------

    def open(self, path: str) -> None:
        """Type an address of the site."""
        self.browser.get(f"{self.url}{path}")

    def open_login(self) -> None:
        """From the Hub's front door to the issuer's page."""
        self.open("/")
        self.see("a[href*='oauth_login']").click()
        self.see("input[name=password]")

    def log_in(self, user: str) -> None:
        """From the issuer's page to the spawn form, which is where the Hub leads to."""
        self.enter_password(user)
        self.see("#spawn_form")

    def enter_password(self, user: str) -> None:
        """Fill in the issuer's page, and send it."""
        password = next(each.password for each in DEFAULT_USERS if each.name == user)
        name = self.field("Username")
        name.clear()  # at a re-login the issuer knows whom to expect
        name.send_keys(user)
        self.field("Password").send_keys(password)
        self.see("button[name=login]").click()

    def notice(self, *parts: str) -> str:
        """What is said above the page about the session at the issuer."""
        return self.see_text("#firecrest-session", *parts)

    def log_in_again(self, user: str) -> None:
        """Press the link about the session, and come back to the page it is on."""
        before = self.browser.current_url.partition("?")[0]
        self.browser.find_element(By.LINK_TEXT, "Log in again").click()
        self.see("input[name=password]")
        self.enter_password(user)
        self.wait(lambda: self.browser.current_url == before, f"{before} is back")

    def fill_in(self, **values: str) -> None:
        """Write into the spawn form's fields, by label; ``Run_time`` is *Run time*."""
        for name, value in values.items():
            field = self.field(name.replace("_", " "))
            field.clear()
            field.send_keys(value)

    def pick(self, label: str) -> None:
        """Press a labelled button out of a group."""
        self.field(label).click()

    def choose(self, label: str, what: str) -> None:
        """Choose from one of the spawn form's lists."""
        Select(self.field(label)).select_by_visible_text(what)

    def chosen(self, label: str) -> str:
        """What one of the spawn form's lists shows as chosen."""
        return str(Select(self.field(label)).first_selected_option.text)

    def tab_to(self, label: str) -> None:
        """Press the tabulator key until the labelled input is reached."""
        self._tab_until(self.field(label), label)

    def tab_to_button(self, selector: str) -> None:
        """Press the tabulator key until a button is reached."""
        self._tab_until(self.see(selector), selector)

    def _tab_until(self, wanted: WebElement, what: str) -> None:
        for _ in range(KEYS):
            if self.browser.switch_to.active_element == wanted:
                return
            self.keys(Keys.TAB)
        raise AssertionError(f"{what} is not reached by keyboard")

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def start(self) -> None:
        """Press the spawn form's button, and wait for what comes next."""
        form = self.see("#spawn_form")
        form.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        self.wait(lambda: _gone(form), "the form is sent")

    def refusal(self) -> str:
        """What is said about the attempt that was refused, wherever; then the form is there again.

        That is above the form if JupyterHub was told within the second for which it waits, else on
        the pending page, or on the one that a failed start has once it is over.
        """
        said = self.wait(self._refused, "the start is refused", START_TIMEOUT)
        if not self.browser.find_elements(By.ID, "spawn_form"):
            # Without its query: JupyterHub starts a server at once for one, be it only the token
            # that its own form has posted along.
            self.open(urlsplit(self.browser.current_url).path.replace("-pending", ""))
            self.see("#spawn_form")
        assert said is not None
        return said.removeprefix("Error: ").removeprefix("Spawn failed: ")

    def _refused(self) -> str | None:
        places = ".spawn-error-msg, #progress-message, #firecrest-ending > :first-child, h1 ~ p"
        texts = [each.text for each in self.browser.find_elements(By.CSS_SELECTOR, places)]
        if "spawn-pending" not in self.browser.current_url:
            return next(iter(texts), None)
        if self.browser.find_elements(By.ID, "progress-message"):
            return next((text for text in texts if text.startswith("Spawn failed: ")), None)
        return next((text for text in texts if text and "latest attempt" not in text), None)

    def progress(self, *parts: str) -> str:
        """The pending page's sentence once it holds ``parts``."""
        return self.see_text("#progress-message", *parts, timeout=START_TIMEOUT)

    def percent(self) -> int:
        """How far the pending page's bar is."""
        return int(self.see("#progress-bar").get_attribute("aria-valuenow") or 0)

    def event_log(self) -> list[str]:
        """The lines of the pending page's event log, which is opened for it."""
        details = self.see("#progress-details")
        if details.get_attribute("open") is None:
            details.find_element(By.CSS_SELECTOR, "summary").click()
        return self.see_text("#progress-log").splitlines()

    def cancel(self) -> None:
        """Press the pending page's button, until the home page says that nothing runs."""
        self.see("#stop-server-btn").click()
        self.see_text("#start", "Start My Server")

    def stop(self) -> None:
        """Press the home page's button, until that shows the server as stopped."""
        self.open("/hub/home")
        self.wait(lambda: "My Server" in self.see("#start").text, "the home page")
        self.press("#stop")
        self.see_text("#start", "Start My Server")

    # -- JupyterLab --------------------------------------------------------------------------

    def land_in_lab(self) -> None:
        """Wait until the pending page has led to JupyterLab, and that shows its launcher."""
        self.see(".jp-LauncherCard[data-category=Notebook]", START_TIMEOUT)

    def new_notebook(self) -> None:
        """Press the launcher's first notebook, until its kernel waits for something to do."""
        self.see(".jp-LauncherCard[data-category=Notebook]").click()
        # Beside the execution indicator's "idle", which is also what it says before there is one.
        self.see_text("#jp-main-statusbar", "Python 3", "| Idle", timeout=START_TIMEOUT)

    def run_cell(self, code: str) -> str:
        """Write into the notebook's last cell, run it, and read what is printed below it."""
        cells = ".jp-NotebookPanel .jp-CodeCell"
        cell = self.wait(lambda: self.browser.find_elements(By.CSS_SELECTOR, cells)[-1:], "a cell")[
            0
        ]
        cell.find_element(By.CSS_SELECTOR, ".cm-content").click()
        keys = ActionChains(self.browser).send_keys(code)
        keys.key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
        output = ".jp-OutputArea-executeResult .jp-OutputArea-output"
        return self.wait(
            lambda: cell.find_element(By.CSS_SELECTOR, output).text.strip(),
            f"{code} has a result",
            START_TIMEOUT,
        )

    def decline_news(self) -> None:
        """Answer the question with which a new user's JupyterLab begins."""
        self.wait(lambda: "Jupyter news" in self.text(), "the question about news")

        def answer() -> WebElement | None:
            buttons = self.browser.find_elements(By.CSS_SELECTOR, ".Toastify button")
            return next((button for button in buttons if button.text.strip() == "No"), None)

        button = self.wait(answer, "it can be answered")
        assert button is not None
        button.click()
        self.wait(lambda: "Jupyter news" not in self.text(), "the question is gone")


def _gone(element: WebElement) -> bool:
    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    return False
