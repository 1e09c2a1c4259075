"""What does the page of a failed start, or of an ended server, show, and to whom?"""

from __future__ import annotations

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

from jinja2 import ChoiceLoader, DictLoader, Environment, FileSystemLoader, PrefixLoader
from jupyterhub.app import JupyterHub

from firecrestspawner import links, pages
from firecrestspawner.causes import MEMORY, Cause
from firecrestspawner.ending import Ending
from firecrestspawner.output import Output

AT = 1795871100.0
EVIL = "</pre><script>alert(1)</script>"
PAGE = "{% block main %}{% endblock %}{% block script %}{% endblock %}"


def render(ending: Ending | None, *, viewer: str = "alice", **variables: Any) -> str:
    """The page as the Hub renders it for alice's server, but for what is around its main part."""
    spawners = {"big": SimpleNamespace(last_end=lambda: ending)}
    user = SimpleNamespace(name="alice", orm_spawners=spawners, spawners=spawners)
    stock = FileSystemLoader(JupyterHub()._template_paths_default())
    # As JupyterHub.init_tornado_settings has it, with a page.html that needs no request.
    loader = ChoiceLoader(
        [
            DictLoader({"page.html": PAGE}),
            PrefixLoader({"templates": stock}),
            FileSystemLoader(pages.TEMPLATES),
            stock,
        ]
    )
    environment = Environment(loader=loader, autoescape=True)
    environment.globals["firecrest_ending"] = pages.ending
    environment.globals["firecrest_output"] = partial(links.output, "/hub/")
    return environment.get_template("not_running.html").render(
        user=user,
        server_name="big",
        spawn_url="/hub/spawn/alice/big",
        base_url="/hub/",
        xsrf_token="xsrf:1",
        firecrest_viewer=viewer,
        **variables,
    )


def ended(**fields: Any) -> Ending:
    output = Output("/home/alice/x.log", ("one", EVIL))
    return Ending(
        MEMORY,
        "Job 7 ended.",
        "s",
        "daint",
        "7",
        **{"output": output, "retry": (), "at": AT, **fields},
    )


def test_cause_job_and_last_lines_are_shown_and_nothing_of_them_is_markup() -> None:
    page = render(ended(), failed=True, failed_html_message="Job 7 ended. All in one.")
    assert "has failed" in page and "All in one" not in page
    for part in ("Job 7 ended.", MEMORY.sentence, MEMORY.advice):
        assert page.count(part) == 1
    assert 'data-cause="out-of-memory"' in page
    assert re.search(r"Job <b[^>]*>7</b> on daint, 2026-11-28 13:05 UTC", page)
    assert 'href="/hub/firecrest/output?server=big"' in page
    assert "one\n&lt;/pre&gt;&lt;script&gt;" in page and EVIL not in page


def test_a_refusal_keeps_its_link() -> None:
    refused = Ending(Cause("login-required", "Log in."), "")
    page = render(refused, failed=True, failed_html_message='<a href="/x">Log in</a>')
    assert '<a href="/x">Log in</a>' in page and "Job" not in page


def test_an_end_that_came_later_is_named_too() -> None:
    page = render(ended())
    assert "Job 7 ended." in page and MEMORY.advice in page and "has failed" not in page


def test_a_hostile_cause_is_text() -> None:
    assert EVIL not in render(Ending(Cause("x", EVIL, EVIL), EVIL, system=EVIL))


def test_nobody_but_its_user_reads_the_output() -> None:
    """Whoever may see that a server failed may not see what its user's programs said."""
    page = render(ended(), viewer="admin", failed=True)
    assert "one" not in page and "firecrest/output" not in page and "Job" in page


def test_why_there_are_no_lines_is_said() -> None:
    page = render(ended(output=Output("", problem="It is away.")))
    assert "It is away." in page


def test_one_press_starts_again_with_the_same_choices() -> None:
    page = render(ended(retry=(("runtime", "01:00:00"), ("x", '"><b>'))))
    form = page[page.index("<form") : page.index("</form>")]
    assert 'method="post"' in form and 'action="/hub/spawn/alice/big"' in form
    assert 'name="_xsrf" value="xsrf:1"' in form
    assert 'name="runtime" value="01:00:00"' in form and '"><b>' not in form
    assert 'id="start"' in page  # the stock button, to choose something else


def test_nobody_but_its_user_reads_what_was_chosen() -> None:
    """A server may be shared with somebody who may not read its user's options."""
    page = render(ended(retry=(("account", "proj1"),)), viewer="bob")
    assert "proj1" not in page and "<form" not in page and 'id="start"' in page


def test_without_an_end_it_is_the_hubs_own_page() -> None:
    page = render(None, failed=True, failed_message="Nobody knows.")
    assert "Nobody knows." in page and "Relaunch" in page and "<form" not in page
    assert "<form" not in render(ended(retry=None))
