"""Which PostgreSQL, and which site with it, do these tests get?"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.site import Site
from tests.services.postgresql import PostgreSQL, programs
from tests.services.processes import ServiceError

SITE = pytest.StashKey[Site]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.postgresql)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of its Hub's log."""
    report = yield
    site = item.stash.get(SITE, None)
    if report.failed and site is not None and site.hub_log.exists():
        report.sections.append(("the end of the Hub's log", site.log_end()))
    return report


class PostgreSQLSite(Site):
    """The demo's site whose Hub keeps its database in a PostgreSQL."""

    def __init__(self, database: PostgreSQL) -> None:
        super().__init__(environ={"DEMO_DB_URL": database.url})
        self._postgresql = database

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """As the base class's; its queries are written for SQLite."""
        if values:
            sql = sql.replace("%", "%%").replace("?", "%s")
        return self._postgresql.query(sql, values)


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    try:
        programs()
    except ServiceError as error:
        pytest.skip(str(error))
    with PostgreSQL() as database:
        yield database


@pytest.fixture
def site(database: PostgreSQL, request: pytest.FixtureRequest) -> Iterator[PostgreSQLSite]:
    with PostgreSQLSite(database) as site:
        request.node.stash[SITE] = site
        yield site
    assert not site.leftovers()
