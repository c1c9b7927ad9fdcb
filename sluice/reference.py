"""The core in plain Python: the specification that runs. For tests and benchmarks only.

Same doors, same arguments, same errors in the same words as _core.pyx; one entry after
another, no chunks, no swaps. JSON is in reference_json.py.
"""

from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence

from sluice import errors, reference_json
from sluice.policy import KEEP_ALL, Action

USED_MAX = 2**62
VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
KEPT, SAMPLED, DROPPED = range(3)
PROTOBUF, JSON, LEGACY = range(3)
STREAM_COLUMNS, ENTRY_COLUMNS, RULE_COLUMNS = 8, 3, 4
BATCH_COLUMNS, PUSH_COLUMNS = 8, 12
BAD_TAG = "a field number below 1, or a group's end without its start"
BAD_TYPE = "a wire type that this field cannot have"
OVERLONG = "a varint of more than ten bytes"

Rows = MutableSequence[MutableSequence[int]]


def columns(rows: Rows, expected: int) -> int:
    """How wide the rows are; lists do not say it where there are none."""
    return len(rows[0]) if len(rows) else expected


# evaluate: (team, size) pairs against the counters


def plus(a: int, b: int) -> int:
    return min(int(a) + int(b), 2**63 - 1)


def verdict(soft: int, hard: int, used: int, size: int) -> Action:
    if size > hard - used:
        return Action.DROP
    if size > soft - used:
        return Action.THROTTLE
    return Action.ALLOW


def check_batch(
    team: Sequence[int],
    size: Sequence[int],
    rule: Rows,
    used: Sequence[int],
    action_out: Sequence[int],
    tally_out: Rows,
) -> None:
    n, teams = len(team), len(used)
    if not len(size) == len(action_out) == n:
        raise ValueError(f"{n} teams, {len(size)} sizes, {len(action_out)} actions")
    width = columns(rule, RULE_COLUMNS)
    if (len(rule), width) != (teams, RULE_COLUMNS):
        raise ValueError(f"{teams} counters, {len(rule)} rules of {width} columns")
    width = columns(tally_out, BATCH_COLUMNS)
    if (len(tally_out), width) != (teams, BATCH_COLUMNS):
        raise ValueError(f"{teams} counters, {len(tally_out)} tallies of {width} columns")
    for i in range(n):
        if size[i] < 0:
            raise ValueError(f"entry {i}: size {size[i]} is below 0")
        if not -1 <= team[i] < teams:
            raise IndexError(f"entry {i}: team {team[i]} is not one of {teams}")


def evaluate(
    team: Sequence[int],
    size: Sequence[int],
    rule: Rows,
    used: MutableSequence[int],
    action_out: MutableSequence[int],
    tally_out: Rows,
) -> None:
    check_batch(team, size, rule, used, action_out, tally_out)
    for i in range(len(team)):
        t, n = int(team[i]), int(size[i])
        if t < 0:
            action_out[i] = Action.ALLOW
            continue
        soft, hard, _, dry = (int(word) for word in rule[t])
        action = verdict(soft, hard, int(used[t]), n)
        if dry:
            tally_out[t][5 + action] = plus(tally_out[t][5 + action], n)
            action = Action.ALLOW if n <= USED_MAX - int(used[t]) else Action.DROP
        action_out[i] = action
        tally_out[t][action] += 1
        column = 4 if action == Action.DROP else 3
        tally_out[t][column] = plus(tally_out[t][column], n)
        if action != Action.DROP:
            used[t] += n


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


def read_entry(body: bytes, at: int, end: int) -> tuple[bytes, bytes, int]:
    """The raw timestamp, the line, and the billed size of an Entry."""
    time = line = (0, 0)
    metadata = 0
    for c, _, field, wire_type in fields(body, at, end):
        if field == 1:
            time = c.span(wire_type)
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
    body = bytes(body)
    streams: list[list[int]] = []
    entries: list[list[int]] = []
    for top, tag_at, field, wire_type in fields(body, 0, len(body)):
        if field == 2:
            top.span(wire_type)
        elif field == 1:
            at, end = top.span(wire_type)
            first = len(entries)
            labels = (0, 0)
            for c, start, inner, inner_type in fields(body, at, end):
                if inner == 1:
                    labels = c.span(inner_type)
                elif inner == 2:
                    span = c.span(inner_type)
                    entries.append([start, c.at, read_entry(body, *span)[2]])
                elif inner == 3:
                    if inner_type != VARINT:
                        raise c.refuse(BAD_TYPE)
                    c.varint()
                else:
                    c.skip(inner_type)
            own = entries[first:]
            total = sum(entry[2] for entry in own)
            streams.append([tag_at, end, at, *labels, first, len(own), total])
        else:
            top.skip(wire_type)
    for out, rows in ((stream_out, streams), (entry_out, entries)):
        for i, row in enumerate(rows[: len(out)]):
            out[i][:] = row
    return len(streams), len(entries)


# judge: the outcome of each entry of a scanned push


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


def check_places(
    stream: Rows,
    team: Sequence[int],
    slot: Sequence[int],
    rule: Rows,
    used: Sequence[int],
    tally_out: Rows,
) -> None:
    if len(team) != len(stream):
        raise ValueError(f"{len(stream)} streams, {len(team)} teams")
    width = columns(tally_out, PUSH_COLUMNS)
    if (len(tally_out), width) != (len(slot), PUSH_COLUMNS):
        raise ValueError(f"{len(slot)} teams, {len(tally_out)} tallies of {width} columns")
    width = columns(rule, RULE_COLUMNS)
    if (len(rule), width) != (len(used), RULE_COLUMNS):
        raise ValueError(f"{len(used)} counters, {len(rule)} rules of {width} columns")
    for what, place, where, room in (
        ("stream", team, "team", len(slot)),
        ("team", slot, "slot", len(used)),
    ):
        for i in range(len(place)):
            if not 0 <= place[i] < room:
                raise IndexError(f"{what} {i}: {where} {place[i]} is not one of {room}")


