"""An upstream that never answers, and shippers that never finish: probes are answered all along."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
import shippers
from harness import Sluice, ask_once, budget, wait_until
from shippers import PUSH_PATH, Entry, Push, Stream
from shipping import shipping

# How long upstream hangs. The promise is for a minute; this is as telling, and sooner over.
HANG_S = float(os.environ.get("SLUICE_TEST_HANG_S", "20"))
SHIPPERS = 200
PROBES = ("/ready", "/api/health", "/metrics")
SHOP = budget("shop", "1Gi")


def push_of(size: int) -> Push:
    held = [Entry(i + 1, os.urandom(60).hex()) for i in range(size // 120)]
    return shippers.vector_json([Stream({"namespace": "shop", "app": "a"}, held)])


class Probing:
    """Asks the probes in turn, each over a connection of its own, and times the answers."""

    def __init__(self, server: Sluice) -> None:
        self.server = server
        self.stopping = threading.Event()
        self.took: dict[str, list[float]] = defaultdict(list)
        self.bad: list[object] = []

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            for path in PROBES:
                began = time.monotonic()
                try:
                    status: object = ask_once(("127.0.0.1", self.server.port), path, 10)
                except OSError as error:
                    status = error
                self.took[path].append(time.monotonic() - began)
                if status != 200:
                    self.bad.append((path, status))

    def worst(self) -> float:
        return max(max(times) for times in self.took.values())

    def __str__(self) -> str:
        rows = (
            f"{path} {len(times)} times, median {sorted(times)[len(times) // 2] * 1000:.0f} ms,"
            f" at most {max(times) * 1000:.0f} ms"
            for path, times in self.took.items()
        )
        return "; ".join(rows)


@contextlib.contextmanager
def probing(server: Sluice) -> Iterator[Probing]:
    """Probe while inside; afterwards every answer was 200 and came within a second."""
    probes = Probing(server)
    thread = threading.Thread(target=probes.run)
    thread.start()
    try:
        yield probes
    finally:
        probes.stopping.set()
        thread.join()
    print(probes)
    assert not probes.bad, probes.bad[:5]
    assert probes.worst() < 1


def resident(server: Sluice) -> float:
    return sum(process.memory_info().rss for process in server.family()) / 1e6


def is_served(server: Sluice) -> bool:
    return server.send(push_of(1000)).status == 204


@pytest.mark.slow
def test_while_upstream_hangs_probes_are_answered_and_memory_stays(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    assert is_served(server)
    upstream.control("hang", keep=False)
    # A full batch of Promtail's, and the pause that Sluice asks for.
    push = shippers.promtail(shippers.make_streams(1, ["shop"], streams=10, entries=500))
    assert push.billed > 10**6
    before = resident(server)
    with shipping(server, lambda _: push, SHIPPERS, pause_s=1) as load:
        with probing(server) as probes:
            wait_until(
                lambda: upstream.count()["waiting"] >= 11,
                "this peer has all places that it may have",
            )
            until = time.monotonic() + HANG_S
            worst = before
            while time.monotonic() < until:
                worst = max(worst, resident(server))
                threading.Event().wait(0.5)
            assert set(probes.took) == set(PROBES)
        load.stop()
        upstream.control("ok")
        began = time.monotonic()
        wait_until(lambda: is_served(server), "a push gets through", 10)
        print(f"back after {time.monotonic() - began:.1f} s")
    print(f"answers: {dict(load.answers)}; resident from {before:.0f} to at most {worst:.0f} MB")
    # What pushes may hold together: bodies are received before there is a place for them.
    assert worst - before < 200
    # Nothing but refusals, and no push without an answer.
    assert set(load.answers) <= {503, 204}
    wait_until(lambda: server.metric("tco_pushes_in_flight") == 0, "all is quiet")
    team = server.teams()["shop"]
    assert team["currentUsage"] == team["counts"]["forwarded"]["bytes"]
    sums = [team["counts"][name]["bytes"] for name in ("forwarded", "refused")]
    assert team["counts"]["received"]["bytes"] == sum(sums)


def test_a_slow_upstream_does_not_keep_probes_waiting(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    upstream.control("slow:0.3", keep=False)
    body = push_of(10_000)
    with shipping(server, lambda _: body, SHIPPERS, pause_s=0.2) as load:
        with probing(server) as probes:
            wait_until(lambda: len(probes.took["/metrics"]) > 40, "probes are answered")
        load.stop()
    print(f"answers: {dict(load.answers)}")
    assert set(load.answers) == {503, 204}


@contextlib.contextmanager
def dripping(server: Sluice, path: str, n: int) -> Iterator[list[socket.socket]]:
    """Connections of shippers that send a large body byte by byte while inside."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000000\r\n\r\n"
    )
    socks = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(n)]
    stopping = threading.Event()

    def drip() -> None:
        while not stopping.wait(0.02):
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.sendall(b" ")

    thread = threading.Thread(target=drip)
    try:
        for sock in socks:
            sock.sendall(head.encode())
        thread.start()
        yield socks
    finally:
        stopping.set()
        thread.join()
        for sock in socks:
            sock.close()


