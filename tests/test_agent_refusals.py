"""What the agent refuses: the sender is told why in JSON, and nobody is charged."""

import gzip
import random

import pytest
import shippers
from front import OUTCOMES, SHOP, Front, error_of
from hypothesis import given, settings
from hypothesis import strategies as st
from shippers import LEGACY_PATH, PUSH_PATH, Push

KIB = 1024


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/loki/api/v1/pushes", 404),
        ("POST", "/loki//api/v1/push", 404),
        ("GET", PUSH_PATH, 405),
        ("OPTIONS", PUSH_PATH, 405),
        ("PUT", LEGACY_PATH, 405),
        ("DELETE", "/api/teams", 405),
        ("GET", "/api/v1/evaluate", 405),
    ],
)
def test_what_is_not_there_is_a_json_error(method, path, status):
    response = Front([SHOP]).client.open(path, method=method)
    assert response.status_code == status
    assert error_of(response).startswith(f"{method} {path}: ")
    assert ("Allow" in response.headers) == (status == 405)


def test_an_unknown_path_is_answered_with_where_the_known_ones_are():
    response = Front([SHOP]).client.get("/")
    assert error_of(response) == "GET /: no such path; GET /openapi.json lists them"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/otlp/v1/logs"),
        ("GET", "/loki/api/v1/query_range"),
        ("GET", "/loki/api/v1/tail"),
        ("OPTIONS", "/loki/api/v1/labels"),
        ("GET", "/api/prom/query"),
        # With a slash at its end it is another path, for Loki too.
        ("POST", f"{PUSH_PATH}/"),
    ],
)
def test_a_path_of_lokis_that_is_not_served_says_who_serves_it_and_is_counted(method, path):
    front = Front([SHOP], upstream_url="http://loki.example:3100")
    response = front.client.open(path, method=method)
    assert response.status_code == 404
    words = error_of(response)
    assert words.startswith(f"{method} {path}: ")
    assert f"POST {PUSH_PATH}; query Loki at http://loki.example:3100" in words
    assert front.sample("tco_requests_refused_total", reason="NotServed") == 1


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
    response = front.send(Push(body, headers))
    assert response.status_code == 400
    assert words in error_of(response)
    assert front.is_untouched()
    assert front.sender.sent == []
    assert front.sample("tco_requests_refused_total", reason="BadPush") == 1


def test_a_push_that_decodes_to_too_much_is_a_413():
    front = Front([SHOP])
    body = gzip.compress(b" " * 80 * KIB * KIB)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = front.send(Push(body, headers))
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
