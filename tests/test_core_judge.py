"""What becomes of the entries of a push, case by case, on both implementations of the core: the
sampling hash, who is charged, and what is refused."""

import random
from types import ModuleType

import numpy as np
import pytest
import shippers
import twins
import xxhash
from handmade import entry, push, stream
from twins import DROPPED, KEPT, SAMPLED, USED_MAX, Rule, limited, no_rows

from sluice import policy
from sluice.policy import KEEP_ALL

# -- the sampling hash --------------------------------------------------------------------------


def xxh64_chain(labels: bytes, time: bytes, line: bytes) -> int:
    """The sampling hash by the package of xxHash's own authors."""
    seed = xxhash.xxh64_intdigest(time, xxhash.xxh64_intdigest(labels, 0))
    return xxhash.xxh64_intdigest(line, seed)


@pytest.mark.parametrize("part", range(3))
def test_the_hash_is_xxh64_at_every_length(core: ModuleType, part: int) -> None:
    rng = random.Random(part)
    for n in range(201):
        parts = [rng.randbytes(rng.randrange(80)) for _ in range(3)]
        parts[part] = rng.randbytes(n)
        assert core.entry_hash(*map(twins.exact, parts)) == xxh64_chain(*parts)


def test_the_hash_stays_what_it_was(core: ModuleType) -> None:
    # A resent entry must meet the same verdict after an upgrade: these must never change.
    assert core.entry_hash(b"", b"", b"") == 0xFA4FB934F9C05C03
    labels = b'{app="cart", namespace="shop"}'
    assert core.entry_hash(labels, b"\x08\x80\xe2\xcf\xaa\x06", b"ready") == 0x6EDD1EABAABE6513


# -- judge: sampling ----------------------------------------------------------------------------

IN_THE_BAND = Rule(-1, USED_MAX)


def hashes_of(body: bytes) -> list[int]:
    """Each entry's sampling hash: google's protobuf finds its parts, xxHash hashes them."""
    message = shippers.message_class()()
    message.ParseFromString(body)
    return [
        xxh64_chain(own.labels, line.timestamp.SerializeToString(), line.line)
        for own in message.streams
        for line in own.entries
    ]


@pytest.fixture(scope="module")
def pushed() -> bytes:
    """Two streams of forty lines each, of two namespaces."""
    streams = shippers.make_streams(
        1, ["shop", "mail"], streams=2, entries=40, line_bytes=90, start_ns=1_764_000_000 * 10**9
    )
    return shippers.push_message(streams).SerializeToString()


@pytest.mark.parametrize(
    ("rate", "share"), [(0.0, (0, 0)), (0.25, (8, 32)), (0.5, (26, 54)), (1.0, (80, 80))]
)
def test_the_band_keeps_the_share_that_the_rate_says(
    core: ModuleType, pushed: bytes, rate: float, share: tuple[int, int]
) -> None:
    keep = policy.keep_below(rate)
    rows = twins.scan(core, pushed)
    rules = [IN_THE_BAND._replace(keep=keep)]
    got = twins.judge(core, pushed, rows, [0, 0], rules, [0])
    kept = [h < keep or keep == KEEP_ALL for h in hashes_of(pushed)]
    assert got.outcome == [KEPT if own else SAMPLED for own in kept]
    assert share[0] <= sum(kept) <= share[1]
    bytes_kept = sum(n for n, own in zip(rows.sizes, kept, strict=True) if own)
    assert got.used == [bytes_kept]
    lost = 80 - sum(kept), sum(rows.sizes) - bytes_kept
    assert got.tally == [[0, 80, 0, sum(kept), bytes_kept, *lost, 0, 0, 0, 0, 0]]


