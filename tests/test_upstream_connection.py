"""The connection to upstream: its addresses, its end, and what is sent twice."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from harness import wait_until
from scripted import END, PLAIN, RESET, TEXT, scripted, sender_to

from sluice import errors
from sluice.agent.connection import Connection
from sluice.agent.upstream import PUSH_PATH, Reply, Upstream


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
