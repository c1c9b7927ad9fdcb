"""Pushes that Loki's parsers refuse as a whole, and near misses that they take.

Each has one good stream of another team before the bad one, and one good entry before the bad one.
tests/loki asks the real Loki about the very same bodies.
"""

import json
from typing import NamedTuple

import handmade
import shippers
from shippers import Push

from sluice.wire import loki

SECONDS = 1_772_000_000
NS = str(SECONDS * 10**9)
TEXT = "2026-02-25T06:13:20Z"
GOOD_LABELS = '{namespace="shop"}'
V1_PATH, LEGACY_PATH = "/loki/api/v1/push", "/api/prom/push"
JSON_HEADERS, PROTOBUF_HEADERS = (
    {"Content-Type": shippers.JSON},
    {"Content-Type": shippers.PROTOBUF},
)
# Loki answers 400 for the whole push, and has received nothing of it.
BAD_NAMES = ["1a", "a-b", "a:b", "a.b", "", "a b", "é", 'a"', "a=", "{", "a\n#"]
BAD_LABELS = ['{a:b="c"}', '{a.b="c"}', '{="c"}', '{a="c"', 'a="c"', "{a}", '{a="\\q"}', "x{"]
BAD_TIMES_NS = [
    *(f"{NS}.5", "1e18", "0x10", "+1", "", " ", f" {NS}", f"{NS} ", "0" + NS, "00", "--1", "1_000"),
    *("9223372036854775808", "-9223372036854775809", "99999999999999999999", "9" * 5000, "\uff11"),
    *("null", TEXT, "yesterday", "\n1", "12345678x", "1234567812345678\x00"),
]
BAD_TIMES_TEXT = [
    *("yesterday", "", NS, "2026-02-25", "2026-02-25T06:13:20", "2026-02-25 06:13:20Z"),
    *("2026-02-25t06:13:20Z", "2026-02-25T06:13:20z", "2026-02-25T06:13Z", "2026-02-25T24:00:00Z"),
    *(
        "2026-02-25T06:60:00Z",
        "2026-02-25T06:13:60Z",
        "2026-13-01T06:13:20Z",
        "2026-00-01T06:13:20Z",
    ),
    *(
        "2026-02-29T06:13:20Z",
        "1900-02-29T06:13:20Z",
        "2026-04-31T06:13:20Z",
        "2026-02-00T06:13:20Z",
    ),
    *(
        "26-02-25T06:13:20Z",
        "+026-02-25T06:13:20Z",
        "12026-02-25T06:13:20Z",
        "2026-02-25T06:13:20.Z",
    ),
    *("2026-02-25T06:13:20.5", "2026-02-25T06:13:20+0100", "2026-02-25T06:13:20+01", f"{TEXT} "),
    *(f" {TEXT}", f"{TEXT}Z", "2026-02-25T06:13:20=01:00", "2026-02-25T006:13:20Z"),
    *("2026-02-25T6:13:20", "2026-02-25T:13:20Z00", "2026-02-25T06:13:20+aa:00"),
]
# (seconds, nanoseconds)
BAD_TIMES = [
    *((SECONDS, 2 * 10**9), (SECONDS, -1), (SECONDS, 10**9), (SECONDS, 2**31), (0, -(2**31))),
    *((253_402_300_800, 0), (-62_135_596_801, 0), (2**62, 0), (-(2**63), 0)),
]
GOOD_TIMES_NS = [NS, "0", "-", "-0", "-1", "9223372036854775807", "-9223372036854775808"]
GOOD_TIMES_TEXT = [
    *(TEXT, "2026-02-25T6:13:20Z", "2026-02-25T06:13:20,5Z", "2026-02-25T06:13:20.123456789012Z"),
    *("2026-02-25T06:13:20+01:00", "2026-02-25T06:13:20-23:59", "2024-02-29T06:13:20Z"),
    *("2000-02-29T06:13:20Z", "2026-02-25T06:13:20.000+00:00", "2026-02-25T06:13:20+24:60"),
]
GOOD_TIMES = [(SECONDS, 0), (SECONDS, 10**9 - 1), (0, 0), (-1, 5), (SECONDS, 2**32 + 7)]


class Case(NamedTuple):
    """A push, and what of it is bad: a timestamp, or labels."""

    name: str
    push: Push
    is_time: bool


def dialect_of(push: Push) -> loki.Dialect:
    return loki.dialect_of(push.headers["Content-Type"], push.path)


def v1(labels: str, time: str) -> Push:
    """A v1 push; labels are JSON."""
    first = f'{{"stream":{{"namespace":"mail"}},"values":[["{NS}","0123456789"]]}}'
    values = f'[["{NS}","abc"],[{json.dumps(time, ensure_ascii=False)},"defgh"]]'
    body = f'{{"streams":[{first},{{"stream":{labels},"values":{values}}}]}}'
    return Push(body.encode(), JSON_HEADERS, V1_PATH)


def legacy(labels: str, time: str) -> Push:
    """A legacy push; labels are label text."""
    entries = [{"ts": TEXT, "line": "abc"}, {"ts": time, "line": "defgh"}]
    first = {"labels": '{namespace="mail"}', "entries": [{"ts": TEXT, "line": "0123456789"}]}
    streams = {"streams": [first, {"labels": labels, "entries": entries}]}
    return Push(json.dumps(streams, ensure_ascii=False).encode(), JSON_HEADERS, LEGACY_PATH)


def protobuf(labels: str, time: tuple[int, int]) -> Push:
    good = handmade.timestamp(SECONDS, 1)
    body = handmade.push(
        handmade.stream(b'{namespace="mail"}', handmade.entry(b"0123456789", time=good)),
        handmade.stream(
            labels.encode(),
            handmade.entry(b"abc", time=good),
            handmade.entry(b"defgh", time=handmade.timestamp(*time)),
        ),
    )
    return Push(shippers.snappy(body), PROTOBUF_HEADERS, V1_PATH)


def named(name: str) -> str:
    return json.dumps({"namespace": "shop", name: "x"}, ensure_ascii=False)


REFUSED = [
    *(Case(f"v1 label {n!r}", v1(named(n), NS), False) for n in BAD_NAMES),
    *(Case(f"legacy labels {t!r}", legacy(t, TEXT), False) for t in BAD_LABELS),
    *(Case(f"protobuf labels {t!r}", protobuf(t, (SECONDS, 0)), False) for t in BAD_LABELS),
    *(Case(f"v1 time {t[:30]!r}", v1('{"namespace":"shop"}', t), True) for t in BAD_TIMES_NS),
    *(Case(f"legacy time {t!r}", legacy(GOOD_LABELS, t), True) for t in BAD_TIMES_TEXT),
    *(Case(f"protobuf time {t!r}", protobuf(GOOD_LABELS, t), True) for t in BAD_TIMES),
]
TAKEN = [
    *(Case(f"v1 time {t!r}", v1('{"namespace":"shop"}', t), True) for t in GOOD_TIMES_NS),
    *(Case(f"legacy time {t!r}", legacy(GOOD_LABELS, t), True) for t in GOOD_TIMES_TEXT),
    *(Case(f"protobuf time {t!r}", protobuf(GOOD_LABELS, t), True) for t in GOOD_TIMES),
    Case("v1 labels of a string", v1('"{}"', NS), False),
    Case("v1 no labels", v1("{}", NS), False),
    Case("legacy no labels", legacy("", TEXT), False),
    Case("protobuf no labels", protobuf("", (SECONDS, 0)), False),
]
