"""The connection to upstream: real sockets, answers however they come, TLS."""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trustme
from harness import wait_until

from sluice import errors
from sluice.agent.connection import Connection
from sluice.agent.upstream import PUSH_PATH, Reply, Upstream

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
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", PLAIN], Reply(204), True),
        ([b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 102 \r\n\r\n" + PLAIN], Reply(204), True),
        ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + PLAIN], Reply(101), False),
        ([b"HTTP/1.1 204 \r\nconnection: CLOSE\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 204\r\nConnection: x, close\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 204 \r\nVia: close\r\nServer: a\r\n\r\n"], Reply(204), True),
        # A body that must not be there, in the same piece or later.
        ([b"HTTP/1.1 204 \r\nContent-Length: 2\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n"], Reply(204), True),
        ([b"HTTP/1.1 204 \r\nTransfer-Encoding: chunked\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"], Reply(304), False),
        ([PLAIN + PLAIN], Reply(204), False),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + PLAIN], Reply(200, b"ok"), False),
        # More than http.client reads at once, so that a part of it would stay for the next push.
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + PLAIN * 500],
            Reply(200, b"ok"),
            False,
        ),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\n\r\nok"],
            Reply(200, b"ok"),
            True,
        ),
        (
            [
                b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: Chunked\r\n\r\n1 ;a=b\r\nn\r\n",
                b"0001\r\no\r\n00\r\nX-Trailer: 1\r\n\r\n",
            ],
            Reply(500, b"no"),
            True,
        ),
        (
            [b"HTTP/1.0 500 Oh\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nno"],
            Reply(500, b"no"),
            False,
        ),
        (
            [b"HTTP/1.1 500 Oh\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000],
            Reply(500, b"x" * 65_536),
            False,
        ),
        (
            [
                b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n",
                b"x" * 70_000 + b"\r\n0\r\n\r\n",
            ],
            Reply(500, b"x" * 65_536),
            False,
        ),
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


@pytest.mark.parametrize(
    "answer",
    [
        # cut short
        b"HTTP/1.1 204 No Con",
        b"HTTP/1.1 204 No Content\r\nDate: today\r\n",
        b"HTTP/1.1 204 No Content\r\n\r",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        # no status line
        b"HTTP/1.1 +204 No Content\r\n\r\n",
        b"HTTP/1.1  204 No Content\r\n\r\n",
        b"HTTP/1.1 204No Content\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 0204 x\r\n\r\n",
        b"HTTP/1.1 2_4 x\r\n\r\n",
        b"HTTP/1.1 \xb2\xb0\xb4 x\r\n\r\n",
        b"HTTP/1.1 204 a\0b\r\n\r\n",
        b"HTTP/2.0 204 No Content\r\n\r\n",
        b"http/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.10 204 No Content\r\n\r\n",
        b"\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0",
        # line ends and headers
        b"HTTP/1.1 204 No Content\n\n",
        b"HTTP/1.1 204 No Content\nDate: today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: today\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: a\rX: b\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate : today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n Date: today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: today\r\n and tomorrow\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n: today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: to\0day\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 204 No Content\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        # lengths
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2_0\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nContent-Length: two\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        # chunks
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_what_is_not_an_answer_ends_the_connection_and_is_not_stored(answer):
    with scripted([[answer, None], [PLAIN]]) as server:
        sender = sender_to(server)
        with pytest.raises(errors.Unavailable, match=f"upstream 127.0.0.1:{server.port}: "):
            sender.send(PUSH_PATH, b"one", TEXT)
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        sender.close()
    assert [request[-3:] for request in server.requests] == [b"one", b"two"]
    assert server.connections == 2


def test_an_answer_that_has_no_length_ends_with_the_connection():
    with scripted([[b"HTTP/1.1 500 Oh\r\n\r\n", b"no", None], [PLAIN]]) as server:
        sender = sender_to(server)
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(500, b"no")
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        sender.close()


@pytest.mark.parametrize("first", [PLAIN, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_pushs(first):
    late = threading.Event()
    with scripted([[first, late, b"HTTP/1.1 400 Smuggled\r\n\r\n"], [PLAIN]]) as server:
        sender = sender_to(server)
        sender.send(PUSH_PATH, b"one", TEXT)
        late.set()
        kept = sender._kept.connection
        wait_until(lambda: not kept.is_idle(), "it has come")
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        sender.close()
    assert server.connections == 2


@pytest.mark.parametrize("status", [413, 204])
def test_a_refusal_of_a_body_that_was_not_read_to_its_end_is_heard(status):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(100)
                accepted.sendall(f"HTTP/1.1 {status} Oh\r\nContent-Length: 0\r\n\r\n".encode())
            # Closed with unread bytes: the kernel sends a reset.

        thread = threading.Thread(target=refuse)
        thread.start()
        sender = Upstream(f"http://127.0.0.1:{listener.getsockname()[1]}")
        if status == 413:
            assert sender.send(PUSH_PATH, bytes(50_000_000), TEXT) == Reply(413)
        else:
            with pytest.raises(errors.Unavailable):
                sender.send(PUSH_PATH, bytes(50_000_000), TEXT)
        thread.join()


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


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_push_that_meets_the_end_of_an_idle_connection_is_sent_once_more(monkeypatch, is_reset):
    """Whether upstream hangs up or resets: 11 of 2 860 pushes met that moment."""
    # The moment between the look and the push cannot be had for certain: have the look see nothing.
    monkeypatch.setattr(Connection, "is_idle", lambda self: True)
    hang_up = threading.Event()
    with scripted([[PLAIN, hang_up, RESET if is_reset else END], [PLAIN]]) as server:
        sender = sender_to(server)
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        hang_up.set()
        wait_until(lambda: server.ended, "upstream has hung up")
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        sender.close()
    assert [request[-3:] for request in server.requests] == [b"one", b"two"]
    assert (server.connections, sender.state.resends) == (2, 1)
    assert sender.trouble == ""


@pytest.mark.parametrize(
    ("script", "sent"),
    [
        # a new connection
        ([[END], [PLAIN]], 1),
        # an answer has begun
        ([[PLAIN], [b"H", END], [PLAIN]], 2),
        # once, not twice
        ([[PLAIN], [END], [END], [PLAIN]], 3),
        # no answer in time
        ([[PLAIN], [threading.Event()], [PLAIN]], 2),
    ],
)
def test_nothing_else_is_sent_twice(script, sent):
    with scripted(script) as server:
        sender = sender_to(server, timeout=0.5)
        if script[0] == [PLAIN]:
            assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        with pytest.raises(errors.Unavailable):
            sender.send(PUSH_PATH, b"two", TEXT)
        assert len(server.requests) == sent
        for part in script:
            for piece in part:
                if isinstance(piece, threading.Event):
                    piece.set()


def test_a_connection_ends_after_its_time():
    with scripted([[PLAIN]] * 3) as server:
        sender = sender_to(server, life_s=(0.0, 0.0))
        for _ in range(3):
            assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        sender.close()
    assert server.connections == 3
    sender = Upstream("http://127.0.0.1:9")
    assert 60 <= sender.life_s[0] < sender.life_s[1] <= 600


def test_new_connections_are_spread_over_all_addresses(monkeypatch):
    """Each of 3 pods has its share; that one has none of 100 has a chance of 1e-17."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(scripted([[PLAIN]] * 101)) for _ in range(3)]
        sender = addresses(monkeypatch, *[("127.0.0.1", one.port) for one in servers])
        sender.life_s = (0.0, 0.0)
        for _ in range(100):
            assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
        sender.close()
        assert all(one.connections for one in servers)


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


def given_up(
    sender: Upstream, waits: threading.Event | None, is_waiting: Callable[[], object]
) -> list[str]:
    """What a thread got that was sending when its sender gave up."""
    got: list[str] = []

    def send() -> None:
        try:
            got.append(str(sender.send(PUSH_PATH, b"two", TEXT).status))
        except errors.Unavailable as error:
            got.append(error.message)

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(is_waiting, "the push waits")
    began = time.monotonic()
    sender.give_up()
    thread.join()
    assert time.monotonic() - began < 5
    if waits is not None:
        waits.set()
    return got


STOPPING = "given up, because this process is stopping"


@pytest.mark.parametrize("is_reused", [False, True])
def test_a_stop_ends_exchanges_and_sends_nothing_again(is_reused):
    waits = threading.Event()
    with scripted([[PLAIN]] * is_reused + [[waits], [PLAIN]]) as server:
        sender = sender_to(server)
        if is_reused:
            # Each thread has a connection of its own: that of the first push is lent to the next.
            assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(204)
            kept = sender._kept.connection
            sender._kept = type("Lent", (), {"connection": kept})()
        got = given_up(sender, waits, lambda: len(server.requests) == 1 + is_reused)
        assert got == [f"upstream 127.0.0.1:{server.port}: {STOPPING}"]
        # No other begins.
        with pytest.raises(errors.Unavailable, match=STOPPING):
            sender.send(PUSH_PATH, b"three", TEXT)
    assert len(server.requests) == 1 + is_reused


def test_a_stop_ends_the_wait_for_a_connection():
    with full_house() as port:
        sender = Upstream(f"http://127.0.0.1:{port}")
        got = given_up(sender, None, lambda: list(sender._connections))
        assert got == [f"upstream 127.0.0.1:{port}: {STOPPING}"]


def test_a_stop_ends_exchanges_over_tls(authority, tmp_path: Path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    arrived, waits = [], threading.Event()

    def serve(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with contextlib.suppress(OSError), context.wrap_socket(accepted, server_side=True) as tls:
            arrived.append(read_request(tls))
            waits.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        port = listener.getsockname()[1]
        sender = Upstream(f"https://localhost:{port}", ca=str(tmp_path / "ca.pem"))
        got = given_up(sender, waits, lambda: arrived)
        assert got == [f"upstream localhost:{port}: {STOPPING}"]
        thread.join()
