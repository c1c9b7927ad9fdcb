"""What senders can do to a real `sluice run`: headers under two names, bodies that never come,
crowds of connections."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import shippers
from harness import Sluice, Upstream, ask_once, budget, running, wait_until, write_budgets
from runs import SHOP, head_of, small
from shippers import LEGACY_PATH, PUSH_PATH, Entry, Stream
from test_run_sockets import exchange

LINE = [Stream({"namespace": "shop"}, [Entry(1, "0123456789")])]
JSON = shippers.vector_json(LINE)
SHARE = 256


@pytest.fixture(scope="module")
def loki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    server = Upstream(tmp_path_factory.mktemp("upstream"))
    with running(server):
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, loki: Upstream) -> Iterator[Sluice]:
    """One `sluice run` for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("sluice")
    server = Sluice(folder, write_budgets(folder / "budgets.yaml", [SHOP]), loki.url)
    with running(server):
        yield server


def sent(server: Sluice, lines: Sequence[bytes], body: bytes, path: str = PUSH_PATH) -> Any:
    """The answer to a push with these header lines, byte by byte."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        head = [f"POST {path} HTTP/1.1".encode(), b"Host: x", *lines]
        sock.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
        return exchange(sock)


def length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


TYPE = b"Content-Type: application/json"
PLAIN = JSON.body


# headers under two names


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([TYPE, b"Content_Type: application/x-protobuf"], {"content-type": ["application/json"]}),
        ([b"Content_Type: application/x-protobuf", TYPE], {"content-type": ["application/json"]}),
        ([TYPE, b"Content-Type: text/plain"], {"content-type": ["application/json"]}),
        ([TYPE, b"Content_Length: 39"], {"content-length": [str(len(PLAIN))]}),
        ([TYPE, b"X-Scope-OrgID: a", b"X-Scope-OrgID: b"], {"x-scope-orgid": ["a"]}),
        ([TYPE, b"X_Scope_OrgID: victim", b"X-Scope-OrgID: own"], {"x-scope-orgid": ["own"]}),
        ([TYPE, b"X_Scope_OrgID: victim"], {"x-scope-orgid": []}),
        ([TYPE, b"Authorization: a", b"Authorization: b"], {"authorization": ["a"]}),
        ([TYPE, b"Content_Encoding: gzip", b"Content_MD5: x"], {"content-encoding": []}),
        ([TYPE, b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.2"],
         {"x-forwarded-for": ["192.0.2.1, 192.0.2.2, 127.0.0.1"]}),
        ([TYPE, b"Connection: X-Scope-OrgID, x_y", b"x_y: 1", b"TE: trailers"], {"te": []}),
        ([TYPE, b"Host: evil"], {"host": None}),
    ],
)  # fmt: skip
def test_a_header_reaches_upstream_once_and_under_the_name_that_sluice_read(
    shared, loki, lines, wanted
):
    loki.control(reset=True)
    status, _, text = sent(shared, [*lines, length(PLAIN)], PLAIN)
    assert status == 204, text
    (push,) = loki.received()
    names = [name.lower() for name, _ in push["lines"]]
    assert not [name for name in names if "_" in name]
    assert len(names) == len(set(names))
    for name, values in wanted.items():
        found = [value for own, value in push["lines"] if own.lower() == name]
        assert found == ([f"127.0.0.1:{loki.port}"] if values is None else values)
    assert push["body"] == PLAIN


@pytest.mark.parametrize(
    "line",
    [
        b"X-Scope-OrgID: caf\xe9",
        b"X-Loki-Ingestion-Policy: \xff",
        b"Authorization: Basic \xc3\xa9",
        b"Content-Encoding: gz\xffip",
        b"X-A: a\x01b",
        b"X-A: a\rb: c",
        b"X-A : b",
        b" X-A: b",
        b"Transfer-Encoding: gzip, chunked",
        b"Content-Length: +0",
    ],
)
def test_a_header_that_may_be_read_in_two_ways_is_refused(shared, loki, line):
    loki.control(reset=True)
    status, _, _ = sent(shared, [TYPE, line, length(PLAIN)], PLAIN)
    assert status == 400
    assert loki.received() == []
    # Another value of the same name does not stand in for it.
    name = line.partition(b":")[0]
    status, _, _ = sent(shared, [TYPE, line, name + b": own", length(PLAIN)], PLAIN)
    assert status == 400
    assert loki.received() == []


def test_two_lengths_are_one_push_or_none(shared, loki):
    loki.control(reset=True)
    body = PLAIN + b" " * 10 + b"DELETE /loki/api/v1/delete HTTP/1.1\r\nHost: x\r\n\r\n"
    # JSON ends where it ends, for Loki too.
    assert sent(shared, [TYPE, b"Content_Length: %d" % len(PLAIN), length(body)], body)[0] == 204
    (push,) = loki.received()
    assert [v for n, v in push["lines"] if n.lower() == "content-length"] == [str(len(body))]
    assert push["body"] == body
    assert sent(shared, [TYPE, length(PLAIN), length(body)], body)[0] == 400
    assert loki.count()["requests"] == 1


def test_two_content_encodings_are_read_as_loki_does_by_the_first(shared, loki):
    loki.control(reset=True)
    body = gzip.compress(PLAIN)
    lines = [TYPE, b"Content-Encoding: gzip", b"Content-Encoding: gzip", length(body)]
    assert sent(shared, lines, body)[0] == 204
    (push,) = loki.received()
    assert push["headers"]["content-encoding"] == "gzip"
    assert push["body"] == body


def test_a_push_whose_path_begins_with_two_slashes_and_whose_query_says_v1(shared, loki):
    loki.control(reset=True)
    assert sent(shared, [TYPE, length(PLAIN)], PLAIN, f"/{PUSH_PATH}")[0] == 204
    target = f"{LEGACY_PATH}?x={PUSH_PATH}"
    assert sent(shared, [TYPE, length(PLAIN)], PLAIN, target)[0] == 204
    assert [push["target"] for push in loki.received()] == [PUSH_PATH, target]


def test_a_chunked_push_that_is_cut_short_or_has_trailers_is_refused(shared, loki):
    loki.control(reset=True)
    lines = [TYPE, b"Transfer-Encoding: chunked"]
    chunk = b"%x\r\n%s\r\n" % (len(PLAIN), PLAIN)
    assert sent(shared, lines, chunk + b"0\r\n\r\n")[0] == 204
    assert sent(shared, lines, chunk + b"0\r\nX-Scope-OrgID: late\r\n\r\n")[0] == 400
    with socket.create_connection(("127.0.0.1", shared.port), timeout=30) as sock:
        sock.sendall(b"POST /loki/api/v1/push HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
        sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)
        assert exchange(sock)[0] == 400
    assert len(loki.received()) == 1


def test_an_expectation_is_answered(shared, loki):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=30) as sock:
        head = [f"POST {PUSH_PATH} HTTP/1.1".encode(), TYPE, b"Expect: 100-continue"]
        sock.sendall(b"\r\n".join([*head, length(PLAIN)]) + b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(PLAIN)
        assert exchange(sock)[0] == 204


def test_what_is_refused_is_logged_once_with_peer_and_user_agent(sluice, loki):
    server = sluice([SHOP], loki.url)
    lines = [b"User-Agent: bad/1.0\t'x", TYPE, b"Content-Length: 1"]
    for _ in range(3):
        assert sent(server, lines, b"{")[0] == 400
    said = [line for line in server.log.read_text().splitlines() if "refused a push" in line]
    assert len(said) == 1
    assert 'of 127.0.0.1, user agent "bad/1.0\\t\'x": ' in said[0]


# bodies that never come


@contextlib.contextmanager
def half_pushes(
    server: Sluice, n: int, address: str = "127.0.0.1", size: int = 100_000
) -> Iterator[list[socket.socket]]:
    """Senders of a head and ten bytes, and then of nothing."""
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(n):
            sock = socket.create_connection(
                ("127.0.0.1", server.port), timeout=30, source_address=(address, 0)
            )
            socks.append(stack.enter_context(sock))
            sock.sendall(head_of(size) + b"x" * 10)
        yield socks


def test_senders_that_stop_in_mid_body_stop_no_push_and_are_let_go(sluice, loki):
    server = sluice([SHOP], loki.url)
    with half_pushes(server, 14) as socks, half_pushes(server, 6, size=2_000_000) as large:
        wait_until(lambda: server.metric("tco_bodies_receiving") == 20, "they are being received")
        assert all(server.send(small(0)).status == 204 for _ in range(20))
        # A drop now and then is no progress either.
        began = time.monotonic()
        while server.metric("tco_bodies_receiving"):
            assert time.monotonic() - began < 25
            with contextlib.suppress(OSError):
                large[0].sendall(b"x")
            time.sleep(0.2)
        for sock in [*socks, *large]:
            status, headers, body = exchange(sock)
            assert status == 503
            assert headers["retry-after"] == "1"
            assert "too slow" in json.loads(body)["error"]
    assert server.metric("tco_pushes_in_flight") == 0


def test_a_stop_is_graceful_whatever_senders_do(sluice, loki):
    server = sluice([SHOP], loki.url)
    assert server.send(small(0)).status == 204
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        headless = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        headless.sendall(b"POST /loki/api/v1/push HTTP/1.1\r\nX-")
        stack.enter_context(half_pushes(server, 14))
        wait_until(lambda: server.metric("tco_bodies_receiving") == 14, "they are being received")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 5
    said = server.log.read_text()
    assert "the ledger is written" in said
    assert "rror" not in said


def test_one_peer_has_at_most_a_quarter_of_the_bodies_being_received(sluice, loki):
    server = sluice([SHOP], loki.url)
    with half_pushes(server, SHARE, "127.0.0.2"):
        wait_until(lambda: server.metric("tco_bodies_receiving") == SHARE, "its share is taken")
        with half_pushes(server, 1, "127.0.0.2") as (one,):
            status, _, body = exchange(one)
            assert status == 503
            assert "127.0.0.2" in json.loads(body)["error"]
        assert server.send(small(0)).status == 204


# crowds


@pytest.mark.parametrize(
    "begin", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST / HTTP/1.1\r\nX-"]
)
def test_a_crowd_of_connections_that_ask_for_nothing_costs_the_crowd(sluice, loki, begin):
    server = sluice([SHOP], loki.url)
    with contextlib.ExitStack() as stack:
        crowd = []
        for _ in range(4200):
            sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            crowd.append(stack.enter_context(sock))
            if begin:
                sock.sendall(begin)
        for path in ("/ready", "/api/health", "/metrics"):
            began = time.monotonic()
            assert ask_once(("127.0.0.1", server.port), path, 10) == 200
            assert time.monotonic() - began < 2
        assert server.send(small(0)).status == 204

        def left() -> int:
            return sum(one.status == "ESTABLISHED" for one in server.worker().net_connections())

        wait_until(lambda: left() < 1100, "the crowd is thinned out", 15)
        wait_until(lambda: left() < 20, "nobody is left of it", 30)
        assert server.send(small(0)).status == 204


@pytest.mark.slow
def test_a_connection_that_was_used_outlasts_clients(sluice, loki):
    server = sluice([SHOP], loki.url)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        for pause_s in (0, 40):
            time.sleep(pause_s)
            sock.sendall(head_of(len(PLAIN)) + PLAIN)
            assert exchange(sock)[0] == 204


def test_probes_are_answered_at_once_whatever_scrapers_and_upstream_do(tmp_path, loki):
    budgets = [budget(f"team-{i}", "1Gi") for i in range(5000)]
    path = write_budgets(Path(tmp_path) / "budgets.yaml", [SHOP, *budgets])
    server = Sluice(tmp_path / "sluice", path, loki.url)
    stopping, took, bad = threading.Event(), [], []

    def scrape() -> None:
        while not stopping.is_set():
            with contextlib.suppress(OSError):
                ask_once(("127.0.0.1", server.port), "/metrics", 10)

    def ship() -> None:
        while not stopping.is_set():
            server.send(small(0))
        server.close()

    with running(server):
        loki.control("hang", keep=False)
        threads = [threading.Thread(target=scrape) for _ in range(40)]
        threads += [threading.Thread(target=ship) for _ in range(16)]
        for thread in threads:
            thread.start()
        try:
            wait_until(
                lambda: loki.count()["waiting"] >= 11, "this peer has all places that it may have"
            )
            for _ in range(30):
                for probe in ("/ready", "/api/health"):
                    began = time.monotonic()
                    status = ask_once(("127.0.0.1", server.port), probe, 10)
                    took.append(time.monotonic() - began)
                    if status != 200:
                        bad.append(status)
        finally:
            loki.control("ok")
            stopping.set()
            for thread in threads:
                thread.join()
    took.sort()
    print(f"median {took[len(took) // 2] * 1000:.0f} ms, at most {took[-1] * 1000:.0f} ms")
    assert not bad
    assert took[len(took) // 2] < 0.1
