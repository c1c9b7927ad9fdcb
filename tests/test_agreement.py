"""The compiled core and its reference agree on everything: values, or refusal and its text."""

import json
import math
import random

import handmade
import numpy as np
import pytest
import twins
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import JSON, LEGACY, PROTOBUF, USED_MAX, Rule

from sluice import _core, errors, reference, row_seal
from sluice.policy import KEEP_ALL

TWINS = (_core, reference)


def assert_agree(call) -> None:
    """Both give the same for `call(core)`."""
    compiled, plain = (twins.outcome_of(lambda core=core: call(core)) for core in TWINS)
    assert compiled == plain


def listed_scan(core, body: bytes) -> list:
    return twins.listed(*twins.scan(core, body))


# -- scan ---------------------------------------------------------------------------------------

# Bytes that mean something to a scanner, far more often than chance has them.
TELLING = st.lists(
    st.one_of(
        st.sampled_from([0x00, 0x01, 0x02, 0x0A, 0x12, 0x1A, 0x2B, 0x2C, 0x7F, 0x80, 0xFF]),
        st.integers(0, 255),
    ),
    max_size=40,
).map(bytes)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=60), TELLING))
def test_scans_agree_on_any_bytes(body: bytes) -> None:
    """Any bytes give the same rows, or the same refusal in the same words."""
    assert_agree(lambda core: listed_scan(core, body))


@settings(max_examples=300)
@given(TELLING, st.integers(0, 2))
def test_scans_agree_on_what_messages_hold(inside: bytes, depth: int) -> None:
    """Any bytes inside a stream, an entry or a pair give the same rows or the same refusal."""
    for number in (3, 2, 1)[2 - depth :]:
        inside = handmade.sized(number, inside)
    assert_agree(lambda core: listed_scan(core, inside))


@st.composite
def timestamps(draw: st.DrawFn) -> bytes:
    """A Timestamp as shippers write it, or one with a byte changed, cut, or with more behind it."""
    seconds = draw(st.sampled_from([0, 2**28 - 1, 2**28, 1_795_000_000, 2**35 - 1, 2**35]))
    nanos = draw(st.sampled_from([0, 1, 127, 128, 2**28, 999_999_999, 10**9, 2**30, -1, 2**31]))
    made = bytearray(handmade.timestamp(seconds, nanos))
    if draw(st.booleans()):
        made[draw(st.integers(0, len(made) - 1))] = draw(st.integers(0, 255))
    more = draw(st.sampled_from([b"", b"\x10\x01", b"\x10\x80", b"\x1a\x00", b"\x08", b"\x80"]))
    return bytes(made[: draw(st.integers(0, 40))]) + more


@settings(max_examples=500)
@given(timestamps() | st.binary(max_size=24))
def test_scans_agree_on_timestamps(time: bytes) -> None:
    """Any Timestamp: taken by both, or refused by both in the same words."""
    body = handmade.push(handmade.stream(b"{}", handmade.entry(b"x", time=time)))
    assert_agree(lambda core: listed_scan(core, body))


@given(handmade.pushes())
def test_scans_agree_on_pushes(body: bytes) -> None:
    """A push is accepted by both, with the same rows."""
    rows = listed_scan(_core, body)
    assert rows == listed_scan(reference, body)


@given(handmade.pushes(), st.integers(0, 9), st.integers(0, 9))
def test_scans_agree_on_what_they_leave_out(body: bytes, streams: int, entries: int) -> None:
    """With too little room both write the same rows and count the same."""

    def scanned(core) -> list:
        rows = np.full((streams, 8), -7), np.full((entries, 3), -7)
        counts = core.scan_push(twins.exact(body), *rows)
        # a stream's row is whole or untouched
        return [counts, *twins.listed(*rows)]

    assert_agree(scanned)


