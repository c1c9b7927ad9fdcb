"""Where the streams and entries of a push are, and the push without some of them, case by case, on
both implementations of the core."""

from types import ModuleType

import handmade
import numpy as np
import pytest
import twins
from handmade import entry, pair, push, sized, stream, tag, varint
from twins import DROPPED, KEPT, SAMPLED, no_rows

from sluice import _core, errors

# -- scan ---------------------------------------------------------------------------------------


def test_rows_say_where_things_are(core: ModuleType) -> None:
    body = (
        sized(2, b"fmt")
        + sized(1, sized(1, b"abc") + sized(2, entry(b"line")) + sized(2, b""))
        + sized(1, b"")
        + sized(1, sized(2, sized(2, b"xy")) + sized(1, b"d"))
    )
    rows = twins.scan(core, body)
    assert rows.stream.tolist() == [
        [5, 24, 7, 9, 12, 0, 2, 4],
        [24, 26, 26, 0, 0, 2, 0, 0],
        [26, 37, 28, 36, 37, 2, 1, 2],
    ]
    assert rows.entry.tolist() == [[12, 22, 4], [22, 24, 0], [28, 34, 2]]


def labels_of(body: bytes, rows: twins.Rows) -> list[bytes]:
    return [
        body[at:end] for at, end in rows.stream[:, twins.LABELS : twins.LABELS_END + 1].tolist()
    ]


def test_of_a_repeated_scalar_the_last_counts(core: ModuleType) -> None:
    twice = sized(1, b"a") + sized(1, b"bb")
    lines = sized(2, b"xxxx") + sized(2, b"yy")
    body = push(twice + sized(2, lines) + sized(1, b"ccc"))
    rows = twins.scan(core, body)
    assert labels_of(body, rows) == [b"ccc"]
    assert rows.sizes == [2]
    names = sized(1, b"name") + sized(2, b"v") + sized(1, b"n") + sized(2, b"")
    assert twins.scan(core, push(stream(b"", entry(b"", names)))).sizes == [1]


def test_fields_come_in_any_order(core: ModuleType) -> None:
    own = sized(3, sized(2, b"value") + sized(1, b"name")) + sized(2, b"line") + sized(1, b"")
    body = push(sized(2, own) + tag(3, handmade.VARINT) + varint(9) + sized(1, b"labels"))
    rows = twins.scan(core, body)
    assert rows.sizes == [13]
    assert labels_of(body, rows) == [b"labels"]


UNKNOWN = (
    sized(5, b"what")
    + tag(6, handmade.VARINT) + varint(2**64 - 1)
    + tag(7, handmade.FIXED64) + b"12345678"
    + tag(8, handmade.FIXED32) + b"1234"
    + handmade.group(9, sized(1, b"x") + handmade.group(10, tag(1, handmade.FIXED32) + b"abcd"))
    + handmade.group(11)
    # gogo does not compare the numbers of a group's two ends
    + tag(12, handmade.GROUP) + tag(13, handmade.GROUP_END)
    + sized(2**31 - 1, b"")
)  # fmt: skip


def test_fields_that_nobody_knows_are_stepped_over(core: ModuleType) -> None:
    own = UNKNOWN + sized(3, UNKNOWN + pair(b"n", b"v") + UNKNOWN) + sized(2, b"line") + UNKNOWN
    body = UNKNOWN + push(UNKNOWN + sized(1, b"l") + sized(2, own) + UNKNOWN) + UNKNOWN
    rows = twins.scan(core, body)
    assert rows.sizes == [6]
    assert labels_of(body, rows) == [b"l"]


