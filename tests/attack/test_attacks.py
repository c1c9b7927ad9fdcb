"""A hostile network in front of a real `sluice run`: one sender must not stop another team's logs,
leave its budget, or make the books wrong.

`make attack` runs each attack for half a minute, `make test` for a few seconds.
"""

import contextlib
import http.client
import json
import os
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import shippers
from attack import bombs
from attack.siege import connections, crowd, drip, exchange, siege
from harness import NO_ANSWER, Sluice, Upstream, budget, running, write_budgets
from shippers import Entry, Stream

SECONDS = float(os.environ.get("SLUICE_ATTACK_S", "3"))
SPENT = 1000
PUSH = b"POST /loki/api/v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """As many open files as this process may have: attackers hold thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def defended(folder: Path) -> Iterator[tuple[Sluice, Upstream]]:
    """A Sluice with a neighbour, `good`, and a team whose limit is spent."""
    upstream = Upstream(folder / "upstream", record=True)
    with running(upstream):
        path = write_budgets(
            folder / "budgets.yaml", [budget("good", "1Gi"), budget("spent", SPENT)]
        )
        server = Sluice(folder / "sluice", path, upstream.url)
        server.start()
        try:
            push = shippers.promtail([Stream({"namespace": "spent"}, [Entry(1, "x" * SPENT)])])
            assert server.send(push).status == 204
            assert server.teams()["spent"]["currentUsage"] == SPENT
            yield server, upstream
        finally:
            server.kill()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sluice, Upstream]]:
    """One for all attacks: none may leave anything behind."""
    with defended(tmp_path_factory.mktemp("attack")) as both:
        yield both


# senders that do not finish


def stop_in_mid_body(server: Sluice) -> None:
    head = PUSH + b"Content-Length: 100000\r\n\r\n" + b" " * 10
    with connections(server.port, 60, head):
        time.sleep(SECONDS)


def drip_bodies(server: Sluice) -> None:
    with connections(server.port, 200, PUSH + b"Content-Length: 1000000\r\n\r\n") as socks:
        drip(socks, SECONDS)


def drip_chunks(server: Sluice) -> None:
    head = PUSH + b"Transfer-Encoding: chunked\r\n\r\nFFFFF\r\n"
    with connections(server.port, 100, head) as socks:
        drip(socks, SECONDS)


def drip_heads(server: Sluice) -> None:
    with connections(server.port, 600, b"GET /ready HTTP/1.1\r\nX-Slow: ") as socks:
        drip(socks, SECONDS)


def say_nothing(server: Sluice) -> None:
    with connections(server.port, 4200):
        time.sleep(SECONDS)


