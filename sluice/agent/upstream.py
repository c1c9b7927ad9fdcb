"""Sends pushes to upstream: one connection a thread, one deadline an exchange, no retries.

Not a pool: a thread that waits for upstream has nothing else to do with its connection. See
docs/decisions/0003.
"""

import http.client
import io
import logging
import select
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sluice import errors

if TYPE_CHECKING:
    from typing_extensions import Buffer

log = logging.getLogger("sluice.agent")

PUSH_PATH = "/loki/api/v1/push"
LEGACY_PATH = "/api/prom/push"
# An error text that is longer is cut: Loki's are a few hundred bytes.
REPLY_MAX = 64 * 1024
RECEIVE = 16 * 1024
# One line in so many seconds says that upstream does not answer; there may be 1000 pushes in one.
TELL_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What upstream answered; `body` is cut at REPLY_MAX bytes."""

    status: int
    body: bytes = b""
    content_type: str = ""
    retry_after: str = ""


class Connection:
    """A connection to upstream, for one exchange at a time.

    Args:
        deadline: monotonic seconds by which it must stand, and by which an exchange must be over;
            set anew for the next one. A socket's own timeout starts anew with every byte.

    Raises:
        OSError: not in time, or not at all; so do all methods.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, deadline: float) -> None:
        self.deadline = deadline
        sock = self._connect(host, port)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                sock.settimeout(self.left())
                sock = tls.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def _connect(self, host: str, port: int) -> socket.socket:
        """A socket to the first address that answers; each has its share of the time left."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for i, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.left() / (len(found) - i))
                sock.connect(address)
            except OSError:
                sock.close()
                if i == len(found) - 1:
                    raise
            else:
                return sock
        raise OSError(f"{host} has no address")

    def left(self) -> float:
        """Seconds until the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the exchange took too long")
        return left

    def is_idle(self) -> bool:
        """Whether it is open, and upstream has nothing to say: no farewell either."""
        if self.sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLHUP)
        return not poll.poll(0)

    def send(self, head: bytes, body: bytes | bytearray) -> None:
        """Send a request; over plain TCP in one piece, as far as the kernel takes it."""
        sent = 0
        if not isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(self.left())
            sent = self.sock.sendmsg((head, body))
        for part in (head, body):
            rest, sent = memoryview(part)[sent:], max(0, sent - len(part))
            while rest:
                self.sock.settimeout(self.left())
                rest = rest[self.sock.send(rest) :]

    def receive(self) -> Reply:
        """Receive the answer; closes the connection if it is not to be used again.

        Raises:
            http.client.HTTPException: it is not HTTP.
        """
        self.sock.settimeout(self.left())
        received = self.sock.recv(RECEIVE)
        # What Loki says to nearly every push, in a tenth of the time.
        if is_plain_204(received):
            return Reply(204)
        answer = http.client.HTTPResponse(Answer(self, received), method="POST")  # type: ignore[arg-type]
        answer.begin()
        text = answer.read(REPLY_MAX)
        if answer.status < 200 or answer.will_close or not answer.isclosed():
            # What comes behind an interim answer must not be taken for the next push's; the rest
            # of a long text is not worth the wait.
            self.close()
        return Reply(
            answer.status,
            text,
            answer.headers.get("Content-Type", ""),
            answer.headers.get("Retry-After", ""),
        )

    def close(self) -> None:
        """Close it, whatever was going on."""
        self.sock.close()


