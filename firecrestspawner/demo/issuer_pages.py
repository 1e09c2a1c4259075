"""What does a person see at the demo's issuer?

Plain pages: no script, nothing from elsewhere, readable by a screen reader and at any width.
"""

from __future__ import annotations

from collections.abc import Iterable

from flask import Response, render_template_string

from firecrestspawner.demo.issuer_accounts import DemoUser

#: No script, no frame, nothing loaded. Not `form-action`: Chromium applies it to the redirect
#: that follows the login form, back to the Hub.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; frame-ancestors 'none'"
)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} - Demo identity provider</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 26rem; margin: 3rem auto;
         padding: 0 1rem; }
  label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit; }
  input, button { padding: .5rem; margin: .25rem 0 1rem; }
  table { border-collapse: collapse; width: 100%; }
  caption { text-align: left; font-weight: 600; }
  th, td { text-align: left; padding: .25rem .5rem .25rem 0; border-bottom: 1px solid; }
  h1 { margin-top: 0; }
  .realm { margin: 0; opacity: .8; }
  [role=alert] { border-left: .3rem solid #c00; padding: .5rem 1rem; margin: 1rem 0; }
</style>
</head>
<body>
<main>
<p class="realm">Demo identity provider</p>
<h1>{{ title }}</h1>
{% if problem %}<p role="alert">{{ problem }}</p>{% endif %}
BODY
</main>
</body>
</html>
"""

_LOGIN = """
<form method="post" action="{{ action }}">
  <label for="username">Username</label>
  <input id="username" name="username" value="{{ username }}" autocomplete="username"
         autocapitalize="none" spellcheck="false" required{{ "" if username else " autofocus" }}>
  <label for="password">Password</label>
  <input id="password" name="password" type="password" autocomplete="current-password"
         required{{ " autofocus" if username }}>
  <button type="submit" name="login">Log in</button>
</form>
<p>Nobody real logs in here. These users are made up:</p>
<table>
  <caption>Demo logins</caption>
  <thead><tr><th scope="col">Username</th><th scope="col">Password</th></tr></thead>
  <tbody>
  {% for user in users %}
  <tr><td><code>{{ user.name }}</code></td><td><code>{{ user.password }}</code></td></tr>
  {% endfor %}
  </tbody>
</table>
"""

_CONFIRM_LOGOUT = """
<p>Do you want to log out of the demo's identity provider?</p>
<form method="post" action="{{ action }}">
  <button type="submit" name="confirm" value="yes">Log out</button>
</form>
"""


def login(users: Iterable[DemoUser], action: str, username: str, problem: str) -> Response:
    """The form that posts ``username`` and ``password`` to ``action``."""
    return _page(
        200, _LOGIN, "Log in", problem=problem, users=users, action=action, username=username
    )


def confirm_logout(action: str) -> Response:
    return _page(200, _CONFIRM_LOGOUT, "Log out", action=action)


def logged_out() -> Response:
    return _page(200, "<p>You are logged out of the demo's identity provider.</p>", "Logged out")


def error(problem: str) -> Response:
    """A request that cannot be sent back to the application it came from."""
    return _page(400, "<p>Go back to the application and try again.</p>", "Sorry", problem=problem)


def _page(status: int, body: str, title: str, **context: object) -> Response:
    page = render_template_string(_PAGE.replace("BODY", body), title=title, **context)
    response = Response(page, status, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
