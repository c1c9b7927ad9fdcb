"""What became of a push, until upstream has said whether it takes it.

Turns the core's tallies into what the ledger books: of a push that upstream took, what was
forwarded, sampled out and dropped; of one that it refused, every entry as refused and nothing
else, for it will come again.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sluice import columns, ledger, memory
from sluice.wire import loki

Int64s = npt.NDArray[np.int64]

# Columns of judge()'s tally, see _core.pyi: entries by action, entries and bytes by outcome,
# a dry run's bytes by action.
KEPT_ENTRIES, KEPT_BYTES, SAMPLED_ENTRIES, DROPPED_ENTRIES = 3, 4, 5, 7
TALLY_DRY, TALLY_COLUMNS = 9, 12
# Columns of scanned rows.
STREAM_FIRST, STREAM_COUNT, STREAM_SIZE = 5, 6, 7
ENTRY_SIZE = 2


class Judgement:
    """What became of a push: what to forward, and what was reserved for it.

    Attributes:
        body: what to send upstream; None where nothing is left (answer 204, send nothing).
        encoding: its Content-Encoding, "" for none.
        tally: int64 [k, 12], as the core counted.
        by_app: counts what is forwarded by application; commit() calls it.

    Args:
        claim: the memory that the push holds, which is given back when it ends.
    """

    def __init__(
        self,
        book: ledger.Ledger,
        share: ledger.Share,
        tally: Int64s,
        claim: memory.Claim,
    ) -> None:
        self._ledger: ledger.Ledger | None = book
        self._claim = claim
        self.share, self.tally = share, tally
        self.body: loki.Body | None = None
        self.encoding = ""
        self.by_app: Callable[[], None] = lambda: None

    @property
    def received(self) -> Int64s:
        """int64 [k, 2]: entries and bytes of each row of `share`, whatever became of them."""
        kept = self.tally[:, KEPT_ENTRIES:SAMPLED_ENTRIES]
        sampled = self.tally[:, SAMPLED_ENTRIES:DROPPED_ENTRIES]
        return kept + sampled + self.tally[:, DROPPED_ENTRIES:TALLY_DRY]

    @property
    def sent_entries(self) -> int:
        """How many entries go on."""
        return sum(self.tally[:, KEPT_ENTRIES].tolist())

    @property
    def sent_bytes(self) -> int:
        """The bytes of the entries that go on."""
        return sum(self.tally[:, KEPT_BYTES].tolist())

    def commit(self, *, rejected: bool = False) -> None:
        """Upstream has it: what was kept is usage.

        Args:
            rejected: upstream received all of it, and stored a part only.

        Raises:
            ValueError: the judgement has ended already. Nothing was booked.
        """
        totals = np.zeros((len(self.tally), columns.TOTALS), np.int64)
        totals[:, :2] = self.received
        totals[:, columns.FORWARDED : columns.REFUSED] = self.tally[:, KEPT_ENTRIES:TALLY_DRY]
        totals[:, columns.ACTIONS : columns.DRY] = self.tally[:, :KEPT_ENTRIES]
        totals[:, columns.DRY : columns.REJECTED] = self.tally[:, TALLY_DRY:]
        if rejected:
            totals[:, columns.REJECTED] = self.tally[:, KEPT_BYTES]
        self._end().commit(self.share, totals)
        self.by_app()

    def refund(self) -> None:
        """Upstream has not taken it: every entry is booked as refused, for it will come again.

        Raises:
            ValueError: the judgement has ended already. Nothing was booked.
        """
        totals = np.zeros((len(self.tally), columns.TOTALS), np.int64)
        totals[:, :2] = self.received
        totals[:, columns.REFUSED : columns.REFUSED + 2] = self.received
        self._end().refund(self.share, totals)

    def cancel(self) -> None:
        """It failed before anything was sent: nothing is charged, and nothing counted.

        Raises:
            ValueError: the judgement has ended already.
        """
        self._end().refund(self.share, np.zeros((len(self.tally), columns.TOTALS), np.int64))

    def _end(self) -> ledger.Ledger:
        book, self._ledger = self._ledger, None
        if book is None:
            raise ValueError("this judgement was committed or refunded before")
        self._claim.keep(0)
        return book


def batch_totals(tally: Int64s) -> Int64s:
    """What to book for teams of an evaluated batch; `tally` int64 [k, 8] is evaluate()'s."""
    totals = np.zeros((len(tally), columns.TOTALS), np.int64)
    entries, charged, dropped = tally[:, :3], tally[:, 3], tally[:, 4]
    totals[:, columns.RECEIVED] = entries.sum(axis=1)
    totals[:, columns.RECEIVED + 1] = summed(charged, dropped)
    totals[:, columns.FORWARDED] = entries[:, 0] + entries[:, 1]
    totals[:, columns.FORWARDED + 1] = charged
    totals[:, columns.DROPPED] = entries[:, 2]
    totals[:, columns.DROPPED + 1] = dropped
    totals[:, columns.ACTIONS : columns.DRY] = entries
    totals[:, columns.DRY : columns.REJECTED] = tally[:, 5:]
    return totals


def kept_per_stream(
    stream: Int64s, entry: Int64s, outcome: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """int64 [s]: the bytes that are kept of each stream."""
    before = np.zeros(len(entry) + 1, np.int64)
    np.cumsum(np.where(outcome == 0, entry[:, ENTRY_SIZE], 0), out=before[1:])
    first, count = stream[:, STREAM_FIRST], stream[:, STREAM_COUNT]
    kept: Int64s = before[first + count] - before[first]
    return kept


def summed(one: Int64s, other: Int64s) -> Int64s:
    """The sums, at 2^63-1 where they pass it: one call of the API may name that many bytes."""
    sums = one + other
    sums[sums < 0] = columns.COUNT_MAX
    return sums
