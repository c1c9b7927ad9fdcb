"""A stop ends the exchanges with upstream that wait."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from harness import wait_until
from scripted import PLAIN, TEXT, read_request, scripted, sender_to
from test_upstream_connection import full_house

from sluice import errors
from sluice.agent.connection import Connection
from sluice.agent.destination import Destination
from sluice.agent.upstream import PUSH_PATH, Reply, Upstream


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


def test_a_connection_that_is_given_up_before_it_is_begun_ends_at_once():
    with full_house() as port:
        began = time.monotonic()
        with pytest.raises(ConnectionAbortedError):
            Connection(
                Destination.parse(f"http://127.0.0.1:{port}"),
                tls=None,
                proxy=None,
                deadline=began + 30,
                ends_at=began + 60,
                note=Connection.abort,
            )
        assert time.monotonic() - began < 5


def test_a_stop_ends_exchanges_over_tls(tmp_path: Path):
    authority = trustme.CA()
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
