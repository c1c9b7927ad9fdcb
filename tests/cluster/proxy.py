"""A TCP proxy between a client and a server whose behaviour a test changes at any time.

What it can do to a network is what a network does: answer, refuse, stay silent, be slow, reset.
"""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable

MODES = ("ok", "refuse", "reset", "blackhole", "delay")
CHUNK = 1 << 16
# Closing with it sends a reset instead of an orderly end.
NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`.

    Modes: `ok` forwards. `refuse` has no listener: new connections are refused. `reset` accepts
    and resets them, which counts them. `blackhole` accepts, and nothing moves on any connection,
    the ends of it included. `delay` forwards each chunk `delay_s` later. Connections that stand
    when the mode changes stay, and go on when it allows it; `cut` resets them.

    Threads: any number may call. One thread serves each connection.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.mode = "ok"
        self.delay_s = 0.0
        # How many connections were accepted, in all modes.
        self.accepted = 0
        self.lock = threading.Lock()
        # One socket per connection that wakes its thread; it is closed to cut the connection.
        self.wakers: set[socket.socket] = set()
        # Bound and never listening: it keeps the port while there is no listener.
        self.holder = bound(0)
        self.port: int = self.holder.getsockname()[1]
        self.listener: socket.socket | None = None
        self.threads: list[threading.Thread] = []
        self.set("ok")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def set(self, mode: str, delay_s: float = 0.0) -> None:
        """Change the behaviour, for new connections and for those that stand."""
        assert mode in MODES, mode
        with self.lock:
            self.mode, self.delay_s = mode, delay_s
            if mode == "refuse":
                self.close_listener()
            elif self.listener is None:
                self.listener = bound(self.port)
                self.listener.listen(128)
                self.spawn(self.accept, self.listener)
            for waker in self.wakers:
                waker.send(b"!")

    def cut(self) -> int:
        """Reset all connections that stand, and return how many there were."""
        with self.lock:
            cut = len(self.wakers)
            for waker in self.wakers:
                waker.close()
            self.wakers.clear()
        return cut

    def stop(self) -> None:
        """End everything; connections are reset."""
        self.set("refuse")
        self.cut()
        for thread in self.threads:
            thread.join()
        self.holder.close()

    def close_listener(self) -> None:
        if self.listener is not None:
            # Closing alone would leave the thread in accept() and the socket listening with it.
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None

    def spawn(self, work: Callable[..., None], *args: socket.socket) -> None:
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        self.threads.append(threading.Thread(target=work, args=args, daemon=True))
        self.threads[-1].start()

    def accept(self, listener: socket.socket) -> None:
        # Raised when the listener is shut down.
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with self.lock:
                    self.accepted += 1
                    if self.listener is not listener or self.mode == "reset":
                        reset(client)
                        continue
                    waker, woken = socket.socketpair()
                    self.wakers.add(waker)
                    self.spawn(self.serve, client, waker, woken)

    def serve(self, client: socket.socket, waker: socket.socket, woken: socket.socket) -> None:
        """Serve one connection until both sides have ended it, or it is cut."""
        ends = [client]
        try:
            self.freeze(woken)
            ends.append(socket.create_connection(("127.0.0.1", self.target)))
            self.forward(woken, dict(zip(ends, reversed(ends), strict=True)))
        except OSError:
            for end in ends:
                reset(end)
        with self.lock:
            self.wakers.discard(waker)
        for end in (*ends, waker, woken):
            end.close()

    def forward(self, woken: socket.socket, other: dict[socket.socket, socket.socket]) -> None:
        waiting: dict[socket.socket, bytes] = {}
        reading = set(other)
        while reading or waiting:
            # Nobody is read whose last chunk is not delivered: that is back-pressure.
            sources = [end for end in reading if other[end] not in waiting]
            readable, writable, _ = select.select([woken, *sources], list(waiting), [])
            if woken in readable:
                wake(woken)
                self.freeze(woken)
                continue
            for end in readable:
                chunk = end.recv(CHUNK)
                if self.delay_s:
                    pause(woken, self.delay_s)
                if chunk:
                    waiting[other[end]] = chunk
                else:
                    reading.discard(end)
                    other[end].shutdown(socket.SHUT_WR)
            for end in writable:
                rest = waiting.pop(end)
                rest = rest[end.send(rest, socket.MSG_DONTWAIT) :]
                if rest:
                    waiting[end] = rest

    def freeze(self, woken: socket.socket) -> None:
        """Return once something may move."""
        while self.mode == "blackhole":
            pause(woken, None)


def pause(woken: socket.socket, seconds: float | None) -> None:
    """Wait, or until the mode changes."""
    if select.select([woken], [], [], seconds)[0]:
        wake(woken)


def wake(woken: socket.socket) -> None:
    """Take notice of a change; ConnectionResetError if it is the end."""
    if not woken.recv(CHUNK):
        raise ConnectionResetError


def bound(port: int) -> socket.socket:
    """A socket bound to a loopback port that others may be bound to as well."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    end.bind(("127.0.0.1", port))
    return end


def reset(end: socket.socket) -> None:
    """Close with a reset."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    end.close()
