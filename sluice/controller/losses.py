"""Usage that fell inside a window: what of it is missing, and what of that is news. No I/O.

Threads: one at a time; the caller holds the lock.
"""

from collections.abc import Mapping
from typing import Any

from sluice import usage
from sluice.controller import plan, totals

# The day, the month, and the bytes missing of each.
Seen = tuple[int, int, plan.Lost]
NOTHING = plan.Lost(0, 0)


class Losses:
    """What is missing of each budget, as far as it was told.

    Attributes:
        falls: how often usage fell, since the process began.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self.falls = 0

    def learn(self, row: usage.Row, sums: totals.Totals, old: Mapping[str, Any]) -> None:
        """Take over what an earlier leader has told: its status `old` says that usage fell."""
        if row.budget.key not in self._seen and plan.is_lost(old):
            self._note(row, plan.lost_of(row, sums))

    def news(self, row: usage.Row, sums: totals.Totals) -> plan.Lost | None:
        """What is missing of a budget, if it is more than was known in the same windows."""
        lost, windows = plan.lost_of(row, sums), row.windows
        day, month, before = self._seen.get(row.budget.key, (0, 0, NOTHING))
        has_fallen = lost.day > (before.day if day == windows.day else 0) or lost.month > (
            before.month if month == windows.month else 0
        )
        self._note(row, lost)
        self.falls += has_fallen
        return lost if has_fallen else None

    def _note(self, row: usage.Row, lost: plan.Lost) -> None:
        self._seen[row.budget.key] = row.windows.day, row.windows.month, lost

    def forget(self, key: str) -> None:
        """A budget is gone."""
        self._seen.pop(key, None)
