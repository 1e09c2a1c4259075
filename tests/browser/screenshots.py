"""How do the pictures of the documentation come about?

``python -m tests.browser.screenshots docs/images`` goes through a demo site in Chromium, and saves
what a person sees on the way.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from selenium.webdriver import Chrome

from tests.browser.chromium import NoBrowserError, chromium
from tests.browser.pages import Window
from tests.journeys.site import Site, eventually

#: Seconds: shorter than the margin, so that every start needs the issuer.
SHORT_LIFE = 45.0

WHERE = """import os; f"job {os.environ['SLURM_JOB_ID']} on {os.environ['SLURMD_NODENAME']}\""""


class Camera:
    """Saves what the browser shows into ``directory``."""

    def __init__(self, browser: Chrome, directory: Path) -> None:
        self._browser = browser
        self._directory = directory

    def take(self, name: str) -> None:
        picture = self._directory / f"{name}.png"
        # The blinking cursor would make each run's picture another one.
        self._browser.execute_script("document.documentElement.style.caretColor = 'transparent'")
        assert self._browser.save_screenshot(str(picture)), f"{picture} cannot be written"
        print(f"{picture}  {picture.stat().st_size / 1000:.0f} kB")


def take_all(site: Site, window: Window, camera: Camera) -> None:
    """The pages in the order in which a person comes to them."""
    site.issuer.lifetimes.access_token = SHORT_LIFE
    window.open_login()
    camera.take("login")
    window.log_in("alice")
    camera.take("form")

    window.fill_in(Partition="gpu", Run_time="01:00:00")
    window.start()
    window.refusal()
    camera.take("rejected")

    site.executor.hold()
    window.fill_in(Partition="debug")
    window.start()
    window.progress("Resources")
    camera.take("pending")

    site.executor.release()
    window.land_in_lab()
    window.decline_news()
    window.new_notebook()
    window.run_cell("6 * 7")
    window.run_cell(WHERE)
    camera.take("lab")

    window.open("/hub/home")
    window.see("#stop")
    camera.take("home")

    window.open("/hub/spawn/alice/second")
    site.issuer.end_session("alice")
    window.start()
    window.refusal()
    window.open("/hub/home")
    window.notice("has ended")
    camera.take("session-ended")
    window.log_in_again("alice")
    window.stop()
    eventually(lambda: not site.remains(), what="nothing is left")


def main(argv: list[str]) -> int:
    """Take all pictures; 0, or 1 without a browser."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots")
    parser.add_argument("directory", type=Path, help="where the pictures go: docs/images")
    directory = parser.parse_args(argv).directory
    directory.mkdir(parents=True, exist_ok=True)
    try:
        site = Site(log_level="INFO")
        with site, chromium() as browser:
            take_all(site, Window(browser, site.url), Camera(browser, directory))
    except NoBrowserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
