"""Does a person get from the log in to a result, and out again, with nothing but a browser?"""

from __future__ import annotations

from tests.browser.pages import Window
from tests.journeys.site import Site, eventually


def test_a_person_logs_in_starts_jupyter_runs_a_cell_and_stops_it(site: Site, window: Window):
    """R7: after the stop no job, process, route or token is left."""
    window.open_login()
    window.log_in("alice")
    site.executor.hold()
    window.fill_in(Partition="debug", Account="demo", Reservation="", Run_time="00:30:00")
    window.start()

    told = window.progress("Resources")
    job = site.job("alice")
    assert f"Job {job.id} waits in the queue of demo" in told
    assert (job.partition, job.account, job.limit) == ("debug", "demo", 1800)
    assert 0 < window.percent() < 70
    site.executor.release()
    window.progress(f"Job {job.id} runs")

    window.land_in_lab()
    window.new_notebook()
    assert window.run_cell("6*7") == "42"

    window.stop()
    eventually(lambda: not site.remains(), what="nothing is left")
    window.browser.refresh()
    assert "Stop My Server" not in window.text()


def test_a_queued_start_is_cancelled_from_the_pending_page(site: Site, window: Window):
    """R7: the job is gone from the queue, and the Hub knows of nothing."""
    window.open_login()
    window.log_in("alice")
    site.executor.hold()
    window.start()
    window.progress("Resources")
    # A line for each change, not for each second.
    log = window.event_log()
    assert len(log) == len(set(log)) < 5, log

    window.cancel()
    assert site.job("alice").state.startswith("CANCELLED")
    eventually(lambda: not site.remains(), what="nothing is left")


def test_a_refusal_is_one_sentence_above_what_was_filled_in(site: Site, window: Window):
    """S9: the scheduler's own words, and nothing else of FirecREST's answer or the Hub's log."""
    window.open_login()
    window.log_in("alice")
    window.fill_in(Partition="gpu", Run_time="00:30:00")
    window.start()
    said = window.refusal()
    assert said.startswith("The scheduler refused the job: ")
    assert "gpu" in said
    assert said.endswith(".") and "\n" not in said and len(said) < 200
    assert not any(word in said for word in ("Exception", "HTTP", "reason=", "sbatch", "{"))
    assert window.field("Partition").get_attribute("value") == "gpu"

    window.fill_in(Partition="debug", Run_time="lunch")
    window.start()
    said = window.refusal()
    assert said.startswith("Run time: 'lunch' cannot be used; write it like '04:00:00'")

    # JupyterHub starts a server at once for an address with a query, such as that of a posted form.
    window.browser.get(window.browser.current_url)
    window.see("#spawn_form")
    assert not site.remains()