@pytest.mark.parametrize(
    ("name", "value", "billed"),
    [
        (b"detected_level", b"error", 0),
        (b"detected_level", b"", 0),
        (b"detected_levels", b"error", 20),
        (b"detected_leve", b"error", 18),
        (b"Detected_level", b"error", 19),
        (b"detected_level\0", b"", 15),
        (b"", b"detected_level", 14),
        (b"\xff\xfe", b"\x00", 3),
    ],
)
def test_metadata_is_billed_but_for_the_detected_level(
    core: ModuleType, name: bytes, value: bytes, billed: int
) -> None:
    pairs = [pair(b"a", b"b"), pair(name, value), pair(b"c", b"d")]
    assert twins.scan(core, push(stream(b"", entry(b"line", *pairs)))).sizes == [8 + billed]
    assert twins.scan(core, push(stream(b"", entry(b"line", pair(name, value))))).sizes == [
        4 + billed
    ]


def test_parsed_labels_and_timestamps_are_not_billed(core: ModuleType) -> None:
    own = entry(b"line", time=b"not even a message") + sized(4, pair(b"name", b"value"))
    assert twins.scan(core, push(stream(b"", own))).sizes == [4]


@pytest.mark.parametrize("width", range(1, 11))
def test_varints_may_be_longer_than_they_need_to_be(core: ModuleType, width: int) -> None:
    own = sized(2, sized(2, b"line", width), width)
    body = sized(1, sized(1, b"labels", width) + own, width)
    rows = twins.scan(core, body)
    assert rows.sizes == [4]
    assert labels_of(body, rows) == [b"labels"]
    assert rows.stream[0, twins.AT] == 0
    assert rows.stream[0, twins.END] == len(body)


@pytest.mark.parametrize("tenth", [0x00, 0x02, 0x7E])
def test_the_tenth_byte_of_a_varint_may_hold_bits_beyond_the_64th(
    core: ModuleType, tenth: int
) -> None:
    length = b"\x84" + b"\x80" * 8 + bytes([tenth])
    body = push(stream(b"", b"\x12" + length + b"line"))
    assert twins.scan(core, body).sizes == [4]


def test_of_a_field_number_the_low_32_bits_count(core: ModuleType) -> None:
    for more in (2**32, 2**60, 2**61 - 2**32):
        own = sized(more + 2, sized(more + 2, b"line") + sized(more + 3, pair(b"n", b"v")))
        body = sized(more + 1, sized(more + 1, b"labels") + own)
        rows = twins.scan(core, body)
        assert rows.sizes == [6]
        assert labels_of(body, rows) == [b"labels"]


BAD_TAG = "a field number below 1, or a group's end without its start"
BAD_TYPE = "a wire type that this field cannot have"
OVERLONG = "a varint of more than ten bytes"
LONG = b"\x80" * 10 + b"\x00"


