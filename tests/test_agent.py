"""The agent's HTTP: what shippers, operators and Prometheus see, and what it costs the teams."""

import contextlib
import gzip
import io
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import shippers
import werkzeug.test
from harness import Upstream as UpstreamProcess
from harness import budget, free_port, running, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from shippers import LEGACY_PATH, PUSH_PATH, Entry, Push, Stream

from sluice import Budget, Gate, api, errors, usage
from sluice.agent import app, push, turnstile, upstream

KIB = 1024
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
OUTCOMES = ("forwarded", "sampled", "dropped", "refused")
NONE = {"entries": 0, "bytes": 0}


@dataclass
class Sender:
    """An upstream that answers what it is told to, and remembers what it got."""

    reply: upstream.Reply = field(default_factory=lambda: upstream.Reply(204))
    sent: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        self.sent.append((path, body, headers))
        return self.reply


class Front:
    """The application without a server before it, on a clock that stands still."""

    def __init__(self, budgets: Sequence[Mapping[str, Any]], sender: Any = None, **more: Any):
        self.gate = Gate([Budget.from_manifest(one) for one in budgets])
        self.sender = Sender() if sender is None else sender
        flask_app = app.create_app(self.gate, self.sender, clock=lambda: NOON, **more)
        self.client = flask_app.test_client()

    def send(self, push: Push, **more: Any) -> werkzeug.test.TestResponse:
        headers = {**push.headers, **more.pop("headers", {})}
        return self.client.post(push.path, data=push.body, headers=headers, **more)

    def counts(self, key: str) -> dict[str, dict[str, int]]:
        return usage.counts(self.gate.ledger.usage([key], NOON)[key].counts)

    def call(self, path: str, call: Any) -> werkzeug.test.TestResponse:
        body = call if isinstance(call, bytes) else json.dumps(call).encode()
        return self.client.post(path, data=body)

    def samples(self) -> list[Any]:
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return [sample for family in families for sample in family.samples]

    def sample(self, name: str, **labels: str) -> float:
        (found,) = (s for s in self.samples() if s.name == name and labels == s.labels)
        return found.value

    def is_untouched(self) -> bool:
        found = self.gate.ledger.usage(["", "shop/shop"], NOON).values()
        return not any(any(one.counts) for one in found) and not self.gate.ledger.used.any()


def error_of(response: werkzeug.test.TestResponse) -> str:
    """The words of a JSON error, which has to be one."""
    assert response.content_type == "application/json"
    assert set(response.json) == {"error", "status"}
    assert response.json["status"] == response.status_code
    assert (response.headers.get("Retry-After") == "1") == (response.status_code == 503)
    words: str = response.json["error"]
    return words


SHOP = budget("shop", 10_000, throttle={"sampleRate": 0})
PUSH = shippers.promtail([Stream({"namespace": "shop", "app": "a"}, [Entry(1, "0123456789")])])


# what upstream answers, and what it costs


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamProcess]:
    server = UpstreamProcess(tmp_path_factory.mktemp("upstream"))
    with running(server):
        yield server


@pytest.fixture
def loki(process: UpstreamProcess) -> UpstreamProcess:
    """An upstream in another process, behaving well until told otherwise."""
    process.control("ok", reset=True)
    return process


@pytest.fixture
def make_front() -> Iterator[Callable[..., Front]]:
    """A maker of fronts that send to a URL: `make_front(url, *budgets, ...)`."""
    made: list[upstream.Upstream] = []

    def make(url: str, *budgets: Mapping[str, Any], **more: Any) -> Front:
        made.append(upstream.Upstream(url, **more))
        return Front(budgets or [SHOP], made[-1])

    yield make
    for sender in made:
        sender.close()


@pytest.mark.parametrize("status", [200, 202, 204])
def test_what_upstream_takes_is_usage(make_front, loki, status):
    loki.control(f"status:{status}")
    front = make_front(loki.url)
    response = front.send(PUSH)
    assert response.status_code == status
    assert front.counts("shop/shop")["forwarded"] == {"entries": 1, "bytes": 10}
    assert front.sample("tco_upstream_responses_total", code=str(status)) == 1


@pytest.mark.parametrize("status", [260, 401, 403, 404, 413, 422, 429, 500, 502, 503, 504])
def test_what_upstream_does_not_take_is_given_back_and_the_shipper_sees_its_words(
    make_front, loki, status
):
    loki.control(f"status:{status}")
    front = make_front(loki.url)
    response = front.send(PUSH)
    assert response.status_code == status
    assert response.text == f"upstream says {status}"
    assert response.content_type == "text/plain"
    counts = front.counts("shop/shop")
    assert counts["received"] == counts["refused"] == {"entries": 1, "bytes": 10}
    assert counts["forwarded"] == NONE
    assert not front.gate.ledger.used.any()


def test_a_push_that_upstream_calls_bad_was_stored_in_part_and_is_usage(make_front, loki):
    loki.control("status:400")
    front = make_front(loki.url)
    response = front.send(PUSH)
    assert (response.status_code, response.text) == (400, "upstream says 400")
    assert front.counts("shop/shop")["forwarded"] == {"entries": 1, "bytes": 10}
    rejected = front.sample("tco_upstream_rejected_bytes_total", team="shop", namespace="shop")
    assert rejected == 10


