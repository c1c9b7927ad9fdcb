"""How upstream is doing: what health and the log say while pushes fail, and when it is over."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator

import pytest
import shippers
from harness import budget

from sluice import errors
from sluice.agent.http_response import Reply
from sluice.agent.upstream import PUSH_PATH, Upstream
from sluice.agent.upstream_state import UpstreamState, why_not_taken


class World:
    """A state on a set clock, and the lines that it logs."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.now = 0.0
        self.caplog = caplog
        self.state = UpstreamState(
            "loki:3100", monotonic=lambda: self.now, clock=lambda: 1_795_435_200 + self.now
        )

    def fail(self, reason: str = "it answers 500") -> None:
        self.state.failed(reason, "shippers get the same answer")

    def lines(self) -> list[str]:
        found = list(self.caplog.messages)
        self.caplog.clear()
        return found


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    return World(caplog)


def test_failures_are_one_line_in_ten_seconds_and_their_end_is_one_line(world):
    world.state.taken()
    for _ in range(100):
        world.fail()
    assert world.lines() == [
        "upstream loki:3100: it answers 500; shippers get the same answer",
    ]
    world.now = 10
    world.fail("it answers 502")
    assert world.lines() == [
        "upstream loki:3100: it answers 502; shippers get the same answer (100 pushes)"
    ]
    assert world.state.as_json() == {
        "error": "it answers 502",
        "since": "2026-11-23T12:00:00Z",
        "failed": 101,
    }
    assert world.state.is_failing
    world.now = 12
    world.state.taken()
    assert world.lines() == [
        "upstream loki:3100 takes pushes again, after 12 s and 101 that it did not take"
    ]
    assert world.state.as_json() == {"error": None, "since": None, "failed": 0}
    assert not world.state.is_failing
    world.state.taken()
    assert world.lines() == []


def test_the_first_push_that_fails_is_most_of_them_and_one_among_many_is_not(world):
    world.fail()
    assert world.state.is_failing
    for _ in range(10):
        world.state.taken()
    world.fail()
    assert world.state.trouble
    assert not world.state.is_failing


def test_an_upstream_that_takes_some_pushes_and_some_not_does_not_fill_the_log(world):
    for at in range(300):
        world.now = at / 10
        (world.state.taken if at % 4 == 3 else world.fail)()
    assert world.state.is_failing
    # One that it is over, before it was known that it comes again.
    assert len(world.lines()) == 3 + 1
    world.now = 39.7
    world.state.taken()
    assert world.state.trouble
    for world.now in range(40, 43):
        world.state.taken()
    assert not world.state.trouble
    (line,) = world.lines()
    assert "takes pushes again" in line


def test_a_trouble_ends_though_it_is_long_forgotten(world):
    for outcome in (world.fail, world.state.taken, world.fail):
        outcome()
    for _ in range(1000):
        world.state.taken()
    assert world.state.trouble
    world.now = 60
    world.state.taken()
    assert not world.state.trouble


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(204), ""),
        (Reply(200, b"ok"), ""),
        (Reply(400, b"bad"), ""),
        (Reply(260, b"blocked"), "it answers 260: blocked"),
        (Reply(302), "it answers 302: give its final URL to Sluice"),
        (Reply(401, b"no  org id\n"), "it answers 401: no org id (credentials are given with"),
        (Reply(403), "it answers 403 (credentials"),
        (Reply(404, b"404 page not found"), "it answers 404: 404 page not found (--upstream is"),
        (Reply(413, b"<html>"), "it answers 413"),
        (Reply(429, "späte\u2028".encode()), "it answers 429: späte"),
        (Reply(500, b"\xff\x1b[31m"), "it answers 500: \ufffd?[31m"),
        (Reply(503, b"x" * 1000), "it answers 503: " + "x" * 200),
        (Reply(600), "it answers 600"),
    ],
)
def test_what_upstream_says_is_said(reply, words):
    found = why_not_taken(reply)
    assert found.startswith(words)
    assert bool(found) == bool(words)
    assert len(found) < 400


@pytest.mark.parametrize(
    "answer",
    [
        # Go, nginx, Apache, and what OpenSSL says by itself.
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 60\r\n\r\n"
        b"<center>The plain HTTP request was sent to HTTPS port</center>",
        b"HTTP/1.1 400 Bad Request\r\n\r\n"
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
def test_an_upstream_that_speaks_tls_is_said_to_and_loses_no_push(answer):
    with answering(answer) as sender, pytest.raises(errors.Unavailable, match="https://") as caught:
        sender.send(PUSH_PATH, b"one", {})
    assert str(sender._to.port) in caught.value.message
    assert "speaks TLS" in sender.trouble


def test_an_upstream_that_does_not_speak_tls_is_said_not_to():
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    with answering(answer, "https") as sender, pytest.raises(errors.Unavailable, match="http://"):
        sender.send(PUSH_PATH, b"one", {})
    assert "does not speak TLS" in sender.trouble


@contextlib.contextmanager
def answering(answer: bytes, scheme: str = "http") -> Iterator[Upstream]:
    """A sender to a server that has one answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted, contextlib.suppress(OSError):
                accepted.recv(65_536)
                accepted.sendall(answer)
                accepted.shutdown(socket.SHUT_WR)
                accepted.recv(65_536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Upstream(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize(
    "mode", ["status:401", "status:404", "status:429", "status:500", "status:302"]
)
def test_what_upstream_answers_is_in_health_and_in_the_log_with_its_port(sluice, upstream, mode):
    server = sluice([budget("shop", "1Gi")], upstream.url)
    push = shippers.vector_json(
        [shippers.Stream({"namespace": "shop"}, [shippers.Entry(1, "line")])]
    )
    assert server.send(push).status == 204
    health = server.get("/api/health").json
    assert (health["status"], health["upstream"]["error"]) == ("ok", None)
    upstream.control(mode)
    for _ in range(10):
        server.send(push)
    health = server.get("/api/health").json
    status = mode.partition(":")[2]
    assert health["status"] == "degraded"
    assert f"it answers {status}" in health["upstream"]["error"]
    assert f"127.0.0.1:{upstream.port}: it answers {status}" in health["complaints"]["upstream"]
    upstream.control("ok")
    assert server.send(push).status == 204
    health = server.get("/api/health").json
    assert (health["status"], health["upstream"]["error"]) == ("ok", None)
    lines = [line for line in server.log.read_text().splitlines() if "upstream 127" in line]
    assert [f"127.0.0.1:{upstream.port}" in line for line in lines] == [True, True]
    assert f"it answers {status}" in lines[0]
    assert "takes pushes again" in lines[1]
