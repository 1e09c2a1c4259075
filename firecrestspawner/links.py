"""Where may a browser be sent, and where is it sent by us? To paths on this Hub (S6)."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

_LONGEST = 2000
#: Characters of choices in a link: they come back from a login in a cookie, which may have 4 kB.
LONGEST_CHOICES = 1500


def local_path(target: str, base_url: str) -> str | None:
    """``target`` if it is an absolute path on this Hub's site, else None.

    Browsers read ``\\`` as ``/``, drop tabs and newlines, and take ``//host`` for another host
    (WHATWG URL Standard, "URL parsing"): what they could read in any other way than as a path below
    ``base_url``, the proxy's prefix such as ``/`` or ``/jupyter/``, is refused.
    """
    if len(target) > _LONGEST or not target.isascii() or not target.isprintable():
        return None
    if not target.startswith("/") or target.startswith("//") or "\\" in target or " " in target:
        return None
    try:
        parts = urlsplit(target)
    except ValueError:
        return None
    if parts.scheme or parts.netloc or not parts.path.startswith(base_url):
        return None
    # "/a/..//host" and "/jupyter/../other" lead elsewhere once a browser has resolved the dots.
    segments = parts.path.lower().replace("%2e", ".").split("/")
    if ".." in segments or "." in segments or "" in segments[1:-1]:
        return None
    return target


def reauth(hub_url: str, back_to: str) -> str:
    """The path of the re-login that comes back to ``back_to``.

    ``hub_url`` is the Hub's own prefix, such as ``/hub/``.
    """
    return f"{hub_url.rstrip('/')}/firecrest/reauth?{urlencode({'next': back_to})}"


def output(hub_url: str, server: str) -> str:
    """The path of the page with the output of the job of one's server called ``server``."""
    return f"{hub_url.rstrip('/')}/firecrest/output?{urlencode({'server': server})}"


def choices(hub_url: str, query: str) -> str:
    """The path of the spawn form, filled in with what the query of a link to choices names.

    Behind a ``#``, since JupyterHub starts a server at once for a query. Raises ValueError for what
    is no such link.
    """
    if len(query) > LONGEST_CHOICES:
        raise ValueError(f"longer than {LONGEST_CHOICES} characters")
    chosen = parse_qsl(query, keep_blank_values=True, max_num_fields=100)
    return f"{hub_url}spawn#{urlencode(chosen)}" if chosen else f"{hub_url}spawn"