@pytest.mark.parametrize("status", [301, 302, 304, 307, 308])
def test_a_redirect_is_neither_followed_nor_passed_on(make_front, loki, status):
    loki.control(f"status:{status}")
    front = make_front(loki.url)
    response = front.send(PUSH)
    assert response.status_code == 502
    assert str(status) in error_of(response)
    assert "Location" not in response.headers
    assert front.counts("shop/shop")["refused"]["entries"] == 1
    assert loki.count()["requests"] == 1


@pytest.mark.parametrize("status", [101, 103, 199, 600, 999])
def test_an_answer_that_is_none_is_a_bad_gateway(status):
    front = Front([SHOP], Sender(upstream.Reply(status)))
    response = front.send(PUSH)
    assert response.status_code == 502
    assert str(status) in error_of(response)
    assert front.counts("shop/shop")["refused"]["entries"] == 1


@pytest.mark.parametrize("mode", ["hang", "slow:30", "drip"])
def test_an_upstream_that_takes_too_long_is_unavailable_and_nothing_is_usage(
    make_front, loki, mode
):
    loki.control(mode)
    front = make_front(loki.url, timeout=0.5)
    began = time.monotonic()
    response = front.send(PUSH)
    assert response.status_code == 503
    assert "no answer within 0.5 s" in error_of(response)
    assert time.monotonic() - began < 3
    assert front.counts("shop/shop")["refused"] == {"entries": 1, "bytes": 10}
    assert not front.gate.ledger.used.any()
    assert front.sample("tco_upstream_responses_total", code="none") == 1
    # Its late answer must not be taken for the next push's.
    loki.control("status:429")
    assert front.send(PUSH).status_code == 429


def test_an_upstream_that_is_not_there_is_unavailable(make_front):
    front = make_front(f"http://127.0.0.1:{free_port()}")
    response = front.send(PUSH)
    assert response.status_code == 503
    assert "refused" in error_of(response)
    assert front.counts("shop/shop")["refused"] == {"entries": 1, "bytes": 10}


def test_an_upstream_that_is_not_there_is_told_once_in_a_while(process, caplog):
    taken = upstream.Upstream(process.url)
    taken.send(PUSH_PATH, b"", {})
    taken.close()
    assert taken.trouble == ""
    away = upstream.Upstream("http://127.0.0.1:9")
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            away.send(PUSH_PATH, b"", {})
    (line,) = caplog.messages
    assert line.startswith("upstream 127.0.0.1: ConnectionRefusedError")
    assert "refused" in away.trouble


def test_an_upstream_that_hangs_up_is_unavailable_and_the_next_push_is_none_the_worse(
    make_front, loki
):
    front = make_front(loki.url)
    assert front.send(PUSH).status_code == 204
    loki.control("close")
    response = front.send(PUSH)
    assert response.status_code == 503
    assert "upstream 127.0.0.1" in error_of(response)
    loki.control("ok")
    assert front.send(PUSH).status_code == 204
    counts = front.counts("shop/shop")
    assert counts["forwarded"]["entries"] == 2
    assert counts["refused"]["entries"] == 1


def test_an_upstream_that_was_away_between_two_pushes_is_found_again(make_front, tmp_path):
    server = UpstreamProcess(tmp_path)
    with running(server):
        front = make_front(server.url)
        assert front.send(PUSH).status_code == 204
        server.kill()
        server.start()
        assert front.send(PUSH).status_code == 204


def test_an_answer_that_is_not_http_is_unavailable(make_front):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        front = make_front(f"http://127.0.0.1:{server.getsockname()[1]}")
        response = front.send(PUSH)
        thread.join()
    assert response.status_code == 503
    assert "BadStatusLine" in error_of(response)


def test_a_retry_after_of_upstream_reaches_the_shipper():
    front = Front([SHOP], Sender(upstream.Reply(429, b"slow down", "text/plain", "17")))
    response = front.send(PUSH)
    assert response.headers["Retry-After"] == "17"


def test_a_long_answer_is_cut_and_the_next_push_is_none_the_worse(make_front):
    answer = b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000

    def serve(server: socket.socket) -> None:
        for _ in range(2):
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError):
                connection.recv(65_536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=[server])
        thread.start()
        front = make_front(f"http://127.0.0.1:{server.getsockname()[1]}")
        for _ in range(2):
            response = front.send(PUSH)
            assert (response.status_code, response.text) == (500, "x" * upstream.REPLY_MAX)
        thread.join()


def test_what_is_left_of_nothing_is_answered_without_asking_upstream():
    front = Front([budget("shop", 0)])
    response = front.send(PUSH)
    assert (response.status_code, response.data) == (204, b"")
    assert front.sender.sent == []
    assert front.counts("shop/shop")["dropped"] == {"entries": 1, "bytes": 10}


