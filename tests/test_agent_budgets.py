"""The agent's set of budgets: what comes from the cluster, and what stays when that goes."""

from typing import Any

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
    held.load([manifest("shop"), manifest("pay")])
    held.handle("ADDED", manifest("shop"))
    held.settle()
    assert keys(held) == ["shop/shop"]
