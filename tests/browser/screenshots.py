"""How do the pictures of the documentation come about?

``python -m tests.browser.screenshots docs/images`` goes through a demo site in Chromium, and saves
what a person sees on the way.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from selenium.webdriver import Chrome

from tests.browser.centre import Centre
from tests.browser.chromium import NARROW, WIDTH, NoBrowserError, chromium, look
from tests.browser.pages import Window
from tests.browser.tour import tour
from tests.journeys.site import eventually

#: Of these there is no picture: there is little to see.
LEFT_OUT = ("front", "forbidden")
#: Pages that one picture is enough for.
ONCE = ("login", "rejected", "output", "session-ended")

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

    def take_all(self, name: str) -> None:
        """The whole page, light and dark, on a desk and on a telephone."""
        for width in (WIDTH, NARROW):
            for dark in (False, True):
                look(self._browser, width, 1, dark=dark)
                script = "return Math.ceil(document.body.getBoundingClientRect().bottom) + 16"
                tall = self._browser.execute_script(script)
                look(self._browser, width, tall, dark=dark)
                narrow = f"-{NARROW}" if width == NARROW else ""
                self.take(f"{name}{narrow}{'-dark' if dark else ''}")
        look(self._browser)


def take_lab(centre: Centre, window: Window, camera: Camera) -> None:
    """JupyterLab, with a notebook that says where it runs."""
    window.open("/hub/spawn/alice/third")
    window.pick("Small")
    window.start()
    window.land_in_lab()
    window.decline_news()
    window.new_notebook()
    window.run_cell("6 * 7")
    window.run_cell(WHERE)
    camera.take("lab")
    window.open("/hub/home")
    window.press("#stop-third")
    window.see("#start-third")
    eventually(lambda: not centre.remains(), what="nothing is left")


def main(argv: list[str]) -> int:
    """Take all pictures; 0, or 1 without a browser."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots")
    parser.add_argument("directory", type=Path, help="where the pictures go: docs/images")
    directory = parser.parse_args(argv).directory
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with Centre() as centre, chromium() as browser:
            window, camera = Window(browser, centre.url), Camera(browser, directory)
            for page in tour(centre, window):
                if page in ONCE:
                    camera.take(page)
                elif page not in LEFT_OUT:
                    camera.take_all(page)
            take_lab(centre, window, camera)
    except NoBrowserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