def test_a_defect_of_ours_is_a_500_and_charges_nothing(caplog):
    class Broken:
        def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
            raise ZeroDivisionError("on purpose")

    front = Front([SHOP], Broken())
    response = front.send(PUSH)
    assert response.status_code == 500
    assert error_of(response) == "internal error: ZeroDivisionError"
    assert not front.gate.ledger.used.any()
    assert front.counts("shop/shop")["refused"]["entries"] == 1
    assert front.sample("tco_internal_errors_total") == 1
    assert "on purpose" in caplog.text


# what goes to upstream


def flat(streams: Sequence[Stream]) -> list[Any]:
    """Entries with their labels: Fluent Bit makes a stream of each."""
    return [(stream.labels, entry) for stream in streams for entry in stream.entries]


def arrived(loki: UpstreamProcess) -> dict[str, Any]:
    (push,) = loki.received()
    push["headers"] = {name.lower(): value for name, value in push["headers"].items()}
    return push


def test_headers_of_the_shipper_arrive_and_those_of_its_connection_do_not(make_front, loki):
    front = make_front(loki.url)
    sent = {
        "X-Scope-OrgID": "tenant-1",
        "Authorization": "Basic dTpw",
        "X-Loki-Ingestion-Policy": "gold",
        "X-Loki-Backfill-Shard": "3",
        "X-Custom": "one, two",
        "User-Agent": "promtail/3.5.0",
    }
    dropped = {
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "Basic cHJveHk=",
        "TE": "trailers",
        "Upgrade": "h2c",
        "Expect": "100-continue",
        "Accept-Encoding": "br",
    }
    assert front.send(PUSH, headers=sent | dropped).status_code == 204
    headers = arrived(loki)["headers"]
    for name, value in sent.items():
        assert headers[name.lower()] == value
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["content-length"] == str(len(PUSH.body))
    assert headers["host"] == f"127.0.0.1:{loki.port}"
    assert not {name.lower() for name in dropped} & set(headers)
    assert "content-encoding" not in headers


@pytest.mark.parametrize("remote", ["10.1.2.3", "2001:db8::1"])
@pytest.mark.parametrize("before", ["", "192.0.2.7", "192.0.2.7, 2001:db8::9"])
def test_where_a_push_came_from_is_appended(make_front, loki, remote, before):
    front = make_front(loki.url)
    headers = {"X-Forwarded-For": before} if before else {}
    front.send(PUSH, headers=headers, environ_overrides={"REMOTE_ADDR": remote})
    wanted = f"{before}, {remote}" if before else remote
    assert arrived(loki)["headers"]["x-forwarded-for"] == wanted


def test_headers_of_the_settings_stand_in_for_the_shippers(make_front, loki):
    own = {"x-scope-orgid": "ours", "Host": "loki.example", "X-Extra": "1"}
    front = make_front(loki.url, headers=own)
    assert front.send(PUSH, headers={"X-Scope-OrgID": "theirs"}).status_code == 204
    (push,) = loki.received()
    names = [name.lower() for name in push["headers"]]
    assert len(names) == len(set(names))
    headers = arrived(loki)["headers"]
    assert headers["x-scope-orgid"] == "ours"
    assert headers["host"] == "loki.example"
    assert headers["x-extra"] == "1"


@pytest.mark.parametrize(
    ("path", "pushed", "legacy"),
    [
        ("", PUSH_PATH, LEGACY_PATH),
        ("/", PUSH_PATH, LEGACY_PATH),
        (PUSH_PATH, PUSH_PATH, LEGACY_PATH),
        (LEGACY_PATH, PUSH_PATH, LEGACY_PATH),
        (f"/gateway{PUSH_PATH}/", f"/gateway{PUSH_PATH}", f"/gateway{LEGACY_PATH}"),
        ("/api/v1/write", "/api/v1/write", "/api/v1/write"),
    ],
)
def test_a_push_goes_out_on_the_path_family_that_it_came_in_on(
    make_front, loki, path, pushed, legacy
):
    front = make_front(loki.url + path)
    streams = [Stream({"namespace": "shop"}, [Entry(1, "line")])]
    for make, wanted in ((shippers.vector_json, pushed), (shippers.legacy, legacy)):
        loki.control(reset=True)
        push = make(streams)
        assert front.send(push).status_code == 204
        assert arrived(loki)["path"] == wanted
        assert arrived(loki)["body"] == push.body


@pytest.mark.parametrize("make", [shippers.vector_json, shippers.legacy])
def test_a_url_that_ends_in_a_slash_makes_no_difference(make_front, loki, make):
    push = make([Stream({"namespace": "shop"}, [Entry(1, "line")])])
    doubled = {"PATH_INFO": f"/{push.path}"}
    assert make_front(loki.url).send(push, environ_overrides=doubled).status_code == 204
    assert arrived(loki)["path"] == push.path


