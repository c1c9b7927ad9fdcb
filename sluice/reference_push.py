"""The reference of what is done with a push's bytes: scan, hash, split. See reference.py.

JSON is in reference_json.py.
"""

from collections.abc import Iterator, MutableSequence, Sequence

from sluice import errors, reference_json

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
PROTOBUF, JSON, LEGACY = range(3)
KEPT = 0
STREAM_COLUMNS, ENTRY_COLUMNS = 8, 3
BAD_TAG = "a field number below 1, or a group's end without its start"
BAD_TYPE = "a wire type that this field cannot have"
OVERLONG = "a varint of more than ten bytes"
OUT_OF_TIME = "Loki takes the years 1 to 9999, and 0 to 999999999 ns"
# 0001-01-01 and 10000-01-01
SECONDS_MIN, SECONDS_END, NANOS_END = -62_135_596_800, 253_402_300_800, 10**9

Rows = MutableSequence[MutableSequence[int]]


def columns(rows: Rows, expected: int) -> int:
    """How wide the rows are; lists do not say it where there are none."""
    return len(rows[0]) if len(rows) else expected


# scan: a PushRequest in protobuf


class Cursor:
    """A place in `body` between two bounds."""

    def __init__(self, body: bytes, at: int, end: int) -> None:
        self.body, self.at, self.end = body, at, end

    def refuse(self, words: str, at: int | None = None) -> errors.BadPush:
        return errors.BadPush(f"byte {self.at if at is None else at}: {words}")

    def truncated(self, need: int) -> errors.BadPush:
        return self.refuse(f"length {need} exceeds the {self.end - self.at} bytes left")

    def varint(self) -> int:
        value = 0
        for i in range(10):
            if self.at + i == self.end:
                raise self.truncated(i + 1)
            byte = self.body[self.at + i]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                self.at += i + 1
                return value & (2**64 - 1)
        raise self.refuse(OVERLONG)

    def length(self) -> int:
        start = self.at
        size = self.varint()
        if size > self.end - self.at:
            words = f"length {size} exceeds the {self.end - self.at} bytes left"
            raise self.refuse(words, start)
        return size

    def tag(self) -> tuple[int, int]:
        start = self.at
        tag = self.varint()
        field = (tag >> 3) & (2**32 - 1)
        if tag & 7 == GROUP_END or field == 0 or field >= 2**31:
            raise self.refuse(BAD_TAG, start)
        return field, tag & 7

    def span(self, wire_type: int) -> tuple[int, int]:
        if wire_type != BYTES:
            raise self.refuse(BAD_TYPE)
        size = self.length()
        self.at += size
        return self.at - size, self.at

    def skip(self, wire_type: int) -> None:
        if wire_type == VARINT:
            self.varint()
        elif wire_type == BYTES:
            # two statements: in one, `at` would be read before length() moves it
            size = self.length()
            self.at += size
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
            if size > self.end - self.at:
                raise self.truncated(size)
            self.at += size
        elif wire_type == GROUP:
            self.skip_group()
        else:
            raise self.refuse(BAD_TYPE)

    def skip_group(self) -> None:
        depth = 1
        while depth:
            wire_type = self.varint() & 7
            if wire_type == GROUP:
                depth += 1
            elif wire_type == GROUP_END:
                depth -= 1
            else:
                self.skip(wire_type)


def fields(body: bytes, at: int, end: int) -> Iterator[tuple[Cursor, int, int, int]]:
    """Yield (cursor behind the tag, where the tag began, field, wire type) for each field."""
    c = Cursor(body, at, end)
    while c.at < c.end:
        start = c.at
        field, wire_type = c.tag()
        yield c, start, field, wire_type


def pair_size(body: bytes, at: int, end: int) -> int:
    name = value = (0, 0)
    for c, _, field, wire_type in fields(body, at, end):
        if field == 1:
            name = c.span(wire_type)
        elif field == 2:
            value = c.span(wire_type)
        else:
            c.skip(wire_type)
    if body[slice(*name)] == b"detected_level":
        return 0
    return name[1] - name[0] + value[1] - value[0]


