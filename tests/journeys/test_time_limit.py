"""Does a job's time limit find work that has been saved?"""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

#: Seconds. A tenth of it is left for saving.
LIMIT = 60
#: What a notebook might do that computes for long: it saves when its kernel is told to end.
SAVES = """
import atexit, pathlib
saved = pathlib.Path.home() / "saved"
atexit.register(lambda: saved.write_text("all of it"))
str(saved)
"""


def test_a_server_is_ended_in_time_for_its_kernels_to_save(make_site: Callable[..., Site]) -> None:
    """And its user reads that it was the time limit, and what to do about it."""
    site = make_site(extra_config="c.FirecRESTSpawner.option_fields = ['runtime']\n")
    with Person(site, "alice") as alice:
        alice.log_in()
        alice.ask_for_server(runtime=f"00:00:{LIMIT}")
        alice.wait_until_ready()
        saved = alice.run(alice.start_kernel(), SAVES)
        assert saved is not None
        alice.wait_until_gone(timeout=LIMIT)
        job = eventually(
            lambda: None if site.unfinished("alice") else site.job("alice"), what="the job's end"
        )
        assert job.state == "COMPLETED", "the scheduler has not had to end it"
        assert LIMIT * 0.8 <= job.elapsed < LIMIT
        (path,) = site.executor.home_of("alice").glob("saved")
        assert path.read_text() == "all of it"

        page = alice.look_at(alice.hub("user/alice/lab")).text
        assert re.findall(r'data-cause="([^"]*)"', page) == ["time-limit"]
        assert "Start again, with a longer run time." in page
        output = alice.look_at(alice.hub("firecrest/output")).text
        assert "the job&#39;s time is nearly over" in output
    assert site.remains() == []
