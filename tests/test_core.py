"""What the core does with a batch, case by case, on both of its implementations.

test_core_judge.py and test_core_scan.py have pushes.
"""

import importlib.machinery
from types import ModuleType

import numpy as np
import pytest
import twins
from hypothesis import given
from hypothesis import strategies as st
from twins import ALLOW, DROP, THROTTLE, USED_MAX, Rule, limited, no_rows

from sluice import _core, policy

HUGE = 2**63 - 1


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
        # an empty entry is charged nothing, and needs a byte of room all the same
        (limited(1000), 1000, [0, 1], [DROP, DROP]),
        (limited(1000), 999, [0, 1, 0], [THROTTLE, THROTTLE, DROP]),
        (limited(1000), 799, [0, 1, 0], [ALLOW, ALLOW, THROTTLE]),
        (limited(1000), 0, [800, 0, 200, 0], [ALLOW, THROTTLE, THROTTLE, DROP]),
        (limited(1000), 0, [0] * 40 + [800], [ALLOW] * 41),
        (limited(1000), 0, [800] + [0] * 40, [ALLOW] + [THROTTLE] * 40),
        (limited(1000), 1000, [0] * 100, [DROP] * 100),
        (limited(1000), 0, [1001, 999, 0, 2], [DROP, THROTTLE, THROTTLE, DROP]),
        # 80 % of an odd limit is rounded down
        (limited(9), 0, [7, 1, 1, 1], [ALLOW, THROTTLE, THROTTLE, DROP]),
        (limited(1), 0, [1, 1], [THROTTLE, DROP]),
        # a small line still passes after a large one was dropped
        (limited(1000), 0, [900, 200, 100, 1], [THROTTLE, DROP, THROTTLE, DROP]),
        (limited(1000), 0, [HUGE // 2, 800, HUGE // 4, 1], [DROP, ALLOW, DROP, THROTTLE]),
        # nothing is admitted by a limit of 0, nor by thresholds below the usage
        (limited(0), 0, [0, 1, 0], [DROP, DROP, DROP]),
        (Rule(-1, -1), 0, [0, 1], [DROP, DROP]),
        (Rule(5, 5), 6, [0, 1], [DROP, DROP]),
        (Rule(-1, 10), 0, [0, 10, 0, 1], [THROTTLE, THROTTLE, DROP, DROP]),
        # the thresholds while they are being replaced: the soft one is above the hard one
        (Rule(90, 50), 0, [40, 20, 10, 0, 1], [ALLOW, DROP, ALLOW, DROP, DROP]),
        # the largest thresholds, and a counter that nears them
        (Rule(USED_MAX, USED_MAX), 0, [USED_MAX, 0, 1], [ALLOW, DROP, DROP]),
        (Rule(USED_MAX, USED_MAX), 0, [USED_MAX + 1, HUGE // 4], [DROP, ALLOW]),
        (Rule(USED_MAX - 1, USED_MAX), USED_MAX - 2, [1, 1, 1], [ALLOW, THROTTLE, DROP]),
        (Rule(USED_MAX, USED_MAX), USED_MAX, [0, 1, HUGE // 2], [DROP, DROP, DROP]),
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
    """A single entry's action is that of evaluate_usage_stateless, where an empty one is a byte."""
    used = min(max(limit * percent // 100 + more - size, 0), USED_MAX)
    expected = policy.evaluate_usage_stateless("shop", limit, used, max(size, 1))
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


def test_tallies_stop_at_the_largest_number_instead_of_turning_over(core: ModuleType) -> None:
    size = [2**63 - 1] * 3
    found = twins.evaluate(core, [0, 0, 0], size, [Rule(0, 0)], [0])
    assert found.tally[0][:5] == [0, 0, 3, 0, 2**63 - 1]
    found = twins.evaluate(core, [0, 0, 0], size, [Rule(0, 0, dry=True)], [0])
    assert found.tally[0][4:] == [2**63 - 1, 0, 0, 2**63 - 1]
