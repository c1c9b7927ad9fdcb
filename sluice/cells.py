"""The windows that are kept of each row of the ledger: its CELLS days and CELLS months.

A window that was left is found again as long as its cell is; the one entered longest ago makes
room for a new one.

Threads: one at a time; the ledger holds its lock.
"""

import numpy as np
import numpy.typing as npt

from sluice import window
from sluice.columns import CELL_COUNTS, COMMITTED, DAY, ENTERED, KEY, KINDS, MONTH

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


class Cells:
    """Cells of `rows` (int64 [rows, COLUMNS]), by kind (DAY or MONTH), row and number."""

    def __init__(self, rows: Int64s) -> None:
        self._rows = rows

    def of(self, kind: int, row: int) -> Int64s:
        """A row's kept days or months: a view of CELLS rows."""
        at, cells, width, _ = KINDS[kind].tolist()
        return self._rows[row, at : at + cells * width].reshape(cells, width)

    def find(self, kind: int, row: int, key: int) -> int:
        """The cell of a row's window `key`; -1 if it is not kept."""
        keys = self.of(kind, row)[:, KEY].tolist()
        return keys.index(key) if key in keys else -1

    def keep(self, kind: int, row: int, key: int) -> tuple[int, bool]:
        """Find or make the cell of a row's window `key`; returns it, and whether it was made."""
        cell = self.find(kind, row, key)
        if cell >= 0:
            return cell, False
        cells = self.of(kind, row)
        # A free one, or the one entered longest ago.
        found = cells[:, : ENTERED + 1].tolist()
        cell = min(range(len(found)), key=lambda i: found[i][ENTERED] if found[i][KEY] else -1)
        # Emptied before it is named anew, so that a kill in between leaves no window with another
        # one's bytes.
        cells[cell, KEY] = 0
        cells[cell, ENTERED:] = 0
        cells[cell, KEY] = key
        return cell, True

    def enter(self, kind: int, row: int, cell: int) -> None:
        """Have this cell be the one entered last."""
        cells = self.of(kind, row)
        cells[cell, ENTERED] = 1 + max(cells[:, ENTERED].tolist())

    def newest_months(self, n: int) -> Int64s:
        """int64 [n]: the latest month that is kept of each of the first `n` rows, 0 for none."""
        at, cells, width, _ = KINDS[MONTH].tolist()
        months = self._rows[:n, at : at + cells * width].reshape(n, cells, width)
        found: Int64s = months[:, :, KEY].max(axis=1)
        return found

    def committed(self, kind: int, rows: Int32s, cell: Int32s) -> Int64s:
        """int64 [k]: committed bytes in cell[i] of rows[i]."""
        at, _, width, _ = KINDS[kind].tolist()
        found: Int64s = self._rows[rows, at + cell * width + COMMITTED]
        return found

    def counted(self, row: int) -> dict[str, list[int]]:
        """What every kept window of a row has, by window key: [committed, *outcome counts]."""
        return {
            window.key_of(kind, cell[KEY]): [cell[COMMITTED], *cell[CELL_COUNTS:]]
            for kind in (DAY, MONTH)
            for cell in self.of(kind, row).tolist()
            if cell[KEY]
        }
