"""Crowds of connections: probes are answered, and the crowd pays for itself."""

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator

import pytest
from dashboard.harness import Teams, origin_of, row, serving, site
from harness import ask_once, wait_until

from sluice import http_server

# Far more than a probe takes, and far less than it took: 7.8 s, or for ever.
PROBE_S = 2.0


@pytest.fixture
def url() -> Iterator[str]:
    now = time.time()
    with serving(site(origin_of(Teams([row("shop", now=now)]), now))) as made:
        yield made


def address_of(url: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def asked(url: str, path: str, timeout: float = PROBE_S) -> int:
    """The status of an answer over a new connection; raises TimeoutError."""
    return ask_once(address_of(url), path, timeout)


def connected(url: str, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(address_of(url), timeout=10, source_address=(source, 0))


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_heads_that_drip_keep_no_probe_waiting_and_end(url, monkeypatch):
    monkeypatch.setattr(http_server, "HEAD_S", 2.0)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(url)) for _ in range(620)]
        stopping = threading.Event()

        def drip() -> None:
            while not stopping.wait(0.2):
                for sock in socks:
                    with contextlib.suppress(OSError):
                        sock.sendall(b"x")

        for sock in socks:
            sock.sendall(b"GET /ready HTTP/1.1\r\nX-Slow: ")
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for path in ("/ready", "/api/health", "/ready", "/"):
                assert asked(url, path) == 200
            wait_until(lambda: all(map(is_closed, socks)), "heads that drip are cut off")
        finally:
            stopping.set()
            dripping.join()


def test_probes_overtake_a_crowd_that_wants_live_pages(url):
    streams, stopping = [], threading.Event()

    def want() -> None:
        # A page that is refused asks again, and these do not wait before they do.
        while not stopping.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection(*address_of(url), timeout=30)
                connection.request("GET", "/live")
                if connection.getresponse().status == 200:
                    streams.append(connection)
                    return
                connection.close()

    crowd = [threading.Thread(target=want) for _ in range(200)]
    for one in crowd:
        one.start()
    try:
        wait_until(lambda: len(streams) >= 32, "pages are live")
        for path in ("/ready", "/api/health") * 5:
            assert asked(url, path) == 200
    finally:
        stopping.set()
        for one in crowd:
            one.join()
        for connection in streams:
            connection.close()


def test_a_crowd_that_asks_for_nothing_costs_its_own_peer(url, monkeypatch):
    monkeypatch.setattr(http_server, "CROWD", 50)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(connected(url, "127.0.0.2"))
        crowd = [stack.enter_context(connected(url)) for _ in range(200)]
        wait_until(lambda: sum(map(is_closed, crowd)) >= 150, "the crowd is thinned out")
        assert asked(url, "/ready") == 200
        other.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        other.setblocking(True)
        assert other.recv(100).startswith(b"HTTP/1.1 200 ")


def test_more_connections_than_before_are_open_at_once(url):
    """620 that were silent filled the 512 places, and no probe came in."""
    with contextlib.ExitStack() as stack:
        for _ in range(620):
            stack.enter_context(connected(url))
        assert asked(url, "/ready") == 200
