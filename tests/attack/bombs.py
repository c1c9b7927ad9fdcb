"""Bodies that cost their reader more than their sender: small on the wire, large or slow inside.

They are of the team `spent`, so that what can be read is dropped: the upstream of the tests is
slower than Loki.
"""

import gzip
import json
import zlib

import cramjam
from handmade import entry, push, sized, stream
from shippers import JSON, LEGACY_PATH, PROTOBUF, PUSH_PATH, Push

WHEN = "1700000000000000000"
MILLION = 10**6


def packed(text: str | bytes, path: str = PUSH_PATH, **headers: str) -> Push:
    """A JSON push in gzip."""
    raw = text.encode() if isinstance(text, str) else text
    return Push(
        gzip.compress(raw, 9),
        {"Content-Type": JSON, "Content-Encoding": "gzip", **headers},
        path,
    )


def of_labels(value: str, name: str = "a") -> Push:
    """A push whose stream has a label with this JSON text as its value."""
    return packed(
        f'{{"streams":[{{"stream":{{"namespace":"spent","{name}":"{value}","b":"\\u0001\\ufffd"}},'
        f'"values":[["{WHEN}","x"]]}}]}}'
    )


def snappy(raw: bytes) -> Push:
    """A protobuf push."""
    return Push(bytes(cramjam.snappy.compress_raw(raw)), {"Content-Type": PROTOBUF})


def line_separators() -> Push:
    """30 KB that were 1 GiB as Python's characters of four bytes, and as escapes."""
    return of_labels("\u2028" * 10 * MILLION)


def letter_escapes() -> Push:
    """46 KB of escapes that took 8 s."""
    return of_labels("\\u00e9" * 4 * MILLION)


def newline_escapes() -> Push:
    """The same with short escapes."""
    return of_labels("\\n" * 12 * MILLION)


def long_names() -> Push:
    """A label name without an end."""
    return of_labels("x", "n" * 10 * MILLION)


def many_labels() -> Push:
    """More labels than any Loki takes."""
    labels = json.dumps({f"l{i}": "v" for i in range(MILLION)})
    return packed(f'{{"streams":[{{"stream":{labels},"values":[["{WHEN}","x"]]}}]}}')


def legacy_escapes() -> Push:
    """Escapes in the label text of a legacy push."""
    labels = json.dumps('{namespace="spent", a="' + "\\\\n" * 3 * MILLION + '"}')
    entries = '[{"ts":"2026-11-22T10:00:00Z","line":"x"}]'
    return packed(f'{{"streams":[{{"labels":{labels},"entries":{entries}}}]}}', LEGACY_PATH)


def empty_entries() -> Push:
    """A few hundred KB of snappy with 2.7 M entries, of which each needs a row of the index."""
    return snappy(push(stream(b'{namespace="spent"}', *[entry(b"")] * 2_700_000)))


def tiny_streams() -> Push:
    """Streams of a few bytes each, every one with a label string of its own."""
    return snappy(b"".join(sized(1, sized(1, b'{a="%d"}' % i)) for i in range(600_000)))


def deep() -> Push:
    """JSON nested far deeper than anything that is meant."""
    return packed(b'{"streams":' + b"[" * 20 * MILLION)


def gzip_members() -> Push:
    """A body of very many tiny gzip members."""
    member = gzip.compress(b" ")
    return Push(
        member * (4 * MILLION // len(member)), {"Content-Type": JSON, "Content-Encoding": "gzip"}
    )


def zeros() -> Push:
    """64 KB that become 64 MB of nothing, as deflate in zlib's wrapper."""
    return Push(
        zlib.compress(bytes(64 * MILLION), 9),
        {"Content-Type": JSON, "Content-Encoding": "deflate"},
    )


def zstd_window() -> Push:
    """zstd that asks for all that it may."""
    body = bytes(cramjam.zstd.compress(bytes(64 * MILLION), level=19))
    return Push(body, {"Content-Type": JSON, "Content-Encoding": "zstd"})


def metadata() -> Push:
    """One entry with very many names and values beside its line."""
    pairs = json.dumps({f"m{i}": "v" for i in range(500_000)})
    return packed(
        f'{{"streams":[{{"stream":{{"namespace":"spent"}},"values":[["{WHEN}","x",{pairs}]]}}]}}'
    )


BOMBS = (
    *(line_separators, letter_escapes, newline_escapes, long_names, many_labels, legacy_escapes),
    *(empty_entries, tiny_streams, deep, gzip_members, zeros, zstd_window, metadata),
)
