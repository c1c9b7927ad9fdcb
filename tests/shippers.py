"""Log shippers as they are on the wire, built without a line of Sluice.

The protobuf messages come from descriptors made here (field numbers of Loki's
pkg/push/push.proto), the snappy from cramjam, the JSON from the standard library. Everything
follows from a seed, so that a test that failed fails again.
"""

import datetime as dt
import functools
import gzip
import json
import random
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PUSH_PATH = "/loki/api/v1/push"
LEGACY_PATH = "/api/prom/push"
PROTOBUF = "application/x-protobuf"
JSON = "application/json"

# Loki adds it to what it stores and does not bill it, whoever set it.
UNBILLED = "detected_level"


class Entry(NamedTuple):
    """One log line with its metadata, as a shipper holds it."""

    ts_ns: int
    line: str
    metadata: Mapping[str, str] = {}

    @property
    def billed(self) -> int:
        """The bytes that Loki bills for it."""
        pairs = ((n, v) for n, v in self.metadata.items() if n != UNBILLED)
        return raw_len(self.line) + sum(raw_len(n) + raw_len(v) for n, v in pairs)


class Stream(NamedTuple):
    """Entries that share their labels."""

    labels: Mapping[str, str]
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Push:
    """One HTTP request of a shipper."""

    body: bytes
    headers: Mapping[str, str]
    path: str = PUSH_PATH
    streams: Sequence[Stream] = field(default=(), repr=False)

    @property
    def entries(self) -> int:
        return sum(len(stream.entries) for stream in self.streams)

    @property
    def billed(self) -> int:
        return billed(self.streams)


def raw_len(text: str) -> int:
    """The length in bytes; lone surrogates stand for bytes that are not UTF-8."""
    return len(text.encode("utf-8", "surrogateescape"))


def billed(streams: Iterable[Stream]) -> int:
    """The bytes that Loki bills for these streams."""
    return sum(entry.billed for stream in streams for entry in stream.entries)


# -- entries ------------------------------------------------------------------------------------

WORDS = (
    *("accepted", "cart", "checkout", "connection", "customer", "database", "deadline", "error"),
    *("flushed", "gateway", "inventory", "invoice", "job", "open", "order", "payment", "pool"),
    *("queue", "refused", "request", "retry", "session", "shard", "started", "stopped", "timeout"),
    *("token", "update", "user", "waiting", "worker"),
)


def make_streams(
    seed: int,
    namespaces: Sequence[str],
    *,
    streams: int = 4,
    entries: int = 25,
    line_bytes: int = 200,
    metadata: bool = True,
    start_ns: int | None = None,
) -> list[Stream]:
    """Make `streams` streams of `entries` entries each, spread over the namespaces in turn.

    No two entries of a stream are equal, and timestamps rise: Loki drops exact repetitions.
    Without `start_ns` they begin a minute ago.
    """
    rng = random.Random(seed)
    ts_ns = time.time_ns() - 60 * 10**9 if start_ns is None else start_ns
    made = []
    for i in range(streams):
        labels = {
            "namespace": namespaces[i % len(namespaces)],
            "app": f"app-{i % 7}",
            "pod": f"app-{i % 7}-{rng.getrandbits(32):08x}",
            "seed": str(seed),
        }
        held = []
        for _ in range(entries):
            ts_ns += rng.randrange(1, 1_000_000)
            held.append(Entry(ts_ns, make_line(rng, line_bytes), make_metadata(rng, metadata)))
        made.append(Stream(labels, held))
    return made


def make_line(rng: random.Random, about: int) -> str:
    """A JSON-like line of about so many bytes, with a random trace id and some non-ASCII."""
    words = []
    size = 0
    size_wanted = max(1, int(rng.gauss(about, about / 5)) - 70)
    while size < size_wanted:
        word = "zażółć" if rng.random() < 0.02 else rng.choice(WORDS)
        words.append(word)
        size += len(word) + 1
    said = {"level": rng.choice(LEVELS), "trace": f"{rng.getrandbits(128):032x}"}
    return json.dumps({**said, "msg": " ".join(words)}, ensure_ascii=False)


LEVELS = ("debug", "info", "warn", "error")


def make_metadata(rng: random.Random, wanted: bool) -> dict[str, str]:
    if not wanted or rng.random() < 0.5:
        return {}
    made = {"trace_id": f"{rng.getrandbits(64):016x}", "user": f"użytkownik-{rng.randrange(99)}"}
    if rng.random() < 0.3:
        made[UNBILLED] = rng.choice(LEVELS)
    return made


