"""Sinks by their URLs: alertmanager://HOST:PORT, and whatever apprise can reach.

Each is loaded when one is set: apprise is 40 MB.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sluice import budget, errors, records
from sluice.notify import message, url
from sluice.notify.change import Change

if TYPE_CHECKING:
    from sluice.notify.alertmanager import Alertmanager
    from sluice.notify.chat import Chat

# Two items of status.notified for each, which has room for 64.
SINKS_MAX = 30


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


def open_all(urls: Sequence[str], dashboard_url: str | None = None) -> "list[Chat | Alertmanager]":
    """Make the sinks of these URLs; nothing is sent yet.

    Raises:
        BadRequest: a URL is none that anybody can reach, or there are too many, or one twice.
    """
    if len(urls) > SINKS_MAX:
        raise errors.BadRequest(f"--notify: {len(urls)} sinks, more than {SINKS_MAX}")
    made: list[Chat | Alertmanager] = []
    for at, text in enumerate(urls, start=1):
        try:
            sink = _open(text, dashboard_url)
        except errors.BadRequest as error:
            raise errors.BadRequest(f"--notify, sink {at} of {len(urls)}: {error}") from None
        if sink.id in [other.id for other in made]:
            raise errors.BadRequest(
                f"--notify, sink {at} of {len(urls)}: {sink.label} is there twice"
            )
        made.append(sink)
    return made


def _open(text: str, dashboard_url: str | None) -> "Chat | Alertmanager":
    endpoint = url.alertmanager(text)
    if endpoint is None:
        chat = importlib.import_module("sluice.notify.chat")
        found: Chat = chat.Chat(text, url.id_of(text), dashboard_url)
        return found
    keeper = importlib.import_module("sluice.notify.alertmanager")
    kept: Alertmanager = keeper.Alertmanager(endpoint, url.id_of(text), dashboard_url)
    return kept
