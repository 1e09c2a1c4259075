"""How does a program go through a site's pages as a person's browser does?

Cookies, redirects, forms with their hidden fields, and JupyterHub's XSRF tokens; no JavaScript.
"""

import json
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin


class VisitError(Exception):
    """A page was not what a person would have needed to see there."""


@dataclass
class Form:
    """A form with the values that a browser would send if nothing were changed."""

    action: str
    method: str
    id: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """A page's forms and the targets of its links, made absolute with the page's address."""

    def __init__(self, address: str, text: str) -> None:
        super().__init__()
        self.address = address
        self.forms: list[Form] = []
        self.links: list[str] = []
        self._select: str | None = None
        self.feed(text)

    def form_with(self, name: str) -> Form:
        """The form that has a field ``name``; :class:`VisitError` if there is none."""
        for form in self.forms:
            if name in form.fields:
                return form
        raise VisitError(f"{self.address} has no form with a field {name!r}")

    def link_to(self, part: str) -> str:
        """The first link whose address contains ``part``; :class:`VisitError` without one."""
        for link in self.links:
            if part in link:
                return link
        raise VisitError(f"{self.address} has no link to {part!r}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        given = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in given:
            self.links.append(urljoin(self.address, given["href"]))
        elif tag == "form":
            action = urljoin(self.address, given.get("action", ""))
            method = given.get("method", "get").upper()
            self.forms.append(Form(action, method, given.get("id", "")))
        elif self.forms:
            self._field(tag, given, checked="checked" in given, selected="selected" in given)

    def handle_endtag(self, tag: str) -> None:
        """Called by the parser."""
        if tag == "select":
            self._select = None

    def _field(self, tag: str, given: dict[str, str], checked: bool, selected: bool) -> None:
        fields = self.forms[-1].fields
        if tag == "option" and self._select:
            # A browser sends the first option unless another is selected.
            if selected or self._select not in fields:
                fields[self._select] = given.get("value", "")
            return
        name = given.get("name")
        if not name or "disabled" in given:
            return
        kind = given.get("type", "text")
        if tag == "select":
            self._select = name
        elif tag == "textarea":
            fields[name] = ""
        elif tag == "input" and kind in ("checkbox", "radio"):
            if checked:
                fields[name] = given.get("value", "on")
        elif tag == "input" and kind not in ("submit", "button", "image", "file", "reset"):
            fields[name] = given.get("value", "")


# typing.Self is for Python 3.11 and newer.
VisitorT = TypeVar("VisitorT", bound="Visitor")


class Visitor:
    """One person's browser on the site at ``url``. ``timeout``: seconds for each answer."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        # As a browser shows it: without port 80, where the site is there.
        self.url = str(httpx.URL(url))
        # The site is on loopback addresses: a web proxy of the environment has no business here.
        self._http = httpx.Client(
            trust_env=False,
            timeout=timeout,
            follow_redirects=True,
            event_hooks={"response": [self._keep_cookies]},
        )

    def __enter__(self: VisitorT) -> VisitorT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def open(self, address: str) -> Page:
        """Open a page (relative addresses are the site's); :class:`VisitError` unless 200."""
        return self._page(self._http.get(urljoin(self.url, address)))

    def submit(self, form: Form, **values: str) -> Page:
        """Send the form with some fields filled in, and open what it leads to."""
        fields = form.fields | values
        if form.method == "GET":
            return self._page(self._http.get(form.action, params=fields))
        return self._page(self._http.post(form.action, data=fields))

    def api(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call a REST API below ``path``'s part of the site as its pages' scripts do."""
        answer = self._http.request(
            method, urljoin(self.url, path), json=body, headers=self._xsrf_header(path)
        )
        if answer.status_code >= 400:
            raise VisitError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def events(self, path: str, timeout: float) -> Generator[dict[str, Any], None, None]:
        """The JSON events of an event stream, as they come, for about ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        headers = {"Accept": "text/event-stream", **self._xsrf_header(path)}
        with self._http.stream("GET", urljoin(self.url, path), headers=headers) as answer:
            if answer.status_code != 200:
                raise VisitError(f"{path}: {answer.status_code}")
            # The stream stays alive by empty lines, one every eight seconds (JupyterHub,
            # SpawnProgressAPIHandler.keepalive_interval).
            for line in answer.iter_lines():
                if time.monotonic() > deadline:
                    return
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def websocket(self, path: str) -> ClientConnection:
        """Open a WebSocket with the cookies and the origin that a browser would send."""
        address = urljoin(self.url, path)
        request = self._http.build_request("GET", address)
        query = urlencode({"_xsrf": self._xsrf(path)})
        return connect(
            f"{address.replace('http', 'ws', 1)}?{query}",
            additional_headers={"Cookie": request.headers["Cookie"]},
            origin=Origin(self.url),
            proxy=None,
        )

    def _keep_cookies(self, answer: httpx.Response) -> None:
        # Browsers hold loopback addresses to be as good as TLS, and send "Secure" cookies there
        # (W3C Secure Contexts, section 3.1). Keycloak relies on it.
        for cookie in self._http.cookies.jar:
            if cookie.domain == "127.0.0.1":
                cookie.secure = False

    def _page(self, answer: httpx.Response) -> Page:
        if answer.status_code != 200:
            where = urlsplit(str(answer.url))
            raise VisitError(f"{where.path}: {answer.status_code} {_visible(answer.text)}")
        return Page(str(answer.url), answer.text)

    def _xsrf_header(self, path: str) -> dict[str, str]:
        return {"X-XSRFToken": self._xsrf(path)}

    def _xsrf(self, path: str) -> str:
        """The token of the part of the site that ``path`` is in: the Hub, or one server."""
        tokens = {
            cookie.path: cookie.value or ""
            for cookie in self._http.cookies.jar
            if cookie.name == "_xsrf" and path.startswith(cookie.path)
        }
        return tokens[max(tokens, key=len)] if tokens else ""


def _visible(text: str) -> str:
    """What a person would read of an error page, cut short."""

    class Text(HTMLParser):
        words = ""
        hidden = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.hidden += tag in ("script", "style", "head")

        def handle_endtag(self, tag: str) -> None:
            self.hidden -= tag in ("script", "style", "head")

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                self.words += f" {data}"

    parser = Text()
    parser.feed(text)
    return " ".join(parser.words.split())[:500]
