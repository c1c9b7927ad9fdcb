"""What the gate may cost: bodies that claim or grow to be large, and how many at once."""

import contextlib
import gzip
import resource
import time
import tracemalloc

import cramjam
import hostile
import pytest
import shippers
from judging import CODERS, MIB, NOON, judged, make, nothing_counted, one_stream, pack, row_of

from sluice import Gate, _core, assign, errors
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
    assert gate.memory.taken == 0
    assert gate.memory.idle < MIB


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
    gate.memory.take(11 * MIB)
    with pytest.raises(errors.Unavailable, match=f"at most {15 * MIB} "):
        judged(gate, large)
    judged(gate, pack([one_stream("shop", ["x" * MIB])], loki.Dialect.PROTOBUF)).commit()


def with_labels(text: str) -> bytes:
    stream = '{"stream":' + text + ',"values":[["1700000000000000000","x"]]}'
    return ('{"streams":[' + stream + "]}").encode()


@pytest.mark.parametrize("unit", ["\u2028", "\\u00e9", "\\n"])
def test_an_endless_label_value_is_refused_at_once_by_its_stream(unit):
    odd = '{"namespace":"shop","a":"%s","b":"\\u0001\\ufffd"}' % (unit * 2_000_000)
    body = gzip.compress(with_labels(odd), 1)
    gate = Gate([make("shop", MIB)])
    began = time.process_time()
    with pytest.raises(errors.BadPush, match=r"^stream 0: its labels are \d+ bytes of text"):
        gate.push(body, "gzip", now=NOON, dialect=loki.Dialect.JSON)
    # Read to its end, it took 4 s and more.
    assert time.process_time() - began < 1
    assert nothing_counted(gate)
    assert gate.memory.taken == 0


def test_the_largest_label_text_that_is_read_is_owned_by_its_budget():
    start, end = '{"namespace":"shop","a":"', '"}'
    room = _core.LABELS_MAX - len(start) - len(end)
    gate = Gate([make("shop", 0)])
    for size, is_read in ((room, True), (room + 1, False)):
        body = with_labels(start + "x" * size + end)
        if is_read:
            judgement = gate.push(body, now=NOON, dialect=loki.Dialect.JSON)
            assert judgement.body is None
            judgement.commit()
        else:
            with pytest.raises(errors.BadPush, match="at most 65536"):
                gate.push(body, now=NOON, dialect=loki.Dialect.JSON)
    assert gate.memory.taken == 0


@pytest.mark.parametrize("long", [False, True])
def test_label_strings_that_a_push_repeats_cost_once(long):
    labels = b'{namespace="shop", a="%s"}' % (b"x" * (60_000 if long else 60))
    message = shippers.message_class()()
    for _ in range(400):
        message.streams.add(labels=labels).entries.add(line=b"0123456789")
    gate = Gate([make("shop", MIB)])
    gate.push(shippers.snappy(message.SerializeToString()), now=NOON).commit()
    assert row_of(gate, "shop").usage.day == 4000


def test_new_label_strings_of_a_push_may_cost_only_so_much():
    def message(streams: int, value: bytes) -> bytes:
        made = shippers.message_class()()
        for i in range(streams):
            made.streams.add(labels=b'{a="%d%s"}' % (i, value)).entries.add(line=b"x")
        return shippers.snappy(made.SerializeToString())

    gate = Gate([])
    fits = assign.WORK_MAX // assign.work_of(b"\0" + b'{a="12345"}')
    gate.push(message(fits - 100, b""), now=NOON).commit()
    with pytest.raises(errors.TooLarge, match="labels that were not met before"):
        gate.push(message(fits + 200, b"y"), now=NOON)
    with pytest.raises(errors.TooLarge, match="labels that were not met before"):
        gate.push(message(100, rb"\n" * 10_000), now=NOON)
    assert gate.memory.taken == 0


@pytest.mark.parametrize("name", hostile.SMALL)
@pytest.mark.parametrize("room", [MIB // 4, MIB, 3 * MIB, 64 * MIB])
def test_whatever_the_push_what_it_took_comes_back_and_was_never_more_than_there_is(name, room):
    headers, path, body = hostile.SMALL[name]
    dialect = loki.dialect_of(headers["Content-Type"], path)
    gate = Gate([make("shop", MIB, throttle={"sampleRate": 0.5})], max_memory=room)
    for _ in range(2):
        with contextlib.suppress(errors.BadPush, errors.TooLarge, errors.Unavailable):
            judgement = gate.push(body, headers.get("Content-Encoding"), now=NOON, dialect=dialect)
            judgement.commit()
        assert gate.memory.taken == 0
    assert gate.memory.peak <= room