def test_shippers_that_never_finish_keep_neither_probes_nor_pushes_waiting(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    with dripping(server, PUSH_PATH, 20):
        wait_until(lambda: server.metric("tco_bodies_receiving") == 20, "all are being received")
        with probing(server) as probes:
            wait_until(lambda: len(probes.took["/metrics"]) > 10, "probes are answered")
            assert all(is_served(server) for _ in range(20))


def test_callers_of_evaluate_that_never_finish_keep_neither_probes_nor_pushes_waiting(
    sluice, upstream
):
    server = sluice([SHOP], upstream.url, args=["--evaluate"])
    with dripping(server, "/api/v1/evaluate", 40), probing(server) as probes:
        wait_until(lambda: len(probes.took["/metrics"]) > 10, "probes are answered")
        assert all(is_served(server) for _ in range(20))


def test_a_crowd_of_callers_of_evaluate_is_served_exactly(sluice, upstream):
    server = sluice([budget("shop", 1000)], upstream.url, args=["--evaluate"])
    headers = {"Content-Type": "application/json"}
    call = json.dumps({"namespace": "shop", "size": 1}).encode()
    answers: Counter[str] = Counter()

    def ask() -> None:
        mine = [server.request("POST", "/api/v1/evaluate", call, headers) for _ in range(40)]
        server.close()
        answers.update(reply.json.get("action", reply.text) for reply in mine)

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {"allow": 800, "throttle": 200, "drop": 64 * 40 - 1000}
    assert server.teams()["shop"]["currentUsage"] == 1000


def test_headers_that_never_end_keep_nobody_waiting(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            sock.sendall(b"POST /loki/api/v1/push HTTP/1.1\r\nX-Slow: ")
        with probing(server) as probes:
            wait_until(lambda: len(probes.took["/metrics"]) > 10, "probes are answered")
            assert is_served(server)


@pytest.mark.parametrize("size", [0, 1000, 100_000, 1_000_000, 6_000_000])
def test_a_shipper_that_finds_no_place_sees_the_503_whatever_it_had_to_say(sluice, upstream, size):
    server = sluice([SHOP], upstream.url, args=["--threads", "3", "--max-in-flight", "1"])
    upstream.control("hang")
    with shipping(server, lambda _: push_of(1000), 1) as load:
        wait_until(lambda: upstream.count()["waiting"] == 1, "the place is taken")
        load.stop()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            # The server may hang up while we still send, but not before it has answered.
            connection.putrequest("POST", PUSH_PATH)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.send(b" " * size)
            answer = connection.getresponse()
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert json.loads(answer.read())["status"] == 503
        connection.close()
        upstream.control("ok")
    wait_until(lambda: is_served(server), "the place is free again")
