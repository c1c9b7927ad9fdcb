"""Builds the contents of a report: windows and teams of the ledger. No I/O, no clock."""

import logging
from collections.abc import Callable

from sluice import ledger, nodeusage, window
from sluice.agent import windows

log = logging.getLogger("sluice.agent")


class Contents:
    """Chooses what of the ledger is reported.

    Threads: one.
    """

    def __init__(self, book: ledger.Ledger) -> None:
        self._book = book
        # Windows of which not all teams fit into a report.
        self._cut: set[str] = set()

    def all(self) -> ledger.Counted:
        """All that the ledger has, but for the unbudgeted: reports are about budgets."""
        return self._book.record([key for key in self._book.keys() if key])  # noqa: SIM118

    def status(self, what: ledger.Counted, now: float) -> dict[str, object]:
        """The parts of a status that say `what`, with outcome counts of recent days."""
        here = self._open_windows(now)
        return nodeusage.status_of(
            what, lambda name, key: windows.is_recent(here(key), *window.parse_key(name), now)
        )

    def to_tell(self, acked: ledger.Counted, now: float) -> ledger.Counted:
        """What to report: windows that are open somewhere on earth, and those not told yet.

        Not only those of a team's own zone, which may be edited, or be gone and come back.

        Args:
            acked: what the cluster has.
        """
        here = self._open_windows(now)
        told: ledger.Counted = {}
        for name, teams in self.all().items():
            kind, number = window.parse_key(name)
            had = acked.get(name, {})
            is_open = windows.is_open_somewhere(kind, number, now)
            for key, values in teams.items():
                is_news = values != had.get(key)
                is_due = is_news or is_open or windows.is_recent(here(key), kind, number, now)
                if any(values) and is_due:
                    told.setdefault(name, {})[key] = values
        return self._capped(told, acked)

    def _open_windows(self, now: float) -> Callable[[str], window.Windows]:
        """The windows that are open for a key; of UTC where there is no budget."""
        utc = window.open_windows("UTC", now)
        budgets = self._book.rows().table.budgets
        found = {own.key: window.open_windows(own.time_zone, now) for own in budgets}
        return lambda key: found.get(key, utc)

    def _capped(self, counted: ledger.Counted, acked: ledger.Counted) -> ledger.Counted:
        """Of each window no more teams than an object takes: those told before, then the most."""
        for name, teams in counted.items():
            left_out = len(teams) - nodeusage.TEAMS_MAX
            if left_out > 0:
                if name not in self._cut:
                    self._cut.add(name)
                    log.error("%s: %d teams do not fit into this node's report", name, left_out)
                had = acked.get(name, {})
                first = sorted(teams, key=lambda key: (key not in had, -teams[key][0]))
                counted[name] = {key: teams[key] for key in first[: nodeusage.TEAMS_MAX]}
        return counted
