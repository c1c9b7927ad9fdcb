"""The agent between shipper and upstream: what goes out, what comes back, what the teams pay."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import shippers
from front import NONE, PUSH, SHOP, Front, Sender, error_of
from harness import Upstream as UpstreamProcess
from harness import budget, free_port, running
from shippers import LEGACY_PATH, PUSH_PATH, Entry, Stream

from sluice import errors
from sluice.agent import app, upstream

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


TOO_OLD = b"entry for stream '{namespace=\"shop\"}' has timestamp too old: 2001-01-01T00:00:00Z\n"


def test_a_push_that_loki_stored_in_part_is_usage_and_is_counted_as_rejected():
    front = Front([SHOP], Sender(upstream.Reply(400, TOO_OLD, "text/plain; charset=utf-8")))
    response = front.send(PUSH)
    assert (response.status_code, response.data) == (400, TOO_OLD)
    assert front.counts("shop/shop")["forwarded"] == {"entries": 1, "bytes": 10}
    rejected = front.sample("tco_upstream_rejected_bytes_total", team="shop", namespace="shop")
    assert rejected == 10
    assert front.sample("tco_upstream_settled_bytes_total", settlement="in_part") == 10


def test_a_400_in_unknown_words_costs_nothing_and_is_counted_apart(make_front, loki):
    loki.control("status:400")
    front = make_front(loki.url)
    response = front.send(PUSH)
    assert (response.status_code, response.text) == (400, "upstream says 400")
    counts = front.counts("shop/shop")
    assert counts["refused"] == {"entries": 1, "bytes": 10}
    assert counts["forwarded"] == NONE
    assert not front.gate.ledger.used.any()
    assert front.sample("tco_upstream_settled_bytes_total", settlement="unknown") == 10


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


def test_an_upstream_that_is_not_there_is_told_once_in_a_while(loki, caplog):
    taken = upstream.Upstream(loki.url)
    taken.send(PUSH_PATH, b"", {})
    taken.close()
    assert taken.trouble == ""
    away = upstream.Upstream("http://127.0.0.1:9")
    for _ in range(3):
        with pytest.raises(errors.Unavailable):
            away.send(PUSH_PATH, b"", {})
    (line,) = caplog.messages
    assert line.startswith("upstream 127.0.0.1:9: ConnectionRefusedError")
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
    assert "expected HTTP/1.1, got b'220 mail" in error_of(response)


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
    front.send(PUSH, headers, remote)
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
        ("/base", "/base/loki/api/v1/push", "/base/api/prom/push"),
        ("/push/base/", "/push/base/loki/api/v1/push", "/push/base/api/prom/push"),
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


@pytest.mark.parametrize(
    ("path", "query", "make"),
    [
        (PUSH_PATH, "a=b&c=%20", shippers.vector_json),
        (LEGACY_PATH, "a=/loki/api/v2", shippers.legacy),
        # Loki chooses the dialect by the whole request target.
        (LEGACY_PATH, "x=/loki/api/v1/push", shippers.vector_json),
        (LEGACY_PATH, "x=/LOKI/api/v1", shippers.vector_json),
        (LEGACY_PATH, "x=%2Floki/api/v1/push", shippers.legacy),
    ],
)
def test_the_query_takes_part_in_the_dialect_and_reaches_upstream(
    make_front, loki, path, query, make
):
    front = make_front(loki.url)
    push = make([Stream({"namespace": "shop"}, [Entry(1, "0123456789")])])
    target = f"{path}?{query}"
    assert front.send(dataclasses.replace(push, path=target)).status_code == 204
    assert front.counts("shop/shop")["forwarded"] == {"entries": 1, "bytes": 10}
    assert arrived(loki)["target"] == target


@pytest.mark.parametrize("query", ["a b", "a=\r\nX: 1", "a=\xe9", "a=\x7f"])
def test_a_query_that_cannot_stand_in_a_request_line_is_refused(query):
    front = Front([SHOP])
    response = front.send(dataclasses.replace(PUSH, path=f"{PUSH_PATH}?{query}"))
    assert response.status_code == 400
    assert "query string" in error_of(response)
    assert front.is_untouched()
    assert front.sender.sent == []


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
        "http://loki:0",
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


@pytest.mark.parametrize("port", ["99999", "0", "65536", "http"])
def test_a_port_that_is_none_is_named(port):
    with pytest.raises(errors.BadRequest, match=f"from 1 to 65535, got {port}$"):
        upstream.Upstream(f"http://loki:{port}/base")


def test_certificates_that_are_none_are_refused_at_once(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    with pytest.raises(errors.BadRequest, match=r"ca\.pem"):
        upstream.Upstream("https://loki", ca=str(file))


def test_paths_of_the_harness_are_the_products():
    assert (upstream.PUSH_PATH, upstream.LEGACY_PATH) == (PUSH_PATH, LEGACY_PATH)
    assert Path(app.__file__).parent.name == "agent"