def without_metadata(streams: Iterable[Stream]) -> list[Stream]:
    """The same entries for a shipper or a dialect that has no metadata."""
    return [Stream(s.labels, [Entry(e.ts_ns, e.line) for e in s.entries]) for s in streams]


# -- protobuf -----------------------------------------------------------------------------------


@functools.cache
def message_class(name: str = "PushRequest") -> Any:
    """The class of a message of Loki's `logproto` package.

    Texts are declared as bytes, which is the same on the wire: so that a test can put there
    what is not UTF-8.
    """
    kind = descriptor_pb2.FieldDescriptorProto
    fields = {
        "PushRequest": [("streams", 1, "Stream", True), ("format", 2, kind.TYPE_BYTES, False)],
        "Stream": [
            ("labels", 1, kind.TYPE_BYTES, False),
            ("entries", 2, "Entry", True),
            ("hash", 3, kind.TYPE_UINT64, False),
        ],
        "Entry": [
            ("timestamp", 1, "Timestamp", False),
            ("line", 2, kind.TYPE_BYTES, False),
            ("structuredMetadata", 3, "LabelPair", True),
            ("parsed", 4, "LabelPair", True),
        ],
        "LabelPair": [("name", 1, kind.TYPE_BYTES, False), ("value", 2, kind.TYPE_BYTES, False)],
        "Timestamp": [
            ("seconds", 1, kind.TYPE_INT64, False),
            ("nanos", 2, kind.TYPE_INT32, False),
        ],
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="shippers.proto", package="shippers", syntax="proto3"
    )
    for message, rows in fields.items():
        declared = file.message_type.add(name=message)
        for field_name, number, type_or_message, repeated in rows:
            row = declared.field.add(name=field_name, number=number)
            row.label = kind.LABEL_REPEATED if repeated else kind.LABEL_OPTIONAL
            if isinstance(type_or_message, str):
                row.type = kind.TYPE_MESSAGE
                row.type_name = f".shippers.{type_or_message}"
            else:
                row.type = type_or_message
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"shippers.{name}"))


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def text(raw_bytes: bytes) -> str:
    return raw_bytes.decode("utf-8", "surrogateescape")


def quoted(value: str) -> str:
    """The value as Go's strconv.Quote writes it, near enough for the values made here."""
    return json.dumps(value, ensure_ascii=False)


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as Promtail and Alloy write them: sorted and quoted."""
    return "{" + ", ".join(f"{name}={quoted(labels[name])}" for name in sorted(labels)) + "}"


def push_message(streams: Iterable[Stream], labels: Any = labels_text) -> Any:
    """The PushRequest of these streams, not yet serialized."""
    message = message_class()()
    for stream in streams:
        row = message.streams.add(labels=raw(labels(stream.labels)))
        for entry in stream.entries:
            added = row.entries.add(line=raw(entry.line))
            added.timestamp.seconds, added.timestamp.nanos = divmod(entry.ts_ns, 10**9)
            for name, value in entry.metadata.items():
                added.structuredMetadata.add(name=raw(name), value=raw(value))
    return message


def snappy(raw_bytes: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(raw_bytes))


def promtail(streams: Sequence[Stream]) -> Push:
    """Promtail: snappy protobuf, and no header that says snappy."""
    body = snappy(push_message(streams).SerializeToString())
    return Push(body, {"Content-Type": PROTOBUF, "User-Agent": "promtail/3.5.0"}, streams=streams)


def alloy(streams: Sequence[Stream]) -> Push:
    """Alloy's loki.write: the same with the header."""
    push = promtail(streams)
    headers = {"Content-Type": PROTOBUF, "Content-Encoding": "snappy", "User-Agent": "Alloy/v1.12"}
    return Push(push.body, headers, streams=streams)


def vector(streams: Sequence[Stream]) -> Push:
    """Vector: snappy protobuf; labels not sorted, values not escaped, no space after the comma."""

    def labels(pairs: Mapping[str, str]) -> str:
        return "{" + ",".join(f'{name}="{value}"' for name, value in pairs.items()) + "}"

    body = snappy(push_message(streams, labels).SerializeToString())
    return Push(body, {"Content-Type": PROTOBUF, "User-Agent": "Vector/0.50"}, streams=streams)


# -- JSON ---------------------------------------------------------------------------------------


def json_push(
    document: Any,
    streams: Sequence[Stream],
    *,
    encoding: str = "",
    path: str = PUSH_PATH,
    agent: str = "curl/8",
) -> Push:
    """A JSON document as a push, compressed as its `encoding` says.

    `zlib` is what Vector calls deflate and zstd what Loki does not take; only Sluice does.
    """
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {"Content-Type": JSON, "User-Agent": agent}
    if encoding == "gzip":
        body = gzip.compress(body, 1, mtime=0)
    elif encoding == "deflate":
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    elif encoding == "zlib":
        body = zlib.compress(body, 1)
    elif encoding == "zstd":
        body = bytes(cramjam.zstd.compress(body))
    if encoding:
        headers["Content-Encoding"] = "deflate" if encoding == "zlib" else encoding
    return Push(body, headers, path, streams)


