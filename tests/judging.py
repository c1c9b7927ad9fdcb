"""Pushes put before a gate: in every dialect and encoding, and what the gate's books say then."""

import gzip
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import cramjam
import shippers
from harness import budget
from shippers import Entry, Push, Stream

from sluice import Action, Budget, Gate, usage
from sluice.judgement import Judgement
from sluice.wire import loki

MIB = 2**20
DAY = 86_400
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()

# By the name of the encoder: what the header says, and the compression itself.
CODERS: dict[str, tuple[str, Any]] = {
    "none": ("", bytes),
    "gzip": ("gzip", lambda raw: gzip.compress(raw, 1, mtime=0)),
    "deflate": ("deflate", lambda raw: zlib.compress(raw, 1, wbits=-15)),
    "zlib": ("deflate", lambda raw: zlib.compress(raw, 1)),
    "zstd": ("zstd", lambda raw: bytes(cramjam.zstd.compress(raw))),
}
LOKI_TAKES = ("none", "gzip", "deflate")
PLAIN = {
    loki.Dialect.PROTOBUF: shippers.promtail,
    loki.Dialect.JSON: shippers.vector_json,
    loki.Dialect.LEGACY: shippers.legacy,
}
OUTCOMES = ("forwarded", "sampled", "dropped")


def make(name: str, daily: int, **spec: Any) -> Budget:
    return Budget.from_manifest(budget(name, daily, **spec))


def pack(streams: Sequence[Stream], dialect: loki.Dialect, coder: str = "none") -> Push:
    """The streams as a push in a dialect, its body encoded."""
    push = PLAIN[dialect](streams)
    header, compress = CODERS[coder]
    headers = {**push.headers, **({"Content-Encoding": header} if header else {})}
    return Push(compress(push.body), headers, push.path, push.streams)


def judged(gate: Gate, push: Push, now: float = NOON) -> Judgement:
    dialect = loki.dialect_of(push.headers["Content-Type"], push.path)
    encoding = push.headers.get("Content-Encoding")
    return gate.push(push.body, encoding, now=now, dialect=dialect)


def forwarded(push: Push, judgement: Judgement) -> list[Stream]:
    """The streams of what a judgement forwards, as upstream reads them."""
    assert judgement.body is not None
    headers = {"Content-Type": push.headers["Content-Type"]}
    headers["Content-Encoding"] = judgement.encoding
    return shippers.decode(judgement.body, headers, push.path)


def lines_of(streams: Iterable[Stream]) -> list[str]:
    return [entry.line for stream in streams for entry in stream.entries]


def one_stream(namespace: str, lines: Sequence[str], **labels: str) -> Stream:
    held = [Entry(1_700_000_000_000_000_000 + i, line) for i, line in enumerate(lines)]
    return Stream({"namespace": namespace, **labels}, held)


def spent(gate: Gate, namespace: str, size: int, now: float = NOON) -> None:
    """Use up `size` bytes of the budget of a namespace."""
    (action,) = gate.evaluate(gate.resolve([namespace]), [size], now=now)
    assert action != Action.DROP


def row_of(gate: Gate, name: str, now: float = NOON) -> usage.Row:
    (row,) = (row for row in usage.rows(gate.ledger, now) if row.budget.name == name)
    return row


def counts_of(gate: Gate, key: str, now: float = NOON) -> dict[str, dict[str, int]]:
    return usage.counts(gate.ledger.usage([key], now)[key].counts)


def totals_of(apps: usage.Apps) -> dict[usage.Place, int]:
    """Bytes by team, namespace and application."""
    places, sizes = apps.sizes()
    return dict(zip(places, sizes.tolist(), strict=True))


def nothing_counted(gate: Gate) -> bool:
    found = gate.ledger.usage(["", "shop/shop"], NOON).values()
    return not any(any(one.counts) for one in found) and not gate.ledger.used.any()


def labelled(labels: bytes, line: bytes = b"0123456789") -> bytes:
    """A snappy push of one stream with these raw labels."""
    message = shippers.message_class()()
    message.streams.add(labels=labels).entries.add(line=line)
    return shippers.snappy(message.SerializeToString())