@pytest.mark.parametrize("name", shippers.SHIPPERS)
def test_every_shippers_push_arrives_byte_for_byte_and_filtered_in_its_own_dialect(
    make_front, loki, name
):
    front = make_front(loki.url, SHOP, budget("over", 0))
    streams = shippers.make_streams(1, ["shop", "over"], entries=5)
    for streams_sent in (streams[::2], streams):
        loki.control(reset=True)
        push = shippers.SHIPPERS[name](streams_sent)
        assert front.send(push).status_code == 204
        found = arrived(loki)
        left = [s for s in push.streams if s.labels["namespace"] == "shop"]
        sent = shippers.decode(found["body"], found["headers"], found["path"])
        assert flat(sent) == flat(left)
        assert (found["body"] == push.body) == (left == list(push.streams))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "loki:3100",
        "ftp://loki",
        "http://",
        "http:///path",
        "http://loki:notaport",
        "http://loki:99999",
        "http://[::1",
        "http://loki/with space",
        "http://łoki/",
        "http://loki/\n",
        "http://user:secret@loki/",
        "http://loki/?tenant=1",
    ],
)
def test_an_upstream_that_is_no_url_is_refused_at_once(url):
    with pytest.raises(errors.BadRequest, match="upstream") as caught:
        upstream.Upstream(url)
    assert "secret" not in caught.value.message


def test_certificates_that_are_none_are_refused_at_once(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    with pytest.raises(errors.BadRequest, match=r"ca\.pem"):
        upstream.Upstream("https://loki", ca=str(file))


# what is refused


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/loki/api/v1/pushes", 404),
        ("POST", "/loki//api/v1/push", 404),
        ("POST", "/loki/api/v1/push/", 404),
        ("GET", PUSH_PATH, 405),
        ("DELETE", "/api/teams", 405),
        ("GET", "/api/v1/evaluate", 405),
    ],
)
def test_what_is_not_there_is_a_json_error(method, path, status):
    # The client would take two slashes for the start of a host.
    response = Front([SHOP]).client.open("/", method=method, environ_overrides={"PATH_INFO": path})
    assert response.status_code == status
    assert error_of(response).startswith(f"{method} {path}: ")
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"x", {}, "Content-Type"),
        (b"x", {"Content-Type": "///"}, "media type"),
        (b"x", {"Content-Type": "application/x-protobuf"}, "snappy"),
        (b"{}", {"Content-Type": "application/json", "Content-Encoding": "br"}, "'br'"),
        (b'{"streams":[{"values":[[1,"x"]]}]}', {"Content-Type": "application/json"}, "byte 24"),
        (b"", {"Content-Type": "application/json"}, ""),
        (b"x", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, "gzip"),
    ],
)
def test_a_bad_push_is_a_400_that_says_what_is_wrong_and_charges_nothing(body, headers, words):
    front = Front([SHOP])
    response = front.client.post(PUSH_PATH, data=body, headers=headers)
    assert response.status_code == 400
    assert words in error_of(response)
    assert front.is_untouched()
    assert front.sender.sent == []
    assert front.sample("tco_requests_refused_total", reason="BadPush") == 1


@pytest.mark.parametrize("path", [PUSH_PATH, LEGACY_PATH, "/api/v1/evaluate"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_a_413_whether_its_length_is_declared_or_not(path, declared):
    front = Front([SHOP], max_body=100)
    stream = io.BytesIO(b"x" * 101)
    response = front.client.post(
        path,
        input_stream=stream,
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "101" if declared else ""},
    )
    assert response.status_code == 413
    assert "at most 100" in error_of(response)
    assert front.is_untouched()
    # To the end: a shipper that is cut off does not see why.
    assert stream.tell() == 101


def test_a_body_that_is_far_too_large_is_not_read_to_its_end():
    front = Front([SHOP], max_body=100)

    class Endless(io.RawIOBase):
        size = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.size += len(buffer)
            return len(buffer)

    endless = Endless()
    declared = {"wsgi.input": endless, "CONTENT_LENGTH": str(10**15)}
    response = front.client.post(PUSH_PATH, environ_overrides=declared)
    assert response.status_code == 413
    assert str(10**15) in error_of(response)
    assert endless.size <= 2 * push.DRAIN_MAX


def test_a_body_of_exactly_the_limit_is_taken():
    body = shippers.vector_json([Stream({"namespace": "shop"}, [Entry(1, "x" * 500)])]).body
    front = Front([SHOP], max_body=len(body))
    response = front.client.post(PUSH_PATH, data=body, content_type="application/json")
    assert response.status_code == 204
    assert front.sender.sent[0][1] == body


def test_a_body_without_a_declared_length_is_taken():
    front = Front([SHOP])
    response = front.send(PUSH, environ_overrides={"CONTENT_LENGTH": ""})
    assert response.status_code == 204


def test_a_body_that_ends_before_it_should_is_refused():
    front = Front([SHOP])
    push = Push(b'{"streams":[]}', {"Content-Type": "application/json"})
    response = front.send(push, environ_overrides={"CONTENT_LENGTH": "20"})
    assert response.status_code == 400
    assert "after 14 of 20 bytes" in error_of(response)
    assert front.sender.sent == []


def test_a_push_that_decodes_to_too_much_is_a_413():
    front = Front([SHOP])
    body = gzip.compress(b" " * 40 * KIB * KIB)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = front.client.post(PUSH_PATH, data=body, headers=headers)
    assert response.status_code == 413
    assert front.is_untouched()


CONTENT_TYPES = ["application/json", "application/x-protobuf", "text/plain; charset=utf-8", "ż"]
ENCODINGS = ["", "gzip", "deflate", "snappy", "zstd", "br"]


def mutated(rng: random.Random) -> Push:
    """A push of some shipper with a few bytes changed, cut out or repeated."""
    streams = shippers.make_streams(rng.randrange(99), ["shop"], entries=3, line_bytes=80)
    push = shippers.SHIPPERS[rng.choice(list(shippers.SHIPPERS))](streams)
    body = bytearray(push.body)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(body))
        kind = rng.randrange(3)
        if kind == 0:
            body[at] = rng.randrange(256)
        elif kind == 1:
            del body[at : at + rng.randrange(9)]
        else:
            body[at:at] = body[at : at + rng.randrange(40)]
    return Push(bytes(body), push.headers, push.path)


