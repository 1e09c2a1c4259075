"""What does a user see and do while the job waits in the queue?"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from tests.journeys.person import Person
from tests.journeys.site import Site, eventually

TABS = 4


def test_a_queued_server_is_cancelled_from_the_pending_page(site: Site, alice: Person):
    """R7: no job, no state, no token is left. The events before it are true, and the last one
    says what happened."""
    site.executor.hold()
    alice.ask_for_server()
    job = eventually(lambda: site.job("alice") if site.unfinished("alice") else None)
    assert (job.state, job.reason) == ("PENDING", "Resources")
    events = []
    with closing(alice.progress()) as progress:
        for event in progress:
            events.append(event)
            if "Resources" in event["message"]:
                alice.press_stop()
            assert len(events) < 20, events
    assert events[-1].get("failed"), events[-1]
    assert "cancelled" in events[-1]["message"].lower()
    shown = [event for event in events[:-1] if "Job" in event["message"]]
    assert all(f"Job {job.id} waits in the queue of demo" in e["message"] for e in shown), shown
    assert all(0 < event["progress"] < 70 for event in shown)
    alice.wait_until_gone()
    assert site.job("alice").state.startswith("CANCELLED")
    assert not site.unfinished()


def test_open_tabs_of_the_pending_page_cost_no_request(site: Site, alice: Person):
    """C3: the progress comes from memory, however many tabs read it."""
    site.executor.hold()
    alice.ask_for_server()
    eventually(lambda: site.state("alice").get("job_id"), what="the job is known")
    answer = threading.Event()
    held = site.firecrest.faults.set("*", until=answer)
    try:
        # The monitor's tick waits for its answer: whoever asked something now would be seen.
        eventually(lambda: held.hits == 1, what="the monitor's request")
        with ThreadPoolExecutor(TABS) as tabs:
            first = list(tabs.map(first_event_about_the_job, [alice] * TABS))
        assert held.hits == 1
    finally:
        answer.set()
    assert len(set(first)) == 1 and "waits in the queue" in first[0]
    alice.stop()


def first_event_about_the_job(person: Person) -> str:
    with closing(person.progress()) as events:
        return next(str(event["message"]) for event in events if "Job" in event["message"])


def test_a_queued_server_starts_when_its_turn_comes(site: Site, alice: Person):
    """The bar never goes back, and reaches 100 only when the server is ready."""
    site.executor.hold()
    alice.ask_for_server()
    job = eventually(lambda: site.job("alice") if site.unfinished("alice") else None)
    events = []
    with closing(alice.progress()) as progress:
        for event in progress:
            events.append(event)
            if "waits" in event["message"]:
                site.executor.release()
            if event.get("ready") or event.get("failed"):
                break
    assert events[-1].get("ready"), events[-1]
    percents = [event["progress"] for event in events]
    assert percents == sorted(percents)
    assert all(percent < 100 for percent in percents[:-1])
    assert any(f"Job {job.id} runs" in event["message"] for event in events)
    alice.stop()
