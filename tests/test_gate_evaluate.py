"""The gate asked without a push: resolve and evaluate, and the rows that come of it."""

from datetime import UTC, datetime

import numpy as np
import pytest
from judging import DAY, NOON, counts_of, make, nothing_counted, row_of, spent

from sluice import Action, Gate


def test_resolve_gives_a_team_for_each_namespace_and_minus_one_where_none_governs():
    gate = Gate([make("shop", 100), make("pay", 100, namespaces=["pay", "pay-eu"])])
    teams = gate.resolve(["pay", "free", "shop", "pay-eu", "pay", ""])
    assert teams.dtype == np.int32
    assert teams[0] == teams[3] == teams[4] != teams[2]
    assert teams[1] == teams[5] == -1
    assert gate.resolve([]).shape == (0,)


def test_evaluate_charges_allow_and_throttle_in_full_and_commits_at_once():
    gate = Gate([make("shop", 100)])
    teams = gate.resolve(["shop", "free", "shop", "shop", "shop"])
    actions = gate.evaluate(teams, [80, 10**18, 0, 20, 1], now=NOON)
    assert actions.dtype == np.int8
    assert actions.tolist() == [Action.ALLOW, Action.ALLOW, 1, Action.THROTTLE, Action.DROP]
    row = row_of(gate, "shop")
    assert (row.usage.day, row.usage.month) == (100, 100)
    assert counts_of(gate, "shop/shop") == {
        "received": {"entries": 4, "bytes": 101},
        "forwarded": {"entries": 3, "bytes": 100},
        "sampled": {"entries": 0, "bytes": 0},
        "dropped": {"entries": 1, "bytes": 1},
        "refused": {"entries": 0, "bytes": 0},
    }
    assert not any(counts_of(gate, "")["received"].values())


@pytest.mark.parametrize("charge", [True, False])
@pytest.mark.parametrize("n", [1, 8, 40, 5000])
def test_entries_without_bytes_are_dropped_once_the_limit_is_spent(n, charge):
    gate = Gate([make("shop", 100), make("none", 0)])
    spent(gate, "shop", 100)
    for namespaces in (["shop"] * n, ["none"] * n, ["shop", "none"] * n):
        actions = gate.evaluate(gate.resolve(namespaces), [0] * len(namespaces), now=NOON)
        assert set(actions.tolist()) == {Action.DROP}


def test_evaluate_without_charge_says_what_would_be_and_changes_nothing():
    gate = Gate([make("shop", 100)])
    teams = gate.resolve(["shop"] * 3)
    for _ in range(2):
        actions = gate.evaluate(teams, [80, 20, 1], now=NOON, charge=False)
        assert actions.tolist() == [Action.ALLOW, Action.THROTTLE, Action.DROP]
    assert nothing_counted(gate)


@pytest.mark.parametrize(
    ("teams", "sizes", "error"),
    [([1, 1], [5, -1], ValueError), ([1, 99], [5, 5], IndexError), ([1, 1], [5], ValueError)],
)
def test_evaluate_refuses_what_makes_no_sense_and_charges_nothing(teams, sizes, error):
    gate = Gate([make("shop", 100)])
    with pytest.raises(error):
        gate.evaluate(teams, sizes, now=NOON)
    assert nothing_counted(gate)


def test_evaluate_takes_the_largest_sizes_and_no_counter_wraps():
    huge = 2**63 - 1
    gate = Gate([make("shop", huge), make("dry", 100, enforcement="DryRun"), make("pay", 100)])
    for _ in range(3):
        for name in ("shop", "pay", "dry"):
            gate.evaluate(gate.resolve([name]), [huge], now=NOON)
    for name in ("shop", "dry", "pay"):
        found = gate.ledger.usage([f"{name}/{name}"], NOON)[f"{name}/{name}"]
        assert min(found.counts) >= 0
        assert min(found.today) >= 0
        assert min(found.day, found.month) >= 0
    assert counts_of(gate, "pay/pay")["dropped"] == {"entries": 3, "bytes": huge}


def test_a_team_whose_budget_was_removed_since_may_pass():
    gate = Gate([make("shop", 100), make("pay", 100)])
    teams = gate.resolve(["shop", "shop"])
    gate.load([make("pay", 100)])
    assert gate.evaluate(teams, [90, 90], now=NOON).tolist() == [Action.ALLOW] * 2
    assert gate.sample_rate(int(teams[0])) == 1


def test_usage_by_evaluate_alone_shows_in_the_rows():
    gate = Gate([make("shop", 1000)])
    spent(gate, "shop", 900)
    row = row_of(gate, "shop").as_json()
    assert row["currentUsage"] == row["monthlyUsage"] == 900
    assert row["percent"] == 90.0
    # Its mean entry of 900 bytes would not fit any more.
    assert row["action"] == "drop"


def test_the_action_of_a_team_is_what_its_mean_entry_would_get():
    gate = Gate([make("shop", 1000)])
    assert row_of(gate, "shop").as_json()["action"] == "allow"
    for used, action in ((790, "allow"), (800, "throttle"), (990, "throttle"), (1000, "drop")):
        before = row_of(gate, "shop").usage.day
        gate.evaluate(gate.resolve(["shop"] * (used - before)), [1] * (used - before), now=NOON)
        assert row_of(gate, "shop").as_json()["action"] == action, used


def test_a_moment_may_be_given_as_number_or_as_datetime():
    gate = Gate([make("shop", 100)])
    teams = gate.resolve(["shop"])
    assert gate.evaluate(teams, [60], now=datetime.fromtimestamp(NOON, UTC)) == Action.ALLOW
    assert gate.evaluate(teams, [60], now=NOON) == Action.DROP
    assert gate.evaluate(teams, [60], now=NOON + DAY) == Action.ALLOW
