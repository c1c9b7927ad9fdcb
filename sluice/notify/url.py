"""URLs of sinks, as far as they are understood without what it takes to reach them. Pure.

Rule 1: a URL has secrets anywhere in it. It is never logged, shown or kept; what is kept is
id_of(), what is shown is a sink's label.
"""

import hashlib
import re
import urllib.parse
from typing import NamedTuple

from sluice import errors

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,39})://.+", re.DOTALL)
# Where the next URL begins, of several that somebody gave as one.
NEXT = re.compile(r"[\s,;][A-Za-z][A-Za-z0-9+.-]{0,39}://")
ID_DIGITS = 8
PLAIN, TLS = "alertmanager", "alertmanagers"
PORTS = {PLAIN: 9093, TLS: 443}


class Endpoint(NamedTuple):
    """An Alertmanager: `base` is its URL without credentials and without a slash at its end."""

    base: str
    user: str
    password: str


def scheme_of(url: str) -> str:
    """A URL's scheme in lower case.

    Raises:
        BadRequest: it is no URL, or several. The message shows nothing of it: a secret may come
            first.
    """
    if NEXT.search(url):
        raise errors.BadRequest(
            "these are several URLs: each takes a --notify of its own, or a line in SLUICE_NOTIFY"
        )
    match = SCHEME.fullmatch(url)
    if match is None:
        raise errors.BadRequest(
            f"a text of {len(url)} characters is no URL such as alertmanager://HOST:9093 or"
            " json://HOST/PATH (it is not shown, for it may have secrets)"
        )
    return match[1].lower()


def id_of(url: str) -> str:
    """What is kept of a sink: "slack-1a2b3c4d"."""
    name = re.sub(r"[^a-z0-9]", "-", scheme_of(url))
    return f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:ID_DIGITS]}"


def alertmanager(url: str) -> Endpoint | None:
    """Read alertmanager[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX]; None if it is another scheme.

    Raises:
        BadRequest: it is not such a URL.
    """
    scheme = scheme_of(url)
    if scheme not in PORTS:
        return None
    form = f"{scheme}://[USER:PASSWORD@]HOST[:PORT][/PREFIX]"
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urllib.parse.urlsplit("")
    if not host or parts.query or parts.fragment:
        raise errors.BadRequest(f"a sink is not {form}, with a port from 0 to 65535 and no more")
    host = f"[{host}]" if ":" in host else host
    outer = "https" if scheme == TLS else "http"
    base = f"{outer}://{host}:{PORTS[scheme] if port is None else port}{parts.path.rstrip('/')}"
    user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    return Endpoint(base, user, password)


def check(url: str) -> None:
    """Say what is wrong with a URL as far as that is known without apprise.

    Raises:
        BadRequest: something is.
    """
    alertmanager(url)