def test_a_hash_is_kept_below_the_bound_and_not_at_it(core: ModuleType, pushed: bytes) -> None:
    rows = twins.scan(core, pushed)
    for i, h in enumerate(hashes_of(pushed)):
        for keep, outcome in ((h, SAMPLED), (h + 1, KEPT), (h - 1, SAMPLED)):
            rules = [IN_THE_BAND._replace(keep=keep)]
            got = twins.judge(core, pushed, rows, [0, 0], rules, [0])
            assert got.outcome[i] == outcome


@pytest.mark.parametrize(
    ("line", "keep", "outcome"),
    [
        # lines of 8 bytes that XXH64 was solved for: the smallest hash, and the two largest
        ("3d101857f43aa4db", 0, SAMPLED),
        ("3d101857f43aa4db", 1, KEPT),
        ("185c1321a100867d", 2**64 - 2, SAMPLED),
        ("185c1321a100867d", KEEP_ALL, KEPT),
        ("2b0f43d66f8f3f1b", 2**64 - 2, SAMPLED),
        # no bound is above the largest hash, so KEEP_ALL is not compared
        ("2b0f43d66f8f3f1b", KEEP_ALL, KEPT),
    ],
)
def test_the_extreme_hashes_are_kept_by_rate_1_alone(
    core: ModuleType, line: str, keep: int, outcome: int
) -> None:
    body = push(stream(b"{}", entry(bytes.fromhex(line))))
    rows = twins.scan(core, body)
    got = twins.judge(core, body, rows, [0], [IN_THE_BAND._replace(keep=keep)], [0])
    assert got.outcome == [outcome]


def test_an_entry_sent_again_meets_the_same_verdict(core: ModuleType, pushed: bytes) -> None:
    rows = twins.scan(core, pushed)
    rules = [IN_THE_BAND._replace(keep=2**63)]
    first = twins.judge(core, pushed, rows, [0, 0], rules, [0])
    again = twins.judge(core, pushed, rows, [0, 0], rules, first.used)
    alone = twins.judge(core, pushed, rows, [0, 1], rules * 2, [12345, 0])
    assert first.outcome == again.outcome == alone.outcome


def test_only_the_band_is_sampled(core: ModuleType) -> None:
    lines = [b"a" * 80, b"b" * 10, b"c" * 11, b"d" * 10]
    body = push(stream(b"{}", *map(entry, lines)))
    rows = twins.scan(core, body)
    got = twins.judge(core, body, rows, [0], [limited(100, keep=0)], [0])
    # what is sampled out is not charged, so the lines behind it are judged as if it never came
    assert got.outcome == [KEPT, SAMPLED, SAMPLED, SAMPLED]
    assert got.used == [80]
    got = twins.judge(core, body, rows, [0], [limited(100)], [0])
    assert got.outcome == [KEPT, KEPT, DROPPED, KEPT]
    assert got.used == [100]
    assert got.tally == [[1, 2, 1, 3, 100, 0, 0, 1, 11, 0, 0, 0]]


# -- judge: teams -------------------------------------------------------------------------------


def test_a_push_is_charged_to_the_team_of_each_stream(core: ModuleType) -> None:
    body = push(
        stream(b"a", entry(b"12345"), entry(b"1")),
        stream(b"b"),
        stream(b"b", entry(b"1234")),
        stream(b"a", entry(b"12"), entry(b"1")),
    )
    rows = twins.scan(core, body)
    rules = [limited(0), Rule(6, 7), limited(0), limited(4)]
    got = twins.judge(core, body, rows, [1, 0, 0, 1], rules, [0] * 4, slot=[3, 1])
    assert got.outcome == [KEPT, KEPT, KEPT, DROPPED, KEPT]
    assert got.used == [0, 7, 0, 4]
    assert got.tally == [
        [0, 1, 0, 1, 4, 0, 0, 0, 0, 0, 0, 0],
        [2, 1, 1, 3, 7, 0, 0, 1, 2, 0, 0, 0],
    ]