def assign(
    body: bytes,
    dialect: int,
    stream: Rows,
    known: Mapping[bytes, int],
    learn: Callable[[bytes], int],
    team_out: MutableSequence[int],
    app_out: MutableSequence[int],
) -> list[int]:
    width = columns(stream, STREAM_COLUMNS)
    if width != STREAM_COLUMNS:
        raise ValueError(f"rows of {width} columns, not {STREAM_COLUMNS}")
    if not len(team_out) == len(app_out) == len(stream):
        raise ValueError(
            f"{len(stream)} streams, {len(team_out)} teams, {len(app_out)} applications"
        )
    place: dict[int, int] = {}
    for s, (at, end) in enumerate((row[3], row[4]) for row in stream):
        if not 0 <= at <= end <= len(body):
            raise ValueError(f"stream {s}: labels of {end - at} bytes at byte {at} of {len(body)}")
        key = bytes([dialect]) + bytes(body[at:end])
        owner = known[key] if key in known else learn(key)
        team_out[s] = place.setdefault(owner >> 32, len(place))
        app_out[s] = owner % 2**31
    return list(place)


def judge(
    body: bytes,
    dialect: int,
    stream: Rows,
    entry: Rows,
    team: Sequence[int],
    slot: Sequence[int],
    rule: Rows,
    used: MutableSequence[int],
    outcome_out: MutableSequence[int],
    tally_out: Rows,
) -> None:
    check_rows(stream, entry, len(outcome_out))
    check_places(stream, team, slot, rule, used, tally_out)
    body = bytes(body)
    for row, t in zip(stream, team, strict=True):
        soft, hard, keep, dry = (int(word) for word in rule[slot[t]])
        tally = tally_out[t]
        for i in range(int(row[5]), int(row[5]) + int(row[6])):
            size, before = int(entry[i][2]), int(used[slot[t]])
            action = verdict(soft, hard, before, size)
            if dry:
                tally[9 + action] += size
                action = Action.ALLOW if size <= USED_MAX - before else Action.DROP
            outcome = KEPT
            if action == Action.DROP:
                outcome = DROPPED
            elif action == Action.THROTTLE and keep % 2**64 != KEEP_ALL:
                is_kept = hash_of(body, dialect, row, entry[i]) < keep % 2**64
                outcome = KEPT if is_kept else SAMPLED
            if outcome == KEPT:
                used[slot[t]] += size
            outcome_out[i] = outcome
            tally[action] += 1
            tally[3 + 2 * outcome] += 1
            tally[4 + 2 * outcome] += size


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


# book: what became of a push


def check_book(
    row: Rows,
    at: Sequence[int],
    totals: Rows,
    committed: Sequence[int],
    kind: Rows,
    key: Rows,
    cell: Rows,
) -> None:
    wide = columns(row, 0)
    width = columns(totals, wide)
    if not len(at) == len(totals) == len(committed):
        raise ValueError(f"{len(at)} rows, {len(totals)} totals, {len(committed)} amounts")
    if columns(kind, 4) != 4 or not len(key) == len(cell) == len(kind):
        raise ValueError(f"{len(kind)} kinds, {len(key)} keys, {len(cell)} cells")
    if columns(key, 0) != columns(cell, 0):
        raise ValueError(f"{columns(key, 0)} keys, {columns(cell, 0)} cells")
    if width > wide:
        raise ValueError(f"totals of {width} columns for rows of {wide}")
    for k, (first, cells, size, counts) in enumerate(kind):
        fits = 0 <= counts <= min(width, size - 3) and first + cells * size <= wide
        if not fits or min(first, cells) < 0:
            raise ValueError(f"kind {k} does not fit into rows of {wide} columns")
    for r in at:
        rows = min(len(row), columns(key, 0))
        if not 0 <= r < rows:
            raise IndexError(f"row {r} is not one of {rows}")
        for k in range(len(kind)):
            if not 0 <= cell[k][r] < kind[k][1]:
                raise IndexError(f"row {r}: cell {cell[k][r]} is not one of {kind[k][1]}")


def book(
    row: Rows,
    at: Sequence[int],
    totals: Rows,
    committed: Sequence[int],
    kind: Rows,
    key: Rows,
    cell: Rows,
) -> None:
    check_book(row, at, totals, committed, kind, key, cell)
    for i, r in enumerate(at):
        own = row[r]
        for column, n in enumerate(totals[i]):
            own[column] = plus(own[column], n)
        for k, (first, _, size, counts) in enumerate(kind):
            start = first + cell[k][r] * size
            if own[start] == key[k][r]:
                for column, n in enumerate([committed[i], *totals[i][:counts]], start + 2):
                    own[column] = plus(own[column], n)


# add: what was charged is given back


def add(cell: MutableSequence[int], at: Sequence[int], n: Sequence[int]) -> None:
    if len(at) != len(n):
        raise ValueError(f"{len(at)} places, {len(n)} amounts")
    for place in at:
        if not 0 <= place < len(cell):
            raise IndexError(f"place {place} is not one of {len(cell)}")
    for place, amount in zip(at, n, strict=True):
        cell[place] += amount
