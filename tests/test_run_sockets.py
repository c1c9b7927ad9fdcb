"""What a shipper sees through the real server of `sluice run`, byte by byte."""

import contextlib
import json
import socket

import pytest
import shippers
from harness import Sluice, running, wait_until, write_budgets
from runs import SHOP, half_a_push, head_of, small
from shippers import Entry, Stream

MIB = 2**20


def exchange(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read one answer: status, headers in lower case, body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rows = head.decode().split("\r\n")
    headers = dict(row.lower().split(": ", 1) for row in rows)
    while len(body) < int(headers.get("content-length", 0)):
        body += received(sock)
    return int(first.split()[1]), headers, body


def received(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    assert data, "the server hung up"
    return data


@pytest.mark.parametrize("chunked", [False, True])
def test_a_shipper_of_a_body_that_is_too_large_sees_the_413_and_may_go_on(
    sluice, upstream, chunked
):
    server = sluice([SHOP], upstream.url, args=["--max-body", "8Mi"])
    size = 20 * MIB
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        if chunked:
            sock.sendall(head_of(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
            for _ in range(size // MIB):
                sock.sendall(b"%x\r\n" % MIB + b"x" * MIB + b"\r\n")
            sock.sendall(b"0\r\n\r\n")
        else:
            sock.sendall(head_of(size) + b"x" * size)
        status, headers, body = exchange(sock)
        assert status == 413
        assert headers["content-type"] == "application/json"
        assert "at most 8388608" in json.loads(body)["error"]
        push = small(0)
        sock.sendall(
            f"POST {push.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {shippers.PROTOBUF}\r\n"
            f"Content-Length: {len(push.body)}\r\n\r\n".encode()
            + push.body
        )
        assert exchange(sock)[0] == 204


def test_a_shipper_that_declares_far_too_much_is_not_listened_to_for_ever(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(head_of(2**40))
        with contextlib.suppress(ConnectionError):
            for _ in range(80):
                sock.sendall(b"x" * MIB)
        assert exchange(sock)[0] == 413


def test_a_shipper_that_hangs_up_in_the_middle_costs_nothing(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    whole = shippers.vector_json([Stream({"namespace": "shop"}, [Entry(1, "line")])]).body
    with half_a_push(server):
        pass
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        # The JSON is complete, the body is not.
        sock.sendall(head_of(len(whole) + 10) + whole)
        sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: server.metric("tco_requests_refused_total") == 2, "both are refused")
    assert server.counts("shop")["received"]["entries"] == 0
    assert upstream.count()["requests"] == 0


def test_a_bad_push_of_megabytes_is_answered_before_the_connection_ends(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    body = b"x" * 5 * MIB
    assert server.push(body, {"Content-Type": "///"}).status == 400
    reply = server.push(body, {"Content-Type": "application/json"})
    assert reply.status == 400
    assert reply.json["status"] == 400


def test_every_status_of_upstream_passes_through_the_server(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    for status in (200, 204, 260, 400, 429, 500, 503):
        upstream.control(f"status:{status}")
        reply = server.send(small(0))
        assert reply.status == status
        assert reply.text == ("" if status == 204 else f"upstream says {status}")
    upstream.control("status:302")
    assert server.send(small(0)).status == 502


def test_a_header_that_is_no_text_does_not_break_a_push(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    push = small(0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(
            f"POST {push.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {shippers.PROTOBUF}\r\n"
            f"Content-Length: {len(push.body)}\r\n".encode()
            + b"X-Bytes: \xff\xfe\r\nX-Text: za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87\r\n\r\n"
            + push.body
        )
        assert exchange(sock)[0] == 204


def test_it_serves_on_an_ipv6_address_and_says_from_where_a_push_came(tmp_path, upstream):
    budgets = write_budgets(tmp_path / "budgets.yaml", [SHOP])
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    server = Sluice(tmp_path / "sluice", budgets, upstream.url)
    server.args = ["--listen", f"[::1]:{server.port}"]
    server.is_ready = lambda: "push to" in server.log.read_text()  # type: ignore[method-assign]
    with running(server):
        push = small(0)

        def connect() -> socket.socket | None:
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(("::1", server.port), timeout=30)
            return None

        with wait_until(connect, "it serves") as sock:
            sock.sendall(
                f"POST {push.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {shippers.PROTOBUF}\r\n"
                f"Content-Length: {len(push.body)}\r\n\r\n".encode()
                + push.body
            )
            assert exchange(sock)[0] == 204
    (found,) = upstream.received()
    headers = {name.lower(): value for name, value in found["headers"].items()}
    assert headers["x-forwarded-for"] == "::1"
