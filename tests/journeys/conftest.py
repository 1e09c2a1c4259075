"""On which sites do the journeys take place, and what is looked at after each?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from firecrestspawner.demo.issuer_accounts import DEFAULT_USERS
from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

SITES = pytest.StashKey[list[Site]]()
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.journey)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed journey shows the ends of its Hub's log, and of its newest job's."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        for site in item.stash.get(SITES, []):
            if site.hub_log.exists():
                report.sections.append((f"the end of {site.hub_log}", site.log_end()))
            for job in site.jobs()[-1:]:
                report.sections.append((f"the end of job {job.id}", site.output_end(job)))
    return report


class SharedSite:
    """One site for all journeys that leave it as they found it; a new one after a failure."""

    def __init__(self) -> None:
        self._site: Site | None = None

    def get(self) -> Site:
        if self._site is None:
            self._site = Site()
            self._site.__enter__()
        return self._site

    def close(self) -> None:
        """Raises DemoError if the site had to end processes by force."""
        site, self._site = self._site, None
        if site is not None:
            close(site)


def close(site: Site) -> None:
    """Close a site, and see that nothing is left of it."""
    site.close()
    assert not site.leftovers()
    assert not site.directory.exists()


@pytest.fixture(scope="session")
def shared_site() -> Iterator[SharedSite]:
    shared = SharedSite()
    yield shared
    shared.close()


@pytest.fixture
def site(shared_site: SharedSite, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The shared site. What a test changes (faults, lifetimes, queue, sessions at the issuer) is
    set right after it; servers it has to stop itself."""
    site = shared_site.get()
    request.node.stash[SITES] = [site]
    lifetime = site.issuer.lifetimes.access_token
    yield site
    whole = False
    try:
        if not request.node.stash.get(FAILED, False):
            site.firecrest.faults.clear()
            site.issuer.faults.clear()
            site.issuer.lifetimes.access_token = lifetime
            site.executor.release()
            for user in DEFAULT_USERS:
                site.issuer.end_session(user.name)
            eventually(lambda: not site.remains(), what=f"gone are {site.remains()}")
            whole = True
    finally:
        if not whole:
            shared_site.close()


@pytest.fixture
def make_site(request: pytest.FixtureRequest) -> Iterator[Callable[..., Site]]:
    """Makes sites of the test's own; arguments as Site's."""
    sites = request.node.stash[SITES] = []
    with contextlib.ExitStack() as stack:

        def make(**settings: str) -> Site:
            site = Site(**settings).__enter__()
            stack.callback(close, site)
            sites.append(site)
            return site

        yield make


@pytest.fixture
def person(site: Site) -> Iterator[Callable[[str], Person]]:
    """Makes people who are logged in on the shared site, each in a browser of their own."""
    with contextlib.ExitStack() as stack:

        def log_in(name: str) -> Person:
            person = stack.enter_context(Person(site, name))
            person.log_in()
            return person

        yield log_in


@pytest.fixture
def alice(person: Callable[[str], Person]) -> Person:
    return person("alice")


@pytest.fixture
def bob(person: Callable[[str], Person]) -> Person:
    return person("bob")
