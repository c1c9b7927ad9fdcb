"""Watches the connections of a server in this process, from beside it: closes those that ask for
nothing, and has the kernel find peers that are gone.

Works with any server. It finds the sockets among the process' open files and asks the kernel what
came over each, so that a connection needs no timer of its own.
"""

import contextlib
import logging
import os
import resource
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("sluice")

OPEN_FILES = Path("/proc/self/fd")
# More would be of no use, and some programs walk over all that there may be.
FILES_MAX = 2**20
# A new connection has this long for its first request, one that was answered for the next one.
# Clients keep theirs for less: Go's for 90 s, Fluent Bit's for 30.
FIRST_S, IDLE_S = 10.0, 120.0
# More connections than this that ask for nothing are a crowd: the peer with most of them loses
# its oldest, though they have not had their time.
CROWD = 1000
LOOK_S, JOIN_S = 1.0, 2.0
# A peer that is gone is noticed after KEEP_IDLE_S + KEEP_PROBES * KEEP_EVERY_S.
KEEP_IDLE_S, KEEP_EVERY_S, KEEP_PROBES = 60, 15, 4
# struct tcp_info of linux/tcp.h: milliseconds since data was sent and received, and bytes that the
# peer has acknowledged.
LAST_SENT, LAST_RECEIVED, ACKED = 44, 52, 120
INFO_BYTES = 128


def raise_file_limit() -> int:
    """Let this process open as many files as it may; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return FILES_MAX if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(slots=True)
class Traffic:
    """What the kernel says of a connection."""

    was_answered: bool
    silent_s: float

    @classmethod
    def of(cls, sock: socket.socket) -> "Traffic":
        """Raises OSError or struct.error where the kernel does not say."""
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)
        sent, received = (struct.unpack_from("I", info, at)[0] for at in (LAST_SENT, LAST_RECEIVED))
        (acked,) = struct.unpack_from("Q", info, ACKED)
        return cls(acked > 0, min(sent, received) / 1000)


@dataclass(slots=True)
class Connection:
    """A connection that was seen."""

    peer: str
    client: str
    since: float


@dataclass
class Guard:
    """Closes connections to `port` that nothing is asked on.

    Args:
        is_busy: whether a request of a client, "address:port" or "[address]:port", is at work;
            it is left alone.

    Threads: start() and stop() are called by one.
    """

    port: int
    is_busy: Callable[[str], bool]
    first_s: float = FIRST_S
    idle_s: float = IDLE_S
    crowd: int = CROWD
    # By file number and inode.
    _seen: dict[tuple[int, int], Connection] = field(default_factory=dict)
    _others: set[tuple[int, int]] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, in a thread."""
        self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def close_all(self) -> None:
        """Close all connections to the port, whatever is asked on them."""
        self._look(lambda _now, connection, _sock: True)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except Exception:
                # The outermost loop of this thread.
                log.exception("looking after connections failed")

    def look(self) -> None:
        """Close what has asked for nothing for too long, and thin out a crowd."""
        idle: list[tuple[float, Connection]] = []

        def is_over(now: float, connection: Connection, sock: socket.socket) -> bool:
            if self.is_busy(connection.client):
                return False
            traffic = Traffic.of(sock)
            if traffic.was_answered:
                silent_s, limit_s = traffic.silent_s, self.idle_s
            else:
                silent_s, limit_s = now - connection.since, self.first_s
            idle.append((silent_s, connection))
            return silent_s >= limit_s

        self._look(is_over)
        if len(idle) > self.crowd:
            doomed = self._crowd(idle)
            self._look(
                lambda _now, one, _sock: one.client in doomed and not self.is_busy(one.client)
            )

    def _crowd(self, idle: list[tuple[float, Connection]]) -> set[str]:
        """The clients to close so that no crowd is left: of the greediest peers, the most silent.

        No peer is left with less than what all of them would have in equal parts.
        """
        of_peer = Counter(connection.peer for _, connection in idle)
        # The most that each may keep, so that all together keep no more than `crowd`.
        left, peers = self.crowd, len(of_peer)
        most = left // peers
        for count in sorted(of_peer.values()):
            most = left // peers
            if count > most:
                break
            left, peers = left - count, peers - 1
        kept: Counter[str] = Counter()
        doomed = set()
        for _, connection in sorted(idle, key=lambda one: one[0]):
            kept[connection.peer] += 1
            if kept[connection.peer] > most:
                doomed.add(connection.client)
        log.warning(
            "%d connections ask for nothing: %d are closed, most of %s",
            len(idle),
            len(doomed),
            of_peer.most_common(1)[0][0],
        )
        return doomed

    def _look(self, is_over: Callable[[float, Connection, socket.socket], bool]) -> None:
        """Go over the open sockets of the port and shut down those that are over."""
        now = time.monotonic()
        found: dict[tuple[int, int], Connection] = {}
        others = set()
        for path in OPEN_FILES.iterdir():
            number = int(path.name)
            try:
                key = (number, os.fstat(number).st_ino)
                if key in self._others:
                    others.add(key)
                    continue
                # Of a copy: the server may close its own at any moment, and another file would
                # have the number.
                copy = os.dup(number)
            except OSError:
                continue
            try:
                sock = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                others.add(key)
                continue
            with sock, contextlib.suppress(OSError, struct.error):
                connection = self._seen.get(key) or self._recognize(sock, now)
                if connection is None:
                    others.add(key)
                    continue
                found[key] = connection
                if is_over(now, connection, sock):
                    sock.shutdown(socket.SHUT_RDWR)
        self._seen, self._others = found, others

    def _recognize(self, sock: socket.socket, now: float) -> Connection | None:
        """What a socket is, if it is a connection to the port."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if sock.type != socket.SOCK_STREAM or sock.getsockname()[1] != self.port:
            return None
        keep_alive(sock)
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            # Those who connect from now on inherit it.
            return None
        address, port, *scope = sock.getpeername()
        if scope:
            # With the scope's number, if it has one: fe80::1%2.
            address = address.partition("%")[0] + (f"%{scope[1]}" if scope[1] else "")
            return Connection(address, f"[{address}]:{port}", now)
        return Connection(address, f"{address}:{port}", now)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel find out when a peer is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, KEEP_IDLE_S),
        (socket.TCP_KEEPINTVL, KEEP_EVERY_S),
        (socket.TCP_KEEPCNT, KEEP_PROBES),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
