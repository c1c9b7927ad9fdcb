"""The agent's set of budgets: what comes from the cluster, and what stays when that goes."""

import json
from typing import Any

import pytest

from sluice.agent import budgets, elsewhere


def manifest(name: str, limit: str = "1M") -> dict[str, Any]:
    """A TeamBudget of a namespace of the same name."""
    return {
        "apiVersion": "tco.io/v1",
        "kind": "TeamBudget",
        "metadata": {"namespace": name, "name": name},
        "spec": {"dailyLimit": limit},
    }


def keys(held: budgets.Budgets) -> list[str]:
    """The budgets in force."""
    return sorted(own.key for own in held.all())


class Yielding:
    """A lock that lets another thread in after each use: settle() runs at every such moment."""

    def __init__(self, held: budgets.Budgets) -> None:
        self.held, self.lock = held, held._lock
        self.is_inside = False

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if not self.is_inside:
            self.is_inside = True
            self.held.settle()
            self.is_inside = False


def test_a_new_budget_survives_a_settle_at_any_moment_of_its_event() -> None:
    held = budgets.Budgets(elsewhere.Elsewhere())
    held._lock = Yielding(held)  # type: ignore[assignment]
    held.handle("ADDED", manifest("shop"))
    assert keys(held) == ["shop/shop"]


def test_what_the_first_list_does_not_name_was_deleted_meanwhile() -> None:
    held = budgets.Budgets(elsewhere.Elsewhere())
    held.load({"budgets": [manifest("shop"), manifest("pay")]})
    held.handle("ADDED", manifest("shop"))
    held.settle()
    assert keys(held) == ["shop/shop"]


HOUR = 3600.0


class Clock:
    """Seconds that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def begun(clock: Clock, *names: str) -> budgets.Budgets:
    """Budgets of a cluster that has these."""
    held = budgets.Budgets(elsewhere.Elsewhere(), grace=HOUR, clock=clock)
    for name in names:
        held.handle("ADDED", manifest(name))
    held.settle()
    look(held)
    return held


def look(held: budgets.Budgets, is_missing: bool = False) -> list[str] | None:
    """What the agent's loop does, ten times a second; the budgets if they are to be loaded."""
    held.look(is_missing=is_missing)
    found = held.take()
    return None if found is None else sorted(own.key for own in found)


def restarted(held: budgets.Budgets, clock: Clock) -> budgets.Budgets:
    """As the next process has them, before it hears of the cluster."""
    again = budgets.Budgets(elsewhere.Elsewhere(), grace=HOUR, clock=clock)
    again.load(json.loads(json.dumps(held.dump())))
    return again


def test_one_of_several_budgets_goes_at_once(clock: Clock) -> None:
    held = begun(clock, "shop", "pay")
    held.handle("DELETED", manifest("pay"))
    assert look(held) == ["shop/shop"]
    assert (held.complaint(), held.held()) == ("", 0)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_budgets_that_all_vanish_stay_in_force_for_an_hour(
    clock: Clock, is_restarted: bool
) -> None:
    held = begun(clock, "shop", "pay")
    for name in ("shop", "pay"):
        held.handle("DELETED", manifest(name))
    assert look(held) == ["pay/pay", "shop/shop"]
    assert held.held() == 2
    assert "the cluster has no TeamBudgets: 2 that it had stay in force" in held.complaint()
    clock.now += HOUR - 1
    if is_restarted:
        held = restarted(held, clock)
        assert keys(held) == ["pay/pay", "shop/shop"]
        held.settle()
    look(held)
    assert keys(held) == ["pay/pay", "shop/shop"]
    clock.now += 1
    assert look(held) == []
    assert (held.complaint(), held.held()) == ("", 0)


def test_budgets_that_vanish_while_the_agent_is_down_stay_in_force_too(clock: Clock) -> None:
    held = restarted(begun(clock, "shop", "pay"), clock)
    held.settle()
    look(held)
    assert keys(held) == ["pay/pay", "shop/shop"]
    assert held.held() == 2


def test_a_kind_that_is_missing_leaves_its_budgets_in_force_for_an_hour(clock: Clock) -> None:
    held = begun(clock, "shop")
    look(held, is_missing=True)
    assert keys(held) == ["shop/shop"]
    assert "the API server has no TeamBudgets resource" in held.complaint()
    clock.now += HOUR - 1
    held = restarted(held, clock)
    look(held, is_missing=True)
    assert (keys(held), held.held()) == (["shop/shop"], 1)
    clock.now += 1
    assert look(held, is_missing=True) == []
    assert "none is in force" in held.complaint()
    # Another API server that did not know the kind yet, and the informer has nothing new to tell.
    assert look(held) == ["shop/shop"]
    assert (held.complaint(), held.held()) == ("", 0)


def test_a_kind_that_is_deleted_with_its_budgets_leaves_them_in_force(clock: Clock) -> None:
    held = begun(clock, "shop")
    held.handle("DELETED", manifest("shop"))
    look(held)
    look(held, is_missing=True)
    held = restarted(held, clock)
    look(held, is_missing=True)
    assert (keys(held), held.held()) == (["shop/shop"], 1)
    assert "1 last known budgets stay in force" in held.complaint()


def test_budgets_that_come_back_one_by_one_are_all_in_force_meanwhile(clock: Clock) -> None:
    held = begun(clock, "shop", "pay", "old")
    for name in ("shop", "pay", "old"):
        held.handle("DELETED", manifest(name))
    look(held)
    held.handle("ADDED", manifest("shop", "2M"))
    assert look(held) == ["old/old", "pay/pay", "shop/shop"]
    assert {own.key: own.daily_limit for own in held.all()}["shop/shop"] == 2_000_000
    clock.now += 50
    held.handle("ADDED", manifest("pay"))
    look(held)
    clock.now += 10
    assert look(held) == ["pay/pay", "shop/shop"]
    assert (held.complaint(), held.held()) == ("", 0)


def test_budgets_deleted_long_before_the_last_one_do_not_come_back(clock: Clock) -> None:
    held = begun(clock, "shop", "pay")
    held.handle("DELETED", manifest("shop"))
    look(held)
    clock.now += HOUR
    held.handle("DELETED", manifest("pay"))
    look(held)
    assert keys(held) == ["pay/pay"]


def test_a_table_of_the_last_version_is_read(clock: Clock) -> None:
    held = budgets.Budgets(elsewhere.Elsewhere(), grace=HOUR, clock=clock)
    held.load({"budgets": [manifest("shop")], "elsewhere": {}})
    assert keys(held) == ["shop/shop"]