def check_time(body: bytes, at: int, end: int) -> None:
    """See whether Loki refuses a Timestamp: 1 seconds, 2 nanoseconds; others are left to Loki."""
    seconds = nanos = 0
    for c, _, field, wire_type in fields(body, at, end):
        if field > 2:
            return
        if wire_type != VARINT:
            raise c.refuse(BAD_TYPE)
        number = c.varint()
        if field == 1:
            seconds = number - (number >> 63 << 64)
        else:
            nanos = number % 2**32
    nanos -= nanos >> 31 << 32
    if not (SECONDS_MIN <= seconds < SECONDS_END and 0 <= nanos < NANOS_END):
        words = f"a timestamp of {seconds} s and {nanos} ns: {OUT_OF_TIME}"
        raise Cursor(body, at, end).refuse(words)


def read_entry(body: bytes, at: int, end: int) -> tuple[bytes, bytes, int]:
    """The raw timestamp, the line, and the billed size of an Entry."""
    time = line = (0, 0)
    metadata = 0
    for c, _, field, wire_type in fields(body, at, end):
        if field == 1:
            time = c.span(wire_type)
            check_time(body, *time)
        elif field == 2:
            line = c.span(wire_type)
        elif field == 3:
            metadata += pair_size(body, *c.span(wire_type))
        elif field == 4:
            c.span(wire_type)
        else:
            c.skip(wire_type)
    return body[slice(*time)], body[slice(*line)], line[1] - line[0] + metadata


def check_room(stream_out: Rows, entry_out: Rows) -> None:
    found = columns(stream_out, STREAM_COLUMNS), columns(entry_out, ENTRY_COLUMNS)
    if found != (STREAM_COLUMNS, ENTRY_COLUMNS):
        raise ValueError(
            f"rows of {found[0]} and {found[1]} columns, not {STREAM_COLUMNS} and {ENTRY_COLUMNS}"
        )


def scan_push(body: bytes, stream_out: Rows, entry_out: Rows) -> tuple[int, int]:
    check_room(stream_out, entry_out)
    streams: list[list[int]] = []
    entries: list[list[int]] = []
    open_in = [-1, -1]
    try:
        scan_streams(bytes(body), streams, entries, open_in)
    except errors.BadPush as error:
        raise errors.BadPush(reference_json.place(*open_in) + error.message) from None
    for out, rows in ((stream_out, streams), (entry_out, entries)):
        for i, row in enumerate(rows[: len(out)]):
            out[i][:] = row
    return len(streams), len(entries)


def scan_streams(
    body: bytes, streams: list[list[int]], entries: list[list[int]], open_in: list[int]
) -> None:
    """Fill the rows; `open_in` says which stream and entry of it are being read."""
    for top, tag_at, field, wire_type in fields(body, 0, len(body)):
        if field == 2:
            top.span(wire_type)
        elif field == 1:
            open_in[0] = len(streams)
            at, end = top.span(wire_type)
            first = len(entries)
            labels = (0, 0)
            for c, start, inner, inner_type in fields(body, at, end):
                if inner == 1:
                    labels = c.span(inner_type)
                elif inner == 2:
                    open_in[1] = len(entries) - first
                    span = c.span(inner_type)
                    entries.append([start, c.at, read_entry(body, *span)[2]])
                    open_in[1] = -1
                elif inner == 3:
                    if inner_type != VARINT:
                        raise c.refuse(BAD_TYPE)
                    c.varint()
                else:
                    c.skip(inner_type)
            own = entries[first:]
            total = sum(entry[2] for entry in own)
            streams.append([tag_at, end, at, *labels, first, len(own), total])
            open_in[0] = -1
        else:
            top.skip(wire_type)


# hash: what decides on an entry in the throttle band


def rotated(x: int, bits: int) -> int:
    x &= 2**64 - 1
    return (x << bits | x >> 64 - bits) & (2**64 - 1)


