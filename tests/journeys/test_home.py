"""What does the home page say of a person's servers, and what does that cost?"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from html import unescape

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually


def home(person: Person) -> dict[str, dict[str, str]]:
    """What the page says of each server, by its heading: terms and what they are, and state."""
    page = person.look_at(person.hub("home")).text
    told = {}
    for card in re.findall(r"<article.*?</article>", page, re.DOTALL):
        (title,) = re.findall(r"<h3[^>]*>(.*?)</h3>", card)
        pairs = re.findall(r"<dt>(.*?)</dt>\s*<dd[^>]*>(.*?)</dd>", card, re.DOTALL)
        one = {term: unescape(what).strip() for term, what in pairs}
        (one["state"],) = re.findall(r'<span class="badge[^>]*>(.*?)</span>', card)
        (alert,) = re.findall(r'<div class="alert[^>]*>', card) or [" hidden"]
        one["warned"] = "" if " hidden" in alert else "yes"
        told[unescape(title)] = one
    return told


def test_the_home_page_says_where_servers_run_and_for_how_long(make_site: Callable[..., Site]):
    """C3: from memory, however often it is loaded; and the stock page is there as ever."""
    site = make_site(
        extra_config="c.FirecRESTSpawner.option_fields = ['runtime']\n"
        "c.JupyterHub.allow_named_servers = True\n"
    )
    with Person(site, "alice") as alice:
        alice.log_in()
        assert home(alice) == {}
        site.executor.hold()
        alice.ask_for_server(runtime="00:10:00")
        queued = eventually(lambda: site.state("alice").get("job_id"), what="the job is known")
        answer = threading.Event()
        held = site.firecrest.faults.set("*", until=answer)
        try:
            # The monitor's tick waits for its answer: whoever asked something now would be seen.
            eventually(lambda: held.hits == 1, what="the monitor's request")
            told = [home(alice) for _ in range(5)]
            assert held.hits == 1
        finally:
            answer.set()
        expected = {"System": "demo", "Job": queued, "state": "queued", "warned": ""}
        assert told == [{"Default server": expected}] * 5

        site.executor.release()
        alice.wait_until_ready()
        alice.start("second")

        def both_run() -> dict[str, dict[str, str]] | None:
            told = home(alice)
            return told if all("Time left" in each for each in told.values()) else None

        said = eventually(both_run, what="both jobs have been seen to run")
        assert list(said) == ["Default server", "second"]
        first, second = said["Default server"], said["second"]
        assert (first["state"], first["Job"], first["warned"]) == ("running", queued, "yes")
        assert first["Node"] == site.jobs("alice")[0].nodes
        assert re.fullmatch("[89] min|10 min", first["Time left"])
        assert (second["state"], second["warned"]) == ("running", "")
        assert re.fullmatch("5[0-9] min|1 h", second["Time left"]), "the demo's default is an hour"

        page = alice.look_at(alice.hub("home")).text
        assert 'id="stop"' in page and 'id="start"' in page
        assert 'data-server-name="second"' in page and "new-server-btn" in page
        alice.stop("second")
        assert list(home(alice)) == ["Default server"]
        alice.stop()
        assert home(alice) == {}