@given(st.binary(max_size=300), st.binary(max_size=80), st.binary(max_size=80))
def test_hashes_agree(labels: bytes, time: bytes, line: bytes) -> None:
    """Any parts have the same hash."""
    parts = [twins.exact(part) for part in (labels, time, line)]
    assert _core.entry_hash(*parts) == reference.entry_hash(*parts)


# -- split --------------------------------------------------------------------------------------


@given(handmade.pushes(), st.data())
def test_splits_agree(body: bytes, data: st.DataObject) -> None:
    """The same outcomes leave the same bytes."""
    rows = twins.scan(_core, body)
    n = len(rows.entry)
    outcomes = st.lists(st.sampled_from([0, 0, 1, 2]), min_size=n, max_size=n)
    outcome = data.draw(outcomes, "outcome")
    assert_agree(lambda core: twins.split(core, body, rows, outcome))


# -- evaluate -----------------------------------------------------------------------------------


@st.composite
def rules_near(draw: st.DrawFn, used: int) -> Rule:
    """A rule whose thresholds a few small entries reach, or the extremes."""
    if draw(st.integers(0, 9)) == 0:
        hard = draw(st.sampled_from([-1, 0, USED_MAX - 1, USED_MAX]))
        soft = draw(st.sampled_from([-1, 0, hard]).filter(lambda soft: soft <= hard))
    else:
        soft = max(-1, used + draw(st.integers(-3, 60)))
        hard = soft + draw(st.integers(0, 150))
    soft, hard = min(soft, USED_MAX), min(hard, USED_MAX)
    if draw(st.integers(0, 9)) == 0:
        # as a reader sees them while the ledger replaces them
        soft, hard = hard, soft
    keep = draw(st.sampled_from([0, 2**62, 2**63, 2**63 + 2**62, KEEP_ALL]))
    return Rule(soft, hard, keep, int(draw(st.integers(0, 5)) == 0))


@st.composite
def counters(draw: st.DrawFn, most: int) -> tuple[list[Rule], list[int]]:
    """Rules and counters of up to `most` teams."""
    start = st.sampled_from([0, 0, 0, 7, 1000, USED_MAX - 40, USED_MAX])
    used = draw(st.lists(start, min_size=1, max_size=most))
    return [draw(rules_near(n)) for n in used], used


@settings(max_examples=200)
@given(counters(3), st.data())
def test_batches_agree(board: tuple[list[Rule], list[int]], data: st.DataObject) -> None:
    """A batch of any sizes and teams has the same actions, tallies and counters."""
    rules, used = board
    near = sorted({max(0, edge - n) for r, n in zip(rules, used, strict=True) for edge in r[:2]})
    size = st.one_of(
        st.sampled_from([n + d for n in near for d in (-1, 0, 1) if 0 <= n + d < USED_MAX]),
        st.integers(0, 12),
        st.sampled_from([2**50 - 1, 2**50, 2**53]),
    )
    pair = st.tuples(st.integers(-1, len(used) - 1), size)
    n = data.draw(st.sampled_from([0, 1, 8, 16]), "at least")
    pairs = data.draw(st.lists(pair, min_size=n, max_size=40), "pairs")
    # the one thing that they need not agree on: sums of refused bytes beyond an int64
    while sum(n for _, n in pairs) >= 2**63:
        pairs.remove(max(pairs, key=lambda pair: pair[1]))
    team, sizes = [t for t, _ in pairs], [n for _, n in pairs]
    assert_agree(lambda core: twins.evaluate(core, team, sizes, rules, used))


@given(st.lists(st.integers(-3, 4), max_size=6), st.lists(st.integers(-2, 9), max_size=6))
def test_batches_are_refused_alike(team: list[int], size: list[int]) -> None:
    """Bad teams, bad sizes and lengths that differ are refused in the same words."""
    assert_agree(lambda core: twins.evaluate(core, team, size, [Rule(9, 12)] * 2, [0, 0]))


