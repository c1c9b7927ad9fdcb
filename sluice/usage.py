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

from sluice import _core, budget, columns, ledger, policy, window

APPS_PER_TEAM, PLACES_PER_TEAM = 50, 500
APPS = 10_000
OTHER = "other"
# A longer name counts as OTHER: Kubernetes' have 63 characters, Loki takes 2048 and lets anybody
# ask for 16 MiB.
PLACE_CHARACTERS = 256
# How often Apps.turn() is meant to be called. A place is kept for at least as long after a push to
# it was judged: longer than upstream may take for one (--upstream-timeout, 600 s at most).
TURN_S = 900.0
# Team's key, namespace, application.
Place = tuple[str, str, str]
# Places, and the bytes that were counted by their numbers. The bytes never fall. A number may get
# another place after at least TURN_S in which it counted nothing.
Sizes = tuple[Sequence[Place], npt.NDArray[np.int64]]
NAMESPACE, APP = 1, 2


class Apps:
    """Bytes forwarded by (team, namespace, application): who ate it. In memory, since the process
    began.

    At most APPS_PER_TEAM applications of a team have a name of their own, the rest counts as OTHER;
    with PLACES_PER_TEAM numbers given to a team, or APPS in all, so do the namespaces of the rest.
    Where that happened, the next turn() forgets the places that were not looked up lately.

    Attributes:
        turns: how often turn() was called. What was looked up before the last time has to be looked
            up again: a number that is not looked up for a whole turn may go to another place.

    Threads: any number.
    """

    def __init__(self) -> None:
        self.turns = 0
        self._lock = threading.Lock()
        self._numbers: dict[Place, int] = {}
        self._places: list[Place] = []
        # Numbers whose place was forgotten, for the next place.
        self._free: list[int] = []
        # Applications of each team, by name: how many places each has.
        self._names: dict[str, dict[str, int]] = {}
        self._per_team: dict[str, int] = {}
        self._bytes: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        # What a number had counted when it got its place, and the turn of its last lookup.
        self._start: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        self._used: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        self._is_short = False
        # Bytes of forgotten places by (team, NAMESPACE or APP, value), while another place has that
        # value: its series must not fall.
        self._past: dict[tuple[str, int, str], int] = {}

    def number(self, team: str, namespace: str, app: str) -> int:
        """The number of a team's application in a namespace; `team` is a budget's key, or ""."""
        with self._lock:
            found = self._numbers.get((team, namespace, app))
            if found is None:
                found = self._new(team, namespace, app)
            self._used[found] = self.turns
            return found

    def _new(self, team: str, namespace: str, app: str) -> int:
        """The number of a place that is met under these names for the first time."""
        # Every place's strings are new ones; of 10 000 places, few differ.
        team, namespace, app = map(sys.intern, (team, _written(namespace), _written(app)))
        names = self._names.setdefault(team, {})
        if app not in names and app != OTHER and len(names) >= APPS_PER_TEAM:
            app, self._is_short = OTHER, True
        if self._per_team.get(team, 0) >= PLACES_PER_TEAM or len(self._numbers) >= APPS:
            namespace, app, self._is_short = OTHER, OTHER, True
        place = team, namespace, app
        found = self._numbers.get(place)
        return self._added(place) if found is None else found

    def _added(self, place: Place) -> int:
        team, _, app = place
        number = self._free.pop() if self._free else len(self._places)
        if number == len(self._places):
            self._places.append(place)
            if number == len(self._bytes):
                for name in ("_bytes", "_start", "_used"):
                    column = getattr(self, name)
                    setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        self._places[number], self._numbers[place] = place, number
        self._start[number] = self._bytes[number]
        if app != OTHER:
            self._names[team][app] = self._names[team].get(app, 0) + 1
        self._per_team[team] = self._per_team.get(team, 0) + 1
        return number

    def add(self, numbers: npt.NDArray[np.int32], sizes: npt.NDArray[np.int64]) -> None:
        """Count sizes[i] bytes for application numbers[i]; numbers may repeat."""
        with self._lock:
            _core.add(self._bytes, numbers, sizes)

    def turn(self) -> None:
        """Begin a turn. Where names or places were short, forget those not looked up lately."""
        with self._lock:
            self.turns += 1
            if not self._is_short:
                return
            # Looked up neither in the turn that ends nor since: judged TURN_S ago or more.
            is_old = self._used[: len(self._places)] < self.turns - 1
            is_old[self._free] = False
            for number in np.flatnonzero(is_old).tolist():
                self._forget(number)
                # All numbers are asked for again, so whoever is still short says so again.
                self._is_short = False
            held = {(place[0], at, place[at]) for place in self._numbers for at in (NAMESPACE, APP)}
            self._past = {key: size for key, size in self._past.items() if key in held}

    def _forget(self, number: int) -> None:
        place = self._places[number]
        team, _, app = place
        del self._numbers[place]
        self._free.append(number)
        self._per_team[team] -= 1
        names = self._names[team]
        if app != OTHER:
            names[app] -= 1
            if not names[app]:
                del names[app]
        if not self._per_team[team]:
            del self._per_team[team], self._names[team]
        size = int(self._bytes[number] - self._start[number])
        for at in (NAMESPACE, APP):
            key = team, at, place[at]
            self._past[key] = self._past.get(key, 0) + size

    def sizes(self) -> Sizes:
        """All places and their bytes, without an object for each: it is asked every minute."""
        with self._lock:
            return list(self._places), self._bytes[: len(self._places)].copy()

    def totals(self, at: int) -> dict[tuple[str, str], int]:
        """Bytes by (team, value), where value is the places' NAMESPACE or APP.

        The bytes of a value never fall. One of which every place was forgotten is absent; it begins
        at 0 if it comes back.
        """
        with self._lock:
            grown = (self._bytes - self._start).tolist()
            found: dict[tuple[str, str], int] = {}
            for place, number in self._numbers.items():
                key = place[0], place[at]
                found[key] = found.get(key, 0) + grown[number]
            for (team, kind, value), size in self._past.items():
                if kind == at:
                    found[team, value] = found.get((team, value), 0) + size
            return found


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
