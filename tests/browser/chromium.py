"""How do the tests and the screenshots get a browser?"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

WIDTH, HEIGHT = 1400, 900

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
def chromium() -> Iterator[Chrome]:
    """A headless Chromium that knows nothing of earlier ones, with a page of WIDTH x HEIGHT.

    Raises NoBrowserError.
    """
    driver = shutil.which("chromedriver")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    # Both are named below: Selenium would download what it does not find.
    if driver is None or binary is None:
        raise NoBrowserError("Chromium and its driver are needed: apt-get install chromium-driver")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        service = ChromeService(driver, env={**os.environ, "HOME": home})
        browser = Chrome(_options(binary), service)
        try:
            # --window-size counts a frame that nobody sees.
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False},
            )
            yield browser
        finally:
            browser.quit()


def _options(binary: str) -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    if os.geteuid() == 0:
        # Chromium refuses to run as root with its sandbox.
        options.add_argument("--no-sandbox")
    return options
