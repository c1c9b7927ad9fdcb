"""Chats, mail, pagers, webhooks: whatever apprise reaches by a URL. All changes in one message.

Rule 1: apprise says why it failed in its log only, and there may show a URL. So its log is heard
and never passed on; what is repeated of it has every part of the URL taken out.
Rule 2: it is called in the calling thread, without its own retries; how long it may take is for
the caller to bound, for a server can drip forever.
"""

import logging
import threading
import urllib.parse
from collections.abc import Sequence
from typing import Any

import apprise

from sluice import errors
from sluice.notify import message
from sluice.notify.change import DROP, RECOVERY, Change
from sluice.notify.sink import SinkFailed

# Seconds that a read may take, unless the URL says otherwise (rto=): chats are slow at times, and a
# message that was taken unheard is sent twice.
READ_S = 10.0
# Characters of a message, where more would fit; and of a title.
BODY_MAX, TITLE_MAX = 4000, 250
# Parts of a URL that are shorter are no secret, and would blot out words.
SECRET_MIN = 4
REASON_MAX = 300
HIDDEN = "***"
WEBHOOK = "; a webhook is json://HOST/PATH, with TLS jsons://HOST/PATH"


class Heard(logging.Handler):
    """What apprise logs, by the thread that it logs in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Logging's hook."""
        self.lines().append(record.getMessage())

    def lines(self) -> list[str]:
        """The calling thread's lines since it last cleared them."""
        lines: list[str] = self._of.__dict__.setdefault("lines", [])
        return lines


HEARD = Heard()


def listen() -> None:
    """Hear apprise's log instead of passing it on, and keep URLs out of the libraries' below."""
    own = logging.getLogger("apprise")
    own.propagate = False
    own.setLevel(logging.WARNING)
    if HEARD not in own.handlers:
        own.addHandler(HEARD)
    # At debug it writes the path of each request, which is where webhooks have their secret.
    below = logging.getLogger("urllib3.connectionpool")
    below.setLevel(max(below.level, logging.INFO))


class Chat:
    """A Sink: one URL of apprise's.

    Raises:
        BadRequest: apprise cannot use the URL; says why, as far as it did, without secrets.
    """

    rules: tuple[str, ...] | None = None

    def __init__(self, url: str, sink_id: str, dashboard_url: str | None = None) -> None:
        listen()
        self.id = sink_id
        self._dashboard_url = dashboard_url
        asset = apprise.AppriseAsset(
            app_id="Sluice",
            app_desc="Log budgets",
            async_mode=False,
            interpret_emojis=False,
            # They would have the chat fetch pictures from a host that is not ours.
            image_url_mask="",
            image_url_logo="",
            # Followed, a POST becomes a GET: a login page would take it as if it had been told.
            http_redirects=False,
        )
        HEARD.lines().clear()
        service: Any = apprise.Apprise.instantiate(url, asset=asset)
        if service is None:
            scheme = url.partition("://")[0].lower()
            hint = WEBHOOK if scheme in ("http", "https") else ""
            raise errors.BadRequest(
                f"apprise cannot use this {scheme}:// URL: {heard(url, '')}{hint}"
            )
        self._service = service
        self.label = label_of(service.url(privacy=True))
        self._url = url
        given = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
        if "rto" not in given:
            service.socket_read_timeout = READ_S
        if "overflow" not in given:
            # The text is made to fit. Split, half of it could be taken and then come again.
            service.overflow_mode = apprise.OverflowMode.TRUNCATE

    def send(self, changes: Sequence[Change]) -> None:
        """Tell these in one message; see Sink."""
        title = message.title(changes)[:TITLE_MAX]
        # Where there are no titles, it is the first line.
        size_max = min(BODY_MAX, self._service.body_maxlen) - len(title) - len("\r\n")
        self._notify(title, message.body(changes, self._dashboard_url, size_max), kind_of(changes))

    def test(self, team: str) -> None:
        """Say that this is a test, as `sluice notify test` does."""
        name = message.plain(team)
        words = "Nothing has happened: this is what news of this team's budget would come by."
        where = message.link(self._dashboard_url, team)
        body = f"{words}\n{where}" if where else words
        self._notify(f"Test of Sluice's notifications for {name}", body, apprise.NotifyType.INFO)

    def _notify(self, title: str, body: str, kind: apprise.NotifyType) -> None:
        HEARD.lines().clear()
        try:
            taken = self._service.notify(
                title=title, body=body, notify_type=kind, body_format=apprise.NotifyFormat.TEXT
            )
        # A hundred services by as many authors: what they raise is not known, and may have the URL.
        except Exception as error:
            raise SinkFailed(
                f"{self._service.service_name} failed: {type(error).__name__}"
            ) from None
        if not taken:
            raise SinkFailed(heard(self._url, self.label))


def kind_of(changes: Sequence[Change]) -> apprise.NotifyType:
    """How bad it is; a dry run loses no line."""
    if any(one.rule == DROP and not one.condition.row.budget.dry_run for one in changes):
        return apprise.NotifyType.FAILURE
    if all(one.rule == RECOVERY for one in changes):
        return apprise.NotifyType.SUCCESS
    return apprise.NotifyType.WARNING


def heard(url: str, shown: str) -> str:
    """What apprise said last in this thread, without any part of the URL that is not `shown`."""
    text = " ".join(" ".join(HEARD.lines()).split()) or "it does not say why"
    for secret in secrets_of(url, shown):
        text = text.replace(secret, HIDDEN)
    return text[:REASON_MAX]


def secrets_of(url: str, shown: str) -> list[str]:
    """Whatever of a URL may be secret, the longest first: the URL, its parts, as given and read."""
    rest = url.partition("://")[2]
    parts = {url, rest}
    for mark in "/?#&=@:,":
        parts |= {piece for part in parts for piece in part.split(mark)}
    parts |= {urllib.parse.unquote(part) for part in parts}
    found = [part for part in parts if len(part) >= SECRET_MIN and part not in shown]
    return sorted(found, key=len, reverse=True)


# Their topics are all that guards them.
HOST_IS_SECRET = ("ntfy", "ntfys")


def label_of(private: str) -> str:
    """What people know a sink by, from apprise's private form of its URL.

    A webhook's path is its secret, and some services show theirs: of a path only channels and
    addressees stay, and what is masked already.
    """
    scheme, _, rest = private.partition("?")[0].partition("://")
    host, *path = rest.rstrip("/").split("/")
    user, _, host = host.rpartition("@")
    if user and not user.partition(":")[2]:
        # Without a password it may be one.
        user = "..."
    if scheme in HOST_IS_SECRET and not path:
        host = "..."
    host = f"{user}@{host}" if user else host
    shown = [
        part if part[:1] in "#@+" or "..." in part or "*" in part else "..."
        for part in (urllib.parse.unquote(part) for part in path)
    ]
    return "".join(c if c.isprintable() else "?" for c in "/".join([f"{scheme}://{host}", *shown]))
