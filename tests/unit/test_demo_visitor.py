"""Does the smoke test's browser read pages as a browser does?"""

import pytest

from firecrestspawner.demo.visitor import Page, VisitError, Visitor

ADDRESS = "http://site.example/hub/spawn/alice?next=x"
PAGE = """
<a href="/hub/oauth_login?next=%2Fhub%2Fhome&amp;x=1">Sign in</a>
<form id="search"><input name="q"></form>
<form id="spawn_form" action="../go?_xsrf=a&amp;b=c" method="post">
  <input type="hidden" name="_xsrf" value="token">
  <input name="account" value="proj&amp;1"> <input type="file" name="upload">
  <select name="system"><option value="one">1</option><option value="two" selected>2</option>
  </select>
  <select name="partition"><option value="normal">n</option><option value="debug">d</option>
  </select>
  <input type="radio" name="profile" value="small"> <input type="radio" name="profile"
    value="large" checked> <input type="checkbox" name="exclusive">
  <input type="checkbox" name="gpu" checked> <input name="off" value="1" disabled>
  <input type="submit" name="start" value="Start">
</form>
"""


def test_a_form_sends_what_a_browser_would_send() -> None:
    form = Page(ADDRESS, PAGE).form_with("_xsrf")
    assert (form.id, form.method) == ("spawn_form", "POST")
    assert form.action == "http://site.example/hub/go?_xsrf=a&b=c"
    assert form.fields == {
        "_xsrf": "token",
        "account": "proj&1",
        "system": "two",
        "partition": "normal",
        "profile": "large",
        "gpu": "on",
    }


def test_a_form_without_an_action_goes_back_to_its_page() -> None:
    form = Page(ADDRESS, PAGE).form_with("q")
    assert (form.action, form.method) == (ADDRESS, "GET")


def test_links_are_absolute() -> None:
    link = Page(ADDRESS, PAGE).link_to("oauth_login")
    assert link == "http://site.example/hub/oauth_login?next=%2Fhub%2Fhome&x=1"


def test_what_a_page_does_not_have_is_an_error() -> None:
    page = Page(ADDRESS, PAGE)
    with pytest.raises(VisitError, match="password"):
        page.form_with("password")
    with pytest.raises(VisitError, match="logout"):
        page.link_to("logout")


def test_a_site_on_port_80_has_the_address_that_a_browser_shows() -> None:
    with Visitor("http://127.0.0.1:80") as visitor:
        assert visitor.url == "http://127.0.0.1"
