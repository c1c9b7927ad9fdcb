"""What the agent refuses: the sender is told why in JSON, and nobody is charged."""

import gzip
import io
import random
from typing import Any

import pytest
import shippers
from front import OUTCOMES, PUSH, SHOP, Front, error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from shippers import LEGACY_PATH, PUSH_PATH, Entry, Push, Stream

from sluice.agent import push

KIB = 1024


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
    body = gzip.compress(b" " * 80 * KIB * KIB)
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