def laid_out(rng: random.Random, layout: str, teams: int, n: int) -> list[int]:
    """The team of each entry: `layout` says how long its runs are."""
    longest = {"grouped": 6000, "long": 20, "runs": 12, "short": 3, "mixed": 1}
    team: list[int] = []
    while len(team) < n:
        kind = rng.choice(list(longest)) if layout == "all" else layout
        for _ in range(rng.randrange(1, 300) if longest[kind] < 6000 else 1):
            team += [rng.randrange(-1, teams)] * rng.randrange(1, longest[kind] + 1)
    return team[:n]


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    layout=st.sampled_from(["grouped", "long", "runs", "short", "mixed", "all"]),
    teams=st.sampled_from([1, 2, 5, 60, 900]),
    n=st.sampled_from([65, 200, 1000, 4000]),
    largest=st.sampled_from([1, 3, 300, 2**49, 2**51]),
    tight=st.floats(0, 1.3),
)
def test_long_batches_agree(
    seed: int, layout: str, teams: int, n: int, largest: int, tight: float
) -> None:
    """Grouped or mixed, whole runs, chunks and single entries decide the same."""
    agree_on_long_batch(seed, layout, teams, n, largest, tight)


@pytest.mark.parametrize(
    ("layout", "teams", "n"),
    [
        # more than one chunk; fewer entries left than two per team: run by run after all
        ("mixed", 4, 300_000),
        ("short", 3000, 40_000),
        ("mixed", 30_000, 40_000),
        # in and out of chunks
        ("all", 50, 300_000),
        ("grouped", 3, 30_000),
        # more runs than are kept of the first look
        ("long", 70, 200_000),
    ],
)
def test_batches_of_many_chunks_agree(layout: str, teams: int, n: int) -> None:
    for seed, tight in ((1, 0.7), (2, 1.01)):
        agree_on_long_batch(seed, layout, teams, n, 300, tight)


