"""Sends pushes to upstream: one connection a thread, one deadline an exchange.

Not a pool: a thread that waits for upstream has nothing else to do with its connection. See
docs/decisions/0003.
"""

import logging
import random
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

from sluice import errors
from sluice.agent.certificates import Certificates
from sluice.agent.connection import Connection, HungUp
from sluice.agent.destination import LEGACY_PATH as LEGACY_PATH
from sluice.agent.destination import PUSH_PATH as PUSH_PATH
from sluice.agent.destination import Destination, Proxy
from sluice.agent.http_response import REPLY_MAX as REPLY_MAX
from sluice.agent.http_response import BadAnswer
from sluice.agent.http_response import Reply as Reply
from sluice.agent.upstream_state import UpstreamState, fault_of_the_way, why_not_taken
from sluice.settings import Address
from sluice.wire import loki

log = logging.getLogger("sluice.agent")

# How long a connection is used; a random time in between, so that not all end together. Pods that
# were added get their part of the load within it.
LIFE_S = (120.0, 300.0)


@dataclass
class Upstream:
    """Loki, or another server that takes its pushes, at `url`.

    Args:
        url: http or https; see Destination.
        timeout: seconds for a whole exchange, connecting included.
        headers: sent with every push, instead of the shipper's of the same name.
        ca, cert, key: see Certificates.
        proxy: see Proxy; None: no proxy.
        life_s: a connection ends after a random time between these two.

    Raises:
        BadRequest: `url`, `proxy` or a file cannot be used.

    Threads: any number, each with a connection of its own.
    """

    url: str
    timeout: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    proxy: str | None = field(default=None, repr=False)
    life_s: tuple[float, float] = LIFE_S

    def __post_init__(self) -> None:
        self._to = to = Destination.parse(self.url)
        self._proxy = Proxy.parse(self.proxy) if self.proxy else None
        self._tls = Certificates(self.ca, self.cert, self.key) if to.is_secure else None
        self._overridden = {name.lower() for name in self.headers}
        own = dict(self.headers)
        if "host" not in self._overridden:
            own["Host"] = to.authority
        self._prefix = ""
        if self._proxy and not to.is_secure:
            # RFC 9112, 3.2.2: a proxy is told the whole URL.
            self._prefix = f"http://{to.where}"
            if self._proxy.authorization:
                own["Proxy-Authorization"] = self._proxy.authorization
        self._lines = [f"{name}: {value}" for name, value in own.items()]
        self._kept = threading.local()
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._is_stopping = False
        self._where = f"{to.where} through the proxy {self._proxy}" if self._proxy else to.where
        self.state = UpstreamState(self._where)

    @property
    def trouble(self) -> str:
        """Why pushes fail, "" while they do not."""
        return self.state.trouble

    @property
    def complaint(self) -> str:
        """What makes the process degraded, "" if nothing does."""
        if self.state.is_failing:
            return f"{self._where}: {self.state.trouble}"
        return self._tls.complaint if self._tls else ""

    def as_json(self) -> dict[str, object]:
        """Its part of /api/health."""
        tls = {} if self._tls is None else {"certificates": self._tls.complaint or None}
        return {"url": self.url, **self.state.as_json(), **tls}

    def announce(self) -> None:
        """Say in the log where pushes go."""
        way = f", through the proxy {self._proxy}" if self._proxy else ""
        log.info("pushes go to %s%s", self._to, way)

    def check_apart(self, listen: Address) -> None:
        """See that pushes do not come back to where this process listens.

        Raises:
            BadRequest: they do.
        """
        if self._proxy is None and self._to.is_at(listen):
            raise errors.BadRequest(
                f"upstream {self._to.where} is where Sluice itself listens (--listen {listen}):"
                " give the address of Loki"
            )

    def look_at_files(self) -> None:
        """Read certificates again if they have changed, though no connection is made."""
        if self._tls is not None:
            self._tls.context()

    def target_for(self, target: str) -> str:
        """Where a push that came in on `target` goes: dialect and query stay as they were."""
        return self._to.target_for(target)

    def send(self, target: str, body: loki.Body, headers: Mapping[str, str]) -> Reply:
        """POST `body`; `target` is the path and query it came in on.

        Raises:
            Unavailable: no connection, no answer in time, or one that is not HTTP. Whether
                upstream took the push is not known.
        """
        head = self._head(target, len(body), headers)
        try:
            reply = self._exchange(head, body, time.monotonic() + self.timeout)
            if fault := fault_of_the_way(reply):
                raise BadAnswer(fault)
        except (OSError, BadAnswer) as error:
            self.close()
            words = str(error)
            if isinstance(error, TimeoutError):
                words = f"no answer within {self.timeout:g} s"
            elif not isinstance(error, BadAnswer | HungUp):
                words = f"{type(error).__name__}: {error}".rstrip(": ")
            if self._is_stopping:
                words = "given up, because this process is stopping"
            self.state.failed(words, "pushes are answered 503")
            raise errors.Unavailable(f"upstream {self._where}: {words}") from error
        except BaseException:
            self.close()
            raise
        if words := why_not_taken(reply):
            self.state.failed(words, "shippers get the same answer")
        else:
            self.state.taken()
        return reply

    def _exchange(self, head: bytes, body: loki.Body, deadline: float) -> Reply:
        """Send a push and receive the answer.

        Upstream may close an idle connection just when a push is on its way. Nothing of the push
        was read then, most likely, and what is sent again is the same push that the shipper would
        send again. RFC 9112, 9.3.1.
        """
        try:
            return self._connection(deadline).exchange(head, body)
        except HungUp as error:
            if not error.was_reused:
                raise
        self.close()
        self.state.resent()
        return self._connection(deadline).exchange(head, body)

    def _head(self, target: str, size: int, headers: Mapping[str, str]) -> bytes:
        """A push's request line and headers."""
        overridden = self._overridden
        lines = [f"POST {self._prefix}{self.target_for(target)} HTTP/1.1", *self._lines]
        lines += [f"{name}: {v}" for name, v in headers.items() if name.lower() not in overridden]
        lines += [f"Content-Length: {size}", "", ""]
        head = "\r\n".join(lines).encode("latin-1")
        if head.count(b"\n") + head.count(b"\r") != 2 * (len(lines) - 1):
            raise errors.BadRequest("a header with a line end in it")
        return head

    def _connection(self, deadline: float) -> Connection:
        """This thread's connection; a new one if upstream has closed it, or it is old."""
        kept: Connection | None = getattr(self._kept, "connection", None)
        if kept is None or time.monotonic() >= kept.ends_at or not kept.is_idle():
            self.close()
            ends_at = time.monotonic() + random.uniform(*self.life_s)
            kept = Connection(
                self._to, self._tls, self._proxy, deadline, ends_at, self._note_connection
            )
            self._kept.connection = kept
        kept.deadline = deadline
        return kept

    def _note_connection(self, connection: Connection) -> None:
        with self._lock:
            self._connections.add(connection)
        if self._is_stopping:
            raise ConnectionAbortedError("this process is stopping")

    def give_up(self) -> None:
        """End all exchanges, as without an answer, and let none begin: the process is stopping.

        Otherwise a stop would take as long as an upstream that hangs.
        """
        self._is_stopping = True
        with self._lock:
            waiting = list(self._connections)
        for connection in waiting:
            connection.abort()

    def close(self) -> None:
        """Close this thread's connection; its next push opens another."""
        kept: Connection | None = getattr(self._kept, "connection", None)
        if kept is not None:
            self._kept.connection = None
            kept.close()
