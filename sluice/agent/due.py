"""Decides when a node reports: by amount, with a shortest and a longest time between reports.

No I/O; `now` is monotonic.

Rule 1: unreported bytes that are a share of what a team has left are due, but not before the floor.
Rule 2: anything else that was counted is due at the ceiling, and soon after a window has ended.
Rule 3: after twice the ceiling a report is due even if nothing changed, to show that the node
is alive.
"""

from collections.abc import Callable

import numpy as np

from sluice import ledger, nodeusage, pace, window
from sluice.agent import elsewhere
from sluice.columns import DAY, MONTH


class Due:
    """Knows whether a report is due.

    Threads: one.
    """

    def __init__(
        self,
        book: ledger.Ledger,
        others: elsewhere.Elsewhere,
        settings: pace.Pace,
        rng: Callable[[], float],
    ) -> None:
        self._book, self._others, self._pace, self._rng = book, others, settings, rng
        self._told = -1
        self._last = float("-inf")
        self._turned_at: float | None = None
        self._end = float("inf")
        # What was acknowledged of the table's budgets, under these rules.
        self._told_of: ledger.Rules | None = None
        self._told_sizes: ledger.Int64s = np.zeros((2, 0), np.int64)
        self._draw()

    def reported(self, now: float, changes: int) -> None:
        """A report that told everything up to the ledger's `changes` was acknowledged."""
        self._told, self._last, self._turned_at = changes, now, None
        self._told_of = None
        self._draw()

    def _draw(self) -> None:
        """Set the times of the next report, a little different each time."""
        nodes = self._others.most_nodes()
        spread = 1 + pace.JITTER * self._rng()
        self._floor = self._pace.floor_for(nodes) * spread
        self._ceiling = self._pace.ceiling_for(nodes) * spread

    def is_due(self, now: float, acked: ledger.Counted) -> bool:
        """Whether to report, when the cluster has `acked`."""
        since = now - self._last
        if since < self._floor:
            return False
        has_turned = self._has_turned(now)
        if since >= 2 * self._ceiling:
            return True
        if self._book.changes == self._told:
            return False
        return since >= self._ceiling or has_turned or self._is_amount_due(acked)

    def _has_turned(self, now: float) -> bool:
        """Whether a window has ended, and the moment drawn to report it has come."""
        end = self._book.rows().era.end
        if end > self._end:
            spread = min(pace.ROLLOVER_SPREAD_S, self._ceiling / 2)
            self._turned_at = now + spread * self._rng()
        self._end = end
        return self._turned_at is not None and now >= self._turned_at

    def _is_amount_due(self, acked: ledger.Counted) -> bool:
        rules = self._book.rows()
        rows = rules.row_of[:-1]
        if not len(rows) or rows.max() >= rules.era.key.shape[1]:
            # A budget that is new: its windows are entered within a second.
            return False
        committed = self._book.committed(rows, rules.era)
        if self._told_of is not rules:
            self._told_of, self._told_sizes = rules, sizes_of(rules, acked)
        for i in np.flatnonzero((committed > self._told_sizes).any(axis=0)).tolist():
            own = rules.table.budgets[i]
            for kind, limit in ((DAY, own.daily_limit), (MONTH, own.monthly_limit)):
                size, told = int(committed[kind, i]), int(self._told_sizes[kind, i])
                if limit is None:
                    continue
                used = size + self._others.of(own.key, name_of(rules, kind, i)).elsewhere
                if size - told >= pace.due_at(limit, used, self._others.nodes(own.key)):
                    return True
        return False


def sizes_of(rules: ledger.Rules, acked: ledger.Counted) -> ledger.Int64s:
    """int64 [2, k]: what the cluster has of each budget's open windows."""
    sizes = [
        [
            nodeusage.size_of(acked, name_of(rules, kind, i), own.key)
            for i, own in enumerate(rules.table.budgets)
        ]
        for kind in (DAY, MONTH)
    ]
    return np.array(sizes, np.int64)


def name_of(rules: ledger.Rules, kind: int, i: int) -> str:
    """The key of the window that is open for budget i of the table; "" before its first."""
    number = int(rules.era.key[kind, rules.row_of[i]])
    return window.key_of(kind, number)