def agree_on_long_batch(
    seed: int, layout: str, teams: int, n: int, largest: int, tight: float
) -> None:
    """Both decide alike where each team's demand is about 1/`tight` of what it has left."""
    rng = random.Random(seed)
    team = laid_out(rng, layout, teams, n)
    size = [rng.randrange(largest + 1) for _ in range(n)]
    demand = [0] * teams
    for t, own in zip(team, size, strict=True):
        demand[t] += own if t >= 0 else 0
    used = [rng.choice([0, 0, 500, USED_MAX // 2]) for _ in range(teams)]
    rules = []
    for before, wanted in zip(used, demand, strict=True):
        hard = min(USED_MAX, before + int(wanted * tight * rng.choice([0.5, 1, 1, 1.5])))
        soft = rng.choice([hard, before + (hard - before) * 4 // 5, before, -1])
        rules.append(Rule(soft, hard, KEEP_ALL, int(rng.random() < 0.1)))
    compiled, plain = (twins.evaluate(core, team, size, rules, used) for core in TWINS)
    assert compiled.used == plain.used
    assert compiled.tally == plain.tally
    # not compared by assert: pytest would spend minutes on the difference
    first = next((i for i in range(n) if compiled.action[i] != plain.action[i]), None)
    assert first is None


# -- judge --------------------------------------------------------------------------------------


def agree_on_verdicts(body: bytes, dialect: int, data: st.DataObject) -> None:
    """Judge the scanned body under drawn rules on both, then split it by the outcome."""
    rows = twins.scan(_core, body, dialect)
    rules, used = data.draw(counters(4), "rules and counters")
    slots = st.lists(st.integers(0, len(used) - 1), min_size=1, max_size=3, unique=True)
    slot = data.draw(slots, "slots")
    n = len(rows.stream)
    teams = st.lists(st.integers(0, len(slot) - 1), min_size=n, max_size=n)
    team = data.draw(teams, "teams")
    compiled, plain = (
        twins.judge(core, body, rows, team, rules, used, slot=slot, dialect=dialect)
        for core in TWINS
    )
    assert compiled == plain
    assert_agree(lambda core: twins.split(core, body, rows, compiled.outcome, dialect))


@settings(max_examples=150)
@given(handmade.pushes(), st.data())
def test_verdicts_agree(body: bytes, data: st.DataObject) -> None:
    """A push under any rules has the same outcomes, tallies and counters."""
    agree_on_verdicts(body, PROTOBUF, data)


TEXT = st.text(max_size=20)


@st.composite
def json_pushes(draw: st.DrawFn) -> tuple[int, bytes]:
    """A JSON push in one of the two dialects, as json.dumps writes it."""
    dialect = draw(st.sampled_from([JSON, LEGACY]))
    pairs = st.dictionaries(TEXT, TEXT, max_size=2)
    if dialect == JSON:
        times = st.integers(0, 2**62).map(str)
        entry = st.one_of(st.tuples(times, TEXT).map(list), st.tuples(times, TEXT, pairs).map(list))
        stream = st.fixed_dictionaries({"stream": pairs, "values": st.lists(entry, max_size=5)})
    else:
        times = st.datetimes().map(lambda time: time.isoformat() + "Z")
        entry = st.fixed_dictionaries(
            {"ts": times, "line": TEXT}, optional={"structuredMetadata": pairs}
        )
        stream = st.fixed_dictionaries({"labels": TEXT, "entries": st.lists(entry, max_size=5)})
    document = {"streams": draw(st.lists(stream, max_size=5))}
    ensure_ascii = draw(st.booleans())
    written = json.dumps(document, ensure_ascii=ensure_ascii)
    return dialect, written.encode("utf-8", "surrogatepass")


@given(json_pushes(), st.data())
def test_verdicts_on_json_agree(pushed: tuple[int, bytes], data: st.DataObject) -> None:
    """A JSON push under any rules has the same outcomes, tallies, counters and split."""
    agree_on_verdicts(pushed[1], pushed[0], data)


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_on_streams_of_many_chunks_agree(seed: int) -> None:
    rng = random.Random(seed)
    streams = [
        handmade.stream(
            rng.randbytes(9),
            *[
                handmade.entry(
                    rng.randbytes(rng.randrange(30)),
                    time=handmade.timestamp(rng.randrange(2**33), rng.randrange(10**9)),
                )
                for _ in range(rng.choice([0, 3, 511, 512, 513, 1300]))
            ],
        )
        for _ in range(7)
    ]
    body = handmade.push(*streams)
    rows = twins.scan(_core, body)
    team = [rng.randrange(2) for _ in streams]
    wanted = [
        sum(n for n, own in zip(rows.stream[:, twins.SIZE].tolist(), team, strict=True) if own == t)
        for t in range(2)
    ]
    rules = [Rule(n // 3, n * 3 // 4, 2**63, seed == 3) for n in wanted]
    compiled, plain = (twins.judge(core, body, rows, team, rules, [0, 0]) for core in TWINS)
    assert compiled.tally == plain.tally
    assert compiled.used == plain.used
    assert bytes(compiled.outcome) == bytes(plain.outcome)


@given(
    st.lists(st.integers(-1, 3), max_size=4),
    st.lists(st.integers(-1, 3), max_size=3),
    st.integers(0, 3),
)
def test_pushes_are_refused_alike(team: list[int], slot: list[int], cells: int) -> None:
    """Places that do not exist are refused in the same words, or both accept them."""
    body = handmade.push(*[handmade.stream(b"l", handmade.entry(b"line"))] * 2)
    rows = twins.scan(_core, body)
    rules, used = [Rule(3, 5)] * cells, [0] * cells
    assert_agree(lambda core: twins.judge(core, body, rows, team, rules, used, slot=slot))


# -- assign -------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([b"", b"a", b'{a="b"}', b"x" * 70]), max_size=8),
    st.dictionaries(st.sampled_from([b"\0a", b"\1a", b"\0"]), st.integers(0, 2**47), max_size=3),
    st.sampled_from([PROTOBUF, LEGACY]),
)
def test_streams_are_assigned_alike(labels: list[bytes], known: dict, dialect: int) -> None:
    """Both find the same owners, ask for the same strings, and number rows as they come up."""
    body = b"".join(labels)
    stream, at = np.zeros((len(labels), 8), np.int64), 0
    for row, label in zip(stream, labels, strict=True):
        row[3:5] = at, at + len(label)
        at += len(label)

    def call(core) -> list:
        asked: list[bytes] = []

        def learn(key: bytes) -> int:
            asked.append(key)
            return len(key) % 3 << 32 | len(asked)

        team, app = np.zeros(len(labels), np.int32), np.zeros(len(labels), np.int32)
        arrays = twins.lent(core, stream, team, app)
        rows = core.assign(body, dialect, arrays[0], dict(known), learn, *arrays[1:])
        return [rows, asked, *twins.listed(*arrays[1:])]

    assert_agree(call)


@pytest.mark.parametrize("shape", [(2, 1, 2, 8), (2, 2, 1, 8), (1, 1, 1, 7)])
@pytest.mark.parametrize("labels", [(0, 1), (1, 3), (2, 1), (-1, 0), (3, 3)])
def test_streams_that_do_not_fit_are_assigned_by_neither(shape, labels) -> None:
    streams, teams, apps, width = shape
    stream = np.zeros((streams, width), np.int64)
    stream[:, 3:5] = labels
    team, app = np.zeros(teams, np.int32), np.zeros(apps, np.int32)

    def call(core) -> list:
        rows, *outs = twins.lent(core, stream, team, app)
        return [core.assign(b"ab", 0, rows, {}, lambda _: 0, *outs)]

    assert_agree(call)
    if teams == apps == streams and width == 8 and labels != (0, 1):
        assert twins.outcome_of(lambda: call(_core))[0] is ValueError


@pytest.mark.parametrize("over", [0, 1])
def test_a_label_text_beyond_the_bound_is_refused_by_both(over: int) -> None:
    body = bytes(_core.LABELS_MAX + over)
    stream = np.zeros((2, 8), np.int64)
    stream[1, 4] = len(body)

    def call(core) -> list:
        rows, *outs = twins.lent(core, stream, np.zeros(2, np.int32), np.zeros(2, np.int32))
        return [core.assign(body, 0, rows, {b"\0": 1 << 32}, len, *outs)]

    assert_agree(call)
    found = twins.outcome_of(lambda: call(_core))
    assert (found[0] is errors.BadPush) == bool(over)


def test_what_a_parser_raises_comes_out_of_assign() -> None:
    def learn(_: bytes) -> int:
        raise KeyError("unknown")

    stream, out = np.zeros((1, 8), np.int64), np.zeros(1, np.int32)
    with pytest.raises(KeyError, match="unknown"):
        _core.assign(b"ab", 0, stream, {}, learn, out, out)


# -- book ---------------------------------------------------------------------------------------

KINDS = np.array([(2, 2, 5, 2), (12, 3, 3, 0)], np.int64)
# Those of KINDS, and a row's seal.
BOOK_COLUMNS = 24
COUNT_MAX = 2**63 - 1


@st.composite
def books(draw: st.DrawFn) -> list[np.ndarray]:
    """Arrays as the ledger hands them over: mostly fitting ones."""
    rows = draw(st.integers(1, 3))
    counts = st.integers(0, 3) | st.integers(COUNT_MAX - 2, COUNT_MAX)
    at = draw(st.lists(st.integers(-1 if draw(st.booleans()) else 0, rows - 1), max_size=4))

    def fill(*shape: int) -> np.ndarray:
        n = math.prod(shape)
        return np.array(draw(st.lists(counts, min_size=n, max_size=n)), np.int64).reshape(shape)

    keys = np.array(draw(st.lists(st.integers(0, 3), min_size=2 * rows, max_size=2 * rows)))
    cells = np.array(draw(st.lists(st.integers(0, 2), min_size=2 * rows, max_size=2 * rows)))
    return [
        fill(rows, BOOK_COLUMNS),
        np.array(at, np.int32),
        fill(len(at), 3),
        fill(len(at)),
        KINDS,
        keys.astype(np.int32).reshape(2, rows),
        cells.astype(np.int32).reshape(2, rows),
        fill(BOOK_COLUMNS),
        fill(2 + BOOK_COLUMNS),
    ]


@given(books())
def test_books_agree(arrays: list[np.ndarray]) -> None:
    """Both add the same to the same cells, and neither anything when they refuse."""

    def call(core) -> list:
        lent = twins.lent(core, *[array.copy() for array in arrays])
        refusal = twins.outcome_of(lambda: core.book(*lent))
        return [refusal, *twins.listed(lent[0], lent[-1])]

    assert_agree(call)


@pytest.mark.parametrize("wrong", range(9))
@pytest.mark.parametrize("grow", [0, 1])
def test_books_that_do_not_fit_are_refused_alike(wrong: int, grow: int) -> None:
    shapes = [[2, 24], [2], [2, 3], [2], [2, 4], [2, 2], [2, 2], [24], [26]]
    shapes[wrong][min(grow, len(shapes[wrong]) - 1)] += 1
    arrays = [
        np.ones(shape, np.int32 if i in (1, 5, 6) else np.int64) for i, shape in enumerate(shapes)
    ]
    arrays[4][:2, :4] = KINDS[:, : arrays[4].shape[1]]
    refused = [
        twins.outcome_of(lambda core=core: core.book(*twins.lent(core, *arrays))) for core in TWINS
    ]
    assert refused[0] == refused[1]


def test_a_row_stays_whole_whatever_is_booked() -> None:
    """The check that the core keeps is the one that a start computes from the whole row."""
    rng = np.random.default_rng(9)
    book = row_seal.SealedRows(np.zeros((2, BOOK_COLUMNS), np.int64))
    book.begin({"a": 0, "b": 1})
    zero, at = np.zeros((2, 2), np.int32), np.array([1, 0, 1], np.int32)
    for most in (3, COUNT_MAX):
        totals, amount = rng.integers(0, most, (3, 3)), rng.integers(0, most, 3)
        before, clock = book.rows[1].copy(), book.journal[row_seal.CLOCK]
        _core.book(book.rows, at, totals, amount, KINDS, zero, zero, book.weight, book.journal)
        assert book.are_whole(np.arange(2), "ab").all()
        assert not book.are_whole(np.arange(2), "ba").any()
        assert book.journal[row_seal.CLOCK] == book.rows[1, row_seal.CHANGED] == clock + 3
        # Nothing is under way; what the journal has is the row before its last change.
        assert book.undone() is None
        assert (book.journal[row_seal.IMAGE :] != before).any()
        assert row_seal.are_whole(book.journal[None, row_seal.IMAGE :], "b", book.weight)[0]


@pytest.mark.parametrize(
    "kind", [(-1, 2, 5, 2), (2, -1, 5, 2), (2, 2, 5, -1), (2, 2, 4, 2), (12, 2, 5, 2), (0, 1, 9, 4)]
)
def test_cells_that_do_not_fit_into_a_row_are_refused_alike(kind) -> None:
    row, totals = np.zeros((1, BOOK_COLUMNS), np.int64), np.ones((1, 3), np.int64)
    weight, journal = np.ones(BOOK_COLUMNS, np.int64), np.zeros(2 + BOOK_COLUMNS, np.int64)
    zero = np.zeros((2, 1), np.int32)
    kinds = np.array([kind, KINDS[1]])

    def call(core) -> list:
        at, amount = np.zeros(1, np.int32), np.ones(1, np.int64)
        arrays = (row, at, totals, amount, kinds, zero, zero, weight, journal)
        return [core.book(*twins.lent(core, *arrays))]

    assert_agree(call)
    assert twins.outcome_of(lambda: call(_core))[0] is ValueError
    assert not row.any()