def test_a_push_in_a_dry_run_is_kept_and_counted_twice(core: ModuleType) -> None:
    body = push(stream(b"a", entry(b"x" * 80), entry(b"x" * 20), entry(b"x"), entry(b"")))
    rows = twins.scan(core, body)
    got = twins.judge(core, body, rows, [0], [limited(100, keep=0, dry=1)], [0])
    assert got.outcome == [KEPT] * 4
    assert got.used == [101]
    assert got.tally == [[4, 0, 0, 4, 101, 0, 0, 0, 0, 80, 20, 1]]
    full = twins.judge(core, body, rows, [0], [limited(100, dry=1)], [USED_MAX - 21])
    assert full.outcome == [DROPPED, KEPT, KEPT, KEPT]
    assert full.tally == [[3, 0, 1, 3, 21, 0, 0, 1, 80, 0, 0, 101]]
    under = twins.judge(core, body, rows, [0], [limited(1000, dry=1)], [0])
    assert under.tally == [[4, 0, 0, 4, 101, 0, 0, 0, 0, 101, 0, 0]]


@pytest.mark.parametrize("n", [511, 512, 513, 1500])
def test_a_long_stream_stops_at_the_byte(core: ModuleType, n: int) -> None:
    body = push(stream(b"a", *[entry(b"x")] * n))
    got = twins.judge(core, body, twins.scan(core, body), [0], [limited(n - 100)], [0])
    assert got.outcome == [KEPT] * (n - 100) + [DROPPED] * 100
    assert got.used == [n - 100]


def test_a_push_without_entries_is_judged_as_nothing(core: ModuleType) -> None:
    for body in (b"", push(stream(b"a")), push(b"", b"")):
        rows = twins.scan(core, body)
        got = twins.judge(core, body, rows, [0] * len(rows.stream), [Rule(-1, -1)], [7])
        assert got == ([], [[0] * 12], [7])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"team": [0, 0, 0]}, ValueError, "2 streams, 3 teams"),
        ({"team": [0, 2]}, IndexError, "stream 1: team 2 is not one of 2"),
        ({"team": [-1, 0]}, IndexError, "stream 0: team -1 is not one of 2"),
        ({"slot": [0, 3]}, IndexError, "team 1: slot 3 is not one of 3"),
        ({"slot": [-1, 0]}, IndexError, "team 0: slot -1 is not one of 3"),
        ({"slot": [0, 1, 2]}, ValueError, "3 teams, 2 tallies of 12 columns"),
        ({"tally": no_rows(8, 2)}, ValueError, "2 teams, 2 tallies of 8 columns"),
        ({"rule": no_rows(4, 2)}, ValueError, "3 counters, 2 rules of 4 columns"),
        ({"rule": no_rows(5, 3)}, ValueError, "3 counters, 3 rules of 5 columns"),
        ({"outcome": 2}, ValueError, "stream 1: 1 entries from 2 on, 3 rows, 2 outcomes"),
        ({"entry": no_rows(3, 2)}, ValueError, "stream 1: 1 entries from 2 on, 2 rows, 3 outcomes"),
        ({"entry": no_rows(4, 3)}, ValueError, "rows of 8 and 4 columns"),
    ],
)
def test_a_push_whose_arrays_do_not_fit_is_refused(
    core: ModuleType, change: dict, error: type[Exception], text: str
) -> None:
    body = push(stream(b"a", entry(b"1"), entry(b"2")), stream(b"b", entry(b"3")))
    rows = twins.scan(core, body)
    arrays = twins.lent(
        core,
        rows.stream,
        change.get("entry", rows.entry),
        np.array(change.get("team", [0, 1]), np.int32),
        np.array(change.get("slot", [0, 1]), np.int32),
        change.get("rule", twins.rule_table([limited(100)] * 3)),
        np.zeros(3, np.int64),
        np.zeros(change.get("outcome", 3), np.uint8),
        change.get("tally", no_rows(12, 2)),
    )
    with pytest.raises(error, match=text):
        core.judge(twins.exact(body), twins.PROTOBUF, *arrays)
    assert not any(np.any(array) for array in arrays[5:])