def check_any(front: Front, push: Push) -> None:
    before = {key: front.counts(key) for key in ("", "shop/shop")}
    forwarded = len(front.sender.sent)
    response = front.send(push)
    if response.status_code == 204:
        return
    assert 400 <= response.status_code < 500
    assert error_of(response)
    assert {key: front.counts(key) for key in ("", "shop/shop")} == before
    assert len(front.sender.sent) == forwarded


@settings(max_examples=150)
@given(st.binary(max_size=300), st.sampled_from(CONTENT_TYPES), st.sampled_from(ENCODINGS))
def test_any_bytes_are_taken_or_refused_in_json_and_a_refusal_charges_nothing(body, kind, coding):
    """204 or a 4xx with a JSON error, never anything else."""
    front = Front([SHOP])
    for path in (PUSH_PATH, LEGACY_PATH):
        headers = {"Content-Type": kind, "Content-Encoding": coding}
        check_any(front, Push(body, headers, path))


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_a_mutated_push_is_taken_or_refused_in_json_and_the_books_balance(seed):
    """204 or a 4xx with a JSON error, and received = forwarded + sampled + dropped."""
    rng = random.Random(seed)
    front = Front([SHOP])
    for _ in range(10):
        check_any(front, mutated(rng))
    for key in ("", "shop/shop"):
        counts = front.counts(key)
        for unit in ("entries", "bytes"):
            assert counts["received"][unit] == sum(counts[outcome][unit] for outcome in OUTCOMES)


# how many at a time


