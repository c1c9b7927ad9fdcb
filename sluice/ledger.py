"""The ledger: what each team was charged, in which window, and what became of every byte.

Two scales. `used` is what the core compares with thresholds: bytes admitted since this process
began, reservations included. `committed` is what upstream took; it is kept per window key in
the rows of a file (ledger_file.py) and is all that a restart needs: in-flight reservations of
a killed process are simply not there any more.

A window's usage for decisions is `used - mark`. Entering a window, forward or backward,
records what the one left had used and sets the mark so that the one entered goes on where it
was. A push belongs to the windows of the rules it was judged with:

    registered late     windows opened since raise their marks; its own closed ones record it
    refunded in time    `used` goes back
    refunded late       `used` stays; its windows that are still open raise their marks, the
                        closed ones correct their record

so thresholds only rise while a window is open, and a thread with old ones is stricter.

`admitted` is `used` as far as pushes are registered; marks are made from it, for bytes of a
push that is being judged belong to whatever windows its rules say.

Threads: any number. One lock for everything but the core's swaps on `used`; it is held for
microseconds, and during a reload or a rollover for some milliseconds per hundred teams.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sluice import _core, budget, cells, errors, ledger_file, policy, table, window
from sluice.columns import (
    CELL_COUNTS,
    CELLS,
    COLUMNS,
    COMMITTED,
    DAY,
    KINDS,
    MONTH,
    TOTALS,
)

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

# The soft and the hard bound on what this ledger may count for a budget in one window (DAY or
# MONTH and its number). Called under the ledger's lock: it must be quick, and not call back.
Room = Callable[[budget.Budget, int, int], tuple[int, int]]

# What was counted, by window key, then by key of budget: [committed bytes], and of a day its COUNTS
# outcome counts behind them.
Counted = dict[str, dict[str, list[int]]]

USED_MAX = 2**62
# The row of what no budget governs.
UNBUDGETED = 0
# A row may get another owner when its last month is older than these.
MONTHS_KEPT = 2


@dataclass(frozen=True, slots=True)
class Era:
    """The windows that are open between two rollovers.

    Attributes:
        key: int32 [2, rows], the open day and month of each row, 0 before its first.
        cell: int32 [2, rows], which of the row's cells counts it.
        start, end: epoch seconds between which no window turns.
    """

    key: Int32s
    cell: Int32s
    start: float
    end: float


NOTHING = np.zeros((2, 0), np.int32)
NO_ERA = Era(NOTHING, NOTHING, math.inf, -math.inf)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a push is judged with: a table, its rows, its thresholds, its windows.

    Attributes:
        table: the budgets. `row_of[i]` is the ledger's row of its budget i; the last element
            is UNBUDGETED, so that the table's -1 finds it.
        rule: int64 [rows, 4] for the core, on the scale of `used` (int64 [rows]).
        era: the windows; `rules` are good for era.start <= now < era.end.
    """

    table: table.Table
    row_of: Int32s
    rule: Int64s
    used: Int64s
    era: Era


@dataclass(frozen=True, slots=True)
class Share:
    """One push's part in the ledger: rows [k] and the bytes reserved for each, in its windows."""

    rows: Int32s
    reserved: Int64s
    era: Era


@dataclass(frozen=True, slots=True)
class Usage:
    """A team's open windows, in committed bytes, and its outcome counts."""

    day: int
    month: int
    counts: list[int]
    today: list[int]


def alone(own: budget.Budget, kind: int, _window: int) -> tuple[int, int]:
    """The room of a budget that nobody else counts for: its limits."""
    limit = own.daily_limit if kind == DAY else own.monthly_limit
    return (USED_MAX, USED_MAX) if limit is None else (policy.soft_limit(limit), limit)


