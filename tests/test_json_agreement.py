"""Any JSON push: the core, its reference and Python's json agree on what is in it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_scans import LEGACY, V1, outcome, scanned, sizes, split

from sluice import _core, errors, reference_json

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
TIMES_NS = st.integers(-(2**63), 2**63 - 1).map(str) | st.just("-")
TIMES = st.datetimes().map(lambda time: time.isoformat() + "Z")
NAMES = TEXT | st.sampled_from(["detected_level", "trace_id"])
LABELS = st.dictionaries(TEXT, TEXT, max_size=2)
METADATA = st.dictionaries(NAMES, TEXT, max_size=3)
V1_ENTRIES = st.lists(
    st.tuples(TIMES_NS, TEXT).map(list) | st.tuples(TIMES_NS, TEXT, METADATA).map(list), max_size=4
)
LEGACY_ENTRIES = st.lists(
    st.fixed_dictionaries({"ts": TIMES, "line": TEXT}, optional={"structuredMetadata": METADATA}),
    max_size=4,
)
V1_PUSHES = st.lists(st.fixed_dictionaries({"stream": LABELS, "values": V1_ENTRIES}), max_size=3)
LEGACY_PUSHES = st.lists(
    st.fixed_dictionaries({"labels": TEXT, "entries": LEGACY_ENTRIES}), max_size=3
)
STYLES = st.sampled_from(
    [{"ensure_ascii": True}, {"ensure_ascii": False, "separators": (",", ":")}, {"indent": 1}]
)


def billed(line: str, metadata: dict[str, str]) -> int:
    pairs = "".join(k + v for k, v in metadata.items() if k != "detected_level")
    return len((line + pairs).encode())


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bool, bytes, list[list[int]]]:
    """A dialect, a body in it, and what is billed per stream and entry, said by `json`."""
    style: dict[str, Any] = draw(STYLES)
    if draw(st.booleans()):
        push = draw(V1_PUSHES)
        sizes = [
            [billed(line, *more) if more else billed(line, {}) for _, line, *more in s["values"]]
            for s in push
        ]
        return V1, json.dumps({"streams": push}, **style).encode(), sizes
    push = draw(LEGACY_PUSHES)
    sizes = [
        [billed(e["line"], e.get("structuredMetadata", {})) for e in s["entries"]] for s in push
    ]
    return LEGACY, json.dumps({"streams": push}, **style).encode(), sizes


@given(bodies())
def test_what_json_writes_is_read_with_the_size_of_its_text(
    pushed: tuple[bool, bytes, list[list[int]]],
) -> None:
    """However json.dumps writes a push, each entry is as large as its decoded text."""
    dialect, body, expected = pushed
    assert sizes(_core, body, dialect) == expected
    assert sizes(reference_json, body, dialect) == expected


@given(bodies(), st.data())
def test_a_cut_body_is_refused(
    pushed: tuple[bool, bytes, list[list[int]]], data: st.DataObject
) -> None:
    """No proper prefix of a push is a push."""
    dialect, body, _ = pushed
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    for core in (_core, reference_json):
        with pytest.raises(errors.BadPush):
            scanned(core, cut, dialect)


@given(bodies(), st.data())
def test_split_keeps_exactly_the_kept_entries(
    pushed: tuple[bool, bytes, list[list[int]]], data: st.DataObject
) -> None:
    """What a split body holds is what json reads from the original, less what was dropped."""
    dialect, body, expected = pushed
    n = sum(len(stream) for stream in expected)
    drop = data.draw(st.sets(st.integers(0, n - 1))) if n else set()
    place = iter(range(n))
    key = "entries" if dialect == LEGACY else "values"
    streams = []
    for stream in json.loads(body)["streams"]:
        kept = [entry for entry in stream[key] if next(place) not in drop]
        if kept:
            streams.append(stream | {key: kept})
    if n:
        assert json.loads(split(body, dialect, drop)) == {"streams": streams}


PIECES = st.sampled_from(
    [
        *rb'" \ { } [ ] , : null true 0 -1.5e3 \u \ud800 \udc00 dc00 \\ \" "" "]" x'.split(),
        *b'"streams": "stream": "values": "labels": "entries": "ts": "line":'.split(),
        *b'"structuredMetadata": "detected_level": [["1","x"]] {"a":"b"}'.split(),
        *(b" ", b"\n", b"\x00", b"\xff", b"\xe2\x82", "İ".encode()),
    ]
)


@given(st.booleans(), st.lists(PIECES, max_size=40).map(b"".join) | st.binary(max_size=60))
def test_any_bytes_have_one_outcome(dialect: bool, body: bytes) -> None:
    """Any input: the same rows from both, or the same refusal in the same words."""
    assert outcome(_core, body, dialect) == outcome(reference_json, body, dialect)


@given(bodies(), st.lists(st.tuples(st.integers(0), st.integers(0, 8), PIECES), max_size=3))
def test_any_damage_has_one_outcome(
    pushed: tuple[bool, bytes, list[list[int]]], damage: list[tuple[int, int, bytes]]
) -> None:
    """A push with pieces cut out and others put in: the same outcome from both."""
    dialect, body, _ = pushed
    for at, cut, piece in damage:
        at %= len(body) + 1
        body = body[:at] + piece + body[at + cut :]
    assert outcome(_core, body, dialect) == outcome(reference_json, body, dialect)


NEAR_TIMES = st.one_of(
    st.text("0123456789-+TZ:.,e \x00", max_size=22),
    st.from_regex(r"\A-?[0-9]{15,21}\Z"),
    st.from_regex(
        r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2]?[0-9]:[0-6][0-9]:[0-6][0-9]"
        r"([.,][0-9]{0,3})?(Z|[+-][0-9]{2}:[0-9]{2})?\Z"
    ),
    # of the minute of the entry before
    st.from_regex(r"\A2026-02-25T06:13[:;][0-9:][0-9a]([.,][0-9]{0,12})?(Z|[+-]0[0-9]:00)?\Z"),
    st.integers(-3, 3).map(lambda n: str(2**63 + n)),
    st.integers(-3, 3).map(lambda n: str(-(2**63) + n)),
)


@settings(max_examples=400)
@given(st.booleans(), NEAR_TIMES)
def test_a_timestamp_has_one_outcome(dialect: bool, time: str) -> None:
    """A timestamp that may be one: taken by both, or refused by both in the same words."""
    first = "2026-02-25T06:13:20Z" if dialect == LEGACY else "1"
    entries = [{"ts": own} if dialect == LEGACY else [own] for own in (first, time)]
    key = "entries" if dialect == LEGACY else "values"
    body = json.dumps({"streams": [{key: entries}]}).encode()
    assert outcome(_core, body, dialect) == outcome(reference_json, body, dialect)
