"""Does all of it work for a Hub that lives below a path prefix?"""

from __future__ import annotations

from collections.abc import Callable

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually


def test_a_hub_below_a_path_prefix_serves_as_any_other(make_site: Callable[..., Site]):
    """Log in, start, run a cell, restart the Hub, stop: R6, R7 under another path."""
    site = make_site(base_url="/centre/jupyter/")
    with Person(site, "alice") as alice:
        alice.log_in()
        alice.start()
        assert "/centre/jupyter/user/alice" in site.routes()
        kernel = alice.start_kernel()
        assert alice.run(kernel, "6*7") == "42"
        site.restart_hub()
        assert alice.run(kernel, "6*7") == "42"
        alice.stop()
    eventually(lambda: not site.remains(), what=f"nothing remains: {site.remains()}")
