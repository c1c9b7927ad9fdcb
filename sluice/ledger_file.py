"""Where the ledger's numbers live: a memory-mapped file that outlasts the process.

    header     magic, version, rows, columns, room for a table, CRC
    journal    the row that is being changed, as it was (row_seal.py); in the header's page
    rows       int64 [rows, columns]; what the columns mean is ledger.py's business, but for the
               last three, the seal
    table A/B  which key has which row, as JSON, with a sequence number and a CRC

Rule 1: a store into a row is in the page cache at once, so a killed process loses nothing. A row
that the kill left half changed is in the journal.
Rule 2: the table is written to the older of its two places, its head last; a kill in the
middle leaves the other one standing.
Rule 3: room is allocated on disk before it is stored to, so that a full disk is an error at
the start and not a signal in mid-push.
Rule 4: what cannot be trusted is set aside under another name, never overwritten in place.
Rule 5: the map is not synced while the process runs; the snapshot is, with its directory. After a
power loss a start takes each row from whichever of the two has it whole and newer.

One process at a time: the caller holds a lock on the directory. One thread at a time.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from sluice import durable, ledger_snapshot, row_seal
from sluice.ledger_snapshot import (
    CRC,
    HEADER,
    MAGIC,
    UNSEALED_VERSION,
    VERSION,
    LedgerCopy,
    Torn,
    checked_names,
    first_sealed,
    packed_names,
    repair,
    sealed,
    unsealed,
)
from sluice.ledger_snapshot import ROWS as ROWS

# A key has at most 127 bytes; with quotes and a number, 65 536 of them fit.
TABLE_ROOM = 16 * 2**20
PAGE = 4096
# Behind the header, in its page.
JOURNAL_AT = 1024
# Keys that a complaint names.
NAMED = 3
# Rows allocated at a time: 64 rows of 88 columns are 44 KiB.
STEP = 64

TABLE_HEAD = struct.Struct("<QQI")


class MemoryRows(row_seal.SealedRows):
    """The same without a file: what a gate without a state directory counts in."""

    origin = "memory"
    complaint = ""

    def __init__(self, columns: int) -> None:
        super().__init__(np.zeros((ROWS, columns), np.int64))
        self.names: dict[str, int] = {}
        self.repaired: dict[str, int] = {}

    def reserve(self, rows: int) -> None:
        """Nothing to allocate: the pages come when they are written."""

    def write_names(self) -> None:
        """Nothing to write: the names are in `names`."""

    def copied(self, rows: int) -> LedgerCopy:
        """See FileRows."""
        return LedgerCopy(dict(self.names), self.rows[:rows].copy())

    def write_snapshot(self, found: LedgerCopy) -> None:
        """Nothing to write."""

    @property
    def is_gone(self) -> bool:
        """Memory stays."""
        return False

    def remake(self, found: LedgerCopy) -> None:
        """Never needed."""

    def close(self) -> None:
        """Nothing to close."""


class FileRows(row_seal.SealedRows):
    """Rows and their names in `directory`.

    Attributes:
        rows: int64 [ROWS, columns], mapped. Valid until close().
        names: key -> row. Change it, then call write_names().
        origin: "new", "file", "snapshot" or "zero": what the numbers were taken from.
        complaint: what of the file could not be used, in words; "" if all of it, or there was none.
        repaired: rows of the file that were not whole, or older than the snapshot's, by what they
            were taken from: snapshot or zero.

    Raises:
        OSError: the directory cannot be written, or has no room.
    """

    def __init__(self, directory: Path, columns: int) -> None:
        self._path = directory / "ledger.map"
        self._snapshot = directory / "ledger.snapshot"
        self._columns = columns
        self._tables = PAGE + ROWS * columns * 8
        self._reserved = 0
        self._sequence = 0
        self.origin, self.complaint = "new", ""
        self.names: dict[str, int] = {}
        self.repaired = {"snapshot": 0, "zero": 0}
        existed = self._path.exists()
        if existed:
            try:
                self._map()
                self._check()
                self.origin = "file"
                return
            except Torn as torn:
                self.complaint = str(torn)
                self._unmap()
                self._path.replace(self._path.with_suffix(".bad"))
        found = self._nothing()
        if existed or self._snapshot.exists():
            found = self._restored()
        self._create(found)

    def reserve(self, rows: int) -> None:
        """Make sure that rows [0, rows) are on disk."""
        rows = -(-rows // STEP) * STEP
        if rows > self._reserved:
            os.posix_fallocate(self._fd, 0, self._row_at(rows))
            self._reserved = rows

    def write_names(self) -> None:
        """Write the table; after a kill in the middle the one before it stands."""
        sequence = self._sequence + 1
        table = table_of(sequence, self.names)
        if len(table) > TABLE_ROOM:
            raise OSError(f"a table of {len(table)} bytes, room for {TABLE_ROOM}")
        at = self._tables + sequence % 2 * TABLE_ROOM
        os.posix_fallocate(self._fd, at, len(table))
        payload_at = at + TABLE_HEAD.size
        self._mmap[payload_at : at + len(table)] = table[TABLE_HEAD.size :]
        self._mmap[at:payload_at] = table[: TABLE_HEAD.size]
        self._sequence = sequence

    def copied(self, rows: int) -> LedgerCopy:
        """A copy of the first `rows` rows and the names, as of one moment."""
        return LedgerCopy(dict(self.names), self.rows[:rows].copy(), self._sequence)

    def write_snapshot(self, found: LedgerCopy) -> None:
        """Write a copy of the rows in use beside the file, there also after a power loss."""
        ledger_snapshot.write(self._snapshot, found)

    @property
    def is_gone(self) -> bool:
        """Whether the map has lost its name: what is stored to it then, no other process finds."""
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        return not os.path.samestat(found, os.fstat(self._fd))

    def remake(self, found: LedgerCopy) -> None:
        """Make the map again where it was, directory and all, with what `found` has.

        `rows` and `journal` are other arrays from then on. OSError if it cannot be done; then all
        is as it was.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._path.replace(self._path.with_suffix(".bad"))
        old = self._fd
        self._create(found)
        os.close(old)

    def close(self) -> None:
        """Write everything to disk. Arrays taken from `rows` must not be used any more."""
        self._mmap.flush()
        self._unmap()

    def _row_at(self, row: int) -> int:
        return PAGE + row * self._columns * 8

    def _size(self) -> int:
        return self._tables + 2 * TABLE_ROOM

    def _map(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR)
        found = os.fstat(self._fd).st_size
        if found != self._size():
            raise Torn(f"{self._path} has {found} bytes, a ledger has {self._size()}")
        self._mmap = mmap.mmap(self._fd, found)

    def _unmap(self) -> None:
        # The map itself goes when the last array over it does.
        self.rows = np.zeros((0, self._columns), np.int64)
        os.close(self._fd)

    def _lend(self) -> None:
        flat = np.frombuffer(self._mmap, np.int64, ROWS * self._columns, PAGE)
        journal = np.frombuffer(self._mmap, np.int64, row_seal.IMAGE + self._columns, JOURNAL_AT)
        super().__init__(flat.reshape(ROWS, self._columns), journal)

    def _header(self, version: int) -> bytes:
        return HEADER.pack(MAGIC, version, ROWS, self._columns, TABLE_ROOM)

    def _check(self) -> None:
        head = unsealed(self._mmap[: HEADER.size + CRC.size], f"{self._path}: the header")
        wanted = self._header(VERSION)
        is_unsealed = head == self._header(UNSEALED_VERSION)
        if head != wanted and not is_unsealed:
            raise Torn(f"{self._path}: header {head.hex()}, {wanted.hex()} expected")
        names = self._read_names()
        self._lend()
        try:
            snapshot = ledger_snapshot.read(self._snapshot, self._columns)
        except (Torn, OSError):
            snapshot = self._nothing()
        is_older = snapshot.sequence > self._sequence
        self.names = snapshot.names if is_older else names
        self.reserve(1 + max(self.names.values(), default=0))
        if is_unsealed:
            # Again from the start after a kill: the header comes last.
            at = list(self.names.values())
            self.rows[at] = first_sealed(self.rows[at], self.names)
        self._repair(snapshot)
        if is_older:
            self._complain(f"{self._path} had an older table of keys than the snapshot")
            self._sequence = snapshot.sequence
            self.write_names()
        if is_unsealed:
            self._mmap[: HEADER.size + CRC.size] = sealed(wanted)

    def _repair(self, snapshot: LedgerCopy) -> None:
        saved, lost = repair(self, self.names, snapshot)
        self.repaired = {"snapshot": len(saved), "zero": len(lost)}
        if saved or lost:
            first = ", ".join(key or "unbudgeted" for key in [*lost, *saved][:NAMED])
            self._complain(
                f"{self._path}: {len(saved) + len(lost)} of {len(self.names)} rows were damaged or"
                f" older than the snapshot: {len(saved)} were taken from the snapshot,"
                f" {len(lost)} begin at zero ({first}{', ...' * (len(saved) + len(lost) > NAMED)})"
            )

    def _complain(self, text: str) -> None:
        self.complaint = f"{self.complaint}; {text}" if self.complaint else text

    def _read_names(self) -> dict[str, int]:
        complaints = []
        tables = []
        for place in range(2):
            at = self._tables + place * TABLE_ROOM
            sequence, size, crc = TABLE_HEAD.unpack(self._mmap[at : at + TABLE_HEAD.size])
            payload = self._mmap[at + TABLE_HEAD.size : at + TABLE_HEAD.size + size]
            if payload and zlib.crc32(payload) == crc:
                tables.append((sequence, payload))
            else:
                complaints.append(f"checksum {zlib.crc32(payload):08x}, {crc:08x} was written")
        if not tables:
            raise Torn(f"{self._path}: neither table is whole: {', '.join(complaints)}")
        self._sequence, payload = max(tables)
        return checked_names(payload, self._path)

    def _create(self, found: LedgerCopy) -> None:
        with durable.replacing(self._path) as file:
            file.truncate(self._size())
            file.write(sealed(self._header(VERSION)))
            # With all that is known, so that a kill or a full disk leaves a whole file or none.
            file.seek(PAGE)
            file.write(found.rows.tobytes())
            file.seek(self._tables + found.sequence % 2 * TABLE_ROOM)
            file.write(table_of(found.sequence, found.names))
            file.flush()
            # Before it has its name: what is stored to a page without room ends the process.
            reserved = -(-max(len(found.rows), 1) // STEP) * STEP
            os.posix_fallocate(file.fileno(), 0, self._row_at(reserved))
        self._map()
        self._lend()
        self._reserved = reserved
        self._sequence = found.sequence
        self.names = dict(found.names)
        self.reserve(1 + max(self.names.values(), default=0))
        self.settle(found.clock)

    def _nothing(self) -> LedgerCopy:
        return LedgerCopy({}, np.zeros((0, self._columns), np.int64))

    def _restored(self) -> LedgerCopy:
        """What the snapshot has, or else nothing."""
        self.complaint = self.complaint or f"{self._path} is gone"
        try:
            found = ledger_snapshot.read(self._snapshot, self._columns)
        except (Torn, OSError) as error:
            self.origin = "zero"
            self.complaint = f"{self.complaint}; {error}"
            return self._nothing()
        self.origin = "snapshot"
        return found


def table_of(sequence: int, names: dict[str, int]) -> bytes:
    """A table as it stands in the file: its head, then the names."""
    payload = packed_names(names)
    return TABLE_HEAD.pack(sequence, len(payload), zlib.crc32(payload)) + payload
