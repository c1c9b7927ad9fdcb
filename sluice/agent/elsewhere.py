"""What a team used on other nodes, as far as this one has heard, and the room that this leaves.

A status of a budget counts the whole cluster, this node's own reports up to `usageRevision`
included. So, for the window that the status names,

    elsewhere = max(0, currentUsage - what this node's reports up to usageRevision said)

and the node may count `limit - elsewhere`: of its own bytes it always knows the last one.

Rule 1: what is not known of a window is 0: it has just begun.
Rule 2: of a status that may count a report whose fate is not known, the most that this can be is
taken off, until it is known.
Rule 3: what was heard is used until something newer of the same window is; when the node is cut
off, the budget's `onStale` says what it means.

Threads: any number; room() takes no lock, for the ledger calls it under its own.
"""

import collections
import fractions
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice import budget, ledger, nodeusage, window
from sluice.columns import MONTH

# Reports remembered, to find the one that a status counts.
REPORTS = 32
UNLIMITED = (ledger.USED_MAX, ledger.USED_MAX)
HALF = fractions.Fraction(1, 2)
# Windows remembered of a team: this day and month, and those before.
WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Heard:
    """The cluster's usage of one window: `seen` in all, of which `mine` is this node's."""

    seen: int = 0
    mine: int = 0

    @property
    def elsewhere(self) -> int:
        """Bytes that the other nodes used."""
        return max(0, self.seen - self.mine)


@dataclass(frozen=True, slots=True)
class Status:
    """What matters of a TeamBudget's status."""

    revision: int
    nodes: int
    usage: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, status: Mapping[str, object]) -> "Status | None":
        """Read a status; None where nothing has been counted into it yet."""
        revision = status.get("usageRevision")
        day, month = status.get("currentDay"), status.get("currentMonth")
        if not isinstance(revision, str) or not revision.isdecimal():
            return None
        usage = []
        if isinstance(day, str):
            usage.append((f"d/{day}", _size(status.get("currentUsage"))))
        if isinstance(month, str):
            usage.append((f"m/{month}", _size(status.get("monthlyUsage"))))
        nodes = status.get("nodes")
        reporting = _size(nodes.get("reporting")) if isinstance(nodes, Mapping) else 0
        return cls(int(revision), reporting, tuple(usage))


def _size(value: object) -> int:
    return value if isinstance(value, int) else 0


NOTHING = Heard()


