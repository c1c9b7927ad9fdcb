"""The chaos proxy does to a connection what it says."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from cluster.proxy import Proxy
from harness import wait_until

# Longer than anything on loopback takes, short enough to wait for in vain.
SILENCE_S = 0.3


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ending = threading.Event()

        def echo(end: socket.socket) -> None:
            # A test resets connections on purpose.
            with end, contextlib.suppress(ConnectionResetError):
                while chunk := end.recv(1 << 16):
                    end.sendall(chunk)

        def serve() -> None:
            while not ending.is_set():
                end, _ = server.accept()
                threading.Thread(target=echo, args=(end,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with Proxy(server.getsockname()[1]) as made:
            yield made
        ending.set()
        socket.create_connection(server.getsockname()).close()
        thread.join()


@pytest.fixture
def end(proxy: Proxy) -> Iterator[socket.socket]:
    """A connection through the proxy that has been used once."""
    with dial(proxy) as made:
        assert echoed(made, b"hello")
        yield made


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def echoed(end: socket.socket, data: bytes) -> bool:
    end.sendall(data)
    return heard(end, len(data)) == data


def heard(end: socket.socket, n: int) -> bytes:
    got = b""
    while len(got) < n and (chunk := end.recv(n - len(got))):
        got += chunk
    return got


def is_silent(end: socket.socket) -> bool:
    end.settimeout(SILENCE_S)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(5)
    return False


def test_what_one_side_sends_reaches_the_other_and_so_does_its_end(end: socket.socket) -> None:
    much = bytes(range(256)) * 40_000
    sender = threading.Thread(target=end.sendall, args=(much,))
    sender.start()
    assert heard(end, len(much)) == much
    sender.join()
    end.shutdown(socket.SHUT_WR)
    assert end.recv(1) == b""


def test_refused_connections_are_refused_and_the_others_stay(
    proxy: Proxy, end: socket.socket
) -> None:
    proxy.set("refuse")
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    assert echoed(end, b"still here")
    proxy.set("ok")
    with dial(proxy) as other:
        assert echoed(other, b"again")
    assert proxy.accepted == 2


def test_a_black_hole_takes_connections_and_moves_nothing_until_it_is_lifted(
    proxy: Proxy, end: socket.socket
) -> None:
    proxy.set("blackhole")
    with dial(proxy) as other:
        for each in end, other:
            each.sendall(b"lost?")
            assert is_silent(each)
        proxy.set("ok")
        for each in end, other:
            assert heard(each, 5) == b"lost?"


def test_cut_resets_what_stands_even_in_a_black_hole(proxy: Proxy, end: socket.socket) -> None:
    proxy.set("blackhole")
    with dial(proxy) as other:
        wait_until(lambda: proxy.accepted == 2, "the second connection is accepted")
        assert proxy.cut() == 2
        for each in end, other:
            with pytest.raises(ConnectionResetError):
                each.recv(1)
    assert proxy.cut() == 0


def test_reset_counts_what_it_turns_away(proxy: Proxy) -> None:
    proxy.set("reset")
    for _ in range(3):
        # It may come before the caller has noticed that it is connected.
        with pytest.raises(ConnectionResetError), dial(proxy) as end:
            end.recv(1)
    assert proxy.accepted == 3


def test_delay_holds_each_chunk_back_by_so_much(proxy: Proxy, end: socket.socket) -> None:
    proxy.set("delay", delay_s=0.2)
    begun = time.monotonic()
    assert echoed(end, b"slow")
    # There and back again.
    assert time.monotonic() - begun >= 0.4


def test_a_server_that_is_gone_resets_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Proxy(port) as proxy, pytest.raises(ConnectionResetError), dial(proxy) as end:
        end.recv(1)
