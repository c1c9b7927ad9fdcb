"""Buffers that a push decodes into; the next push uses them again."""

import numpy as np
import numpy.typing as npt

from sluice import errors, memory
from sluice.wire import loki

MIB = 2**20
STREAM_COLUMNS, ENTRY_COLUMNS = 8, 3
# Bytes of arrays for a stream and for an entry: the scan's row, then teams, applications, sums and
# outcomes, and what counting them needs for a moment.
STREAM_BYTES, ENTRY_BYTES = 8 * STREAM_COLUMNS + 64, 8 * ENTRY_COLUMNS + 1
# Up to here rows get some spare, so that a slightly larger push does not scan twice again.
SPARE_BYTES = 2 * MIB

Int64s = npt.NDArray[np.int64]
KIND = "scratch"


class Scratch:
    """What one push works in: decoded bytes, the scan's rows, the filtered body.

    Attributes:
        stream, entry: int64 [n, STREAM_COLUMNS] and [n, ENTRY_COLUMNS], for a scan to write.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        self.decoded = loki.Scratch()
        self.filtered = loki.Scratch()
        self._rows = memory.Part()
        # Kept beside larger rows: end() must not allocate, or it could fail and never give back
        # what the push has taken.
        self._least = _rows(256, STREAM_COLUMNS), _rows(4096, ENTRY_COLUMNS)
        self.stream, self.entry = self._least

    def begin(self, claim: memory.Claim) -> None:
        """Count what is used from now on in this claim."""
        for part in (self.decoded.part, self.filtered.part, self._rows):
            part.begin(claim)

    def fits(self, streams: int, entries: int) -> bool:
        """Whether there are so many rows; if not, they are made, and a scan has to run again.

        Raises:
            TooLarge, Unavailable: see memory.Claim.take().
        """
        needed = STREAM_BYTES * streams + ENTRY_BYTES * entries
        try:
            self._rows.use(needed)
        except errors.SluiceError as error:
            words = f"{streams} streams and {entries} entries: {error.message}"
            raise type(error)(words) from None
        fits = streams <= len(self.stream) and entries <= len(self.entry)
        more = needed // 4 if needed <= SPARE_BYTES else 0
        if streams > len(self.stream):
            self.stream = _rows(streams + more // STREAM_BYTES, STREAM_COLUMNS)
        if entries > len(self.entry):
            self.entry = _rows(entries + more // ENTRY_BYTES, ENTRY_COLUMNS)
        return fits

    def end(self) -> int:
        """Let go of large parts; returns the bytes that the others hold."""
        self.decoded.trim(memory.PART_BYTES)
        self.filtered.trim(memory.PART_BYTES)
        if self.stream.nbytes + self.entry.nbytes > memory.PART_BYTES:
            self.stream, self.entry = self._least
            self._rows.drop()
        return self.decoded.part.held + self.filtered.part.held + self._rows.held


def _rows(n: int, columns: int) -> Int64s:
    """int64 [n, columns] for a scan to write, in memory that is given back when it is let go."""
    rows: Int64s = np.frombuffer(loki.new_buffer(8 * n * columns), np.int64)
    return rows.reshape(n, columns)
