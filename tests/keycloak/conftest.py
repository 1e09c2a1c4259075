"""Which Keycloak, and which site with it, do these tests get, and what is looked at after each?

One Keycloak and one site for all: a test leaves both as it found them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psutil
import pytest

from firecrestspawner.demo.children import free_ports
from tests.journeys.site import eventually
from tests.keycloak.site import KeycloakSite, Member, realm
from tests.services.keycloak import Keycloak
from tests.services.keycloak_distribution import distribution
from tests.services.processes import ServiceError

HERE = Path(__file__).parent
SITE = pytest.StashKey[KeycloakSite]()
FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.keycloak)
            # The first one pays for fetching Keycloak on a fresh machine.
            item.add_marker(pytest.mark.timeout(600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of its Hub's log, and of Keycloak's."""
    report = yield
    site = item.stash.get(SITE, None)
    if report.failed and site is not None:
        item.stash[FAILED] = True
        report.sections.append(("the end of the Hub's log", site.log_end()))
        report.sections.append(("the end of Keycloak's log", site.keycloak.log_end()))
    return report


@pytest.fixture(scope="session")
def hub_port() -> int:
    """The Hub's public port, known before there is a Hub: Keycloak is told at its start."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def keycloak(hub_port: int) -> Iterator[Keycloak]:
    """A Keycloak with the realm that ships in examples/keycloak."""
    try:
        distribution()
    except ServiceError as error:
        pytest.skip(str(error))
    with Keycloak(realm(), {"HUB_PUBLIC_URL": f"http://127.0.0.1:{hub_port}"}) as running:
        yield running
    assert not psutil.pid_exists(running.pid)
    assert not running.log.parent.exists()


@pytest.fixture(scope="session")
def shared() -> Iterator[list[KeycloakSite]]:
    """The site that every test leaves as it found it; none at first and after a failure."""
    sites: list[KeycloakSite] = []
    yield sites
    for site in sites:
        site.close()
        assert not site.directory.exists()


@pytest.fixture
def settings() -> str:
    """What the Hub's configuration has more than the demo's: for tests to parametrize."""
    return ""


@pytest.fixture
def site(
    keycloak: Keycloak,
    hub_port: int,
    shared: list[KeycloakSite],
    settings: str,
    request: pytest.FixtureRequest,
) -> Iterator[KeycloakSite]:
    """The shared site with ``settings``. A test stops the servers it starts."""
    if not shared:
        shared.append(KeycloakSite(keycloak, hub_port).__enter__())
    site = request.node.stash[SITE] = shared[0]
    site.configure(settings)
    yield site
    if request.node.stash.get(FAILED, False):
        shared.pop().close()
    else:
        eventually(lambda: not site.unfinished(), 20, "no job is left")


@pytest.fixture
def person(site: KeycloakSite) -> Iterator[Callable[[str], Member]]:
    """Makes people who are logged in on the site, each in a browser of their own."""
    with contextlib.ExitStack() as stack:

        def log_in(name: str) -> Member:
            person = stack.enter_context(Member(site, name))
            person.log_in()
            return person

        yield log_in


@pytest.fixture
def alice(person: Callable[[str], Member]) -> Member:
    return person("alice")
