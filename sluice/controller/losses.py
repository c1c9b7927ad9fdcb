"""Usage that fell inside a window: what of it is missing, and what of that is news. No I/O.

Threads: one at a time; the caller holds the lock.
"""

from collections.abc import Mapping
from typing import Any

from sluice import usage
from sluice.controller import plan, totals

# The day, the month, and the bytes missing of each.
Seen = tuple[int, int, plan.Lost]


class Losses:
    """What is missing of each budget, as last seen.

    Attributes:
        falls: how often usage fell, since the process began.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self.falls = 0

    def news(self, row: usage.Row, sums: totals.Totals, old: Mapping[str, Any]) -> plan.Lost | None:
        """What is missing of a budget, if it is more than at the last call in the same windows.

        At the first call after a start of the process: if the status `old` does not say so.
        """
        key, lost, windows = row.budget.key, plan.lost_of(row, sums), row.windows
        seen = self._seen.get(key)
        if seen is None:
            has_fallen = lost.is_any and not plan.is_lost(old)
        else:
            day, month, before = seen
            has_fallen = lost.day > (before.day if day == windows.day else 0) or lost.month > (
                before.month if month == windows.month else 0
            )
        self._seen[key] = windows.day, windows.month, lost
        self.falls += has_fallen
        return lost if has_fallen else None

    def forget(self, key: str) -> None:
        """A budget is gone."""
        self._seen.pop(key, None)
