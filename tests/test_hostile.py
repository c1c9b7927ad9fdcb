"""Whatever the bytes: rows or BadPush, never anything else. Worth most under AddressSanitizer.

Bodies lie in blocks of exactly their size (twins.exact), so an overread of one byte is seen.
"""

import random

import handmade
import pytest
import shippers
import twins
from handmade import BYTES, FIXED32, GROUP, GROUP_END, VARINT, entry, pair, push, stream, tag
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import KEPT, Rule

from sluice import _core, errors


def assert_sound(body: bytes) -> None:
    """The body is refused, or its rows lie in it and can be judged and split."""
    try:
        rows = twins.scan(_core, body)
    except errors.BadPush:
        return
    assert_rows_lie_in_order(body, rows)
    if not len(rows.stream):
        return
    total = sum(rows.sizes)
    rules = [Rule(total // 4, total // 2, 2**63), Rule(-1, 0, 2**62), Rule(-1, -1, 0, 1)]
    team = [i % 3 for i in range(len(rows.stream))]
    got = twins.judge(_core, body, rows, team, rules, [0] * 3)
    assert sum(map(sum, (row[:3] for row in got.tally))) == len(rows.entry)
    if len(rows.entry):
        assert_split_is_what_was_kept(body, rows, got.outcome)


def assert_rows_lie_in_order(body: bytes, rows: twins.Rows) -> None:
    """Streams and entries follow each other, each within what holds it."""
    behind = first = 0
    for row in rows.stream.tolist():
        at, end, payload, labels, labels_end, own, count, size = row
        assert behind <= at < payload <= end <= len(body)
        assert own == first
        assert (labels, labels_end) == (0, 0) or payload <= labels <= labels_end <= end
        inner = payload
        entries = rows.entry[own : own + count].tolist()
        assert len(entries) == count
        for entry_at, entry_end, billed in entries:
            assert inner <= entry_at < entry_end <= end
            assert 0 <= billed < entry_end - entry_at
            inner = entry_end
        assert size == sum(billed for _, _, billed in entries)
        behind, first = end, own + count
    assert first == len(rows.entry)


def assert_split_is_what_was_kept(body: bytes, rows: twins.Rows, outcome: list[int]) -> None:
    """The filtered body is no longer, and scans to the raw bytes of what was kept."""
    filtered = twins.split(_core, body, rows, outcome)
    left = twins.scan(_core, filtered)
    kept = [
        body[at:end]
        for (at, end, _), own in zip(rows.entry.tolist(), outcome, strict=True)
        if own == KEPT
    ]
    assert len(filtered) <= len(body)
    assert [filtered[at:end] for at, end, _ in left.entry.tolist()] == kept


SAMPLE = (
    handmade.sized(2, b"fmt")
    + push(
        stream(b'{namespace="shop"}', entry(b"first", pair(b"trace", b"1"), time=b"\x08\x01")),
        stream(b"{}", entry(b"x" * 130), entry(b"", pair(b"detected_level", b"info"))),
        handmade.group(9, handmade.group(10) + handmade.sized(1, b"inner"))
        + tag(3, VARINT) + handmade.varint(2**64 - 1),
    )
    + tag(7, FIXED32) + b"1234"
)  # fmt: skip


@settings(max_examples=400)
@given(st.one_of(st.binary(max_size=100), st.lists(st.integers(0, 31), max_size=60).map(bytes)))
def test_any_bytes_are_rows_or_refused(body: bytes) -> None:
    """Any bytes at all give rows that lie in them, or BadPush."""
    assert_sound(body)


@pytest.mark.parametrize("depth", range(4))
def test_any_two_bytes_anywhere_are_rows_or_refused(depth: int) -> None:
    for first in range(256):
        for second in (0, 1, 2, 8, 10, 18, 26, 27, 28, 127, 128, 255):
            body = bytes([first, second])
            for number in (3, 2, 1)[3 - depth :]:
                body = handmade.sized(number, body)
            assert_sound(body)


def test_a_push_cut_off_at_any_byte_is_rows_or_refused() -> None:
    assert_sound(SAMPLE)
    for n in range(len(SAMPLE)):
        assert_sound(SAMPLE[:n])
        assert_sound(SAMPLE[n:])


def test_a_push_with_any_one_bit_wrong_is_rows_or_refused() -> None:
    for i in range(len(SAMPLE)):
        for bit in range(8):
            body = bytearray(SAMPLE)
            body[i] ^= 1 << bit
            assert_sound(bytes(body))


def mutated(rng: random.Random, body: bytes, other: bytes) -> bytes:
    """A body with a few bytes changed, removed, doubled or taken from another push."""
    out = bytearray(body)
    for _ in range(rng.randrange(1, 6)):
        i, j = rng.randrange(len(out) + 1), rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0:
                out[i : i + 1] = rng.randbytes(1)
            case 1:
                out[i:i] = rng.choice([b"\xff", b"\x80" * 9, b"\x2b", b"\x0a", rng.randbytes(3)])
            case 2:
                del out[min(i, j) : min(i, j) + rng.randrange(9)]
            case 3:
                out[i:i] = out[j : j + rng.randrange(60)]
            case 4:
                k = rng.randrange(len(other) + 1)
                out[i : i + rng.randrange(40)] = other[k : k + rng.randrange(40)]
    return bytes(out)


@settings(max_examples=200)
@given(handmade.pushes(), handmade.pushes(), st.integers(0, 2**32))
def test_a_mutated_push_is_rows_or_refused(body: bytes, other: bytes, seed: int) -> None:
    """However a push is mangled: rows that lie in it, or BadPush."""
    rng = random.Random(seed)
    for _ in range(5):
        assert_sound(mutated(rng, body, other))


@pytest.mark.parametrize("seed", range(3))
def test_a_mangled_push_of_a_shipper_is_rows_or_refused(seed: int) -> None:
    streams = shippers.make_streams(seed, ["shop", "mail"], streams=3, entries=4, line_bytes=60)
    body = shippers.push_message(streams).SerializeToString()
    rng = random.Random(seed)
    for _ in range(400):
        assert_sound(mutated(rng, body, SAMPLE))


# -- what costs more than it looks --------------------------------------------------------------

DEEP = 1_000_000


def test_deep_groups_need_no_stack_and_no_more_time_than_their_bytes() -> None:
    # with a step back per level, a million levels would take hours
    deep = tag(5, GROUP) * DEEP + tag(5, GROUP_END) * DEEP
    assert len(twins.scan(_core, deep).stream) == 0
    own = handmade.sized(3, deep) + handmade.sized(2, b"line") + deep
    body = push(handmade.sized(2, own) + deep)
    rows = twins.scan(_core, body)
    assert rows.sizes == [4]
    # judging reads the entry again for its hash
    got = twins.judge(_core, body, rows, [0], [Rule(-1, 4, 2**63)], [0])
    assert got.tally[0][:3] == [0, 1, 0]
    assert twins.split(_core, body, rows, [1]) == b""


@pytest.mark.parametrize("before", [b"", tag(1, BYTES) + handmade.varint(DEEP)])
def test_groups_that_never_end_are_refused_where_the_body_ends(before: bytes) -> None:
    body = before + tag(5, GROUP) * DEEP
    with pytest.raises(errors.BadPush) as refusal:
        twins.scan(_core, body)
    assert (
        twins.unplaced(str(refusal.value)) == f"byte {len(body)}: length 1 exceeds the 0 bytes left"
    )


def test_a_million_empty_messages_are_rows() -> None:
    body = b"\x0a\x00" * DEEP
    rows = twins.scan(_core, body)
    assert rows.stream[-1].tolist() == [2 * DEEP - 2, 2 * DEEP, 2 * DEEP, 0, 0, 0, 0, 0]
    body = push(b"\x12\x00" * DEEP)
    rows = twins.scan(_core, body)
    assert len(rows.entry) == DEEP
    got = twins.judge(_core, body, rows, [0], [Rule(-1, -1)], [0])
    assert got.tally[0][:3] == [0, 0, DEEP]
    assert twins.split(_core, body, rows, got.outcome) == b""


def test_lengths_that_promise_more_than_there_is_are_refused_before_anything_is_read() -> None:
    for size in (1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        for number in (1, 2, 9):
            with pytest.raises(errors.BadPush, match=f"length {size} exceeds the 0 bytes left"):
                twins.scan(_core, tag(number, BYTES) + handmade.varint(size))
