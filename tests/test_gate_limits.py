"""What the gate may cost: bodies that claim or grow to be large, and how many at once."""

import gzip
import resource
import tracemalloc

import cramjam
import pytest
import shippers
from judging import CODERS, MIB, NOON, judged, make, nothing_counted, one_stream, pack, row_of

from sluice import Gate, errors
from sluice.wire import loki

CLAIM = (2**32 - 1).to_bytes(4, "little")
BOMBS = {
    "snappy": (b"\xff\xff\xff\xff\x0f" + bytes(1000), "", loki.Dialect.PROTOBUF),
    # A frame header with a content size of four bytes: nearly 4 GB.
    "zstd": (b"\x28\xb5\x2f\xfd\xa0" + CLAIM + bytes(1000), "zstd", loki.Dialect.JSON),
    "snappy in gzip": (
        gzip.compress(b"\xff\xff\xff\xff\x0f" + bytes(1000)),
        "gzip",
        loki.Dialect.PROTOBUF,
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_kilobyte_that_claims_to_be_4_gb_is_refused_before_anything_is_allocated(name):
    body, encoding, dialect = BOMBS[name]
    gate = Gate([])
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(errors.TooLarge, match=r"429496\d{4}|at most"):
            gate.push(body, encoding, now=NOON, dialect=dialect)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 16 * 1024
    assert nothing_counted(gate)


@pytest.mark.parametrize("coder", ["gzip", "deflate", "zlib", "zstd"])
def test_a_body_that_grows_past_the_limit_is_refused_before_it_has_grown(coder):
    header, compress = CODERS[coder]
    body = compress(b'{"streams":[]}' + b" " * 64 * MIB)
    assert len(body) < MIB
    gate = Gate([], max_decoded=4 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(errors.TooLarge, match=f"at most {4 * MIB}"):
            gate.push(body, header, now=NOON, dialect=loki.Dialect.JSON)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(dialect):
    push = pack(shippers.make_streams(5, ["shop"], entries=2000), dialect)
    decoded = push.body
    if dialect is loki.Dialect.PROTOBUF:
        decoded = bytes(cramjam.snappy.decompress_raw(push.body))
    assert judged(Gate([], max_decoded=len(decoded)), push).body is push.body
    gate = Gate([], max_decoded=len(decoded) - 1)
    with pytest.raises(errors.TooLarge, match=f"at most {len(decoded) - 1} "):
        judged(gate, push)
    assert nothing_counted(gate)


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_a_push_of_many_tiny_entries_may_not_make_an_index_that_dwarfs_it(dialect):
    tiny = {
        loki.Dialect.PROTOBUF: b"\x12\x00" * 200_000,
        loki.Dialect.JSON: b'{"streams":[{"values":[' + b",".join([b"[]"] * 200_000) + b"]}]}",
        loki.Dialect.LEGACY: b'{"streams":[{"entries":[' + b",".join([b"{}"] * 200_000) + b"]}]}",
    }[dialect]
    if dialect is loki.Dialect.PROTOBUF:
        size = len(tiny)
        head = b"\x0a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
        tiny = shippers.snappy(head + tiny)
    gate = Gate([], max_decoded=2 * MIB, max_memory=4 * MIB)
    with pytest.raises((errors.TooLarge, errors.BadPush), match=r"200000 entries|streams"):
        gate.push(tiny, now=NOON, dialect=dialect)
    assert nothing_counted(gate)
    assert gate.memory.taken == 0


def test_too_many_bytes_being_decoded_at_once_are_refused_and_the_room_comes_back():
    gate = Gate([make("shop", MIB)], max_memory=2 * MIB)
    push = pack([one_stream("shop", ["x"])], loki.Dialect.PROTOBUF)
    gate.memory.take(2 * MIB)
    with pytest.raises(errors.Unavailable, match=f"at most {2 * MIB} "):
        judged(gate, push)
    gate.memory.give(2 * MIB)
    assert nothing_counted(gate)
    judged(gate, push).commit()
    for body in (b"garbage", b"\xff" * 100):
        with pytest.raises(errors.BadPush):
            gate.push(body, now=NOON)
    assert gate.memory.taken == 0


def test_pushes_that_wait_for_upstream_hold_no_room():
    gate = Gate([make("shop", MIB)], max_memory=2 * MIB)
    push = pack([one_stream("shop", ["x"])], loki.Dialect.PROTOBUF)
    waiting = [judged(gate, push) for _ in range(50)]
    for judgement in waiting:
        judgement.commit()
    assert row_of(gate, "shop").usage.day == 50


def test_a_scratch_that_served_a_large_push_is_not_kept():
    gate = Gate([])
    body = shippers.snappy(
        shippers.push_message([one_stream("shop", ["x" * 20 * MIB])]).SerializeToString()
    )
    gate.push(body, now=NOON).commit()
    (scratch,) = gate._idle
    assert len(scratch.decoded.room(0)) == 0


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_a_push_that_has_no_room_to_be_thinned_out_charges_and_counts_nothing(dialect):
    push = pack([one_stream("shop", ["x" * 1000] * 1000)], dialect)
    assert judged(Gate([make("shop", 2 * MIB)], max_memory=3 * MIB // 2), push).body is push.body
    gate = Gate([make("shop", 500_000)], max_memory=3 * MIB // 2)
    with pytest.raises(errors.TooLarge, match="bytes of memory"):
        judged(gate, push)
    assert nothing_counted(gate)
    assert gate.memory.taken == 0


@pytest.mark.parametrize("dialect", loki.Dialect)
@pytest.mark.parametrize("coder", CODERS)
def test_what_a_push_sends_instead_of_its_body_is_held_until_it_ends(dialect, coder):
    push = pack([one_stream("shop", ["x" * 1000] * 1000)], dialect, coder)
    gate = Gate([make("shop", 500_000)])
    first, second = judged(gate, push), judged(gate, push)
    assert first.body is not None
    assert second.body is None
    assert gate.memory.taken > len(first.body)
    assert gate.memory.peak > 2 * len(first.body)
    first.refund()
    second.commit()
    assert gate.memory.taken == 0


def test_large_pushes_leave_room_for_small_ones():
    gate = Gate([make("shop", MIB)], max_memory=16 * MIB)
    large = pack([one_stream("shop", ["x" * 5 * MIB])], loki.Dialect.PROTOBUF)
    gate.memory.take(13 * MIB)
    with pytest.raises(errors.Unavailable, match=f"at most {14 * MIB} "):
        judged(gate, large)
    judged(gate, pack([one_stream("shop", ["x" * MIB])], loki.Dialect.PROTOBUF)).commit()
