"""Usage comes up: counters -> rows for the API and the metrics. Pure but for the app counters.

A team's `action` is what an entry of its mean size would get now; usage stops short of the
limit by less than a line, so nothing may hang on a percentage of 100.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sluice import budget, columns, ledger, policy, window

APPS_PER_TEAM, PLACES_PER_TEAM = 50, 500
APPS = 10_000
OTHER = "other"
# A longer name counts as OTHER: Kubernetes' have 63 characters, Loki takes 2048 and lets anybody
# ask for 16 MiB.
PLACE_CHARACTERS = 256
# Team's key, namespace, application.
Place = tuple[str, str, str]
# Places, and the bytes of each of them. Places get more, at their end; none ever moves.
Sizes = tuple[Sequence[Place], npt.NDArray[np.int64]]


class Apps:
    """Bytes forwarded by (team, namespace, application): who ate it. In memory, since the process
    began.

    At most APPS_PER_TEAM applications of a team have a name of their own, the rest counts as OTHER;
    with PLACES_PER_TEAM numbers given to a team, or APPS in all, so do the namespaces of the rest.

    Threads: any number.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[Place, int] = {}
        self._places: list[Place] = []
        self._names: dict[str, list[str]] = {}
        self._per_team: dict[str, int] = {}
        self._bytes: npt.NDArray[np.int64] = np.zeros(256, np.int64)

    def number(self, team: str, namespace: str, app: str) -> int:
        """The number of a team's application in a namespace; `team` is a budget's key, or ""."""
        with self._lock:
            found = self._numbers.get((team, namespace, app))
            if found is not None:
                return found
            # Every place's strings are new ones; of 10 000 places, few differ.
            team, namespace, app = map(sys.intern, (team, _written(namespace), _written(app)))
            names = self._names.setdefault(team, [])
            if app not in names and len(names) >= APPS_PER_TEAM:
                app = OTHER
            if self._per_team.get(team, 0) >= PLACES_PER_TEAM or len(self._numbers) >= APPS:
                namespace = app = OTHER
            found = self._numbers.get((team, namespace, app))
            if found is not None:
                return found
            number = len(self._numbers)
            if number == len(self._bytes):
                self._bytes = np.concatenate([self._bytes, np.zeros_like(self._bytes)])
            place = team, namespace, app
            self._numbers[place] = number
            self._places.append(place)
            if app != OTHER and app not in names:
                names.append(app)
            self._per_team[team] = self._per_team.get(team, 0) + 1
            return number

    def add(self, numbers: npt.NDArray[np.int32], sizes: npt.NDArray[np.int64]) -> None:
        """Count sizes[i] bytes for application numbers[i]; numbers may repeat."""
        with self._lock:
            np.add.at(self._bytes, numbers, sizes)

    def sizes(self) -> Sizes:
        """All places and their bytes, without an object for each: it is asked every minute."""
        with self._lock:
            return self._places, self._bytes[: len(self._places)].copy()


def _written(name: str) -> str:
    """A label's value as a place is written: short, and without what is no UTF-8."""
    if len(name) > PLACE_CHARACTERS:
        return OTHER
    return name.encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class Row:
    """What the API says of a team; field names are its JSON's, see as_json().

    Where other nodes count too: `elsewhere` is bytes of the open day and month that they used,
    `room` the soft and the hard bound on what this one may count in both. `updated` is when the
    usage was heard of, where that is not now (epoch seconds).
    """

    budget: budget.Budget
    usage: ledger.Usage
    windows: window.Windows
    now: float
    elsewhere: tuple[int, int] | None = None
    room: tuple[tuple[int, int], tuple[int, int]] | None = None
    updated: float | None = None

    @property
    def day(self) -> int:
        """Bytes of the open day, on all nodes."""
        return self.usage.day + (self.elsewhere[0] if self.elsewhere else 0)

    @property
    def month(self) -> int:
        """Bytes of the open month, on all nodes."""
        return self.usage.month + (self.elsewhere[1] if self.elsewhere else 0)

    @property
    def action(self) -> policy.Action:
        """What an entry of the open day's mean size would get now."""
        return max(self.window_action(kind) for kind in (columns.DAY, columns.MONTH))

    def window_action(self, kind: int) -> policy.Action:
        """What that entry would get if there were only the day (kind 0) or the month (1)."""
        entries, size = self.usage.today[columns.RECEIVED], self.usage.today[columns.RECEIVED + 1]
        mean = (size // entries or 1) if entries else 1
        used = self.usage.month if kind else self.usage.day
        room = self.room[kind] if self.room else ledger.alone(self.budget, kind, 0)
        return policy.within(used + mean, *room)

    @property
    def percent(self) -> float:
        """Usage of the tighter window, rounded down to a tenth of a percent."""
        shares = [tenths(self.day, self.budget.daily_limit)]
        if self.budget.monthly_limit is not None:
            shares.append(tenths(self.month, self.budget.monthly_limit))
        return max(shares) / 10

    def as_json(self) -> dict[str, object]:
        """The TEAM of the REST API."""
        own = self.budget
        node = {} if self.elsewhere is None else {"nodeUsage": self.usage.day}
        return {
            "name": own.name,
            "namespace": own.namespace,
            "namespaces": list(own.namespaces or (own.namespace,)),
            "timeZone": own.time_zone,
            "enforcement": "DryRun" if own.dry_run else "Enforce",
            "dailyLimit": own.daily_limit,
            "monthlyLimit": own.monthly_limit,
            "currentUsage": self.day,
            "monthlyUsage": self.month,
            **node,
            "percent": self.percent,
            "action": self.action.word,
            "dayEnds": window.iso(self.windows.end),
            "monthEnds": window.iso(self.windows.month_end),
            "lastUpdated": window.iso(self.now if self.updated is None else self.updated),
            "counts": counts(self.usage.counts),
        }


def tenths(used: int, limit: int) -> int:
    """`used` as tenths of a percent of `limit`; a limit of 0 is 0 while unused, else 100 %."""
    if limit == 0:
        return 1000 if used else 0
    return used * 1000 // limit


def counts(values: list[int]) -> dict[str, dict[str, int]]:
    """Outcome counters as {"received": {"entries": ..., "bytes": ...}, ...}."""
    return {
        name: {"entries": values[at], "bytes": values[at + 1]}
        for name, at in columns.OUTCOMES.items()
    }


class Others(Protocol):
    """What other nodes used, and what that leaves here."""

    def bytes_of(self, key: str, name: str) -> int:
        """Bytes that they used of a key's window, by window key."""

    def room(self, own: budget.Budget, kind: int, number: int) -> tuple[int, int]:
        """See ledger.Room."""


def rows(book: ledger.Ledger, now: float, others: Others | None = None) -> list[Row]:
    """Every budget's row, in the table's order; none before a table is loaded."""
    if book.rules is None:
        return []
    budgets = book.rules_at(now).table.budgets
    found = book.usage([own.key for own in budgets], now)
    open_in = {own.time_zone: window.open_windows(own.time_zone, now) for own in budgets}
    made = []
    for own in budgets:
        if own.key not in found:
            continue
        here = open_in[own.time_zone]
        row = Row(own, found[own.key], here, now)
        if others is not None:
            day, month = window.day_key(here.day), window.month_key(here.month)
            row = replace(
                row,
                elsewhere=(others.bytes_of(own.key, day), others.bytes_of(own.key, month)),
                room=(
                    others.room(own, columns.DAY, here.day),
                    others.room(own, columns.MONTH, here.month),
                ),
            )
        made.append(row)
    return made
