"""Buffers serve one push after another: no byte of a push may reach another one, nor its books."""

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator

import shippers
from harness import Sluice, Upstream, budget, wait_until
from shippers import Entry, Push, Stream

SENDERS = 8
PUSHES = 9
# Lines of 1000 bytes: below and above what is received in one piece, and what is kept.
LINES = (20, 300, 1200, 2600)
MAKERS = (shippers.promtail, shippers.vector_json, shippers.legacy, shippers.alloy)


def letter_of(sender: int) -> str:
    return chr(ord("a") + sender)


def push_of(sender: int, dice: random.Random) -> Push:
    """A push whose every line is the sender's letter, again and again."""
    line = letter_of(sender) * 1000
    stamps = range(1, dice.choice(LINES) + 1)
    stream = Stream(
        {"namespace": f"team-{letter_of(sender)}"},
        [Entry(dice.randrange(2**50) + stamp, line) for stamp in stamps],
    )
    make = dice.choice(MAKERS)
    if make is shippers.vector_json:
        return make([stream], dice.choice(["", "gzip"]))
    return make([stream])


def pieces(body: bytes, dice: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        size = dice.randrange(1, 700_000)
        yield body[at : at + size]
        at += size


def send(server: Sluice, sender: int, number: int) -> None:
    """Send a push: declared, in chunks, or cut off in its middle."""
    dice = random.Random(sender * 1000 + number)
    push = push_of(sender, dice)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        way = dice.choice(["declared", "chunked", "cut"])
        headers = {**push.headers, "X-Scope-OrgID": letter_of(sender)}
        if way == "chunked":
            connection.request("POST", push.path, pieces(push.body, dice), headers,
                               encode_chunked=True)  # fmt: skip
        elif way == "declared":
            connection.request("POST", push.path, push.body, headers)
        else:
            connection.putrequest("POST", push.path)
            for name, value in {**headers, "Content-Length": str(len(push.body))}.items():
                connection.putheader(name, value)
            connection.endheaders(push.body[: dice.randrange(len(push.body))])
            return
        with connection.getresponse() as answer:
            answer.read()
            assert answer.status in (204, 500, 502, 503), answer.status


def misbehave(upstream: Upstream, is_over: threading.Event) -> None:
    dice = random.Random(1)
    while not is_over.wait(0.2):
        upstream.control(dice.choice(["ok", "ok", "slow:0.1", "status:500", "close"]))
    upstream.control("ok")
    upstream.close()


def test_no_byte_of_a_push_is_in_another_one_whatever_becomes_of_them(sluice, upstream):
    limits = ["1Gi" if sender % 2 else "4Mi" for sender in range(SENDERS)]
    names = [f"team-{letter_of(sender)}" for sender in range(SENDERS)]
    server = sluice(
        [budget(name, limit) for name, limit in zip(names, limits, strict=True)], upstream.url
    )
    failed: list[BaseException] = []

    def ship(sender: int) -> None:
        try:
            for number in range(PUSHES):
                send(server, sender, number)
        except BaseException as error:
            failed.append(error)

    is_over = threading.Event()
    threads = [threading.Thread(target=ship, args=(sender,)) for sender in range(SENDERS)]
    trouble = threading.Thread(target=misbehave, args=(upstream, is_over))
    for thread in (*threads, trouble):
        thread.start()
    for thread in threads:
        thread.join()
    is_over.set()
    trouble.join()
    assert not failed
    wait_until(lambda: server.metric("tco_push_memory_bytes") == 0, "all memory is given back")
    stored: Counter[str] = Counter()
    for push in upstream.received():
        letter = push["tenant"]
        for stream in shippers.decode(push["body"], push["headers"], push["path"]):
            assert stream.labels["namespace"] == f"team-{letter}"
            assert {entry.line for entry in stream.entries} == {letter * 1000}
            if push["status"] == 204:
                stored[f"team-{letter}"] += sum(entry.billed for entry in stream.entries)
    for name in names:
        assert server.counts(name)["forwarded"]["bytes"] == stored[name]
    print(f"{sum(stored.values())} bytes stored of {upstream.count()} pushes")
    assert sum(stored.values()) > 10_000_000
