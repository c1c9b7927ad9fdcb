"""A server on a real socket that gives scripted answers, and senders to it."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

import pytest

from sluice.agent.upstream import Upstream

# Instead of bytes: nothing more on this connection; the same with a reset.
END, RESET = None, "reset"
PLAIN = b"HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n"
TEXT = {"Content-Type": "text/plain"}
LINGER_0 = struct.pack("ii", 1, 0)
Answer = Sequence[bytes | str | threading.Event | None]


def read_request(connection: socket.socket, chunk: int = 65_536) -> bytes:
    """A request's head and as much body as it says."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(chunk) or pytest.fail("hung up within the head")
    head, _, body = received.partition(b"\r\n\r\n")
    (size,) = [int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
    while len(body) < size:
        body += connection.recv(chunk) or pytest.fail("hung up within the body")
    return head + b"\r\n\r\n" + body


class Scripted:
    """A server that gives its answers in turn, each in the pieces that it is made of.

    A piece is bytes, an event to wait for, END or RESET.

    Attributes:
        requests: what it was sent.
        connections: how many it has accepted.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.accepted: socket.socket | None = None
        self.ended = False

    def serve(self) -> None:
        while self.answers:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            self.accepted = accepted
            with accepted, contextlib.suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                while self.answers and accepted.recv(1, socket.MSG_PEEK):
                    self.requests.append(read_request(accepted))
                    for piece in self.answers.pop(0):
                        if piece is END:
                            accepted.shutdown(socket.SHUT_RDWR)
                            self.ended = True
                        elif piece == RESET:
                            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
                            accepted.close()
                            self.ended = True
                        elif isinstance(piece, bytes):
                            # Without Nagle each is a segment, though two may be read at once.
                            accepted.sendall(piece)
                        else:
                            piece.wait(10)


@contextlib.contextmanager
def scripted(answers: Sequence[Answer]) -> Iterator[Scripted]:
    server = Scripted(answers)
    server.thread.start()
    try:
        yield server
    finally:
        # Wakes accept(), which close() does not.
        with contextlib.suppress(OSError):
            server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        if server.accepted is not None:
            # Of a test that failed, and so did not hang up.
            with contextlib.suppress(OSError):
                server.accepted.shutdown(socket.SHUT_RDWR)
        server.thread.join()


def sender_to(server: Scripted, **more: object) -> Upstream:
    return Upstream(f"http://127.0.0.1:{server.port}", **more)  # type: ignore[arg-type]
