"""On which site and in which browser do the journeys take place, and what if one fails?"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome

from firecrestspawner.demo.issuer import DEFAULT_USERS
from tests.browser.chromium import NoBrowserError, chromium
from tests.browser.pages import Window
from tests.journeys.site import Site

SITE = pytest.StashKey[Site]()
FAILED = pytest.StashKey[bool]()
WINDOW = pytest.StashKey[tuple[Window, Path]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed journey shows what was on the screen, and the end of its Hub's log."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    if report.failed and WINDOW in item.stash:
        window, directory = item.stash[WINDOW]
        picture = directory / "failed.png"
        try:
            window.browser.save_screenshot(str(picture))
            seen = f"{window.browser.current_url}\n{picture}\n{window.text()}"
        except WebDriverException as error:
            seen = f"the browser is gone: {error.msg}"
        report.sections.append(("what was on the screen", seen))
    if report.failed and SITE in item.stash:
        site = item.stash[SITE]
        if site.hub_log.exists():
            report.sections.append((f"the end of {site.hub_log}", site.log_end()))
    return report


@pytest.fixture(scope="session")
def shared() -> Iterator[list[Site]]:
    """The site that every test leaves as it found it; none at first and after a failure."""
    sites: list[Site] = []
    yield sites
    for site in sites:
        site.close()


@pytest.fixture
def site(request: pytest.FixtureRequest, shared: list[Site]) -> Iterator[Site]:
    """The shared site, its queue open before and after, and its users' homes empty: JupyterLab
    brings back what was open in the last server, with whoever's browser that was."""
    if not shared:
        site = Site(log_level="INFO")
        site.__enter__()
        shared.append(site)
    site = request.node.stash[SITE] = shared[0]
    for user in DEFAULT_USERS:
        _empty(site.executor.home_of(user.name))
    yield site
    site.executor.release()
    if request.node.stash.get(FAILED, False):
        shared.pop().close()


def _empty(home: Path) -> None:
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@pytest.fixture
def browser() -> Iterator[Chrome]:
    """A new browser."""
    try:
        with chromium() as browser:
            yield browser
    except NoBrowserError as error:
        pytest.skip(str(error))


@pytest.fixture
def window(
    request: pytest.FixtureRequest, site: Site, browser: Chrome, tmp_path: Path
) -> Iterator[Window]:
    """Its window on the site."""
    window = Window(browser, site.url)
    request.node.stash[WINDOW] = (window, tmp_path)
    yield window
    del request.node.stash[WINDOW]