class Waiting(Sender):
    """An upstream that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        super().send(path, body, headers)
        assert self.let.wait(20)
        return self.reply


def test_one_push_more_than_may_wait_for_upstream_is_told_at_once_to_come_back():
    front = Front([SHOP], Waiting(), max_in_flight=2)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(front.send(PUSH).status_code))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(front.sender.sent) == 2, "two pushes wait")
    used = front.gate.ledger.used.copy()
    began = time.monotonic()
    response = front.send(PUSH)
    assert time.monotonic() - began < 1
    assert response.status_code == 503
    assert "at most 2" in error_of(response)
    assert (front.gate.ledger.used == used).all()
    assert front.sample("tco_pushes_in_flight") == 2
    assert front.client.get("/ready").status_code == 200
    assert front.call("/api/v1/evaluate", {"namespace": "shop", "size": 1}).status_code == 200
    front.sender.let.set()
    for thread in threads:
        thread.join()
    assert statuses == [204, 204]
    assert front.counts("shop/shop")["received"]["entries"] == 3
    assert front.send(PUSH).status_code == 204
    assert front.sample("tco_pushes_in_flight") == 0


def somebody_coming(turns: turnstile.Turnstile) -> tuple[threading.Thread, threading.Event]:
    """Who comes in and leaves once started, and what is set once inside."""
    entered = threading.Event()

    def come() -> None:
        with turns:
            entered.set()

    return threading.Thread(target=come), entered


def test_a_crowd_waits_for_a_turn_while_others_leave_and_is_sent_away_when_nobody_does(monkeypatch):
    turns = turnstile.Turnstile(1)
    monkeypatch.setattr(turnstile, "WAIT_S", 20.0)
    monkeypatch.setattr(turnstile, "LOOK_S", 20.0)
    second, entered = somebody_coming(turns)
    with turns:
        second.start()
        assert not entered.wait(0.1)
    second.join()
    assert entered.is_set()
    monkeypatch.setattr(turnstile, "LOOK_S", 0.001)
    with turns, pytest.raises(errors.Unavailable, match="1 requests"), turns:
        pass
    assert turns.inside == 0


def test_of_a_house_that_stands_still_the_next_is_sent_away_at_once_until_somebody_gets_further(
    monkeypatch,
):
    turns = turnstile.Turnstile(1)
    with turns:
        with pytest.raises(errors.Unavailable), turns:
            pass
        monkeypatch.setattr(turnstile, "LOOK_S", 20.0)
        with pytest.raises(errors.Unavailable), turns:
            pass
        turns.moved()
        patient = threading.Thread(target=turns.__enter__)
        patient.start()
        wait_until(lambda: turns._waiting, "it waits")
    patient.join()
    assert turns.inside == 1


def test_a_process_that_gets_no_cpu_is_no_house_that_stands_still(monkeypatch):
    monkeypatch.setattr(turnstile, "WAIT_S", 20.0)
    monkeypatch.setattr(turnstile, "LOOKS", 20)
    turns = turnstile.Turnstile(1)
    second, entered = somebody_coming(turns)
    with turns:
        second.start()
        wait_until(lambda: turns._waiting, "it waits")
        # Many times as long as it would look, and no other thread runs meanwhile.
        began = time.monotonic()
        while time.monotonic() < began + 4 * turnstile.LOOKS * turnstile.LOOK_S:
            sum(range(20_000_000))
    second.join()
    assert entered.is_set()


def test_whoever_leaves_does_not_come_in_again_before_those_who_wait(monkeypatch):
    monkeypatch.setattr(turnstile, "WAIT_S", 20.0)
    monkeypatch.setattr(turnstile, "LOOK_S", 20.0)
    turns = turnstile.Turnstile(1)
    order: list[str] = []

    def come(name: str) -> None:
        with turns:
            order.append(name)

    names = ["first", "second", "third"]
    threads = [threading.Thread(target=come, args=[name]) for name in names]
    with turns:
        for n, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda n=n: len(turns._waiting) == n, "it waits")
    come("again")
    for thread in threads:
        thread.join()
    assert order == [*names, "again"]
    assert turns.inside == 0


# the API


def test_ready_says_why_it_is_not():
    status = api.Status(not_ready="no table yet")
    front = Front([SHOP], status=status)
    response = front.client.get("/ready")
    assert response.status_code == 503
    assert "no table yet" in error_of(response)
    health = front.client.get("/api/health").json
    assert (health["ready"], health["missing"]) == (False, "no table yet")
    status.not_ready = ""
    response = front.client.get("/ready")
    assert (response.status_code, response.text) == (200, "ready\n")
    health = front.client.get("/api/health").json
    assert (health["ready"], health["missing"]) == (True, "")


def test_health_says_what_is_wrong_and_what_it_depends_on():
    status = api.Status(problems=[{"file": "a.yaml", "message": "bad"}])
    status.parts["ledger"] = lambda: {"origin": "memory"}
    found = Front([SHOP], status=status).client.get("/api/health")
    assert found.status_code == 200
    assert found.json["status"] == "degraded"
    assert found.json["problems"] == [{"file": "a.yaml", "message": "bad"}]
    assert found.json["ledger"] == {"origin": "memory"}
    assert Front([SHOP]).client.get("/api/health").json["status"] == "ok"


def test_a_team_is_shown_as_documented():
    front = Front([budget("shop", 1000, namespace="default", monthlyLimit=30_000)])
    streams = [Stream({"namespace": "default"}, [Entry(1, "x" * 812)])]
    assert front.send(shippers.promtail(streams)).status_code == 204
    assert front.client.get("/api/teams/shop").json == {
        "name": "shop",
        "namespace": "default",
        "namespaces": ["default"],
        "timeZone": "UTC",
        "enforcement": "Enforce",
        "dailyLimit": 1000,
        "monthlyLimit": 30_000,
        "currentUsage": 812,
        "monthlyUsage": 812,
        "percent": 81.2,
        "action": "drop",
        "dayEnds": "2026-11-23T00:00:00Z",
        "monthEnds": "2026-12-01T00:00:00Z",
        "lastUpdated": "2026-11-22T12:00:00Z",
        "counts": {
            "received": {"entries": 1, "bytes": 812},
            "forwarded": {"entries": 1, "bytes": 812},
            "sampled": NONE,
            "dropped": NONE,
            "refused": NONE,
        },
    }


def test_teams_are_listed_with_the_time():
    front = Front([SHOP, budget("pay", 5, timeZone="Asia/Tokyo", enforcement="DryRun")])
    found = front.client.get("/api/teams").json
    assert found["time"] == "2026-11-22T12:00:00Z"
    assert [team["name"] for team in found["teams"]] == ["shop", "pay"]
    assert found["teams"][0]["monthlyLimit"] is None
    assert found["teams"][1]["dayEnds"] == "2026-11-22T15:00:00Z"
    assert found["teams"][1]["enforcement"] == "DryRun"


def test_a_team_that_is_not_there_is_a_404_and_a_name_that_two_have_a_409():
    front = Front([budget("shop", 1, namespace="eu"), budget("shop", 2, namespace="us")])
    get = front.client.get
    response = get("/api/teams/nobody")
    assert response.status_code == 404
    assert "'nobody'" in error_of(response)
    response = get("/api/teams/shop")
    assert response.status_code == 409
    assert "eu, us" in error_of(response)
    assert get("/api/teams/shop?namespace=us").json["dailyLimit"] == 2
    response = get("/api/teams/shop?namespace=asia")
    assert response.status_code == 404
    assert "'asia'" in error_of(response)


def test_evaluate_answers_and_charges_as_the_policy_says():
    front = Front([budget("shop", 100, throttle={"sampleRate": 0.25})])
    path = "/api/v1/evaluate"
    call = {"namespace": "shop", "size": 80}
    assert front.call(path, call | {"dryRun": True}).json == {"action": "allow"}
    assert front.call(path, call).json == {"action": "allow"}
    wanted = {"action": "throttle", "sampleRate": 0.25}
    assert front.call(path, call | {"size": 20, "dryRun": True}).json == wanted
    assert front.call(path, call | {"size": 20, "dryRun": False}).json == wanted
    assert front.call(path, call | {"size": 1}).json == {"action": "drop"}
    assert front.call(path, call | {"size": 0}).json == wanted
    unknown = front.call(path, {"namespace": "nobody", "size": 5}).json
    assert unknown == {"action": "allow", "unbudgeted": True}
    assert front.counts("") == dict.fromkeys(("received", *OUTCOMES), NONE)
    assert front.counts("shop/shop")["forwarded"] == {"entries": 3, "bytes": 100}
    assert front.counts("shop/shop")["dropped"] == {"entries": 1, "bytes": 1}
    assert front.client.get("/api/teams/shop").json["currentUsage"] == 100


def test_evaluate_takes_thousands_of_entries_in_one_call():
    front = Front([budget("shop", 1000), budget("pay", 100)])
    n = 5000
    call = {"namespaces": ["shop", "pay", "free"] * n, "sizes": [1] * 3 * n}
    assert set(front.call("/api/v1/evaluate/batch", call | {"dryRun": True}).json) == {"actions"}
    actions = front.call("/api/v1/evaluate/batch", call).json["actions"]
    for first, limit in ((0, 1000), (1, 100)):
        mine = actions[first::3]
        throttled = limit - limit * 80 // 100
        assert mine.count("allow") == limit * 80 // 100
        assert mine.count("throttle") == throttled
        assert mine.count("drop") == n - limit
    assert actions[2::3] == ["allow"] * n
    assert front.counts("shop/shop")["forwarded"] == {"entries": 1000, "bytes": 1000}


@pytest.mark.parametrize("size", [0, 1, 2**62, 2**63 - 1])
def test_evaluate_takes_sizes_up_to_the_largest(size):
    front = Front([SHOP, budget("huge", 2**63 - 1)])
    for name in ("shop", "free", "huge"):
        single = front.call("/api/v1/evaluate", {"namespace": name, "size": size})
        assert single.status_code == 200
        call = {"namespaces": [name], "sizes": [size]}
        assert front.call("/api/v1/evaluate/batch", call).status_code == 200
    counts = front.counts("shop/shop")
    assert min(counts["received"]["bytes"], counts["dropped"]["bytes"]) >= 0


GOOD = {"namespace": "shop", "size": 1}
BATCH = {"namespaces": ["shop", "shop"], "sizes": [1, 1]}


@pytest.mark.parametrize(
    ("path", "call", "words"),
    [
        ("", b"", "not JSON"),
        ("", b"{", "not JSON"),
        ("", b"\xff", "not JSON"),
        ("", [1], "a JSON list"),
        ("", {}, "namespace: null is not a string"),
        ("", GOOD | {"namespace": 7}, "namespace: 7"),
        ("", GOOD | {"size": -1}, "size: -1 is not between 0 and 9223372036854775807"),
        ("", GOOD | {"size": 2**63}, "size: 9223372036854775808"),
        ("", GOOD | {"size": 2**64}, "size"),
        ("", GOOD | {"size": 1.0}, "size: 1.0"),
        ("", GOOD | {"size": True}, "size: true"),
        ("", GOOD | {"size": "1"}, "size: '1'"),
        ("", GOOD | {"dryRun": 1}, "dryRun: 1"),
        ("/batch", {}, "namespaces: null is not a list"),
        ("/batch", BATCH | {"sizes": [1]}, "2 namespaces, 1 sizes"),
        ("/batch", BATCH | {"sizes": [1, -1]}, "sizes[1]: -1"),
        ("/batch", BATCH | {"sizes": [1, 2**63]}, "sizes[1]: 9223372036854775808"),
        ("/batch", BATCH | {"sizes": [1, 2**63 - 1]}, "sizes: together 9223372036854775808"),
        ("/batch", BATCH | {"namespaces": ["shop", None]}, "namespaces[1]: null"),
        ("/batch", BATCH | {"dryRun": "yes"}, "dryRun: 'yes'"),
        ("/batch", BATCH | {"namespaces": {"a": 1}}, "namespaces: a mapping"),
    ],
)
def test_a_bad_call_of_evaluate_is_refused_whole_and_nothing_is_charged(path, call, words):
    front = Front([SHOP])
    response = front.call("/api/v1/evaluate" + path, call)
    assert response.status_code == 400
    assert words in error_of(response)
    assert front.is_untouched()


def test_a_batch_of_nothing_is_no_mistake():
    call = {"namespaces": [], "sizes": []}
    assert Front([SHOP]).call("/api/v1/evaluate/batch", call).json == {"actions": []}


# the metrics


def test_metrics_say_what_the_api_says():
    front = Front(
        [
            budget("shop", 5000, monthlyLimit=90_000, throttle={"sampleRate": 0.5}),
            budget("dry", 100, enforcement="DryRun"),
            budget("pay", 10**9, namespace="default", namespaces=["pay"]),
        ]
    )
    for seed in range(6):
        front.sender.reply = upstream.Reply(429 if seed == 2 else 204)
        namespaces = ["shop", "dry", "pay", "free"]
        streams = shippers.make_streams(seed, namespaces, streams=8, entries=3, start_ns=1)
        front.send(shippers.promtail(streams))
    teams = front.client.get("/api/teams").json["teams"]
    for team in teams:
        named = {"team": team["name"], "namespace": team["namespace"]}
        for outcome in OUTCOMES:
            for unit in ("entries", "bytes"):
                value = front.sample(f"tco_log_{unit}_total", outcome=outcome, **named)
                assert value == team["counts"][outcome][unit]
        for window, limit, used in (
            ("day", "dailyLimit", "currentUsage"),
            ("month", "monthlyLimit", "monthlyUsage"),
        ):
            assert front.sample("tco_budget_used_bytes", window=window, **named) == team[used]
            if team[limit] is not None:
                value = front.sample("tco_budget_limit_bytes", window=window, **named)
                assert value == team[limit]
        counts = team["counts"]
        decided = sum(
            front.sample("tco_policy_engine_actions_total", action=action, **named)
            for action in ("allow", "throttle", "drop")
        )
        taken = sum(counts[outcome]["entries"] for outcome in OUTCOMES[:3])
        assert decided == taken
        apps = [
            sample.value
            for sample in front.samples()
            if sample.name == "tco_app_bytes_total" and named.items() <= sample.labels.items()
        ]
        assert sum(apps) == counts["forwarded"]["bytes"]
    by_name = {team["name"]: team for team in teams}
    assert by_name["shop"]["counts"]["sampled"]["entries"] > 0
    assert by_name["shop"]["counts"]["dropped"]["entries"] > 0
    assert by_name["shop"]["counts"]["refused"]["entries"] > 0
    # A dry run forwards everything, and says what it would have done.
    would = [
        front.sample("tco_dryrun_bytes_total", team="dry", namespace="dry", action=action)
        for action in ("allow", "throttle", "drop")
    ]
    assert sum(would) == by_name["dry"]["counts"]["forwarded"]["bytes"]
    assert would[2] > 0
    free = front.counts("")["forwarded"]["bytes"]
    assert front.sample("tco_log_bytes_total", team="", namespace="", outcome="forwarded") == free
    assert free > 0


def test_metrics_of_a_team_without_a_month_show_no_limit_for_it():
    names = {(s.name, s.labels.get("window")) for s in Front([SHOP]).samples()}
    assert ("tco_budget_limit_bytes", "day") in names
    assert ("tco_budget_limit_bytes", "month") not in names


def test_metrics_of_the_process_stand_beside_those_of_the_teams():
    status = api.Status(problems=[{}, {}], clock_steps=3)
    front = Front([SHOP], status=status)
    front.send(PUSH)
    assert front.sample("tco_budget_problems") == 2
    assert front.sample("tco_clock_steps_total") == 3
    assert front.sample("tco_push_duration_seconds_count") == 1
    assert front.sample("tco_upstream_duration_seconds_count") == 1
    assert front.sample("process_resident_memory_bytes") > 0


def test_a_name_that_is_not_utf8_cannot_break_the_metrics():
    front = Front([SHOP])
    for label, series in (("app", "tco_app_bytes_total"), ("namespace", "tco_source_bytes_total")):
        labels = {"namespace": "shop", "app": "a", label: "latin1"}
        push = shippers.vector_json([Stream(labels, [Entry(1, "0123456789")])])
        body = push.body.replace(b"latin1", b"caf\xe9")
        assert front.client.post(push.path, data=body, headers=push.headers).status_code == 204
        assert front.client.get("/metrics").status_code == 200
        found = [
            s.value for s in front.samples() if s.name == series and "caf?" in s.labels.values()
        ]
        assert found == [10]


def test_a_hostile_application_name_cannot_break_the_metrics():
    front = Front([SHOP])
    for name in ('a"b', "a\\b", "a\nb", "zażółć", "", "x" * 2000):
        labels = {"namespace": "shop", "app": name}
        streams = [Stream(labels, [Entry(1, "0123456789")])]
        assert front.send(shippers.vector_json(streams)).status_code == 204
    apps = {s.labels["app"]: s.value for s in front.samples() if s.name == "tco_app_bytes_total"}
    assert apps['a"b'] == apps["a\\b"] == apps["a\nb"] == apps["zażółć"] == 10


def test_paths_of_the_harness_are_the_products():
    assert (upstream.PUSH_PATH, upstream.LEGACY_PATH) == (PUSH_PATH, LEGACY_PATH)
    assert Path(app.__file__).parent.name == "agent"
