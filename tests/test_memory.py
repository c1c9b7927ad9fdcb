"""The bound on what all pushes hold: what is taken, lent, given back, and kept idle."""

import pytest
import shippers
from hypothesis import given
from hypothesis import strategies as st
from judging import MIB, NOON, judged, make, one_stream, pack

from sluice import Gate, errors, judgement, memory, scratch
from sluice.wire import loki


def test_idle_buffers_go_where_their_room_is_needed():
    room = memory.Memory(16 * MIB)
    claim = memory.Claim(room)
    claim.take(10 * MIB)
    claim.end(0, "body", "a buffer", 10 * MIB)
    assert (room.taken, room.idle) == (0, 10 * MIB)
    room.take(4 * MIB)
    assert room.idle == 10 * MIB
    room.take(8 * MIB)
    assert (room.taken, room.idle) == (12 * MIB, 0)
    assert memory.Claim(room).lend("body") is None


def test_what_is_lent_counts_until_it_is_kept_again():
    room = memory.Memory(16 * MIB)
    first = memory.Claim(room)
    first.take(10 * MIB)
    first.end(MIB, "body", "a buffer", 9 * MIB)
    assert (first.size, room.taken, room.idle) == (MIB, MIB, 9 * MIB)
    second = memory.Claim(room)
    assert second.lend("body") == "a buffer"
    assert (second.size, room.taken, room.idle) == (9 * MIB, 10 * MIB, 0)
    with pytest.raises(errors.Unavailable, match=f"pushes hold {10 * MIB} bytes"):
        memory.Claim(room).take(7 * MIB)
    second.end(0, "body", "a buffer", 9 * MIB)
    first.keep(0)
    assert (room.taken, room.idle) == (0, 9 * MIB)


def test_no_more_is_kept_idle_than_an_agent_at_rest_should_have():
    room = memory.Memory(176 * MIB)
    claims = [memory.Claim(room) for _ in range(20)]
    for claim in claims:
        claim.take(6 * MIB)
    for claim in claims:
        claim.end(0, "body", "a buffer", 6 * MIB)
    assert (room.taken, room.idle) == (0, 30 * MIB)


@pytest.mark.parametrize("before", ["nothing", "a small push", "a large push", "a wider push"])
def test_whether_a_push_has_room_does_not_depend_on_the_push_before(before):
    gate = Gate([make("shop", 100 * MIB)], max_memory=8 * MIB)
    lines = {"a small push": ["x"], "a large push": ["x" * 3 * MIB], "a wider push": ["x"] * 50_000}
    if before in lines:
        judged(gate, pack([one_stream("shop", lines[before])], loki.Dialect.PROTOBUF)).commit()
        assert gate.memory.idle
    for size, fits in ((7 * MIB, True), (8 * MIB - 300_000, False)):
        push = pack([one_stream("shop", ["x" * size])], loki.Dialect.PROTOBUF)
        if fits:
            judged(gate, push).commit()
        else:
            with pytest.raises(errors.TooLarge, match="bytes of memory"):
                judged(gate, push)
    assert gate.memory.taken == 0


@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 400), st.booleans())))
def test_what_is_taken_comes_back_and_with_what_is_idle_never_passes_the_total(pushes):
    """taken is 0 after each push, and taken + idle never more than the total."""
    gate = Gate([make("shop", 1000)], max_memory=MIB)
    for size, entries, is_json in pushes:
        dialect = loki.Dialect.JSON if is_json else loki.Dialect.PROTOBUF
        push = pack([one_stream("shop", ["x" * size, *["y"] * entries])], dialect, "gzip")
        try:
            waiting = judged(gate, push)
        except (errors.TooLarge, errors.Unavailable):
            assert gate.memory.taken == 0
            continue
        assert gate.memory.taken + gate.memory.idle <= MIB
        waiting.refund()
        assert gate.memory.taken == 0


def test_buffers_are_used_again_and_large_ones_are_not_kept():
    gate = Gate([make("shop", 100 * MIB)])
    for size, is_kept in ((2 * MIB, True), (20 * MIB, False)):
        body = shippers.snappy(
            shippers.push_message([one_stream("shop", ["x" * size])]).SerializeToString()
        )
        gate.push(body, now=NOON).commit()
        assert (gate.memory.idle >= size) is is_kept
        gate.push(body, now=NOON).commit()
        assert gate.memory.idle < 2 * size


def test_a_push_of_many_entries_ends_in_the_rows_that_were_there_before():
    # What end() allocates could fail, and what the push has taken would never come back.
    room = memory.Memory(64 * MIB)
    claim, work = memory.Claim(room), scratch.Scratch()
    stream, entry = work.stream, work.entry
    work.begin(claim)
    assert not work.fits(200_000, 600_000)
    assert room.taken > memory.PART_BYTES
    claim.end(0, scratch.KIND, work, work.end())
    assert (room.taken, room.idle) == (0, 0)
    assert work.stream is stream
    assert work.entry is entry


def test_a_body_in_a_buffer_of_an_earlier_push_counts_all_that_was_written_to_it():
    gate = Gate([make("shop", 1000), make("big", 100 * MIB)])

    def waiting(lines: int, coder: str) -> judgement.Judgement:
        streams = [one_stream("big", ["x" * 1000] * lines), one_stream("shop", ["y" * 2000])]
        return judged(gate, pack(streams, loki.Dialect.JSON, coder))

    waiting(7000, "gzip").commit()
    first = waiting(4300, "none")
    # Its buffer is the one that 7 MB were written to.
    assert isinstance(first.body, memoryview)
    assert 4_300_000 < len(first.body) < 4_500_000
    assert gate.memory.taken > 7_000_000
    second = waiting(4300, "none")
    assert gate.memory.taken < 7_400_000 + 4_500_000
    first.commit()
    second.commit()
    assert gate.memory.taken == 0
