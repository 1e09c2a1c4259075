"""How does a test speak to the demo's issuer, as a browser and as a client?"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from html.parser import HTMLParser
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet

from firecrestspawner.demo.issuer import Issuer

CALLBACK = "http://127.0.0.1:8000/hub/oauth_callback"
HUB = ("jupyterhub", "demo-hub-secret")
SERVICE = ("jupyterhub-service", "demo-service-secret")


class Form(HTMLParser):
    """The page's only form: where it posts to, the labels, the inputs."""

    def __init__(self, page: httpx.Response) -> None:
        super().__init__()
        self.action = ""
        self.inputs: list[str | None] = []
        self.labels: list[str | None] = []
        self.feed(page.text)
        assert page.status_code == 200 and self.action, f"no form: {page.status_code}"
        self.url = urljoin(str(page.url), self.action)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "form":
            assert attributes["method"] == "post"
            self.action = attributes["action"]
        elif tag == "input":
            self.inputs.append(attributes["id"])
        elif tag == "label":
            self.labels.append(attributes["for"])


def endpoint(issuer: Issuer, name: str) -> str:
    return httpx.get(f"{issuer.url}/.well-known/openid-configuration").json()[name]


def authorize(issuer: Issuer, browser: httpx.Client, **changes) -> httpx.Response:
    parameters = {
        "response_type": "code",
        "client_id": "jupyterhub",
        "redirect_uri": CALLBACK,
        "scope": "openid",
        "state": "st",
        "nonce": "n-1",
    }
    parameters |= changes
    url = endpoint(issuer, "authorization_endpoint")
    return browser.get(url, params={k: v for k, v in parameters.items() if v is not None})


def submit(browser: httpx.Client, page: httpx.Response, name="alice", word="wonderland"):
    return browser.post(Form(page).url, data={"username": name, "password": word})


def query_of(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 302, response.text
    return {k: v[0] for k, v in parse_qs(urlsplit(response.headers["location"]).query).items()}


def token(issuer: Issuer, http: httpx.Client, grant_type: str, auth=HUB, **form) -> httpx.Response:
    url = endpoint(issuer, "token_endpoint")
    return http.post(url, data={"grant_type": grant_type, **form}, auth=auth)


def redeem(issuer: Issuer, http: httpx.Client, code: str, **form) -> httpx.Response:
    form = {"redirect_uri": CALLBACK, **form}
    return token(issuer, http, "authorization_code", code=code, **form)


def refresh(issuer: Issuer, http: httpx.Client, answer) -> httpx.Response:
    return token(issuer, http, "refresh_token", refresh_token=answer["refresh_token"])


def refusal(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    return response.status_code, body["error"], body["error_description"]


def verified(issuer: Issuer, signed: str):
    keys = KeySet.import_key_set(httpx.get(endpoint(issuer, "jwks_uri")).json())
    return jwt.decode(signed, keys, algorithms=["RS256"])


def pkce() -> tuple[str, str]:
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.01)
