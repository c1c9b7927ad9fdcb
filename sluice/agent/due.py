"""When a node reports: by amount, within a floor and a ceiling of time. No I/O; `now` is monotonic.

Rule 1: unreported bytes that are a share of what a team has left are due, but not before the floor.
Rule 2: anything else that was counted is due at the ceiling, and soon after a window has ended.
Rule 3: after twice the ceiling a report is due even if it says nothing new: that the node lives.
"""

from collections.abc import Callable

from sluice import ledger, pace, window
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
        self._draw()

    def reported(self, now: float, changes: int) -> None:
        """A report that told everything up to the ledger's `changes` was acknowledged."""
        self._told, self._last, self._turned_at = changes, now, None
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
        committed = self._book.committed(rows, rules.era).tolist()
        keys = rules.era.key[:, rows].tolist()
        for i, own in enumerate(rules.table.budgets):
            nodes = self._others.nodes(own.key)
            for kind, limit in ((DAY, own.daily_limit), (MONTH, own.monthly_limit)):
                if limit is None or not keys[kind][i]:
                    continue
                name = (window.day_key, window.month_key)[kind](keys[kind][i])
                size = committed[kind][i]
                unreported = size - acked.get(name, {}).get(own.key, [0])[0]
                used = size + self._others.of(own.key, name).elsewhere
                if unreported >= pace.due_at(limit, used, nodes):
                    return True
        return False
