"""The exchange with upstream: real sockets, answers however they come."""

import socket
import threading
import time

import pytest
from harness import wait_until
from scripted import END, PLAIN, TEXT, scripted, sender_to

from sluice import errors
from sluice.agent.upstream import PUSH_PATH, Reply, Upstream


@pytest.mark.parametrize(
    ("pieces", "expected", "kept"),
    [
        ([PLAIN], Reply(204), True),
        # byte by byte; the head's end apart
        ([PLAIN[i : i + 1] for i in range(len(PLAIN))], Reply(204), True),
        ([PLAIN[:-1], PLAIN[-1:]], Reply(204), True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", PLAIN], Reply(204), True),
        ([b"HTTP/1.1 204 No Content\r\nConnection: Close\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.0 204 No Content\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], Reply(200, b"ok"), True),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok", b"ay"], Reply(200, b"okay"), True),
        (
            [
                b"HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n",
                b"\r\n2\r\nno\r\n0\r\n\r\n",
            ],
            Reply(429, b"no", "", "3"),
            True,
        ),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", PLAIN], Reply(204), True),
        ([b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 102 \r\n\r\n" + PLAIN], Reply(204), True),
        ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + PLAIN], Reply(101), False),
        ([b"HTTP/1.1 204 \r\nconnection: CLOSE\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 204\r\nConnection: x, close\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 204 \r\nVia: close\r\nServer: a\r\n\r\n"], Reply(204), True),
        # A body that must not be there, in the same piece or later.
        ([b"HTTP/1.1 204 \r\nContent-Length: 2\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n"], Reply(204), True),
        ([b"HTTP/1.1 204 \r\nTransfer-Encoding: chunked\r\n\r\n"], Reply(204), False),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"], Reply(304), False),
        ([PLAIN + PLAIN], Reply(204), False),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + PLAIN], Reply(200, b"ok"), False),
        # More than http.client reads at once, so that a part of it would stay for the next push.
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + PLAIN * 500],
            Reply(200, b"ok"),
            False,
        ),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\n\r\nok"],
            Reply(200, b"ok"),
            True,
        ),
        (
            [
                b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: Chunked\r\n\r\n1 ;a=b\r\nn\r\n",
                b"0001\r\no\r\n00\r\nX-Trailer: 1\r\n\r\n",
            ],
            Reply(500, b"no"),
            True,
        ),
        (
            [b"HTTP/1.0 500 Oh\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nno"],
            Reply(500, b"no"),
            False,
        ),
        (
            [b"HTTP/1.1 500 Oh\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000],
            Reply(500, b"x" * 65_536),
            False,
        ),
        (
            [
                b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n11170\r\n",
                b"x" * 70_000 + b"\r\n0\r\n\r\n",
            ],
            Reply(500, b"x" * 65_536),
            False,
        ),
        (
            [b"HTTP/1.1 500 Oh\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"],
            Reply(500, b"", "text/html"),
            True,
        ),
    ],
)
def test_an_answer_is_read_however_it_comes_and_the_next_one_is_its_own(pieces, expected, kept):
    with scripted([pieces, [b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n"]]) as server:
        sender = sender_to(server)
        assert sender.send(PUSH_PATH, b"one", TEXT) == expected
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(418)
        sender.close()
    assert [request[-3:] for request in server.requests] == [b"one", b"two"]
    assert server.connections == (1 if kept else 2)


@pytest.mark.parametrize(
    "answer",
    [
        # cut short
        b"HTTP/1.1 204 No Con",
        b"HTTP/1.1 204 No Content\r\nDate: today\r\n",
        b"HTTP/1.1 204 No Content\r\n\r",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        # no status line
        b"HTTP/1.1 +204 No Content\r\n\r\n",
        b"HTTP/1.1  204 No Content\r\n\r\n",
        b"HTTP/1.1 204No Content\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 0204 x\r\n\r\n",
        b"HTTP/1.1 2_4 x\r\n\r\n",
        b"HTTP/1.1 \xb2\xb0\xb4 x\r\n\r\n",
        b"HTTP/1.1 204 a\0b\r\n\r\n",
        b"HTTP/2.0 204 No Content\r\n\r\n",
        b"http/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.10 204 No Content\r\n\r\n",
        b"\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0",
        # line ends and headers
        b"HTTP/1.1 204 No Content\n\n",
        b"HTTP/1.1 204 No Content\nDate: today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: today\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: a\rX: b\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate : today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n Date: today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: today\r\n and tomorrow\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n: today\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: to\0day\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 204 No Content\r\n" + b"X: y\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        # lengths
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2_0\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\nContent-Length: two\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        # chunks
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno trailer\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_what_is_not_an_answer_ends_the_connection_and_is_not_stored(answer):
    with scripted([[answer, END], [PLAIN]]) as server:
        sender = sender_to(server)
        with pytest.raises(errors.Unavailable, match=f"upstream 127.0.0.1:{server.port}: "):
            sender.send(PUSH_PATH, b"one", TEXT)
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        sender.close()
    assert [request[-3:] for request in server.requests] == [b"one", b"two"]
    assert server.connections == 2


def test_an_answer_that_has_no_length_ends_with_the_connection():
    with scripted([[b"HTTP/1.1 500 Oh\r\n\r\n", b"no", END], [PLAIN]]) as server:
        sender = sender_to(server)
        assert sender.send(PUSH_PATH, b"one", TEXT) == Reply(500, b"no")
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        sender.close()


@pytest.mark.parametrize("first", [PLAIN, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_pushs(first):
    late = threading.Event()
    with scripted([[first, late, b"HTTP/1.1 400 Smuggled\r\n\r\n"], [PLAIN]]) as server:
        sender = sender_to(server)
        sender.send(PUSH_PATH, b"one", TEXT)
        late.set()
        kept = sender._kept.connection
        wait_until(lambda: not kept.is_idle(), "it has come")
        assert sender.send(PUSH_PATH, b"two", TEXT) == Reply(204)
        sender.close()
    assert server.connections == 2


@pytest.mark.parametrize("status", [413, 204])
def test_a_refusal_of_a_body_that_was_not_read_to_its_end_is_heard(status):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(100)
                accepted.sendall(f"HTTP/1.1 {status} Oh\r\nContent-Length: 0\r\n\r\n".encode())
            # Closed with unread bytes: the kernel sends a reset.

        thread = threading.Thread(target=refuse)
        thread.start()
        sender = Upstream(f"http://127.0.0.1:{listener.getsockname()[1]}")
        if status == 413:
            assert sender.send(PUSH_PATH, bytes(50_000_000), TEXT) == Reply(413)
        else:
            with pytest.raises(errors.Unavailable):
                sender.send(PUSH_PATH, bytes(50_000_000), TEXT)
        thread.join()


@pytest.mark.parametrize("size", [0, 1, 100_000, 30_000_000])
def test_a_body_arrives_whole(size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with scripted([[PLAIN]]) as server:
        sender = sender_to(server, headers={"X-Scope-OrgID": "team"})
        sender.send(PUSH_PATH, body, {"x-scope-orgid": "shipper", "Accept": "*/*"})
        sender.close()
    head, _, arrived = server.requests[0].partition(b"\r\n\r\n")
    assert arrived == body
    assert head.split(b"\r\n") == [
        b"POST /loki/api/v1/push HTTP/1.1",
        b"X-Scope-OrgID: team",
        f"Host: 127.0.0.1:{server.port}".encode(),
        b"Accept: */*",
        f"Content-Length: {size}".encode(),
    ]


def test_a_header_with_a_line_end_in_it_is_refused_and_nothing_is_sent():
    with scripted([[PLAIN]]) as server:
        sender = sender_to(server)
        for value in ("a\nX-Evil: 1", "a\r", "a\r\nX-Evil: 1"):
            with pytest.raises(errors.BadRequest, match="line end"):
                sender.send(PUSH_PATH, b"", {"X-Shipper": value})
    assert server.connections == 0


def test_an_upstream_that_stops_reading_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = Upstream(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3)
        began = time.monotonic()
        with pytest.raises(errors.Unavailable, match=r"no answer within 0\.3 s"):
            sender.send(PUSH_PATH, bytes(50_000_000), TEXT)
        assert time.monotonic() - began < 2