class Ledger:
    """Counters of all teams: charged by the core, settled here.

    Args:
        rows: where the numbers live; None keeps them in memory.
        drop_unbudgeted: drop what no budget governs, instead of letting it pass.
        room: what this ledger may count of each budget; its limits, unless others count too.

    Attributes:
        used: int64 [rows], changed by the core's swaps.
        rules: the current Rules; replaced whole. None before the first load().
        drop_unbudgeted: may be changed; heeded by the next load().
    """

    def __init__(
        self,
        rows: ledger_file.FileRows | None = None,
        *,
        drop_unbudgeted: bool = False,
        room: Room = alone,
    ) -> None:
        self._file = ledger_file.MemoryRows(COLUMNS) if rows is None else rows
        self._rows = self._file.rows
        self._cells = cells.Cells(self._rows)
        self.drop_unbudgeted = drop_unbudgeted
        self._room = room
        self._lock = threading.Lock()
        n = ledger_file.ROWS
        self.used: Int64s = np.zeros(n, np.int64)
        self._admitted: Int64s = np.zeros(n, np.int64)
        self._mark: Int64s = np.zeros((2, n), np.int64)
        # What each kept window has used, reservations included; stale for the open ones.
        self._used_in: Int64s = np.zeros((2, n, CELLS), np.int64)
        for row in self._file.names.values():
            for kind in (DAY, MONTH):
                self._used_in[kind, row] = self._cells.of(kind, row)[:, COMMITTED]
        self._zones: dict[int, str] = {}
        self._budgets: dict[int, budget.Budget] = {}
        self._changes = 0
        self._saved = 0
        self.rules: Rules | None = None
        if UNBUDGETED not in self._file.names.values():
            self._file.begin({"": UNBUDGETED})
            self._file.names[""] = UNBUDGETED
            self._file.write_names()
        # Rows that have an owner, or had one.
        self._height = 1 + max(self._file.names.values())

    @property
    def origin(self) -> str:
        """What the numbers were taken from: memory, new, file, snapshot or zero."""
        return self._file.origin

    @property
    def complaint(self) -> str:
        """What of the ledger's file could not be used, or ""."""
        return self._file.complaint

    @property
    def repaired(self) -> Mapping[str, int]:
        """Rows of the file that were damaged, by what they were taken from: snapshot or zero."""
        return self._file.repaired

    # budgets come down

    def load(self, budgets: table.Table) -> None:
        """Replace all budgets. Usage belongs to the key and outlives them.

        The windows of what is new are entered by the first rules_at().

        Raises:
            BadBudget: more keys than the ledger has rows. Nothing was changed.
        """
        with self._lock:
            row_of = self._rows_for([own.key for own in budgets.budgets])
            self._budgets = dict(zip(row_of.tolist(), budgets.budgets, strict=False))
            self._zones = {UNBUDGETED: "UTC"}
            self._zones |= {row: own.time_zone for row, own in self._budgets.items()}
            era = self.rules.era if self.rules else NO_ERA
            self._publish(budgets, row_of, replace(era, start=math.inf))

    def rules_at(self, now: float) -> Rules:
        """The rules that are in force at `now`, rolling over if a window has ended.

        Raises:
            Unavailable: no budgets have been loaded yet.
        """
        rules = self._current()
        if rules.era.start <= now < rules.era.end:
            return rules
        with self._lock:
            rules = self._current()
            if not rules.era.start <= now < rules.era.end:
                self._publish(rules.table, rules.row_of, self._enter(now))
            return self._current()

    def rows(self) -> Rules:
        """The rules as last published, for their table and rows; their windows may have ended."""
        return self._current()

    def _current(self) -> Rules:
        if self.rules is None:
            raise errors.Unavailable("no budgets have been loaded yet")
        return self.rules

    def _rows_for(self, keys: list[str]) -> Int32s:
        before = self._file.names
        new = [key for key in keys if key not in before]
        if new:
            names = dict(before)
            rows = self._free_rows(len(new), names, keys)
            names.update(zip(new, rows, strict=True))
            self._file.reserve(1 + max(rows))
            self._file.begin(dict(zip(new, rows, strict=True)))
            self._file.names = names
            try:
                self._file.write_names()
            except OSError:
                # Or the next try would find nothing new, and never write them.
                self._file.names = before
                raise
            self._height = max(self._height, 1 + max(rows))
        names = self._file.names
        return np.array([*(names[key] for key in keys), UNBUDGETED], np.int32)

    def _free_rows(self, n: int, names: dict[str, int], keys: list[str]) -> list[int]:
        """Rows for `n` new keys; where all have had an owner, keys that had no budget for two
        months lose theirs, and leave `names`. Those in `keys` are wanted again."""
        unused = list(range(self._height, ledger_file.ROWS))
        if len(unused) < n:
            newest = self._cells.newest_months(self._height)
            wanted = {UNBUDGETED, *self._budgets, *(names.get(key, UNBUDGETED) for key in keys)}
            old = set(np.flatnonzero(newest < newest.max() - MONTHS_KEPT).tolist()) - wanted
            if len(unused) + len(old) < n:
                raise errors.BadBudget(
                    f"{n} new budgets, room for {len(unused) + len(old)} more keys"
                )
            for key in [key for key, row in names.items() if row in old]:
                del names[key]
            unused += old
        return unused[:n]

    def _publish(self, budgets: table.Table, row_of: Int32s, era: Era) -> None:
        rule = np.zeros((self._height, 4), np.int64)
        # A team that was resolved before its budget went away may pass, like any other without.
        rule[:] = (USED_MAX, USED_MAX, -1, 0)
        for row in self._zones:
            self._write_rule(rule[row], row, era)
        self.rules = Rules(budgets, row_of, rule, self.used[: len(rule)], era)

    def _write_rule(self, rule: Int64s, row: int, era: Era) -> None:
        """Set a row's thresholds from its room and its marks."""
        if row not in self._budgets:
            bound = -1 if row == UNBUDGETED and self.drop_unbudgeted else USED_MAX
            rule[:] = (bound, bound, -1, 0)
            return
        own = self._budgets[row]
        soft = hard = USED_MAX
        for kind in (DAY, MONTH):
            # A row that has entered no window yet has no mark either.
            window_number = int(era.key[kind, row]) if row < era.key.shape[1] else 0
            soft_room, hard_room = self._room(own, kind, window_number)
            mark = int(self._mark[kind, row])
            soft, hard = min(soft, soft_room + mark), min(hard, hard_room + mark)
        keep = policy.keep_below(own.sample_rate)
        rule[2] = keep if keep < 2**63 else keep - 2**64
        rule[3] = own.dry_run
        bounds = [(0, max(-1, min(USED_MAX, soft))), (1, max(-1, min(USED_MAX, hard)))]
        # The core reads the thresholds meanwhile. Between the two stores the smaller hard one must
        # be in force: one that falls is stored first, one that rises last. The core never lets the
        # soft one count above the hard one (_charge.pxd, rule 5).
        if bounds[1][1] < rule[1]:
            bounds.reverse()
        for column, bound in bounds:
            rule[column] = bound

    def redraw(self, keys: Iterable[str]) -> None:
        """Set the thresholds of these budgets anew: the room for them has changed."""
        with self._lock:
            rules = self.rules
            if rules is None:
                return
            for row in (self._file.names.get(key, -1) for key in keys):
                if row in self._budgets:
                    self._write_rule(rules.rule[row], row, rules.era)

    # windows turn

    def _enter(self, now: float) -> Era:
        """Enter the windows of `now` for every budget; returns the new era."""
        key, cell = (np.zeros((2, self._height), np.int32) for _ in range(2))
        if self.rules is not None:
            old = self.rules.era
            key[:, : old.key.shape[1]], cell[:, : old.key.shape[1]] = old.key, old.cell
        open_in = {zone: window.open_windows(zone, now) for zone in set(self._zones.values())}
        for row, zone in self._zones.items():
            for kind, new in enumerate((open_in[zone].day, open_in[zone].month)):
                if key[kind, row] != new:
                    if key[kind, row]:
                        left = self._admitted[row] - self._mark[kind, row]
                        self._used_in[kind, row, cell[kind, row]] = left
                    with self._file.changing(row):
                        entered = self._keep(kind, row, new)
                        self._cells.enter(kind, row, entered)
                    key[kind, row], cell[kind, row] = new, entered
                    self._mark[kind, row] = self._admitted[row] - self._used_in[kind, row, entered]
        start = max(windows.start for windows in open_in.values())
        end = min(windows.end for windows in open_in.values())
        return Era(key, cell, start, end)

    def _keep(self, kind: int, row: int, key: int) -> int:
        """Find or make the cell of a row's window `key`; returns its number."""
        cell, is_new = self._cells.keep(kind, row, key)
        if is_new:
            self._used_in[kind, row, cell] = 0
        return cell

    # bytes go through

    def register(self, share: Share) -> None:
        """Note a push that the core has charged; must come before its commit or refund.

        Where it raises, nothing was noted, and the caller gives back what the core has charged.
        """
        rows, reserved = share.rows, share.reserved
        with self._lock:
            _core.add(self._admitted, rows, reserved)
            if share.era is self._current().era:
                return
            self._move_late(share, reserved, opened=True)
            try:
                self._redraw_late(share)
            except BaseException:
                self._move_late(share, -reserved, opened=True)
                self._admitted[rows] -= reserved
                raise

    def _redraw_late(self, share: Share) -> None:
        """Set the thresholds of a share's rows after _move_late()."""
        rules = self._current()
        for row in share.rows.tolist():
            if row in self._zones:
                self._write_rule(rules.rule[row], row, rules.era)

    def _move_late(self, share: Share, amount: Int64s, *, opened: bool) -> None:
        """Settle a share of `amount` bytes a row against windows that turned since.

        With `opened`, its bytes came on top of windows it does not belong to: their marks rise,
        and its own record takes them. Otherwise they are given back: its own marks rise, or its
        record falls.
        """
        now = self._current().era
        for row, n in zip(share.rows.tolist(), amount.tolist(), strict=True):
            for kind in (DAY, MONTH):
                key = int(share.era.key[kind, row])
                is_open = key == now.key[kind, row]
                if is_open != opened:
                    self._mark[kind, row] += n
                cell = self._cells.find(kind, row, key)
                if not is_open and cell >= 0:
                    self._used_in[kind, row, cell] += n if opened else -n

    def _is_current(self, share: Share) -> bool:
        now, then, rows = self._current().era, share.era, share.rows
        return now is then or bool((now.key[:, rows] == then.key[:, rows]).all())

    def commit(self, share: Share, totals: Int64s) -> None:
        """Upstream has taken a push: what was reserved is usage.

        Args:
            totals: int64 [k, TOTALS], what to add to each row's counters.
        """
        with self._lock:
            self._book(share, totals, share.reserved)

    def refund(self, share: Share, totals: Int64s) -> None:
        """Upstream has not taken a push: nothing of it is usage."""
        with self._lock:
            is_current = self._is_current(share)
            if is_current:
                given = -share.reserved
                _core.add(self._admitted, share.rows, given)
                _core.add(self.used, share.rows, given)
            else:
                self._move_late(share, share.reserved, opened=False)
            self._book(share, totals, np.zeros_like(share.reserved))
            if not is_current:
                self._redraw_late(share)

    def _book(self, share: Share, totals: Int64s, committed: Int64s) -> None:
        """Add to the counters of all time and of the share's windows."""
        self._changes += 1
        era = share.era
        file = self._file
        _core.book(
            file.rows,
            share.rows,
            totals,
            committed,
            KINDS,
            era.key,
            era.cell,
            file.weight,
            file.journal,
        )

    # usage comes up

    def usage(self, keys: Iterable[str], now: float) -> dict[str, Usage]:
        """The committed usage of `keys` in their open windows, as of one moment."""
        era = self.rules_at(now).era
        known = era.key.shape[1]
        with self._lock:
            names = self._file.names
            row_of = {key: names[key] for key in keys if names.get(key, known) < known}
            counts = self._rows[list(row_of.values())]
        found, copied = {}, cells.Cells(counts)
        for i, (key, row) in enumerate(row_of.items()):
            if era.key[DAY, row]:
                day = copied.of(DAY, i)[era.cell[DAY, row]].tolist()
                month = int(copied.of(MONTH, i)[era.cell[MONTH, row], COMMITTED])
                all_time = counts[i, :TOTALS].tolist()
                found[key] = Usage(day[COMMITTED], month, all_time, day[CELL_COUNTS:])
        return found

    def keys(self) -> list[str]:
        """Every key that has a row, "" for the unbudgeted one among them."""
        with self._lock:
            return list(self._file.names)

    def recorded(self, key: str) -> dict[str, int]:
        """Committed bytes of `key` by window key, for every window that is kept."""
        return {name: teams[key][0] for name, teams in self.record([key]).items()}

    def record(self, keys: Iterable[str]) -> Counted:
        """What was counted for `keys` in every window that is kept, as of one moment."""
        with self._lock:
            names = self._file.names
            row_of = {key: names[key] for key in keys if key in names}
            copied = cells.Cells(self._rows[list(row_of.values())])
        found: Counted = {}
        for i, key in enumerate(row_of):
            for name, values in copied.counted(i).items():
                found.setdefault(name, {})[key] = values
        return found

    @property
    def changes(self) -> int:
        """Grows with everything that is booked."""
        return self._changes

    def committed(self, rows: Int32s, era: Era) -> Int64s:
        """int64 [2, k]: committed bytes of `rows` in the windows of `era`, day and month."""
        found = np.zeros((2, len(rows)), np.int64)
        with self._lock:
            for kind in (DAY, MONTH):
                found[kind] = self._cells.committed(kind, rows, era.cell[kind, rows])
        return found

    def add(self, key: str, counted: Mapping[str, list[int]]) -> None:
        """Count what an earlier process counted for `key` and this one's rows do not have.

        Args:
            counted: by window key, as in record(). No bytes are lost by a window that is not open,
                and it is the first to make room for another.

        Raises:
            BadBudget: no room for another key. ValueError: not a window key. Nothing was changed.
        """
        parsed = [(*window.parse_key(name), values) for name, values in counted.items()]
        with self._lock:
            row, _ = self._rows_for([key]).tolist()
            with self._file.changing(row):
                for kind, number, (size, *counts) in parsed:
                    cell = self._keep(kind, row, number)
                    kept = self._cells.of(kind, row)[cell]
                    kept[COMMITTED] += size
                    kept[CELL_COUNTS:] += np.array(counts, np.int64)
                    self._owe(kind, row, number, cell, size)
            if self.rules is not None and row in self._budgets:
                self._write_rule(self.rules.rule[row], row, self.rules.era)
            self._changes += 1

    def _owe(self, kind: int, row: int, number: int, cell: int, size: int) -> None:
        """Count `size` bytes as used in a window, though this process admitted none of them."""
        era = self.rules.era if self.rules else NO_ERA
        if row < era.key.shape[1] and era.key[kind, row] == number:
            self._mark[kind, row] -= size
        else:
            self._used_in[kind, row, cell] += size

    @property
    def is_gone(self) -> bool:
        """Whether the file was removed or replaced; the next save() makes it again."""
        return self._file.is_gone

    def save(self) -> None:
        """Write a snapshot, unless nothing was booked since the last one.

        Raises:
            OSError: it cannot be written, or the file is gone and cannot be made again.
        """
        with self._lock:
            is_gone = self._file.is_gone
            if self._changes == self._saved and not is_gone:
                return
            changes = self._changes
            copied = self._file.copied(self._height)
            if is_gone:
                self._file.remake(copied)
                self._rows = self._file.rows
                self._cells = cells.Cells(self._rows)
        self._file.write_snapshot(copied)
        self._saved = changes

    def close(self) -> None:
        """Write a snapshot and the file. The ledger must not be used afterwards.

        Raises:
            OSError: the snapshot cannot be written. The file has it all the same.
        """
        try:
            self.save()
        finally:
            self._file.close()
