"""Does a person learn which system is unwell, without waiting for it? Does an admin see it, too?"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

NOTICE = re.compile(r'id="firecrest-systems"[^>]*>(.*?)</div>', re.DOTALL)


def notice(person: Person, path: str = "home") -> str:
    """What a page says of the systems; empty when it says nothing."""
    found = NOTICE.search(person.look_at(person.hub(path)).text)
    return " ".join(found[1].split()) if found else ""


def metric(person: Person, line: str) -> float | None:
    """A value of the Hub's own /metrics, as somebody who may see them; None when there is none."""
    answer = person.look_at(person.hub("metrics"))
    assert answer.status_code == 200
    values = [row.split()[-1] for row in answer.text.splitlines() if row.startswith(line + " ")]
    return float(values[0]) if values else None


def test_pages_say_which_system_is_unwell(make_site: Callable[..., Site]):
    """R9, C3: from FirecREST's own health checks, asked once for many pages, and never waited
    for."""
    site = make_site()
    site.firecrest.systems["demo"].unhealthy.add("scheduler")
    answered = threading.Event()
    site.firecrest.faults.set("systems", until=answered)
    with Person(site, "alice") as alice:
        alice.log_in()
        assert [notice(alice) for _ in range(5)] == [""] * 5
        answered.set()
        said = eventually(lambda: notice(alice), what="the home page says so")
        assert said == (
            "demo has trouble with its scheduler. Servers that run go on; new ones may not start "
            "there."
        )
        assert notice(alice, "spawn/alice/second") == said
        assert site.requests().count("systems") == 1


def test_a_system_that_does_not_answer_is_said_to_and_comes_back_by_itself(
    make_site: Callable[..., Site],
):
    """R1, R9: nobody waits for it, and what runs goes on; the admin sees it in /metrics; once it
    answers, starts work."""
    site = make_site(extra_config="c.Spawner.poll_interval = 5\n")
    with Person(site, "alice") as alice, Person(site, "admin") as admin:
        alice.log_in()
        admin.log_in()
        alice.start()
        assert metric(admin, 'firecrest_jobs{state="running",system="demo"}') == 1
        age = metric(admin, 'firecrest_snapshot_age_seconds{system="demo"}')
        assert age is not None and age < 60
        site.firecrest.faults.set("*", status=502)
        said = eventually(lambda: notice(alice), 60, "the home page says so")
        assert said.startswith("demo does not answer at the moment.")
        breaker = 'firecrest_breaker_state{system="demo"}'
        assert metric(admin, breaker) in (1, 2)
        lists = 'firecrest_requests_total{operation="jobs",outcome="firecrest-unwell"'
        assert (metric(admin, f'{lists},system="demo"}}') or 0) >= 1
        assert alice.servers()[""]["ready"]
        site.firecrest.faults.clear()
        eventually(lambda: metric(admin, breaker) == 0, 90, "the system is asked again")
        assert notice(alice) == ""
        alice.start("second")
        alice.stop("second")
        alice.stop()