def say_http2(server: Sluice) -> None:
    with connections(server.port, 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        time.sleep(SECONDS)


def stay_idle(server: Sluice) -> None:
    request = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with connections(server.port, 2000, request):
        time.sleep(SECONDS)


def read_nothing(server: Sluice) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50
    with connections(server.port, 200, request):
        time.sleep(SECONDS)


# requests that cost much


def scrape(server: Sluice) -> None:
    paths = ("/metrics", "/api/teams", "/openapi.json", "/api/teams/good")

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", paths[number % len(paths)])
            connection.getresponse().read()

    crowd(ask, 40, SECONDS)


def declare_much(server: Sluice) -> None:
    head = PUSH + b"Content-Length: 60000000\r\n\r\n" + b" " * 60_000
    with connections(server.port, 64, head):
        time.sleep(SECONDS)


def send_much(server: Sluice) -> None:
    body = b"{" + b" " * 60_000_000
    head = PUSH + b"Content-Length: %d\r\n\r\n" % len(body)
    crowd(lambda _: void(exchange(server.port, head + body)), 6, SECONDS)


# requests that mean two things


def confuse_headers(server: Sluice) -> None:
    """Names with underscores, headers that stand twice, and lengths that disagree."""
    dice = random.Random(5)
    plain = shippers.vector_json([Stream({"namespace": "spent"}, [Entry(1, "y" * 200)])]).body
    block = bombs.snappy(shippers.promtail([]).body).body
    lines = (
        b"Content_Type: application/x-protobuf",
        b"Content-Type: application/x-protobuf",
        b"Content_Length: 5",
        b"Content_Encoding: gzip",
        b"Content-Encoding: identity",
        b"X_Scope_OrgID: victim",
        b"X-Scope-OrgID: caf\xe9",
        b"X-Scope-OrgID: other",
        b"Transfer_Encoding: chunked",
        b"Connection: Content-Type, X-Scope-OrgID",
        b"Expect: 100-continue",
    )

    def send(_: int) -> None:
        body = dice.choice([plain, b"{ }" + block])
        chosen = b"\r\n".join(dice.sample(lines, dice.randrange(1, 4)))
        head = PUSH + b"Content-Length: %d\r\nConnection: close\r\n" % len(body)
        exchange(server.port, head + chosen + b"\r\n\r\n" + body, 5)

    crowd(send, 4, SECONDS)


def smuggle(server: Sluice) -> None:
    """A second request inside of the first one's body."""
    inner = b"DELETE /loki/api/v1/delete HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b'{"streams":[]}' + inner
    variants = (
        b"Content-Length: %d\r\nContent_Length: 14\r\n" % len(body),
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(body),
        b"Content-Length: 14\r\nContent-Length: %d\r\n" % len(body),
        b"Content-Length: +%d\r\n" % len(body),
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n",
    )

    def send(number: int) -> None:
        exchange(server.port, PUSH + variants[number % len(variants)] + b"\r\n" + body, 3)

    crowd(send, 6, SECONDS)


# ways out of a budget


def leave_the_budget(server: Sluice) -> None:
    """Labels that lifted budgets, lines without bytes, and calls that spend another's."""
    entries = [Entry(i + 1, "") for i in range(20_000)]
    ways = (
        shippers.vector_json([Stream({"namespace": "spent"}, entries)]),
        shippers.promtail([Stream({"namespace": "spent"}, entries)]),
        *(
            make([Stream({"namespace": "spent", label: "x"}, [Entry(1, "x" * 100)])])
            for label in ("__pattern__", "__aggregated_metric__", "a_b")
            for make in (shippers.vector_json, shippers.promtail)
        ),
    )
    call = json.dumps({"namespace": "good", "size": 9_999_999_999_999}).encode()
    headers = {"Content-Type": "text/plain", "Origin": "http://evil.example"}

    def send(number: int) -> None:
        try:
            for push in ways:
                server.send(push)
            server.request("POST", "/api/v1/evaluate", call, headers)
        finally:
            server.close()

    crowd(send, 4, SECONDS)


def mutate(server: Sluice) -> None:
    """Pushes with some bytes changed, cut short, or under another's headers."""
    streams = shippers.make_streams(3, ["spent"], entries=20)
    pushes = [make(streams) for make in shippers.SHIPPERS.values()]

    def send(number: int) -> None:
        dice = random.Random(number * 7919 + time.monotonic_ns())
        push = dice.choice(pushes)
        body = bytearray(push.body)
        for _ in range(dice.randrange(1, 8)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        body = body[: dice.choice([len(body), dice.randrange(len(body))])]
        headers = dict(dice.choice([push, push, dice.choice(pushes)]).headers)
        try:
            server.request("POST", push.path, bytes(body), headers)
        finally:
            server.close()

    crowd(send, 4, SECONDS)


def void(_: object) -> None:
    """For a lambda whose value does not matter."""


ATTACKS = (
    *(stop_in_mid_body, drip_bodies, drip_chunks, drip_heads, say_nothing, say_http2, stay_idle),
    *(read_nothing, scrape, declare_much, send_much, confuse_headers, smuggle, leave_the_budget),
    mutate,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_costs_its_sender_only(
    stand: tuple[Sluice, Upstream], attack: Callable[[Sluice], None]
) -> None:
    server, upstream = stand
    with siege(server, upstream):
        attack(server)
    assert server.teams()["spent"]["currentUsage"] <= SPENT
    targets = {push["target"].partition("?")[0] for push in upstream.received()}
    assert targets <= {shippers.PUSH_PATH, shippers.LEGACY_PATH}


@pytest.mark.parametrize("bomb", bombs.BOMBS, ids=lambda bomb: bomb.__name__)
def test_a_body_that_is_large_inside_is_bounded(
    stand: tuple[Sluice, Upstream], bomb: Callable[[], shippers.Push]
) -> None:
    server, upstream = stand
    push = bomb()

    def send(_: int) -> None:
        try:
            server.send(push)
        finally:
            server.close()

    with siege(server, upstream):
        crowd(send, 14, SECONDS)


@pytest.mark.parametrize("attack", [stop_in_mid_body, drip_bodies, say_nothing, stay_idle])
def test_a_stop_is_graceful_whatever_senders_do(
    tmp_path: Path, attack: Callable[[Sluice], None]
) -> None:
    with defended(tmp_path) as (server, _):
        stop_under_attack(server, attack)


def stop_under_attack(server: Sluice, attack: Callable[[Sluice], None]) -> None:
    under_way = threading.Thread(target=lambda: attack(server))
    under_way.start()
    time.sleep(min(1.0, SECONDS / 2))
    began = time.monotonic()
    try:
        assert server.stop(timeout_s=15) == 0
        print(f"stopped in {time.monotonic() - began:.1f} s")
    finally:
        under_way.join()
    assert "stopped; the ledger is written" in server.log.read_text()
    with contextlib.suppress(*NO_ANSWER):
        server.close()
