"""The last three columns of a ledger row, which tell a whole row from a damaged or an older one.

    owner    64 bits of a hash of the key that the row counts for; of a row that was zeroed, 0
    changed  the ledger's clock at the row's last change: of two whole copies, the newer has more
    check    sum of weight * column over all others, modulo 2^64

Two things can leave a row half written. A power loss keeps any subset of a file's pages, each as it
was at any moment: then the check or the owner is wrong, or `changed` is less than the snapshot's. A
kill between two stores of one change does it too, and must cost that change alone: so a copy of the
row is put into the journal first, and undo() brings it back.

The check is linear, so that a change of one column costs one multiplication: the core adds
weight * difference. Each weight is odd, so that a change of one column alone is always seen.

Threads: one at a time; the ledger holds its lock.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

OWNER, CHANGED, CHECK = -3, -2, -1
SEAL_COLUMNS = 3

# The journal: 1 + the row that is being changed, or 0; the clock; the row as it was.
CHANGING, CLOCK, IMAGE = range(3)

MASK = 2**64 - 1


def weights(columns: int) -> Int64s:
    """int64 [columns]: what each column is multiplied by; of the check itself -1.

    Steps of splitmix64 (Steele, Lea, Flood 2014), made odd.
    """
    found = []
    for i in range(1, columns):
        x = i * 0x9E3779B97F4A7C15 & MASK
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
        x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
        found.append(x ^ x >> 31 | 1)
    return np.array([*found, MASK], np.uint64).view(np.int64)


def owner_of(key: str) -> int:
    """What stands in the owner column of a key's row; never 0."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


class SealedRows:
    """Rows, the weights of their columns, and the journal of the change at hand.

    Attributes:
        rows: int64 [n, columns].
        weight: int64 [columns].
        journal: int64 [IMAGE + columns].
    """

    def __init__(self, rows: Int64s, journal: Int64s | None = None) -> None:
        columns = rows.shape[1]
        self.rows = rows
        self.weight = weights(columns)
        self.journal = np.zeros(IMAGE + columns, np.int64) if journal is None else journal

    @contextlib.contextmanager
    def changing(self, row: int) -> Iterator[None]:
        """Change a row: in a with block, for all stores that a kill must not tear apart."""
        self.journal[IMAGE:] = self.rows[row]
        self.journal[CHANGING] = row + 1
        try:
            yield
        finally:
            self._seal(row)
            self.journal[CHANGING] = 0

    def begin(self, owners: Mapping[str, int]) -> None:
        """Empty rows for the keys that are to own them.

        Args:
            owners: key -> row.
        """
        values = np.zeros((len(owners), self.rows.shape[1]), np.int64)
        values[:, OWNER] = [owner_of(key) for key in owners]
        values[:, CHANGED] = self.journal[CLOCK] + 1 + np.arange(len(owners))
        self.rows[list(owners.values())] = sealed(values, self.weight)
        self.journal[CLOCK] += len(owners)

    def _seal(self, row: int) -> None:
        values = self.rows[row]
        self.journal[CLOCK] += 1
        values[CHANGED] = self.journal[CLOCK]
        # See sealed(); a slice, because a sum of scalars that wraps around warns.
        values[CHECK:] += values @ self.weight

    def are_whole(self, at: Int64s, keys: Iterable[str]) -> npt.NDArray[np.bool_]:
        """bool [k]: whether rows `at` are whole, and these keys' own."""
        return are_whole(self.rows[at], keys, self.weight)

    def undone(self) -> tuple[int, Int64s] | None:
        """The row that a kill left half changed, and a copy from before; None if there is none.

        The copy need not be whole: a power loss may have damaged the journal as well.
        """
        row = int(self.journal[CHANGING]) - 1
        return (row, self.journal[IMAGE:].copy()) if 0 <= row < len(self.rows) else None

    def settle(self, clock: int) -> None:
        """Have nothing be under way, and the clock go on from here."""
        self.journal[CHANGING], self.journal[CLOCK] = 0, clock


def sealed(rows: Int64s, weight: Int64s) -> Int64s:
    """Set the check of each of `rows` (int64 [k, columns]) in place; returns them."""
    # The check's own weight is -1, so that the sum over a whole row is 0.
    rows[:, CHECK] += rows @ weight
    return rows


def are_whole(rows: Int64s, keys: Iterable[str], weight: Int64s) -> npt.NDArray[np.bool_]:
    """bool [k]: whether `rows` are whole, and these keys' own."""
    owners = np.array([owner_of(key) for key in keys], np.int64)
    found: npt.NDArray[np.bool_] = (rows @ weight == 0) & (rows[:, OWNER] == owners)
    return found