class Elsewhere:
    """What was heard of every team."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By key of budget, then by window key.
        self._heard: dict[str, dict[str, Heard]] = {}
        self._statuses: dict[str, Status] = {}
        self._nodes: dict[str, int] = {}
        self._reports: collections.deque[tuple[int, ledger.Counted]] = collections.deque(
            maxlen=REPORTS
        )
        # What is being reported, and may have arrived; None if nothing is.
        self._sent: ledger.Counted | None = None
        # What the ledger had before this process: own reports never said more. None: not known.
        self._inherited: ledger.Counted | None = None
        self._lives: collections.Counter[str] = collections.Counter()
        # Heard of before anything was known of this node's own reports.
        self._guessed: set[tuple[str, str]] = set()
        self._pending: set[str] = set()
        self._changed: set[str] = set()
        self.stale: frozenset[str] = frozenset()

    # what is heard

    def hear(self, key: str, status: Status) -> None:
        """Take in the status of a budget."""
        with self._lock:
            self._statuses[key] = status
            if status.nodes:
                self._nodes[key] = status.nodes
            self._weigh(key)

    def inherit(self, counted: ledger.Counted) -> None:
        """Earlier reports of this node said no more than this."""
        self._inherited = counted

    def sending(self, counted: ledger.Counted) -> None:
        """A report is on its way, and until reported() or lost() its fate is not known."""
        with self._lock:
            self._sent = counted

    def reported(self, revision: int, counted: ledger.Counted) -> None:
        """The cluster has all that this node counted, at this resource version."""
        with self._lock:
            self._sent = None
            if not self._reports:
                # Of what was heard before, nobody knew how much of it was this node's.
                self._pending |= self._statuses.keys()
            self._reports.append((revision, counted))
            self._weigh_pending()

    def arrived(self) -> None:
        """The report on its way arrived; at which resource version is not known."""
        with self._lock:
            if self._sent is not None and self._reports:
                self._reports.append((self._reports[-1][0] + 1, self._sent))

    def lost(self) -> None:
        """The report did not arrive."""
        with self._lock:
            self._sent = None
            self._weigh_pending()

    def _weigh_pending(self) -> None:
        pending, self._pending = self._pending, set()
        for key in pending:
            self._weigh(key)

    def _weigh(self, key: str) -> None:
        status = self._statuses[key]
        newest = self._reports[-1][0] if self._reports else -1
        if self._sent is not None and status.revision > newest:
            # It may count a report whose fate is not known: to be weighed again when it is.
            self._pending.add(key)
        known = dict(self._heard.get(key, {}))
        for name, seen in status.usage:
            before = known.pop(name, None)
            known[name] = self._weighed(key, name, status.revision, seen, before)
            if known[name] != before:
                self._changed.add(key)
        # The ones heard of last are behind. Replaced whole, for room() looks without a lock.
        self._heard[key] = dict(list(known.items())[-WINDOWS:])

    def _weighed(
        self, key: str, name: str, revision: int, seen: int, before: Heard | None
    ) -> Heard:
        """What a status says of a window, in the light of what was heard before."""
        mine = self._mine(revision, name, key)
        was_guess = (key, name) in self._guessed
        self._guessed.discard((key, name))
        if mine is None:
            # In a new directory: what this node counted before is in `seen`, nobody knows how much.
            self._guessed.add((key, name))
            return Heard(seen)
        heard = Heard(seen, min(seen, mine))
        if before is None or was_guess:
            return heard
        # Others' usage only grows: of two values that may be too small the larger is nearer. If a
        # sum falls, an object was lost, and its agent has not reported it again yet.
        return max(before, heard, key=lambda one: one.elsewhere)

    def _mine(self, revision: int, name: str, key: str) -> int | None:
        """What this node's reports up to a version said; None if that is not known at all.

        If it is not known for sure, the most that they can have said.
        """
        newest = self._reports[-1][0] if self._reports else -1
        if self._sent is not None and revision > newest:
            return nodeusage.size_of(self._sent, name, key)
        for at, counted in reversed(self._reports):
            if at <= revision:
                return nodeusage.size_of(counted, name, key)
        oldest = self._reports[0][1] if self._reports else self._inherited
        return None if oldest is None else nodeusage.size_of(oldest, name, key)

    def forget(self, key: str) -> None:
        """A budget is gone; what was heard of it stands, for it may come back or stay in force."""
        with self._lock:
            self._statuses.pop(key, None)
            self._pending.discard(key)
            self._lives[key] += 1

    def changed(self) -> set[str]:
        """The keys whose room has changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed

    def distrust(self, keys: frozenset[str]) -> None:
        """Have these budgets, and no others, follow their `onStale`."""
        with self._lock:
            self._changed |= keys ^ self.stale
            self.stale = keys

    # what it means

    def of(self, key: str, name: str) -> Heard:
        """What was heard of a team's window; nothing yet if it has just begun."""
        return self._heard.get(key, {}).get(name, NOTHING)

    def bytes_of(self, key: str, name: str) -> int:
        """Bytes that the other nodes used in a team's window."""
        return self.of(key, name).elsewhere

    def nodes(self, key: str) -> int:
        """The nodes that report a team, at least 1."""
        return self._nodes.get(key, 1)

    def most_nodes(self) -> int:
        """The most nodes that report any one team."""
        with self._lock:
            return max(self._nodes.values(), default=1)

    def revision(self, key: str) -> int:
        """Up to which resource version a team's last status counts; -1 without one."""
        status = self._statuses.get(key)
        return status.revision if status is not None else -1

    def life(self, key: str) -> int:
        """How often the budget has gone."""
        return self._lives[key]

    def is_awaited(self, key: str, name: str) -> bool:
        """Whether a team's status is to change with what is reported of a window."""
        status = self._statuses.get(key)
        return status is None or any(name == one for one, _ in status.usage)

    def room(self, own: budget.Budget, kind: int, number: int) -> tuple[int, int]:
        """The ledger's Room: soft and hard bound on what this node may count in a window."""
        if kind == MONTH and own.monthly_limit is None:
            return UNLIMITED
        soft, hard = ledger.alone(own, kind, number)
        heard = self.of(own.key, window.key_of(kind, number))
        if own.key not in self.stale:
            return soft - heard.elsewhere, hard - heard.elsewhere
        if own.on_stale == "Allow":
            return UNLIMITED
        if own.on_stale == "Drop":
            return -1, -1
        share = fair_share(heard, self.nodes(own.key))
        soft, hard = (heard.mine + int(max(0, at - heard.seen) * share) for at in (soft, hard))
        return soft, hard

    # what outlasts the process

    def dump(self) -> dict[str, object]:
        """What load() reads: plain JSON."""
        with self._lock:
            heard = [
                [key, name, one.seen, one.mine]
                for key, windows in self._heard.items()
                for name, one in windows.items()
            ]
            guessed = sorted(list(one) for one in self._guessed)
            return {"heard": heard, "nodes": dict(self._nodes), "guessed": guessed}

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Take in what dump() gave; ValueError, TypeError or KeyError if it is not that."""
        found: dict[str, dict[str, Heard]] = {}
        for key, name, seen, mine in dumped["heard"]:
            window.parse_key(name)
            found.setdefault(str(key), {})[name] = Heard(int(seen), int(mine))
        nodes = {str(key): int(count) for key, count in dumped["nodes"].items()}
        # The last version did not say what it guessed.
        all_ = [[key, name] for key, windows in found.items() for name in windows]
        guessed = {(str(key), str(name)) for key, name in dumped.get("guessed", all_)}
        with self._lock:
            self._heard |= found
            self._guessed |= guessed
            self._nodes |= nodes


def fair_share(heard: Heard, nodes: int) -> fractions.Fraction:
    """The part of what is left that one of `nodes` nodes may take while none hears of another.

    Half by what each used so far, half the same for each; the shares of all add up to 1.
    """
    even = fractions.Fraction(1, max(1, nodes))
    if heard.seen <= 0:
        return even
    return HALF * fractions.Fraction(min(heard.mine, heard.seen), heard.seen) + HALF * even