def fluent_bit(streams: Sequence[Stream], encoding: str = "") -> Push:
    """Fluent Bit's out_loki: JSON v1, one stream object for every entry."""
    rows = [
        {"stream": dict(s.labels), "values": [json_value(e, always=False)]}
        for s in streams
        for e in s.entries
    ]
    return json_push({"streams": rows}, streams, encoding=encoding, agent="Fluent-Bit")


def vector_json(streams: Sequence[Stream], encoding: str = "") -> Push:
    """Vector's JSON v1: every value has a third element, mostly empty."""
    rows = [
        {"stream": dict(s.labels), "values": [json_value(e, always=True) for e in s.entries]}
        for s in streams
    ]
    return json_push({"streams": rows}, streams, encoding=encoding, agent="Vector/0.50")


def json_value(entry: Entry, *, always: bool) -> list[Any]:
    value: list[Any] = [str(entry.ts_ns), entry.line]
    if entry.metadata or always:
        value.append(dict(entry.metadata))
    return value


def legacy(streams: Sequence[Stream], encoding: str = "") -> Push:
    """The first JSON dialect, on the first path; it has no metadata, which is left out."""
    bare = without_metadata(streams)
    rows = [
        {
            "labels": labels_text(s.labels),
            "entries": [{"ts": rfc3339(e.ts_ns), "line": e.line} for e in s.entries],
        }
        for s in bare
    ]
    return json_push({"streams": rows}, bare, encoding=encoding, path=LEGACY_PATH)


def rfc3339(ts_ns: int) -> str:
    seconds, nanos = divmod(ts_ns, 10**9)
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


SHIPPERS = {
    "promtail": promtail,
    "alloy": alloy,
    "vector": vector,
    "fluent-bit": fluent_bit,
    "fluent-bit-gzip": functools.partial(fluent_bit, encoding="gzip"),
    "vector-json": vector_json,
    "json-deflate": functools.partial(vector_json, encoding="deflate"),
    "legacy": legacy,
}


# -- reading what arrived -----------------------------------------------------------------------


def unpacked(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The body without its Content-Encoding; snappy of a protobuf is no encoding in this sense."""
    encoding = {name.lower(): value for name, value in headers.items()}.get("content-encoding", "")
    match encoding:
        case "gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body, -zlib.MAX_WBITS)
        case _:
            return body


def decode(body: bytes, headers: Mapping[str, str], path: str = PUSH_PATH) -> list[Stream]:
    """The streams of a push that Loki would take. Raises whatever its parts raise if not."""
    kind = {name.lower(): value for name, value in headers.items()}.get("content-type", "")
    plain = unpacked(body, headers)
    if not kind.startswith(JSON):
        message = message_class()()
        message.ParseFromString(bytes(cramjam.snappy.decompress_raw(plain)))
        return [Stream(labels_read(text(s.labels)), proto_entries(s)) for s in message.streams]
    rows = json.loads(plain).get("streams") or []
    if "/loki/api/v1" in path:
        return [Stream(row["stream"], [json_entry(v) for v in row["values"]]) for row in rows]
    return [
        Stream(
            labels_read(row["labels"]),
            [Entry(ns_read(e["ts"]), e["line"]) for e in row["entries"]],
        )
        for row in rows
    ]


def proto_entries(stream: Any) -> list[Entry]:
    return [
        Entry(
            entry.timestamp.seconds * 10**9 + entry.timestamp.nanos,
            text(entry.line),
            {text(pair.name): text(pair.value) for pair in entry.structuredMetadata},
        )
        for entry in stream.entries
    ]


def json_entry(value: list[Any]) -> Entry:
    return Entry(int(value[0]), value[1], value[2] if len(value) > 2 else {})


def ns_read(stamp: str) -> int:
    whole, nanos = stamp.removesuffix("Z").split(".")
    seconds = dt.datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return int(seconds) * 10**9 + int(nanos.ljust(9, "0"))


def labels_read(written: str) -> dict[str, str]:
    """Labels written by one of the shippers above; no other spelling."""
    labels = {}
    rest = written.strip("{}")
    while rest:
        name, _, rest = rest.partition("=")
        value, end = json.JSONDecoder().raw_decode(rest)
        labels[name.strip(" ,")] = value
        rest = rest[end:].lstrip(", ")
    return labels
