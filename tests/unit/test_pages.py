"""What do pages say of a session, and do they find the words?"""

from __future__ import annotations

import re
from typing import Any

import jinja2
import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import Config

from firecrestspawner import configure
from firecrestspawner.models import Job, JobState
from firecrestspawner.pages import TEMPLATES, Notice, Overview, overview, session_notice

NOW = 1_000_000.0
TOKENS = {"access_token": "a", "expires_at": NOW + 300, "refresh_token": "r"}


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (601, None),
        (600, Notice(ended=False, minutes=10)),
        (121, Notice(ended=False, minutes=3)),
        (1, Notice(ended=False, minutes=1)),
        (0, Notice(ended=True)),
        (-1, Notice(ended=True)),
    ],
)
def test_the_end_is_announced_in_whole_minutes(left: float, said: Notice | None) -> None:
    state = {**TOKENS, "refresh_expires_at": NOW + left}
    assert session_notice(state, warning=600, now=NOW) == said


@pytest.mark.parametrize("state", [None, {}, {"access_token": None, "login_ended": NOW - 1}])
def test_without_tokens_the_session_has_ended(state: dict[str, Any] | None) -> None:
    assert session_notice(state, warning=600, now=NOW) == Notice(ended=True)


def test_a_session_without_an_end_is_no_news() -> None:
    assert session_notice({**TOKENS, "refresh_expires_at": None}, warning=600, now=NOW) is None


# --- servers


def seen(job: Job | None, **known: Any) -> Overview:
    hub = {"job_id": "42", "host": "", "ready": True, "stopping": False, "warning": 15}
    return overview(job, name="", system="daint", **{**hub, "left": None, **known})


def job(state: JobState, **fields: Any) -> Job:
    return Job(id="42", name="hub-1", user="alice", state=state, **fields)


def test_what_is_known_of_a_running_job_is_said() -> None:
    running = job(JobState.RUNNING, nodes="nid001")
    assert seen(running, left=3000.9) == Overview("", "daint", "42", "running", "nid001", 3000, 900)


def test_a_server_says_where_it_is_if_the_scheduler_does_not() -> None:
    assert seen(job(JobState.RUNNING), host="r1i0n3").node == "r1i0n3"
    assert seen(job(JobState.RUNNING, nodes="nid001"), host="elsewhere").node == "nid001"


@pytest.mark.parametrize(
    ("left", "words", "soon"),
    [
        (2 * 86400 + 3600 * 3 + 125, "2 d 3 h 2 min", False),
        (86400, "1 d", False),
        (3600, "1 h", False),
        (901, "15 min", False),
        (900, "15 min", False),
        (899, "14 min", True),
        (59, "less than a minute", True),
        (0, "none", True),
    ],
)
def test_the_end_comes_near_in_words_and_with_a_warning(left: int, words: str, soon: bool) -> None:
    one = seen(job(JobState.RUNNING), left=left)
    assert (one.time_left, one.soon) == (words, soon)


def test_a_site_warns_when_it_wants_or_never() -> None:
    late = job(JobState.RUNNING)
    assert seen(late, left=60, warning=1).soon is False
    assert seen(late, left=60, warning=2).soon is True
    assert seen(late, left=60, warning=0).soon is False


def test_an_end_that_nobody_knows_is_not_made_up() -> None:
    one = seen(job(JobState.RUNNING))
    assert (one.left, one.time_left, one.soon) == (None, "", False)


@pytest.mark.parametrize(
    ("state", "known", "said"),
    [
        (None, {"ready": False, "job_id": ""}, "being submitted"),
        (None, {"ready": False}, "queued"),
        (JobState.PENDING, {"ready": False}, "queued"),
        (JobState.RUNNING, {"ready": False}, "starting"),
        (JobState.UNKNOWN, {"ready": False}, "starting"),
        (JobState.PENDING, {}, "running"),  # a list's row may be old; the server was reached
        (None, {}, "running"),
        (JobState.SUSPENDED, {}, "suspended"),
        (JobState.TIMEOUT, {}, "ended"),
        (JobState.RUNNING, {"stopping": True}, "stopping"),
    ],
)
def test_the_state_is_what_hub_and_scheduler_say_together(
    state: JobState | None, known: dict[str, Any], said: str
) -> None:
    assert seen(None if state is None else job(state), **known).state == said


def home(*servers: Overview, **functions: Any) -> str:
    """Our part of the page, with the Hub's own way of rendering (autoescape)."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    environment.globals.update(firecrest_servers=lambda user: list(servers), **functions)
    return environment.get_template("firecrest_servers.html").render(firecrest_user=None)


def test_the_page_says_nothing_without_a_server() -> None:
    assert home().strip() == ""


def test_what_a_cluster_calls_its_nodes_is_no_markup() -> None:
    page = home(Overview("<b>", "<i>", "<u>", "running", "<script>alert(1)</script>" * 9, 5, 900))
    assert not re.findall("<(?:b|i|u)>", page)
    assert page.count("<script>") == 1
    assert "less than a minute" in page


def test_the_output_is_linked_where_the_hub_has_it_to_show() -> None:
    one = Overview("two", "daint", "42", "running", "", None, 900)
    assert "<a " not in home(one)
    page = home(one, firecrest_output=lambda name: f"/hub/firecrest/output?server={name}")
    assert 'href="/hub/firecrest/output?server=two"' in page
    submitting = one._replace(job_id="")
    assert "<a " not in home(submitting, firecrest_output=lambda name: name)


@pytest.mark.parametrize(("left", "hidden"), [(899, False), (900, True)])
def test_the_warning_is_there_for_the_pages_script_to_show(left: int, hidden: bool) -> None:
    page = home(Overview("", "daint", "42", "running", "", left, 900))
    (alert,) = re.findall('<div class="alert[^>]*>', page)
    assert ("hidden" in alert) == hidden


def template_paths(c: Config) -> list[str]:
    """As the Hub has them in the end (JupyterHub.init_tornado_settings)."""
    app = JupyterHub(config=c)
    stock = app._template_paths_default()[0]
    paths: list[str] = app.template_paths
    if stock not in paths:
        paths.append(stock)
    return ["stock" if path == stock else "ours" if path == TEMPLATES else path for path in paths]


def test_our_pages_come_after_the_sites_and_before_the_stock_ones() -> None:
    nothing = Config()
    configure(nothing)
    assert template_paths(nothing) == ["ours", "stock"]

    before = Config()
    before.JupyterHub.template_paths = ["/site"]
    configure(before)
    configure(before)
    assert template_paths(before) == ["/site", "ours", "stock"]

    after = Config()
    configure(after)
    after.JupyterHub.template_paths.insert(0, "/site")
    assert template_paths(after) == ["/site", "ours", "stock"]

    lazily = Config()
    lazily.JupyterHub.template_paths.insert(0, "/site")
    configure(lazily)
    assert template_paths(lazily) == ["/site", "ours", "stock"]
