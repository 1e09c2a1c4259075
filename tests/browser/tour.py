"""Which pages does a person come to on a site with two systems, and what do they see there?

One walk, by which both the tests of every page and the pictures of the documentation come about.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.browser.centre import INSTALLED, SHORT, Centre
from tests.browser.pages import Window
from tests.journeys.site import eventually

#: Seconds: shorter than the margin, so that every start needs the issuer.
SHORT_LIFE = 45.0


def tour(centre: Centre, window: Window) -> Iterator[str]:
    """The names of the pages, each when it is open. They may be looked at in any size and theme."""
    usual = centre.issuer.lifetimes.access_token
    centre.issuer.lifetimes.access_token = SHORT_LIFE
    yield from _log_in(window)
    yield from _choose(window)
    yield from _fail_and_retry(centre, window)
    yield from _two_systems(centre, window)
    yield from _without_session(centre, window)
    yield from _without_firecrest(centre, window)
    centre.issuer.lifetimes.access_token = usual


def _log_in(window: Window) -> Iterator[str]:
    window.open("/")
    window.see("a[href*='oauth_login']")
    yield "front"
    window.open_login()
    yield "login"
    window.log_in("alice")


def _choose(window: Window) -> Iterator[str]:
    assert window.field("Small").is_selected()
    window.pick("GPU")
    window.choose("GPUs", "Four")
    window.fill_in(Another_time="02:30:00")
    yield "profiles"
    window.pick("Custom")
    window.choose("System", "Mini (CPU)")
    window.choose("CPUs per task", "8: a quarter of a node")
    window.fill_in(Partition="debug")
    yield "fields"
    window.choose("System", "Demo (GPU)")
    window.fill_in(Partition="none-such", Run_time="02:00:00")
    window.choose("Environment", "My own")
    window.start()
    assert "none-such" in window.refusal()
    assert window.field("Partition").get_attribute("value") == "none-such"
    assert window.chosen("Environment") == "My own"
    yield "rejected"


def _fail_and_retry(centre: Centre, window: Window) -> Iterator[str]:
    centre.executor.hold()
    window.fill_in(Partition="debug")
    window.start()
    window.progress("Resources")
    centre.executor.release()
    job = eventually(lambda: centre.jobs("alice"), what="a job")[-1]
    window.see("#firecrest-ending[data-cause=missing-command]")
    assert window.see("#firecrest-job").text == job.id
    window.see_text("#firecrest-lines", "jupyterhub-singleuser not found on the node")
    yield "failed"
    window.see("#firecrest-output").click()
    window.see_text("#firecrest-lines", "jupyterhub-singleuser not found on the node")
    yield "output"
    window.browser.back()

    (centre.executor.home_of("alice") / INSTALLED).touch()
    centre.executor.hold()
    window.see("#firecrest-retry button").click()
    window.progress("Resources")
    (again,) = centre.unfinished("alice")
    assert again.id != job.id
    assert (again.partition, again.limit) == (job.partition, job.limit) == ("debug", 7200)
    yield "pending"
    centre.executor.release()
    window.land_in_lab()


def _two_systems(centre: Centre, window: Window) -> Iterator[str]:
    window.open("/hub/spawn/alice/second")
    window.pick("Custom")
    window.choose("System", "Mini (CPU)")
    window.choose("CPUs per task", "8: a quarter of a node")
    window.fill_in(Partition="debug", Run_time=SHORT)
    window.start()
    window.land_in_lab()
    assert [job.nodes for job in centre.unfinished("alice")] == ["nid001", "cn01"]
    window.open("/hub/home")
    window.see_text("#firecrest-servers", "Demo (GPU)", "nid001", "Mini (CPU)", "cn01")
    yield "home"
    window.press("#stop-second")
    window.see("#start-second").click()
    window.see("#spawn_form")
    assert window.field("Custom").is_selected()
    assert window.chosen("System") == "Mini (CPU)"
    assert window.chosen("CPUs per task") == "8: a quarter of a node"
    assert window.field("Partition").get_attribute("value") == "debug"
    assert window.field("Run time").get_attribute("value") == SHORT
    yield "remembered"


def _without_session(centre: Centre, window: Window) -> Iterator[str]:
    window.open("/hub/spawn/alice/third")
    centre.issuer.end_session("alice")
    window.start()
    window.refusal()
    window.open("/hub/home")
    window.notice("has ended")
    yield "session-ended"
    window.log_in_again("alice")
    window.open("/hub/admin")
    window.see_text("h1", "403")
    yield "forbidden"


def _without_firecrest(centre: Centre, window: Window) -> Iterator[str]:
    centre.firecrest.faults.set("*", status=502)
    window.open("/hub/spawn/alice/third")
    window.pick("Custom")
    window.see_text("#firecrest-hints", "not known at the moment")
    assert window.field("Account").is_displayed()
    yield "away"
    centre.firecrest.faults.clear()
    window.stop()
    eventually(lambda: not centre.remains(), what="nothing is left")
