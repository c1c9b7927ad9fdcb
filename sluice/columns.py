"""The columns of a row of the ledger: a team's counters of all time, then a cell for each window
that is kept. A row is 88 int64; ledger_file.py stores them, the core's book() adds to them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Outcome counters: entries at the index, bytes behind it.
RECEIVED, FORWARDED, SAMPLED, DROPPED, REFUSED = range(0, 10, 2)
OUTCOMES = {
    "received": RECEIVED,
    "forwarded": FORWARDED,
    "sampled": SAMPLED,
    "dropped": DROPPED,
    "refused": REFUSED,
}
COUNTS = 10
# Then, of all time only: entries by action, a dry run's bytes by action, bytes of 400s.
ACTIONS = 10
DRY = 13
REJECTED = 16
TOTALS = 17

# Windows kept per team: the open one and the last ones entered, so that a clock that jumps
# away and back finds what it left.
CELLS = 4
KEY, ENTERED, COMMITTED, CELL_COUNTS = range(4)
DAY_AT, DAY_COLUMNS = TOTALS, 3 + COUNTS
MONTH_AT, MONTH_COLUMNS = DAY_AT + CELLS * DAY_COLUMNS, 3
COLUMNS = 88

COUNT_MAX = 2**63 - 1
# Days and months, in this order wherever both come up: the first cell's column, cells, columns of a
# cell, counters in it.
KINDS = np.array(
    [(DAY_AT, CELLS, DAY_COLUMNS, COUNTS), (MONTH_AT, CELLS, MONTH_COLUMNS, 0)], np.int64
)
DAY, MONTH = 0, 1


def read_outcomes(found: Mapping[str, Any]) -> list[int]:
    """Outcome counters from {"received": {"entries": ..., "bytes": ...}, ...}; absent: 0."""
    values = [0] * COUNTS
    for outcome, at in OUTCOMES.items():
        part = found.get(outcome) or {}
        values[at : at + 2] = part.get("entries", 0), part.get("bytes", 0)
    return values
