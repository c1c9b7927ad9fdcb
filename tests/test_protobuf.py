"""The second oracle of the wire: google's protobuf reads what Sluice reads and writes.

The reference repeats whatever its author misread in Loki's schema; this does not.
"""

import random
from types import ModuleType
from typing import Any

import handmade
import pytest
import shippers
import twins
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import DROPPED, KEPT, SAMPLED

from sluice import errors

BOTH = st.sampled_from(list(twins.CORES.values()))


# The messages' classes, all of one pool, without which none equals another.
PUSH = shippers.message_class()
STREAM = type(PUSH().streams.add())


def parsed(body: bytes) -> Any:
    return PUSH.FromString(body)


def billed(entry: Any) -> int:
    """The bytes that Loki bills for an entry, as pkg/util/entry_size.go counts them."""
    pairs = [p for p in entry.structuredMetadata if p.name != b"detected_level"]
    return len(entry.line) + sum(len(p.name) + len(p.value) for p in pairs)


def assert_rows_match(body: bytes, rows: twins.Rows) -> None:
    """The rows say what the parsed message holds."""
    message = parsed(body)
    sizes = [[billed(entry) for entry in stream.entries] for stream in message.streams]
    assert rows.sizes == [size for own in sizes for size in own]
    assert rows.stream[:, twins.COUNT].tolist() == [len(own) for own in sizes]
    assert rows.stream[:, twins.SIZE].tolist() == [sum(own) for own in sizes]
    at = iter(rows.entry.tolist())
    for row, stream in zip(rows.stream.tolist(), message.streams, strict=True):
        assert body[row[twins.LABELS] : row[twins.LABELS_END]] == stream.labels
        assert STREAM.FromString(body[row[twins.BODY] : row[twins.END]]) == stream
        for entry in stream.entries:
            start, end, _ = next(at)
            # an entry's raw range is its field: a stream of nothing else
            (own,) = STREAM.FromString(body[start:end]).entries
            assert own == entry


def without(message: Any, outcome: list[int]) -> Any:
    """The message that is left when only KEPT entries stay, and streams that lost all go."""
    kept = PUSH()
    kept.CopyFrom(message)
    outcomes = iter(outcome)
    emptied = []
    for i, stream in enumerate(kept.streams):
        own = [next(outcomes) for _ in stream.entries]
        for j in reversed(range(len(own))):
            if own[j] != KEPT:
                del stream.entries[j]
        if own and not stream.entries:
            emptied.append(i)
    for i in reversed(emptied):
        del kept.streams[i]
    return kept


def assert_split_matches(core: ModuleType, body: bytes, outcome: list[int]) -> None:
    """The filtered body parses to the kept entries and all that surrounds them."""
    rows = twins.scan(core, body)
    filtered = twins.split(core, body, rows, outcome)
    assert parsed(filtered) == without(parsed(body), outcome)
    left = twins.scan(core, filtered)
    sizes = [n for n, own in zip(rows.sizes, outcome, strict=True) if own == KEPT]
    assert left.sizes == sizes
    assert_rows_match(filtered, left)


def outcomes_for(n: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.sampled_from([KEPT, KEPT, SAMPLED, DROPPED]), min_size=n, max_size=n)


# -- what shippers send -------------------------------------------------------------------------

# Bytes that are no UTF-8 stand as lone surrogates, as in shippers.py.
TEXT = st.binary(max_size=30).map(shippers.text)
NAMES = st.one_of(st.just(shippers.UNBILLED), TEXT)
ENTRIES = st.builds(
    shippers.Entry,
    st.integers(0, 2**63 - 1),
    TEXT,
    st.dictionaries(NAMES, TEXT, max_size=3),
)
STREAMS = st.lists(
    st.builds(
        shippers.Stream,
        st.dictionaries(st.sampled_from(["namespace", "app", "pod"]), TEXT, max_size=3),
        st.lists(ENTRIES, max_size=6),
    ),
    max_size=5,
)


@given(STREAMS, BOTH)
def test_what_a_shipper_sends_is_read_as_it_was_meant(
    streams: list[shippers.Stream], core: ModuleType
) -> None:
    """Entries, sizes and labels of an encoder's push are those that were put in."""
    labels = [repr(sorted(own.labels.items())).encode() for own in streams]
    names = iter(labels)
    body = shippers.push_message(streams, lambda _: next(names).decode()).SerializeToString()
    rows = twins.scan(core, body)
    assert rows.sizes == [entry.billed for own in streams for entry in own.entries]
    assert [
        body[row[twins.LABELS] : row[twins.LABELS_END]] for row in rows.stream.tolist()
    ] == labels
    assert_rows_match(body, rows)


@given(STREAMS, BOTH, st.data())
def test_a_split_push_of_a_shipper_holds_exactly_the_kept_entries(
    streams: list[shippers.Stream], core: ModuleType, data: st.DataObject
) -> None:
    """Whatever goes, the rest parses to what it was."""
    body = shippers.push_message(streams, str).SerializeToString()
    entries = sum(len(own.entries) for own in streams)
    if entries:
        assert_split_matches(core, body, data.draw(outcomes_for(entries), "outcome"))


@pytest.mark.parametrize("core", twins.CORES.values(), ids=twins.CORES)
def test_a_large_push_is_read_and_split(core: ModuleType) -> None:
    streams = shippers.make_streams(
        7, ["shop", "mail"], streams=9, entries=150, line_bytes=200, start_ns=1_764 * 10**15
    )
    body = shippers.push_message(streams).SerializeToString()
    rows = twins.scan(core, body)
    assert rows.sizes == [entry.billed for own in streams for entry in own.entries]
    assert_rows_match(body, rows)
    rng = random.Random(7)
    for keep in (0.01, 0.5, 0.99):
        outcome = [KEPT if rng.random() < keep else DROPPED for _ in rows.sizes]
        assert_split_matches(core, body, outcome)


# -- what no shipper sends ----------------------------------------------------------------------


@given(handmade.pushes(foreign=False), BOTH)
def test_any_push_that_both_accept_means_the_same_to_both(body: bytes, core: ModuleType) -> None:
    """Repeated scalars, any order, long varints, unknown fields: as protobuf has it."""
    assert_rows_match(body, twins.scan(core, body))


@settings(max_examples=150)
@given(handmade.pushes(foreign=False), BOTH, st.data())
def test_a_split_push_keeps_unknown_fields(
    body: bytes, core: ModuleType, data: st.DataObject
) -> None:
    """A filtered push is the parsed push without its lost entries, unknown fields included."""
    rows = twins.scan(core, body)
    if len(rows.entry):
        assert_split_matches(core, body, data.draw(outcomes_for(len(rows.entry)), "outcome"))


@given(STREAMS.filter(bool), st.randoms(use_true_random=False), BOTH)
def test_what_protobuf_refuses_is_refused(
    streams: list[shippers.Stream], rng: random.Random, core: ModuleType
) -> None:
    """A body that ends too early for protobuf ends too early for the scan."""
    body = shippers.push_message(streams, str).SerializeToString()
    cut = body[: rng.randrange(len(body) + 1)]
    try:
        parsed(cut)
    except DecodeError:
        with pytest.raises(errors.BadPush):
            twins.scan(core, cut)
    else:
        assert_rows_match(cut, twins.scan(core, cut))
