"""On which site do the journeys through a real Slurm take place, and what is looked at after each?

One Slurm and one site for all of them: a journey leaves both as it found them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.journeys.person import Person
from tests.journeys.site import eventually
from tests.services.interpreter import interpreter
from tests.services.slurm import Slurm
from tests.slurm.cluster import LAG, SlurmSite

HERE = Path(__file__).parent
SITE = pytest.StashKey[SlurmSite]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)
            # The first one pays for installing Slurm and Jupyter on a fresh machine.
            item.add_marker(pytest.mark.timeout(600))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed journey shows the end of its Hub's log, and of the daemons'."""
    report = yield
    site = item.stash.get(SITE, None)
    # When it is the site's own end that fails, its logs are gone: the failure is worth more.
    if report.failed and site is not None and site.hub_log.exists():
        report.sections.append(("the end of the Hub's log", site.log_end()))
        report.sections.append(("the ends of Slurm's logs", site.slurm.logs()))
    return report


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Two nodes; users see their own jobs and reservations only; what accounting and partitions
    do not allow is refused at once; accounting keeps all that it can keep."""
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs as their users: needs root")
    config = {
        "PrivateData": "jobs,reservations",
        "AccountingStorageEnforce": "associations,limits,qos",
        "EnforcePartLimits": "ALL",
        "AccountingStoreFlags": "job_script,job_env,job_comment",
    }
    with Slurm(nodes=2, config=config) as running:
        yield running


@pytest.fixture(scope="session")
def shared_site(slurm: Slurm) -> Iterator[SlurmSite]:
    with SlurmSite(slurm, interpreter()) as site:
        yield site
    assert not site.directory.exists()


@pytest.fixture
def site(shared_site: SlurmSite, request: pytest.FixtureRequest) -> Iterator[SlurmSite]:
    """The shared site. A test has to stop the servers that it started; nothing may be left."""
    request.node.stash[SITE] = shared_site
    yield shared_site
    for line in shared_site.slurm.administer("squeue", "-h", "-o", "%i %u").splitlines():
        # Of a failed test: the next one finds an empty queue.
        shared_site.slurm.administer("scancel", line.split()[0])
    eventually(lambda: not shared_site.remains(), LAG, "nothing remains")
    for user in ("alice", "bob"):
        shared_site.wait_for_empty_queue(user)


@pytest.fixture
def person(site: SlurmSite) -> Iterator[Callable[[str], Person]]:
    """Makes people who are logged in on the site, each in a browser of their own."""
    with contextlib.ExitStack() as stack:

        def log_in(name: str) -> Person:
            person = stack.enter_context(Person(site, name))
            person.log_in()
            return person

        yield log_in


@pytest.fixture
def alice(person: Callable[[str], Person]) -> Person:
    """alice, logged in; on the cluster she is fcsalice."""
    return person("alice")


@pytest.fixture
def bob(person: Callable[[str], Person]) -> Person:
    """bob, logged in; on the cluster he is fcsbob."""
    return person("bob")
