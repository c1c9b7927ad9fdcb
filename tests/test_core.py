"""What the core does, case by case, on both of its implementations."""

import importlib.machinery
import random
from types import ModuleType

import handmade
import numpy as np
import pytest
import shippers
import twins
import xxhash
from handmade import entry, pair, push, sized, stream, tag, varint
from hypothesis import given
from hypothesis import strategies as st
from twins import ALLOW, DROP, DROPPED, KEPT, SAMPLED, THROTTLE, USED_MAX, Rule, no_rows

from sluice import _core, errors, policy
from sluice.policy import KEEP_ALL

HUGE = 2**63 - 1


@pytest.fixture(scope="module", params=twins.CORES)
def core(request: pytest.FixtureRequest) -> ModuleType:
    return twins.CORES[request.param]


def limited(limit: int, **more: int) -> Rule:
    return Rule(policy.soft_limit(limit), limit, **more)


def test_the_compiled_core_is_compiled() -> None:
    assert _core.__file__.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
    assert type(_core.evaluate).__name__ == "cython_function_or_method"


# -- evaluate: thresholds -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "used", "sizes", "actions"),
    [
        (limited(1000), 0, [800], [ALLOW]),
        (limited(1000), 0, [801], [THROTTLE]),
        (limited(1000), 0, [1000], [THROTTLE]),
        (limited(1000), 0, [1001], [DROP]),
        (limited(1000), 0, [800, 1, 199, 1], [ALLOW, THROTTLE, THROTTLE, DROP]),
        (limited(1000), 799, [1, 1], [ALLOW, THROTTLE]),
        (limited(1000), 999, [1, 1], [THROTTLE, DROP]),
        (limited(1000), 1000, [0, 1], [THROTTLE, DROP]),
        # 80 % of an odd limit is rounded down
        (limited(9), 0, [7, 1, 1, 1], [ALLOW, THROTTLE, THROTTLE, DROP]),
        (limited(1), 0, [1, 1], [THROTTLE, DROP]),
        # a small line still passes after a large one was dropped
        (limited(1000), 0, [900, 200, 100, 1], [THROTTLE, DROP, THROTTLE, DROP]),
        (limited(1000), 0, [HUGE // 2, 800, HUGE // 4, 1], [DROP, ALLOW, DROP, THROTTLE]),
        # nothing is admitted by a limit of 0 but what has no bytes
        (limited(0), 0, [0, 1, 0], [ALLOW, DROP, ALLOW]),
        # thresholds below the usage: not even that
        (Rule(-1, -1), 0, [0, 1], [DROP, DROP]),
        (Rule(5, 5), 6, [0, 1], [DROP, DROP]),
        (Rule(-1, 10), 0, [0, 10, 0, 1], [THROTTLE, THROTTLE, THROTTLE, DROP]),
        # the largest thresholds, and a counter that nears them
        (Rule(USED_MAX, USED_MAX), 0, [USED_MAX, 0, 1], [ALLOW, ALLOW, DROP]),
        (Rule(USED_MAX, USED_MAX), 0, [USED_MAX + 1, HUGE // 4], [DROP, ALLOW]),
        (Rule(USED_MAX - 1, USED_MAX), USED_MAX - 2, [1, 1, 1], [ALLOW, THROTTLE, DROP]),
        (Rule(USED_MAX, USED_MAX), USED_MAX, [0, 1, HUGE // 2], [ALLOW, DROP, DROP]),
        (Rule(-1, -1), USED_MAX, [0, HUGE], [DROP, DROP]),
    ],
)
def test_an_entry_is_judged_by_what_is_used_before_it(
    core: ModuleType, rule: Rule, used: int, sizes: list[int], actions: list[int]
) -> None:
    got = twins.evaluate(core, [0] * len(sizes), sizes, [rule], [used])
    assert got.action == actions
    charged = sum(n for n, a in zip(sizes, actions, strict=True) if a != DROP)
    assert got.used == [used + charged]
    counts = [actions.count(action) for action in (ALLOW, THROTTLE, DROP)]
    assert got.tally == [[*counts, charged, sum(sizes) - charged, 0, 0, 0]]


@given(
    limit=st.one_of(st.integers(0, 200), st.integers(0, USED_MAX)),
    percent=st.integers(0, 125),
    more=st.integers(-2, 2),
    size=st.integers(0, 300),
)
def test_one_entry_gets_the_action_of_the_policy(
    limit: int, percent: int, more: int, size: int
) -> None:
    """A single entry's action is that of evaluate_usage_stateless."""
    used = min(max(limit * percent // 100 + more - size, 0), USED_MAX)
    expected = policy.evaluate_usage_stateless("shop", limit, used, size)
    for core in twins.CORES.values():
        assert twins.evaluate(core, [0], [size], [limited(limit)], [used]).action == [expected]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 63, 64, 4095, 4096, 4097, 9000])
def test_a_run_of_any_length_stops_at_the_byte(core: ModuleType, n: int) -> None:
    limit = n - n // 10
    got = twins.evaluate(core, [0] * n, [1] * n, [limited(limit)], [0])
    soft = policy.soft_limit(limit)
    assert got.action == [ALLOW] * soft + [THROTTLE] * (limit - soft) + [DROP] * (n - limit)
    assert got.used == [limit]


def test_a_run_whose_sum_is_beyond_int64_goes_entry_by_entry(core: ModuleType) -> None:
    # what is dropped still adds up to an int64; UBSan sees it if the run is summed
    sizes, rule = [2**62, 2**62, 2**61], Rule(USED_MAX, USED_MAX)
    for n in (1, 30, 5000):
        got = twins.evaluate(core, [0] * (n + 3), [0] * n + sizes, [rule], [0])
        assert got.action == [ALLOW] * (n + 1) + [DROP, DROP]
        assert got.used == [USED_MAX]
        assert got.tally == [[n + 1, 0, 2, 2**62, 2**62 + 2**61, 0, 0, 0]]


@pytest.mark.parametrize("n", [3, 500, 40_000])
def test_mixed_teams_stop_at_the_byte_each(core: ModuleType, n: int) -> None:
    teams = [i % 3 for i in range(n)]
    limits = [n // 3 - n // 30, n, 0]
    got = twins.evaluate(core, teams, [1] * n, [limited(limit) for limit in limits], [0] * 3)
    assert got.used == [min(limit, teams.count(t)) for t, limit in enumerate(limits)]
    assert [sum(row[:3]) for row in got.tally] == [teams.count(t) for t in range(3)]
    assert got.tally[2][:5] == [0, 0, n // 3, 0, n // 3]
    assert got.action[2::3] == [DROP] * (n // 3)


def test_tallies_are_added_to_what_is_there(core: ModuleType) -> None:
    team, size, rule, used, action = twins.lent(
        core,
        np.zeros(1, np.int32),
        np.array([5]),
        twins.rule_table([limited(100)]),
        np.zeros(1, np.int64),
        np.zeros(1, np.uint8),
    )
    (tally,) = twins.lent(core, no_rows(8, 1))
    for _ in range(3):
        core.evaluate(team, size, rule, used, action, tally)
    assert twins.listed(tally, used) == [[[3, 0, 0, 15, 0, 0, 0, 0]], [15]]


# -- evaluate: dry run --------------------------------------------------------------------------


def test_a_dry_run_admits_all_and_counts_what_it_would_have_done(core: ModuleType) -> None:
    got = twins.evaluate(core, [0] * 4, [800, 100, 101, 7], [limited(1000, dry=1)], [0])
    assert got.action == [ALLOW] * 4
    assert got.used == [1008]
    # the third is admitted too, so the fourth comes when the limit is passed
    assert got.tally == [[4, 0, 0, 1008, 0, 800, 100, 108]]


def test_a_dry_run_admits_no_more_than_its_counter_holds(core: ModuleType) -> None:
    sizes = [10, 1, 0, HUGE // 2]
    got = twins.evaluate(core, [0] * 4, sizes, [limited(0, dry=1)], [USED_MAX - 10])
    assert got.action == [ALLOW, DROP, ALLOW, DROP]
    assert got.used == [USED_MAX]
    assert got.tally == [[2, 0, 2, 10, 1 + HUGE // 2, 0, 0, 11 + HUGE // 2]]


@pytest.mark.parametrize("n", [4, 1000])
def test_a_dry_run_beside_enforced_teams_is_still_dry(core: ModuleType, n: int) -> None:
    rules = [limited(0, dry=1), limited(0)]
    got = twins.evaluate(core, [i % 2 for i in range(n)], [1] * n, rules, [0, 0])
    assert got.action == [ALLOW, DROP] * (n // 2)
    half = n // 2
    assert got.tally == [[half, 0, 0, half, 0, 0, 0, half], [0, 0, half, 0, half, 0, 0, 0]]


# -- evaluate: teams and refusals ---------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 300])
def test_team_minus_1_is_allowed_and_charged_nowhere(core: ModuleType, n: int) -> None:
    teams, sizes = [-1, 0, -1, -1] * n, [HUGE, 1, 0, 9] * n
    got = twins.evaluate(core, teams, sizes, [limited(0)], [0])
    assert got.action == [ALLOW, DROP, ALLOW, ALLOW] * n
    assert (got.used, got.tally) == ([0], [[0, 0, n, 0, n, 0, 0, 0]])
    nobody = twins.evaluate(core, [-1] * 4 * n, sizes, [], [])
    assert nobody == ([ALLOW] * 4 * n, [], [])


def test_an_empty_batch_is_no_batch(core: ModuleType) -> None:
    assert twins.evaluate(core, [], [], [limited(5)], [3]) == ([], [[0] * 8], [3])
    assert twins.evaluate(core, [], [], [], []) == ([], [], [])


@pytest.mark.parametrize(
    ("team", "size", "error", "text"),
    [
        ([0, 1, 0], [1, -1, 1], ValueError, "entry 1: size -1 is below 0"),
        ([0, 1, 0], [1, 1, -(2**63)], ValueError, f"entry 2: size {-(2**63)} is below 0"),
        ([0, 2, 0], [1, 1, 1], IndexError, "entry 1: team 2 is not one of 2"),
        ([0, 0, -2], [1, 1, 1], IndexError, "entry 2: team -2 is not one of 2"),
        ([2**31 - 1], [0], IndexError, f"entry 0: team {2**31 - 1} is not one of 2"),
        ([-(2**31)], [0], IndexError, f"entry 0: team {-(2**31)} is not one of 2"),
        # the first culprit is named, and its size before its team
        ([0, 9, -9], [1, 1, -1], IndexError, "entry 1: team 9 is not one of 2"),
        ([0, 9], [1, -1], ValueError, "entry 1: size -1 is below 0"),
    ],
)
def test_one_bad_entry_refuses_the_batch_and_nothing_is_charged(
    core: ModuleType, team: list[int], size: list[int], error: type[Exception], text: str
) -> None:
    rule, used, action, tally = twins.lent(
        core,
        twins.rule_table([limited(100)] * 2),
        np.array([3, 4]),
        np.full(len(team), twins.UNTOUCHED, np.uint8),
        no_rows(8, 2),
    )
    teams, sizes = twins.lent(core, np.array(team, np.int32), np.array(size))
    with pytest.raises(error) as refusal:
        core.evaluate(teams, sizes, rule, used, action, tally)
    assert str(refusal.value) == text
    assert twins.listed(used, tally) == [[3, 4], [[0] * 8] * 2]


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        ((3, 2, 2, 2, 3, 2), "3 teams, 2 sizes, 3 actions"),
        ((2, 3, 2, 2, 2, 2), "2 teams, 3 sizes, 2 actions"),
        ((2, 2, 2, 2, 1, 2), "2 teams, 2 sizes, 1 actions"),
        ((0, 0, 2, 2, 1, 2), "0 teams, 0 sizes, 1 actions"),
        ((2, 2, 1, 2, 2, 2), "2 counters, 1 rules of 4 columns"),
        ((2, 2, 2, 2, 2, 3), "2 counters, 3 tallies of 8 columns"),
        ((2, 2, 2, 1, 2, 1), "1 counters, 2 rules of 4 columns"),
    ],
)
def test_a_batch_whose_lengths_differ_is_refused(
    core: ModuleType, lengths: tuple[int, ...], text: str
) -> None:
    teams, sizes, rules, counters, actions, tallies = lengths
    arrays = twins.lent(
        core,
        np.zeros(teams, np.int32),
        np.ones(sizes, np.int64),
        no_rows(4, rules),
        np.zeros(counters, np.int64),
        np.zeros(actions, np.uint8),
        no_rows(8, tallies),
    )
    with pytest.raises(ValueError, match=text):
        core.evaluate(*arrays)
    assert not any(np.any(array) for array in arrays[2:])


@pytest.mark.parametrize(
    ("rule", "tally", "text"),
    [
        (3, 8, "1 counters, 1 rules of 3 columns"),
        (4, 12, "1 counters, 1 tallies of 12 columns"),
    ],
)
def test_rows_of_another_width_are_refused(
    core: ModuleType, rule: int, tally: int, text: str
) -> None:
    arrays = twins.lent(
        core,
        np.zeros(1, np.int32),
        np.ones(1, np.int64),
        no_rows(rule, 1),
        np.zeros(1, np.int64),
        np.zeros(1, np.uint8),
        no_rows(tally, 1),
    )
    with pytest.raises(ValueError, match=text):
        core.evaluate(*arrays)


def test_add_changes_cells_by_any_amount(core: ModuleType) -> None:
    cell, at, n = twins.lent(
        core, np.array([5, 6, 7]), np.array([0, 2, 0], np.int32), np.array([-5, 3, -4])
    )
    core.add(cell, at, n)
    assert twins.listed(cell) == [[-4, 6, 10]]


@pytest.mark.parametrize(
    ("at", "n", "error", "text"),
    [
        ([0, 3], [1, 1], IndexError, "place 3 is not one of 3"),
        ([0, -1], [1, 1], IndexError, "place -1 is not one of 3"),
        ([0, 1], [1], ValueError, "2 places, 1 amounts"),
    ],
)
def test_add_to_a_cell_that_is_none_changes_nothing(
    core: ModuleType, at: list[int], n: list[int], error: type[Exception], text: str
) -> None:
    cell, places, amounts = twins.lent(
        core, np.array([5, 6, 7]), np.array(at, np.int32), np.array(n)
    )
    with pytest.raises(error, match=text):
        core.add(cell, places, amounts)
    assert twins.listed(cell) == [[5, 6, 7]]


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


def test_tallies_stop_at_the_largest_number_instead_of_turning_over(core: ModuleType) -> None:
    size = [2**63 - 1] * 3
    found = twins.evaluate(core, [0, 0, 0], size, [Rule(0, 0)], [0])
    assert found.tally[0][:5] == [0, 0, 3, 0, 2**63 - 1]
    found = twins.evaluate(core, [0, 0, 0], size, [Rule(0, 0, dry=True)], [0])
    assert found.tally[0][4:] == [2**63 - 1, 0, 0, 2**63 - 1]