class Answer(io.RawIOBase):
    """What http.client reads an answer from: bytes that are here, then the connection's."""

    def __init__(self, connection: Connection, received: bytes) -> None:
        self._connection, self._received = connection, received

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        here, room = self._received, memoryview(buffer)
        if here:
            n = min(len(here), len(room))
            room[:n], self._received = here[:n], here[n:]
            return n
        sock = self._connection.sock
        sock.settimeout(self._connection.left())
        return sock.recv_into(room)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks a socket for."""
        return io.BufferedReader(self)


def is_plain_204(received: bytes) -> bool:
    """Whether these bytes are an answer 204 and nothing else, and the connection stays open."""
    return (
        received.startswith(b"HTTP/1.1 204 ")
        and received.find(b"\r\n\r\n") == len(received) - 4
        and b"close" not in received.lower()
    )


@dataclass
class Upstream:
    """Loki, or whatever else takes its pushes, at `url`.

    Args:
        url: http or https. Without a path, /loki/api/v1/push is meant. Where the path ends like
            one of Loki's two, pushes of the other family go to the other one beside it.
        timeout: seconds for a whole exchange, connecting included.
        headers: sent with every push, instead of the shipper's of the same name.
        ca: a file of certificates to trust instead of the system's.

    Raises:
        BadRequest: `url` or `ca` cannot be used.

    Threads: any number, each with a connection of its own.
    """

    url: str
    timeout: float = 8.0
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str | None = None

    def __post_init__(self) -> None:
        parts = checked_url(self.url)
        self._host = parts.hostname or ""
        self._port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        path = parts.path.rstrip("/") or PUSH_PATH
        self._path = self._legacy_path = path
        for family in (PUSH_PATH, LEGACY_PATH):
            if path.endswith(family):
                prefix = path.removesuffix(family)
                self._path, self._legacy_path = prefix + PUSH_PATH, prefix + LEGACY_PATH
        try:
            secure = parts.scheme == "https"
            self._tls = ssl.create_default_context(cafile=self.ca) if secure else None
        except OSError as error:
            raise errors.BadRequest(f"upstream certificates {self.ca}: {error}") from error
        self._overridden = {name.lower() for name in self.headers}
        own = dict(self.headers)
        if "host" not in self._overridden:
            own["Host"] = parts.netloc
        self._lines = [f"{name}: {value}" for name, value in own.items()]
        self._kept = threading.local()
        # Why it did not answer the last push, "" if it did.
        self.trouble = ""
        self._quiet_until = 0.0

    def target_for(self, target: str) -> str:
        """Where a push that came in on `target` goes: dialect and query stay as they were."""
        path, mark, query = target.partition("?")
        return (self._legacy_path if path == LEGACY_PATH else self._path) + mark + query

    def send(self, target: str, body: bytes | bytearray, headers: Mapping[str, str]) -> Reply:
        """POST `body`; `target` is the path and query it came in on.

        Raises:
            Unavailable: no connection, no answer in time, or one that is not HTTP. Whether
                upstream took the push is not known.
        """
        head = self._head(target, len(body), headers)
        try:
            connection = self._connection(time.monotonic() + self.timeout)
            connection.send(head, body)
            reply = connection.receive()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            words = f"{type(error).__name__}: {error}".rstrip(": ")
            if isinstance(error, TimeoutError):
                words = f"no answer within {self.timeout:g} s"
            self._tell(words)
            raise errors.Unavailable(f"upstream {self._host}: {words}") from error
        except BaseException:
            self.close()
            raise
        self.trouble = ""
        return reply

    def _tell(self, words: str) -> None:
        """Say that there was no answer: in /api/health, and now and then in the log."""
        self.trouble, now = words, time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + TELL_EVERY_S
            log.warning("upstream %s: %s; pushes are answered 503", self._host, words)

    def _head(self, target: str, size: int, headers: Mapping[str, str]) -> bytes:
        """A push's request line and headers."""
        overridden = self._overridden
        lines = [f"POST {self.target_for(target)} HTTP/1.1", *self._lines]
        lines += [f"{name}: {v}" for name, v in headers.items() if name.lower() not in overridden]
        lines += [f"Content-Length: {size}", "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        if head.count(b"\n") + head.count(b"\r") != 2 * (len(lines) - 1):
            raise errors.BadRequest("a header with a line end in it")
        return head

    def _connection(self, deadline: float) -> Connection:
        """This thread's connection, a new one if upstream has closed it meanwhile."""
        kept: Connection | None = getattr(self._kept, "connection", None)
        if kept is None or not kept.is_idle():
            self.close()
            kept = Connection(self._host, self._port, self._tls, deadline)
            self._kept.connection = kept
        kept.deadline = deadline
        return kept

    def close(self) -> None:
        """Close this thread's connection; its next push opens another."""
        kept: Connection | None = getattr(self._kept, "connection", None)
        if kept is not None:
            self._kept.connection = None
            kept.close()


def checked_url(url: str) -> urllib.parse.SplitResult:
    """The parts of an upstream's URL.

    Raises:
        BadRequest: not the URL of an HTTP server, or more than that.
    """
    # A password, or a token behind the question mark, is not for the log.
    shown = "" if "@" in url or "?" in url else f" {url!r}"
    refusal = errors.BadRequest(f"upstream{shown}: not an http:// or https:// URL")
    try:
        parts = urllib.parse.urlsplit(url)
        # Asking for the port checks it.
        has_port = parts.port != 0
    except ValueError:
        raise refusal from None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not (parts.hostname and has_port and is_plain):
        raise refusal
    if parts.username is not None or parts.query or parts.fragment:
        raise errors.BadRequest(
            "upstream: a URL with user, query or fragment; credentials are given with"
            " --upstream-header 'Authorization=...'"
        )
    return parts
