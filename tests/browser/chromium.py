"""How do the tests and the screenshots get a browser?"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

WIDTH, HEIGHT = 1400, 900
#: Of a small telephone.
NARROW = 360

FLAGS = (
    "--headless=new",
    "--disable-gpu",
    # In containers /dev/shm is often too small for a page.
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    # The sites are on loopback addresses, whatever the machine's web proxy is.
    "--no-proxy-server",
    "--lang=en-US",
)


class NoBrowserError(Exception):
    """Chromium or its driver is not installed."""


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Chrome]:
    """A headless Chromium that knows nothing of earlier ones, with a page of WIDTH x HEIGHT.

    ``flags`` are further ones of its command line. Raises NoBrowserError.
    """
    driver = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    # Both are named below: Selenium would download what it does not find.
    if driver is None or binary is None:
        raise NoBrowserError("Chromium and its driver are needed: apt-get install chromium-driver")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        service = ChromeService(driver, env={**os.environ, "HOME": home})
        browser = Chrome(_options(binary, flags), service)
        try:
            look(browser)
            yield browser
        finally:
            browser.quit()


def look(browser: Chrome, width: int = WIDTH, height: int = HEIGHT, *, dark: bool = False) -> None:
    """Look at the pages in a window of this size, on a system with this theme."""
    # --window-size counts a frame that nobody sees.
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # As on a telephone, where scroll bars take no room.
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    # Without motion: colours on their way from one theme to the other are in neither.
    wishes = {
        "prefers-color-scheme": "dark" if dark else "light",
        "prefers-reduced-motion": "reduce",
    }
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def _options(binary: str, flags: Sequence[str]) -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, *flags):
        options.add_argument(flag)
    if os.geteuid() == 0:
        # Chromium refuses to run as root with its sandbox.
        options.add_argument("--no-sandbox")
    return options
