"""The HTTP server of dashboard and controller: waitress, on threads of this process, within limits.

waitress receives requests without a thread each. What is added here: probes have a thread of their
own, heads that drip have a deadline, and a crowd of connections that ask for nothing costs its own
peer, not the others.
"""

import collections
import logging
import socket
import threading
import time
from typing import Any

import flask
import waitress.server
import waitress.task

from sluice import port, settings

log = logging.getLogger("sluice")

# Answered by a thread of their own: whatever else is asked, they wait for each other only.
PROBES = ("/ready", "/api/health")
# Connections at a time; from three quarters on those that ask for nothing are closed, the greediest
# peer's first.
CONNECTIONS_MAX = 4096
CROWD = CONNECTIONS_MAX * 3 // 4
# A reader that takes nothing more holds this much, in memory; then its thread waits for it.
BUFFER_BYTES = 256 * 1024
BODY_BYTES = 1024
# A connection that asks for nothing; a request that is not whole; a reader that takes nothing of
# what it asked for.
SILENT_S, CLEANUP_S, HEAD_S, STUCK_S = 15, 5, 10.0, 30.0
# For answers that are being written when all ends; waitress counts in whole seconds.
END_S = 1
POLL_S, UPKEEP_S, JOIN_S = 1.0, 0.5, 2.0


class Server:
    """Serves a WSGI application.

    Args:
        threads: requests at work at a time, see set_threads().
        name: of the thread that receives.

    Attributes:
        listen: where it serves; its port is never 0.

    Raises:
        CannotStart: the port is taken, or is not ours to take.

    Threads: start() and stop() are called by one.
    """

    def __init__(
        self, app: flask.Flask, listen: settings.Address, *, threads: int, name: str
    ) -> None:
        self.listen = listen = port.taken(listen)
        self._map: dict[int, Any] = {}
        # One socket, so one server: "localhost" may be two addresses.
        self._server: Any = waitress.server.create_server(
            app,
            self._map,
            sockets=[_bound(listen)],
            threads=threads,
            connection_limit=CONNECTIONS_MAX,
            outbuf_high_watermark=BUFFER_BYTES,
            # So that a page that was closed is noticed, and gives its place back.
            channel_request_lookahead=1,
            # Nothing is posted here. Without it anybody may fill the disk before being asked who.
            max_request_body_size=BODY_BYTES,
            channel_timeout=SILENT_S,
            cleanup_interval=CLEANUP_S,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        self._dispatcher: Any = self._server.task_dispatcher
        self._probes = waitress.task.ThreadedTaskDispatcher()
        self._probes.set_thread_count(1)
        self._server.add_task = self._add_task  # type: ignore[method-assign, union-attr]
        self._stopping = threading.Event()
        # By channel: bytes that wait to be taken, and since when none was (monotonic).
        self._stuck: dict[Any, tuple[int, float]] = {}
        # By channel: the request that is being received, and since when.
        self._partial: dict[Any, tuple[object, float]] = {}
        self._kept_up_at = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        log.info("%s: listening on %s", self._thread.name, self.listen)
        self._thread.start()

    def set_threads(self, count: int) -> None:
        """Have so many requests at work at a time, from now on."""
        self._dispatcher.set_thread_count(count)

    def stop(self) -> None:
        """End: answers being written have END_S."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.ident is not None:
            self._server.pull_trigger()
            self._thread.join(JOIN_S)
        # Not by the thread: the trigger has to be there until it was pulled.
        self._close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= self._kept_up_at + UPKEEP_S:
                self._kept_up_at = now
                self._drop_stuck(now)
                self._drop_partial(now)
                self._thin_out()
            # poll(), for select() ends at 1024 files, and `run` may have more.
            self._server.asyncore.loop(timeout=POLL_S, use_poll=True, map=self._map, count=1)

    def _add_task(self, channel: Any) -> None:
        """Have a thread answer a connection whose first request is whole."""
        request = channel.requests[0]
        # One that could not be read has no path.
        is_probe = not request.error and request.path in PROBES
        (self._probes if is_probe else self._dispatcher).add_task(channel)

    def _channels(self) -> list[Any]:
        return list(self._server.active_channels.values())

    def _drop_stuck(self, now: float) -> None:
        """Close the connections whose readers have taken nothing for long: each holds a thread."""
        stuck: dict[Any, tuple[int, float]] = {}
        for channel in self._channels():
            left = channel.total_outbufs_len
            if left < BUFFER_BYTES:
                continue
            before, since = self._stuck.get(channel, (-1, now))
            # It grows while the thread writes; what a reader takes makes it less.
            stuck[channel] = (left, since if left >= before >= 0 else now)
            if now - stuck[channel][1] > STUCK_S:
                channel.handle_close()
        self._stuck = stuck

    def _drop_partial(self, now: float) -> None:
        """Close the connections whose request has not become whole in time."""
        partial: dict[Any, tuple[object, float]] = {}
        for channel in self._channels():
            request = channel.request
            if request is None:
                continue
            known, since = self._partial.get(channel, (None, now))
            partial[channel] = (request, since if known is request else now)
            if now - partial[channel][1] > HEAD_S:
                channel.handle_close()
        self._partial = partial

    def _thin_out(self) -> None:
        """Close connections that ask for nothing where there are too many, the greediest peer's
        oldest first."""
        channels = self._channels()
        excess = len(channels) - CROWD
        if excess <= 0:
            return
        of_peer: dict[str, list[Any]] = collections.defaultdict(list)
        for channel in sorted(channels, key=lambda one: one.creation_time, reverse=True):
            if not channel.requests and not channel.total_outbufs_len:
                of_peer[channel.addr[0]].append(channel)
        for _ in range(excess):
            greediest = max(of_peer.values(), key=len, default=[])
            if not greediest:
                return
            greediest.pop().handle_close()

    def _close(self) -> None:
        for dispatcher in (self._probes, self._dispatcher):
            dispatcher.shutdown(timeout=END_S)
        # Wakes whoever waits for a reader that takes nothing.
        for channel in self._channels():
            channel.handle_close()
        self._server.close()


def _bound(listen: settings.Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: a peer that is gone is noticed.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.bind((listen.host, listen.port))
    except OSError as error:
        made.close()
        raise port.CannotStart(f"listen on {listen}: {error.strerror or error}") from error
    return made