P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: bytes, seed: int) -> int:
    """XXH64 as its specification has it."""

    def lane(total: int, at: int) -> int:
        return rotated(total + int.from_bytes(data[at : at + 8], "little") * P2, 31) * P1

    at = 0
    h = seed + P5
    if len(data) >= 32:
        lanes = [seed + P1 + P2, seed + P2, seed, seed - P1]
        while len(data) - at >= 32:
            lanes = [lane(total, at + 8 * i) for i, total in enumerate(lanes)]
            at += 32
        h = sum(rotated(total, bits) for total, bits in zip(lanes, (1, 7, 12, 18), strict=True))
        for total in lanes:
            h = (h % 2**64 ^ rotated(total * P2, 31) * P1 % 2**64) * P1 + P4
    h += len(data)
    while len(data) - at >= 8:
        h = rotated(h % 2**64 ^ lane(0, at) % 2**64, 27) * P1 + P4
        at += 8
    if len(data) - at >= 4:
        h ^= int.from_bytes(data[at : at + 4], "little") * P1
        h = rotated(h, 23) * P2 + P3
        at += 4
    for byte in data[at:]:
        h = rotated(h % 2**64 ^ byte * P5, 11) * P1
    h %= 2**64
    h = (h ^ h >> 33) * P2 % 2**64
    h = (h ^ h >> 29) * P3 % 2**64
    return h ^ h >> 32


def entry_hash(labels: bytes, time: bytes, line: bytes) -> int:
    return xxh64(bytes(line), xxh64(bytes(time), xxh64(bytes(labels), 0)))


def hash_of(body: bytes, dialect: int, stream: Sequence[int], entry: Sequence[int]) -> int:
    at, end, _ = (int(word) for word in entry)
    if dialect == PROTOBUF:
        c = Cursor(body, at, end)
        c.tag()
        c.length()
        time, line, _ = read_entry(body, c.at, end)
    else:
        part = reference_json.json_entry_parts(body, at, end, dialect == LEGACY)
        time, line = body[part[0] : part[1]], body[part[2] : part[3]]
    return entry_hash(body[int(stream[3]) : int(stream[4])], time, line)


def check_rows(stream: Rows, entry: Rows, outcomes: int) -> None:
    found = columns(stream, STREAM_COLUMNS), columns(entry, ENTRY_COLUMNS)
    if found != (STREAM_COLUMNS, ENTRY_COLUMNS):
        raise ValueError(f"rows of {found[0]} and {found[1]} columns")
    for s, row in enumerate(stream):
        if not 0 <= row[5] <= min(len(entry), outcomes) - row[6]:
            raise ValueError(
                f"stream {s}: {row[6]} entries from {row[5]} on,"
                f" {len(entry)} rows, {outcomes} outcomes"
            )


# split: the filtered body


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def split(body: bytes, dialect: int, stream: Rows, entry: Rows, outcome: Sequence[int]) -> bytes:
    """The filtered body; _core.split writes it to an argument instead."""
    check_rows(stream, entry, len(outcome))
    if not len(stream) or not len(entry):
        raise ValueError("a push without entries has nothing to split")
    body = bytes(body)
    if dialect != PROTOBUF:
        return reference_json.split_json(body, dialect == LEGACY, stream, entry, outcome)
    out = b""
    at = 0
    for row in stream:
        tag_at, end, payload_at, _, _, first, count, _ = (int(word) for word in row)
        mine = range(first, first + count)
        if all(outcome[i] == KEPT for i in mine):
            continue
        out += body[at:tag_at]
        at = end
        if any(outcome[i] == KEPT for i in mine):
            payload, behind = b"", payload_at
            for i in mine:
                if outcome[i] != KEPT:
                    payload += body[behind : int(entry[i][0])]
                    behind = int(entry[i][1])
            payload += body[behind:end]
            out += b"\x0a" + varint(len(payload)) + payload
    return out + body[at:]
