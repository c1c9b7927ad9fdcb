"""Sends pushes to upstream: one connection a thread, one deadline an exchange, no retries.

http.client and not a pool: it costs half a CPU second less per GiB, and a thread that waits
for upstream has nothing else to do with its connection.
"""

import http.client
import io
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

PUSH_PATH = "/loki/api/v1/push"
LEGACY_PATH = "/api/prom/push"
# An error text that is longer is cut: Loki's are a few hundred bytes.
REPLY_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What upstream answered; `body` is cut at REPLY_MAX bytes."""

    status: int
    body: bytes = b""
    content_type: str = ""
    retry_after: str = ""


class Deadlined(io.RawIOBase):
    """Reads from a socket until a moment, however slowly the bytes drip in.

    A socket's own timeout starts anew with every byte.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the exchange took too long")
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks a socket for."""
        return io.BufferedReader(self)


class Connection(http.client.HTTPConnection):
    """An HTTP connection whose answers are read until `deadline` (monotonic seconds)."""

    deadline = 0.0

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None
    ) -> http.client.HTTPResponse:
        """Called by http.client in place of its own response class."""
        return http.client.HTTPResponse(Deadlined(sock, self.deadline), debuglevel, method)  # type: ignore[arg-type]


class TlsConnection(Connection, http.client.HTTPSConnection):
    """The same over TLS."""


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
        self._host, self._port = parts.hostname or "", parts.port
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
        self._mine = threading.local()

    def path_for(self, path: str) -> str:
        """Where a push that came in on `path` goes: a dialect stays on its path family."""
        return self._legacy_path if path == LEGACY_PATH else self._path

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST `body`; `path` is the one it came in on.

        Raises:
            Unavailable: no connection, no answer in time, or one that is not HTTP. Whether
                upstream took the push is not known.
        """
        deadline = time.monotonic() + self.timeout
        try:
            connection = self._connection(deadline)
            return self._exchange(connection, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            words = f"{type(error).__name__}: {error}".rstrip(": ")
            if isinstance(error, TimeoutError):
                words = f"no answer within {self.timeout:g} s"
            raise errors.Unavailable(f"upstream {self._host}: {words}") from error
        except BaseException:
            self.close()
            raise

    def _exchange(
        self, connection: Connection, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        overridden = self._overridden
        connection.putrequest(
            "POST", self.path_for(path), skip_host="host" in overridden, skip_accept_encoding=True
        )
        for name, value in headers.items():
            if name.lower() not in overridden:
                connection.putheader(name, value)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        with connection.getresponse() as response:
            text = response.read(REPLY_MAX)
            if not response.isclosed():
                # The rest of a long text is not worth the wait.
                connection.close()
            return Reply(
                response.status,
                text,
                response.headers.get("Content-Type", ""),
                response.headers.get("Retry-After", ""),
            )

    def _connection(self, deadline: float) -> Connection:
        """This thread's connection, a new one if upstream has closed it meanwhile."""
        kept: Connection | None = getattr(self._mine, "connection", None)
        if kept is None or kept.sock is None or is_readable(kept.sock):
            self.close()
            if self._tls is None:
                kept = Connection(self._host, self._port, timeout=self.timeout)
            else:
                kept = TlsConnection(
                    self._host, self._port, timeout=self.timeout, context=self._tls
                )
            kept.connect()
            self._mine.connection = kept
        kept.deadline = deadline
        kept.sock.settimeout(max(0.001, deadline - time.monotonic()))
        return kept

    def close(self) -> None:
        """Close this thread's connection; its next push opens another."""
        kept: Connection | None = getattr(self._mine, "connection", None)
        if kept is not None:
            kept.close()


def checked_url(url: str) -> urllib.parse.SplitResult:
    """The parts of an upstream's URL.

    Raises:
        BadRequest: not the URL of an HTTP server, or more than that.
    """
    refusal = errors.BadRequest(f"upstream {url!r}: not an http:// or https:// URL")
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


def is_readable(sock: socket.socket) -> bool:
    """Whether an idle connection has something to say: that upstream has closed it."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(0))