@pytest.mark.parametrize(
    ("body", "at", "words"),
    [
        (b"\x0a", 1, "length 1 exceeds the 0 bytes left"),
        (b"\x0a\x05abc", 1, "length 5 exceeds the 3 bytes left"),
        (b"\x0a\x80", 1, "length 2 exceeds the 1 bytes left"),
        (b"\x0a" + varint(2**64 - 1), 1, f"length {2**64 - 1} exceeds the 0 bytes left"),
        (b"\x0a" + varint(2**63), 1, f"length {2**63} exceeds the 0 bytes left"),
        (b"\x0a" + LONG, 1, OVERLONG),
        (LONG, 0, OVERLONG),
        (b"\x02\x00", 0, BAD_TAG),
        (tag(2**32, 2) + b"\x00", 0, BAD_TAG),
        (tag(2**31, 2) + b"\x00", 0, BAD_TAG),
        (tag(2**32 - 1, 2) + b"\x00", 0, BAD_TAG),
        (b"\x0a\x00\x0c", 2, BAD_TAG),
        (tag(1, 0) + b"\x01", 1, BAD_TYPE),
        (tag(1, 3) + tag(1, 4), 1, BAD_TYPE),
        (tag(2, 5) + b"1234", 1, BAD_TYPE),
        (tag(5, 6), 1, BAD_TYPE),
        (tag(5, 7), 1, BAD_TYPE),
        (tag(5, 1) + b"1234567", 1, "length 8 exceeds the 7 bytes left"),
        (tag(5, 5) + b"123", 1, "length 4 exceeds the 3 bytes left"),
        (tag(5, 0), 1, "length 1 exceeds the 0 bytes left"),
        (tag(5, 3), 1, "length 1 exceeds the 0 bytes left"),
        (tag(5, 3) + tag(6, 3) + tag(6, 4), 3, "length 1 exceeds the 0 bytes left"),
        (tag(5, 3) + tag(6, 7), 2, BAD_TYPE),
        (tag(5, 3) + tag(6, 2) + b"\x05", 2, "length 5 exceeds the 0 bytes left"),
        # inside a stream, an entry, a pair: what they hold ends where they end
        (push(sized(1, b"x")[:-1]) + b"yz", 3, "length 1 exceeds the 0 bytes left"),
        (push(tag(3, 2) + b"\x00"), 3, BAD_TYPE),
        (push(tag(3, 0)) + b"\x00", 3, "length 1 exceeds the 0 bytes left"),
        (push(tag(1, 0) + b"\x00"), 3, BAD_TYPE),
        (push(tag(2, 1) + b"12345678"), 3, BAD_TYPE),
        (push(sized(2, tag(2, 0) + b"\x00")), 5, BAD_TYPE),
        (push(sized(2, tag(1, 0) + b"\x00")), 5, BAD_TYPE),
        (push(sized(2, tag(4, 0) + b"\x00")), 5, BAD_TYPE),
        (push(sized(2, tag(3, 0) + b"\x00")), 5, BAD_TYPE),
        (push(sized(2, b"\x12\x09abc")), 5, "length 9 exceeds the 3 bytes left"),
        (push(sized(2, sized(3, tag(1, 0) + b"\x00"))), 7, BAD_TYPE),
        (push(sized(2, sized(3, tag(2, 5) + b"1234"))), 7, BAD_TYPE),
        (push(sized(2, sized(3, b"\x0a\x02x"))), 7, "length 2 exceeds the 1 bytes left"),
        (push(sized(2, sized(3, b"\x00"))), 6, BAD_TAG),
    ],
)
def test_a_body_that_loki_cannot_read_is_refused_at_its_byte(
    core: ModuleType, body: bytes, at: int, words: str
) -> None:
    # a good stream before it: it does not save the push
    for before in (b"", push(stream(b"l", entry(b"line")))):
        with pytest.raises(errors.BadPush) as refusal:
            twins.scan(core, before + body)
        assert twins.unplaced(str(refusal.value)) == f"byte {len(before) + at}: {words}"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"\x0a", "stream 2, "),
        (b"\x12\x05", ""),
        (push(b"\x0a\x05abc"), "stream 2, "),
        (push(b"\x12\x05abc"), "stream 2, entry 0, "),
        (push(sized(2, b"") * 2 + sized(2, tag(2, 0) + b"\x00")), "stream 2, entry 2, "),
        (push(sized(2, b"") + tag(3, 2) + b"\x00"), "stream 2, "),
    ],
)
def test_a_refusal_names_stream_and_entry(core: ModuleType, body: bytes, place: str) -> None:
    before = push(stream(b"l", entry(b"one"), entry(b"two"))) + push(stream(b"l", entry(b"three")))
    with pytest.raises(errors.BadPush, match=rf"^{place}byte \d+: "):
        twins.scan(core, before + body)


def test_rows_beyond_the_room_are_counted_and_not_written(core: ModuleType) -> None:
    body = push(*[stream(b"l", entry(b"x"), entry(b"yy"))] * 5)
    full = twins.scan(core, body)
    for streams in range(7):
        for entries in range(12):
            rows = no_rows(8, streams), no_rows(3, entries)
            assert core.scan_push(twins.exact(body), *rows) == (5, 10)
            assert rows[0][:5].tolist() == full.stream[:streams].tolist()
            assert rows[1][:10].tolist() == full.entry[:entries].tolist()
            assert not rows[0][5:].any()
            assert not rows[1][10:].any()


