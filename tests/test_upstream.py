"""The connection to upstream: real sockets, answers however they come, TLS."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from sluice import errors
from sluice.agent.upstream import PUSH_PATH, Reply, Upstream

PLAIN = b"HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n"
TEXT = {"Content-Type": "text/plain"}


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

    Attributes:
        requests: what it was sent.
        connections: how many it has accepted.
    """

    def __init__(self, answers: Sequence[Sequence[bytes]]) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        while self.answers:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            with accepted, contextlib.suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                while self.answers and accepted.recv(1, socket.MSG_PEEK):
                    self.requests.append(read_request(accepted))
                    for piece in self.answers.pop(0):
                        # Without Nagle each piece is a segment, though two may be read at once.
                        accepted.sendall(piece)


@contextlib.contextmanager
def scripted(answers: Sequence[Sequence[bytes]]) -> Iterator[Scripted]:
    server = Scripted(answers)
    server.thread.start()
    try:
        yield server
    finally:
        # Wakes accept(), which close() does not.
        with contextlib.suppress(OSError):
            server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()
        server.thread.join()


def sender_to(server: Scripted, **more: object) -> Upstream:
    return Upstream(f"http://127.0.0.1:{server.port}", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pieces", "expected", "kept"),
    [
        ([PLAIN], Reply(204), True),
        # byte by byte; the head's end apart
        ([PLAIN[i : i + 1] for i in range(len(PLAIN))], Reply(204), True),
        ([PLAIN[:-1], PLAIN[-1:]], Reply(204), True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", PLAIN], Reply(204), True),
        ([b"HTTP/1.1 204 No Content\r\nConnection: Close\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.0 204 No Content\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], Reply(200, b"ok"), True),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok", b"ay"], Reply(200, b"okay"), True),
        (
            [
                b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n",
                b"\r\n2\r\nno\r\n0\r\n\r\n",
            ],
            Reply(429, b"no", "", "3"),
            True,
        ),
        ([b"HTTP/1.1 103 Early Hints\r\n\r\n", PLAIN], Reply(103), False),
        (
            [b"HTTP/1.1 500 Oh\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"],
            Reply(500, b"", "text/html"),
            True,
        ),
    ],
)
def test_an_answer_is_read_however_it_comes_and_the_next_one_is_its_own(pieces, expected, kept):
    with scripted([pieces, [b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n"]]) as server:
        sender = sender_to(server)
        assert sender.send(PUSH_PATH, b"one", TEXT) == expected
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(418)
        sender.close()
    assert [request[-3:] for request in server.requests] == [b"one", b"two"]
    assert server.connections == (1 if kept else 2)


def test_what_comes_behind_an_answer_is_not_taken_for_the_next_one():
    with scripted([[PLAIN + b"HTTP/1.1 400 Smuggled\r\n\r\n"], [PLAIN]]) as server:
        sender = sender_to(server)
        assert sender.send(PUSH_PATH, b"one", TEXT).status == 204
        assert sender.send(PUSH_PATH, b"two", TEXT).status == 204
        sender.close()


@pytest.mark.parametrize("size", [0, 1, 100_000, 30_000_000])
def test_a_body_arrives_whole(size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with scripted([[PLAIN]]) as server:
        sender = sender_to(server, headers={"X-Scope-OrgID": "team"})
        sender.send(PUSH_PATH, body, {"x-scope-orgid": "shipper", "Accept": "*/*"})
        sender.close()
    head, _, arrived = server.requests[0].partition(b"\r\n\r\n")
    assert arrived == body
    assert head.split(b"\r\n") == [
        b"POST /loki/api/v1/push HTTP/1.1",
        b"X-Scope-OrgID: team",
        f"Host: 127.0.0.1:{server.port}".encode(),
        b"Accept: */*",
        f"Content-Length: {size}".encode(),
    ]


def test_a_header_with_a_line_end_in_it_is_refused_and_nothing_is_sent():
    with scripted([[PLAIN]]) as server:
        sender = sender_to(server)
        for value in ("a\nX-Evil: 1", "a\r", "a\r\nX-Evil: 1"):
            with pytest.raises(errors.BadRequest, match="line end"):
                sender.send(PUSH_PATH, b"", {"X-Shipper": value})
    assert server.connections == 0


def test_an_upstream_that_stops_reading_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = Upstream(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3)
        began = time.monotonic()
        with pytest.raises(errors.Unavailable, match=r"no answer within 0\.3 s"):
            sender.send(PUSH_PATH, bytes(50_000_000), TEXT)
        assert time.monotonic() - began < 2


@contextlib.contextmanager
def full_house() -> Iterator[int]:
    """The port of a server that has no place in its queue: who connects waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        queued = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(listener.getsockname())
            queued.append(sock)
        yield listener.getsockname()[1]
        for sock in queued:
            sock.close()


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> Upstream:
    """A sender to a host that has these addresses."""
    tcp = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*tcp, one) for one in found])
    return Upstream("http://loki.example", timeout=0.8)


def test_an_address_that_refuses_is_passed_over(monkeypatch):
    with scripted([[PLAIN]]) as server:
        sender = addresses(monkeypatch, ("127.0.0.1", 9), ("127.0.0.1", server.port))
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        sender.close()


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch):
    with full_house() as port, scripted([[PLAIN]]) as server:
        sender = addresses(monkeypatch, ("127.0.0.1", port), ("127.0.0.1", server.port))
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        sender.close()


def test_several_addresses_that_do_not_answer_have_one_deadline_between_them(monkeypatch):
    with full_house() as port:
        sender = addresses(monkeypatch, *[("127.0.0.1", port)] * 4)
        began = time.monotonic()
        with pytest.raises(errors.Unavailable, match=r"no answer within 0\.8 s"):
            sender.send(PUSH_PATH, b"one", TEXT)
        assert 0.7 < time.monotonic() - began < 2.4


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("size", [5, 5_000_000])
def test_over_tls_a_body_arrives_whole_at_a_server_that_our_authority_knows(
    authority, tmp_path: Path, size
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    arrived = []

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            accepted, _ = listener.accept()
            with (
                contextlib.suppress(OSError),
                accepted,
                context.wrap_socket(accepted, server_side=True) as connection,
            ):
                arrived.append(read_request(connection))
                connection.sendall(PLAIN)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        with pytest.raises(errors.Unavailable, match="certificate"):
            Upstream(url).send(PUSH_PATH, body, TEXT)
        known = Upstream(url, ca=str(tmp_path / "ca.pem"))
        assert known.send(PUSH_PATH, body, TEXT) == Reply(204)
        known.close()
        thread.join()
    assert [request.partition(b"\r\n\r\n")[2] for request in arrived] == [body]
