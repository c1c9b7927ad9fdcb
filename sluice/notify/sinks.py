"""Sinks by their URLs: alertmanager://HOST:PORT, and whatever apprise can reach.

Rule 1: a URL has secrets anywhere in it. It is never logged, shown or kept; what is kept is
id_of(), what is shown is a sink's label.
"""

import hashlib
import importlib
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sluice import budget, errors, records
from sluice.notify import message
from sluice.notify.change import Change

if TYPE_CHECKING:
    from sluice.notify.alertmanager import Alertmanager
    from sluice.notify.chat import Chat

# Two items of status.notified for each, which has room for 64.
SINKS_MAX = 30
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,39})://.+", re.DOTALL)
ID_DIGITS = 8
PLAIN, TLS = "alertmanager", "alertmanagers"
PORTS = {PLAIN: 9093, TLS: 443}


class Endpoint(NamedTuple):
    """An Alertmanager: `base` is its URL without credentials and without a slash at its end."""

    base: str
    user: str
    password: str


class Recorder:
    """A sink that hands each change on as an event, for the lists of the API and the dashboard.

    It hears of every rule; what it was told is kept like any sink's, so a restart repeats nothing.
    """

    id = "events"
    label = "events"
    rules: tuple[str, ...] | None = budget.RULES

    def __init__(self, record: Callable[[records.Event], object]) -> None:
        self._record = record

    def send(self, changes: Sequence[Change]) -> None:
        """Hand them on."""
        for change in changes:
            self._record(message.event(change))


def scheme_of(url: str) -> str:
    """A URL's scheme in lower case.

    Raises:
        BadRequest: it is no URL. The message shows nothing of it: a secret may come first.
    """
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


def open_all(urls: Sequence[str], dashboard_url: str | None = None) -> "list[Chat | Alertmanager]":
    """Make the sinks of these URLs; nothing is sent yet.

    Raises:
        BadRequest: a URL is none that anybody can reach, or there are too many, or one twice.
    """
    if len(urls) > SINKS_MAX:
        raise errors.BadRequest(f"--notify: {len(urls)} sinks, more than {SINKS_MAX}")
    made: list[Chat | Alertmanager] = []
    for at, url in enumerate(urls, start=1):
        try:
            sink = _open(url, dashboard_url)
        except errors.BadRequest as error:
            raise errors.BadRequest(f"--notify, sink {at} of {len(urls)}: {error}") from None
        if sink.id in [other.id for other in made]:
            raise errors.BadRequest(
                f"--notify, sink {at} of {len(urls)}: {sink.label} is there twice"
            )
        made.append(sink)
    return made


def _open(url: str, dashboard_url: str | None) -> "Chat | Alertmanager":
    endpoint = alertmanager(url)
    # Loaded when one is set: apprise is 40 MB.
    if endpoint is None:
        chat = importlib.import_module("sluice.notify.chat")
        found: Chat = chat.Chat(url, id_of(url), dashboard_url)
        return found
    keeper = importlib.import_module("sluice.notify.alertmanager")
    kept: Alertmanager = keeper.Alertmanager(endpoint, id_of(url), dashboard_url)
    return kept