def test_scan_rows_of_another_width_are_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="rows of 7 and 3 columns, not 8 and 3"):
        core.scan_push(b"", no_rows(7, 1), no_rows(3, 1))


# -- split --------------------------------------------------------------------------------------


def test_kept_bytes_are_copied_as_they_came(core: ModuleType) -> None:
    first, second, third = (
        sized(2, UNKNOWN + sized(2, line, 3), 4) for line in (b"one", b"two", b"three")
    )
    before, between = sized(1, b"labels", 2) + UNKNOWN, tag(3, 0) + varint(7, 10)
    body = (
        UNKNOWN
        + sized(1, before + first + between + second + UNKNOWN + third + UNKNOWN, 3)
        + sized(2, b"format")
        + push(stream(b"untouched", entry(b"four")))
        + UNKNOWN
    )
    rows = twins.scan(core, body)
    got = twins.split(core, body, rows, [KEPT, SAMPLED, KEPT, KEPT])
    # of the stream that loses an entry only tag and length are written anew, without padding
    assert got == (
        UNKNOWN
        + sized(1, before + first + between + UNKNOWN + third + UNKNOWN)
        + sized(2, b"format")
        + push(stream(b"untouched", entry(b"four")))
        + UNKNOWN
    )
    got = twins.split(core, body, rows, [DROPPED, KEPT, DROPPED, DROPPED])
    assert got == (
        UNKNOWN + sized(1, before + between + second + UNKNOWN * 2) + sized(2, b"format") + UNKNOWN
    )


def test_a_stream_that_keeps_no_entry_is_left_out(core: ModuleType) -> None:
    empty = stream(b"had no entries")
    lost = stream(b"lost", entry(b"1"), entry(b"2"))
    kept = stream(b"kept", entry(b"3"))
    body = push(empty, lost, kept, lost, empty)
    rows = twins.scan(core, body)
    outcome = [SAMPLED, DROPPED, KEPT, DROPPED, DROPPED]
    assert twins.split(core, body, rows, outcome) == push(empty, kept, empty)
    assert twins.split(core, body, rows, [DROPPED] * 5) == push(empty, empty)


def test_a_push_that_keeps_all_stays_as_it_is(core: ModuleType) -> None:
    body = sized(1, stream(b"l", entry(b"1")), 7) + UNKNOWN + push(stream(b"", b"", b""))
    assert twins.split(core, body, twins.scan(core, body), [KEPT] * 3) == body


@pytest.mark.parametrize("size", [100, 126, 127, 128, 129, 16_383, 16_384, 16_385])
def test_lengths_shrink_across_the_sizes_of_a_varint(core: ModuleType, size: int) -> None:
    kept = sized(2, sized(2, b"x" * size))
    body = push(kept + stream(b"", entry(b"y" * 20)))
    got = twins.split(core, body, twins.scan(core, body), [KEPT, DROPPED])
    assert got == push(kept + sized(1, b""))


def test_nothing_to_split_is_refused(core: ModuleType) -> None:
    for body in (b"", sized(2, b"f"), push(stream(b"l"))):
        with pytest.raises(ValueError, match="a push without entries has nothing to split"):
            twins.split(core, body, twins.scan(core, body), [])


def test_too_few_outcomes_are_refused(core: ModuleType) -> None:
    body = push(stream(b"l", entry(b"1"), entry(b"2")))
    with pytest.raises(ValueError, match="stream 0: 2 entries from 0 on, 2 rows, 1 outcomes"):
        twins.split(core, body, twins.scan(core, body), [DROPPED])


def test_split_needs_room_for_the_whole_body() -> None:
    body = push(stream(b"l", entry(b"1")))
    rows = twins.scan(_core, body)
    room = np.zeros(len(body) - 1, np.uint8)
    with pytest.raises(ValueError, match=f"room for {len(body) - 1} bytes, {len(body)} needed"):
        _core.split(body, twins.PROTOBUF, *rows, b"\x02", room)
    assert not room.any()
