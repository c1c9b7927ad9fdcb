"""What a push adds to the ledger's rows: counters of all time, and a cell a window.

A cell begins with its window's key, when it was entered, and the bytes committed in it; counters
may follow. Where the cells of a kind of window lie in a row, the ledger says.
"""
from libc.stdint cimport int32_t, int64_t

from sluice._charge cimport plus

cdef enum:
    CELL_KEY = 0
    CELL_COMMITTED = 2
    CELL_COUNTS = 3

cdef enum:
    # What a kind of window is described by.
    KIND_AT = 0            # the column of its first cell
    KIND_CELLS = 1         # how many there are
    KIND_COLUMNS = 2       # of one cell
    KIND_COUNTS = 3        # of them counters that add up a push's first totals
    KIND_WORDS = 4


cdef inline void book_row(
    int64_t *row, const int64_t *totals, int64_t columns, int64_t committed,
    const int64_t *kind, int64_t kinds, const int32_t *key, const int32_t *cell, int64_t rows
) noexcept nogil:
    """Add one team's totals and committed bytes; `key` and `cell` are columns, `rows` apart."""
    cdef int64_t i, k
    cdef int64_t *own
    for i in range(columns):
        row[i] = plus(row[i], totals[i])
    for k in range(kinds):
        own = row + kind[KIND_AT] + cell[k * rows] * kind[KIND_COLUMNS]
        # A window that was evicted meanwhile has another key now: its share is forgotten.
        if own[CELL_KEY] == key[k * rows]:
            own[CELL_COMMITTED] = plus(own[CELL_COMMITTED], committed)
            for i in range(kind[KIND_COUNTS]):
                own[CELL_COUNTS + i] = plus(own[CELL_COUNTS + i], totals[i])
        kind += KIND_WORDS
