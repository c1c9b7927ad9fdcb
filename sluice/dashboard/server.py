"""The dashboard's server: waitress, on threads of this process, which ends when it is told to."""

import socket
import threading
import time
from typing import Any

import flask
import waitress.server

from sluice import port, settings
from sluice.dashboard import app as apps

# Pages and the API are answered by these; each page that is live has a thread of its own beside.
THREADS = 8
# Of both, and those who connect and ask for nothing.
CONNECTIONS_MAX = 512
# A reader that takes nothing more holds this much, in memory; then its thread waits for it.
BUFFER_BYTES = 256 * 1024
BODY_BYTES = 1024
# A connection that asks for nothing; and a reader that takes nothing of what it asked for.
SILENT_S, CLEANUP_S, STUCK_S = 15, 5, 30.0
POLL_S, END_S, JOIN_S = 1.0, 0.5, 2.0


class Server:
    """Serves an application of create_app().

    Raises:
        CannotStart: the port is taken, or is not ours to take.

    Threads: start() and stop() are called by one.
    """

    def __init__(self, app: flask.Flask, listen: settings.Address) -> None:
        self._board = apps.board_of(app)
        port.check_port(listen.host, listen.port)
        self._map: dict[int, Any] = {}
        # One socket, so one server: "localhost" may be two addresses.
        self._server: Any = waitress.server.create_server(
            app,
            self._map,
            sockets=[_bound(listen)],
            threads=THREADS,
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
        threads = self._server.task_dispatcher
        self._board.tell(lambda count: threads.set_thread_count(THREADS + count))
        self._stopping = threading.Event()
        # By channel: bytes that wait to be taken, and since when none was (monotonic).
        self._stuck: dict[Any, tuple[int, float]] = {}
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End: live pages are let go, answers being written have half a second."""
        if self._stopping.is_set():
            return
        self._board.stop()
        self._stopping.set()
        if self._thread.ident is not None:
            self._server.pull_trigger()
            self._thread.join(JOIN_S)
        # Not by the thread: the trigger has to be there until it was pulled.
        self._close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._drop_stuck(time.monotonic())
            # poll(), for select() ends at 1024 files, and `run` may have more.
            self._server.asyncore.loop(timeout=POLL_S, use_poll=True, map=self._map, count=1)

    def _drop_stuck(self, now: float) -> None:
        """Close the connections whose readers have taken nothing for long: each holds a thread."""
        stuck: dict[Any, tuple[int, float]] = {}
        for channel in list(self._server.active_channels.values()):
            left = channel.total_outbufs_len
            if left < BUFFER_BYTES:
                continue
            before, since = self._stuck.get(channel, (-1, now))
            # It grows while the thread writes; what a reader takes makes it less.
            stuck[channel] = (left, since if left >= before >= 0 else now)
            if now - stuck[channel][1] > STUCK_S:
                channel.handle_close()
        self._stuck = stuck

    def _close(self) -> None:
        self._server.task_dispatcher.shutdown(timeout=END_S)
        # Wakes whoever waits for a reader that takes nothing.
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.close()


def _bound(listen: settings.Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((listen.host, listen.port))
    except OSError as error:
        made.close()
        raise port.CannotStart(f"listen on {listen}: {error.strerror or error}") from error
    return made
