"""What a push adds to the ledger's rows: counters of all time, and a cell a window.

A cell begins with its window's key, when it was entered, and the bytes committed in it; counters
may follow. Where the cells of a kind of window lie in a row, the ledger says. A row ends with its
seal, see row_seal.py.

Rule 1: a kill may come between any two stores. The copy in the journal is whole before the row is
named there, and the row is whole before it is named no more.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy

from sluice._charge cimport plus

cdef extern from * nogil:
    # Of the compiler's order alone: a kill sees all stores before it, in the program's order.
    void fence "__atomic_signal_fence"(int order)
    int SEQ_CST "__ATOMIC_SEQ_CST"

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

cdef enum:
    # Columns of the seal, from the end of a row; the owner's stands before them.
    SEAL_CHANGED = 2
    SEAL_CHECK = 1
    SEAL_COLUMNS = 3

cdef enum:
    JOURNAL_CHANGING = 0
    JOURNAL_CLOCK = 1
    JOURNAL_IMAGE = 2


cdef inline void grow(
    int64_t *cell, int64_t n, int64_t weight, uint64_t *check
) noexcept nogil:
    """Add to one column, and what that adds to the row's check."""
    cdef int64_t old = cell[0]
    # Most totals of most pushes are 0.
    if n:
        cell[0] = plus(old, n)
        check[0] += (<uint64_t>cell[0] - <uint64_t>old) * <uint64_t>weight


cdef inline void book_row(
    int64_t *row, int64_t number, const int64_t *totals, int64_t width, int64_t committed,
    const int64_t *kind, int64_t kinds, const int32_t *key, const int32_t *cell, int64_t rows,
    const int64_t *weight, int64_t columns, int64_t *journal
) noexcept nogil:
    """Add one team's totals and committed bytes; `key` and `cell` are columns, `rows` apart."""
    cdef int64_t i, k, at
    cdef int64_t changed = columns - SEAL_CHANGED
    cdef uint64_t check = 0
    memcpy(journal + JOURNAL_IMAGE, row, columns * sizeof(int64_t))
    fence(SEQ_CST)
    journal[JOURNAL_CHANGING] = number + 1
    fence(SEQ_CST)
    for i in range(width):
        grow(row + i, totals[i], weight[i], &check)
    for k in range(kinds):
        at = kind[KIND_AT] + cell[k * rows] * kind[KIND_COLUMNS]
        # A window that was evicted meanwhile has another key now: its share is forgotten.
        if row[at + CELL_KEY] == key[k * rows]:
            grow(row + at + CELL_COMMITTED, committed, weight[at + CELL_COMMITTED], &check)
            for i in range(kind[KIND_COUNTS]):
                grow(row + at + CELL_COUNTS + i, totals[i], weight[at + CELL_COUNTS + i], &check)
        kind += KIND_WORDS
    # Without overflow, whatever stands there: a clock that was torn must not be undefined.
    journal[JOURNAL_CLOCK] = <int64_t>(<uint64_t>journal[JOURNAL_CLOCK] + 1)
    check += (
        <uint64_t>journal[JOURNAL_CLOCK] - <uint64_t>row[changed]) * <uint64_t>weight[changed]
    row[changed] = journal[JOURNAL_CLOCK]
    row[columns - SEAL_CHECK] = <int64_t>(<uint64_t>row[columns - SEAL_CHECK] + check)
    fence(SEQ_CST)
    journal[JOURNAL_CHANGING] = 0
    fence(SEQ_CST)
