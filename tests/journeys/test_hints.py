"""Is a person told which accounts and partitions are theirs, by a form that waits for nothing?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from firecrestspawner.demo.visitor import VisitError
from tests.journeys.person import Person
from tests.journeys.site import Site

FIELDS = ("account", "partition", "reservation", "constraint")


def test_the_form_is_told_what_the_user_may_use(make_site: Callable[..., Site]) -> None:
    """C3, S3, S5."""
    site = make_site(extra_config=f"c.FirecRESTSpawner.option_fields = {list(FIELDS)}\n")
    with Person(site, "alice") as alice:
        alice.log_in()
        page = alice.look_at(alice.hub("spawn/alice/second")).text
        assert "/hub/api/firecrest/hints" in page
        assert 'data-firecrest-hints="account"' in page
        before = site.requests().count("userinfo")
        for _ in range(3):
            answer = alice.api("GET", alice.hub("api/firecrest/hints?system=demo"))
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "no-store"
            assert set(answer.json()) == {*FIELDS, "complete", "problem"}
            assert answer.json()["problem"] == ""
            assert answer.json()["partition"]
            assert [each["value"] for each in answer.json()["constraint"]] == ["demo"]
        assert site.requests().count("userinfo") == before + 1
        assert site.requests().count("nodes") <= 1, "they are the same for all"
        for query, status in (("", 404), ("?system=nowhere", 404), ("?system=demo&x=1", 400)):
            with pytest.raises(VisitError, match=f": {status} "):
                alice.api("GET", alice.hub(f"api/firecrest/hints{query}"))


def test_a_form_is_there_although_firecrest_is_away(make_site: Callable[..., Site]) -> None:
    """R8."""
    site = make_site()
    with Person(site, "alice") as alice:
        alice.log_in()
        for operation in ("userinfo", "partitions", "reservations"):
            site.firecrest.faults.set(operation, status=500)
        assert 'name="account"' in alice.look_at(alice.hub("spawn/alice/second")).text
        answer = alice.api("GET", alice.hub("api/firecrest/hints?system=demo"))
        assert answer.status_code == 200
        assert "not known at the moment" in answer.json()["problem"]
        assert "nodes" not in site.requests(), "no constraint is offered"
