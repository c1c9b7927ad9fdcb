"""The guard of connections, beside a server of the test's own in this process."""

import contextlib
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from harness import wait_until

from sluice import connections


class Echo:
    """Accepts, and answers each byte with one."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.listener.getsockname()[1]
        self.accepted: list[socket.socket] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.accepted.append(sock)
                threading.Thread(target=self.answer, args=[sock], daemon=True).start()

    def answer(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := sock.recv(100):
                sock.sendall(data)

    def connect(self, address: str = "127.0.0.1") -> socket.socket:
        sock = socket.create_connection(
            ("127.0.0.1", self.port), timeout=10, source_address=(address, 0)
        )
        wait_until(lambda: sock.getsockname() in [s.getpeername() for s in self.accepted], "it is")
        return sock


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()
    for sock in server.accepted:
        sock.close()


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def asked(sock: socket.socket) -> None:
    sock.settimeout(10)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"


def test_connections_that_ask_for_nothing_are_closed_and_others_are_not(echo):
    busy = set()
    guard = connections.Guard(echo.port, busy.__contains__, first_s=0.3, idle_s=1000)
    with echo.connect() as silent, echo.connect() as used, echo.connect() as at_work:
        asked(used)
        busy.add("{}:{}".format(*at_work.getsockname()))
        guard.look()
        assert is_open(silent)

        def is_closed() -> bool:
            guard.look()
            return not is_open(silent)

        wait_until(is_closed, "the silent one is closed")
        assert is_open(used)
        assert is_open(at_work)
        guard.idle_s = 0.2
        wait_until(lambda: guard.look() or not is_open(used), "the idle one is closed")
        assert is_open(at_work)
        guard.close_all()
        assert not is_open(at_work)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_a_client_is_named_as_the_server_names_it(host, shown):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    asked: list[str] = []

    def is_busy(client: str) -> bool:
        asked.append(client)
        return True

    with listener, socket.create_connection(listener.getsockname()[:2]) as sock:
        port = sock.getsockname()[1]
        accepted, _ = listener.accept()
        with accepted:
            connections.Guard(listener.getsockname()[1], is_busy).look()
    assert asked == [f"{shown}:{port}"]


def test_a_crowd_is_thinned_out_and_the_greediest_pays(echo):
    guard = connections.Guard(echo.port, lambda _: False, crowd=10)
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(echo.connect("127.0.0.2")) for _ in range(30)]
        few = [stack.enter_context(echo.connect("127.0.0.3")) for _ in range(4)]
        guard.look()
        assert all(map(is_open, few))
        assert sum(map(is_open, many)) == 6
        # Those that came last have not had their time yet.
        guard.look()
        assert sum(map(is_open, many)) == 6


def test_other_sockets_of_the_process_are_left_alone(echo):
    guard = connections.Guard(echo.port, lambda _: False, first_s=0)
    with Echo().connect() as other:
        guard.look()
        assert is_open(other)


def test_peers_that_are_gone_are_noticed_by_the_kernel(echo):
    guard = connections.Guard(echo.port, lambda _: False)
    with echo.connect():
        guard.look()
        assert echo.accepted[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        # Those who come later inherit it.
        with echo.connect():
            sock = echo.accepted[1]
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            idle_s = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            assert idle_s == connections.KEEP_IDLE_S


RAISED = """
import resource
from sluice import connections
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
print(connections.raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_limit_of_open_files_is_raised_as_far_as_it_may():
    done = subprocess.run(
        [sys.executable, "-c", RAISED], capture_output=True, text=True, check=True
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = connections.FILES_MAX if hard == resource.RLIM_INFINITY else hard
    assert done.stdout.split() == [str(min(wanted, connections.FILES_MAX))] * 2
