"""Pushes that are small to send and made to cost as much as they can, in memory or in CPU."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import cramjam
import shippers

from sluice import assign

MIB = 2**20
JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
GZIP, DEFLATE, ZSTD = ({"Content-Encoding": name} for name in ("gzip", "deflate", "zstd"))
VALUES = b'"values":[["1700000000000000000","x"]]'


def zipped(body: bytes) -> bytes:
    return gzip.compress(body, 1, mtime=0)


def json_of(streams: bytes) -> bytes:
    return b'{"streams":[' + streams + b"]}"


def stream_of(labels: bytes) -> bytes:
    return b'{"stream":{"namespace":"shop",' + labels + b"}," + VALUES + b"}"


def one_label(unit: bytes, n: int) -> bytes:
    odd = b'"a":"' + unit * n + b'","b":"\\u0001\\ufffd"'
    return zipped(json_of(stream_of(odd)))


def many_labels(labels: Callable[[int], bytes], fixed: int = 0) -> bytes:
    """As many streams, each with other labels, as a push may have that were not met before."""
    left, made = assign.WORK_MAX, []
    while left > 0 and not (fixed and len(made) == fixed):
        stream = stream_of(labels(len(made)))
        made.append(stream)
        left -= assign.work_of(stream[len(b'{"stream":') : -len(VALUES) - 2])
    return zipped(json_of(b",".join(made[: fixed or len(made) * 95 // 100])))


def wide(at: int) -> bytes:
    text = "".join(chr(0xE000 + (at * 997 + i) % 6400) for i in range(5000))
    return b'"a":"' + text.encode() + b'","b":"\\u0001\\u0002"'


def escaped_names(at: int) -> bytes:
    return b",".join(b'"a%d_%d":"\\u0001\\u0002"' % (at, i) for i in range(1000))


def sized(number: int, content: bytes) -> bytes:
    """A field of protobuf."""
    size, head = len(content), b""
    while size > 127:
        head, size = head + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + head + bytes([size]) + content


def entries(n: int) -> bytes:
    stream = sized(1, b'{namespace="shop"}') + b"\x12\x00" * n
    return shippers.snappy(sized(1, stream))


def lines(size: int, namespace: bytes = b"shop") -> bytes:
    line = b'["1700000000000000000","' + b"x" * 1000 + b'"],'
    values = line * (size // len(line)) + b'["1700000000000000000","x"]'
    return json_of(b'{"stream":{"namespace":"' + namespace + b'"},"values":[' + values + b"]}")


def legacy_names(n: int) -> bytes:
    names = b",".join(b'"%x":""' % i for i in range(n))
    entry = b'{"ts":"2026-11-22T12:00:00Z","line":"x","structuredMetadata":{' + names + b"}}"
    return zipped(json_of(b'{"labels":"{namespace=\\"shop\\"}","entries":[' + entry + b"]}"))


def nested(n: int) -> bytes:
    deep = b'{"stream":{"a":' + b"[" * 9_000 + b"]" * 9_000 + b"}," + VALUES + b"}"
    return zipped(json_of(b",".join([deep] * n)))


def bodies() -> Iterator[tuple[str, dict[str, str], str, Callable[[], bytes]]]:
    """Name, headers, path, and what makes the body."""
    path = shippers.PUSH_PATH
    zip_json = JSON | GZIP
    yield "U+2028", zip_json, path, partial(one_label, "\u2028".encode(), 10_000_000)
    yield "escaped letters", zip_json, path, partial(one_label, b"\\u00e9", 4_000_000)
    yield "escaped line ends", zip_json, path, partial(one_label, b"\\n", 12_000_000)
    yield "many wide labels", zip_json, path, partial(many_labels, wide)
    yield "many escaped names", zip_json, path, partial(many_labels, escaped_names)
    yield "many streams", zip_json, path, partial(many_labels, lambda at: b'"a":"%d"' % at)
    yield (
        "one long label in many",
        zip_json,
        path,
        partial(many_labels, lambda _: b'"a":"' + b"x" * 60_000 + b'"', 1000),
    )
    yield "nested labels", zip_json, path, partial(nested, 3000)
    yield "entries", PROTOBUF, path, partial(entries, 2_700_000)
    yield "too many entries", PROTOBUF, path, partial(entries, 30_000_000)
    yield "streams", PROTOBUF, path, lambda: shippers.snappy(b"\x0a\x00" * 1_000_000)
    yield "too many streams", PROTOBUF, path, lambda: shippers.snappy(b"\x0a\x00" * 30_000_000)
    yield "brackets", zip_json, path, lambda: zipped(b"[" * (63 * MIB))
    yield "lines", zip_json, path, lambda: zipped(lines(60 * MIB))
    yield "lines that are thinned out", zip_json, path, lambda: zipped(lines(60 * MIB, b"spent"))
    yield "zlib", JSON | DEFLATE, path, lambda: zlib.compress(lines(60 * MIB), 1)
    yield "zstd", JSON | ZSTD, path, lambda: bytes(cramjam.zstd.compress(lines(60 * MIB)))
    yield "zstd frames", JSON | ZSTD, path, lambda: bytes(cramjam.zstd.compress(b"")) * 700_000
    yield "gzip members", zip_json, path, lambda: zipped(b"") * 300_000
    yield "snappy in gzip", PROTOBUF | GZIP, path, lambda: zipped(entries(2_700_000))
    yield "legacy names", zip_json, shippers.LEGACY_PATH, partial(legacy_names, 3_000_000)


def small_bodies() -> dict[str, tuple[dict[str, str], str, bytes]]:
    """The same kinds, of sizes that take milliseconds."""
    path, legacy, zip_json = shippers.PUSH_PATH, shippers.LEGACY_PATH, JSON | GZIP
    return {
        "wide": (zip_json, path, one_label("\u2028".encode(), 9_000)),
        "long": (zip_json, path, one_label(b"\\n", 100_000)),
        "names": (zip_json, path, zipped(json_of(stream_of(escaped_names(1))))),
        "nested": (zip_json, path, nested(3)),
        "entries": (PROTOBUF, path, entries(50_000)),
        "streams": (PROTOBUF, path, shippers.snappy(b"\x0a\x00" * 50_000)),
        "cut off": (PROTOBUF, path, entries(50_000)[:-7]),
        "brackets": (zip_json, path, zipped(b"[" * 2 * MIB)),
        "plain": (JSON, path, lines(3 * MIB)),
        "gzip": (zip_json, path, zipped(lines(3 * MIB))),
        "zlib": (JSON | DEFLATE, path, zlib.compress(lines(3 * MIB), 1)),
        "zstd": (JSON | ZSTD, path, bytes(cramjam.zstd.compress(lines(3 * MIB)))),
        "snappy in gzip": (PROTOBUF | GZIP, path, zipped(entries(50_000))),
        "legacy": (zip_json, legacy, legacy_names(20_000)),
    }


SMALL = small_bodies()
