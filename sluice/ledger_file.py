"""Where the ledger's numbers live: a memory-mapped file that outlasts the process.

    header     magic, version, rows, columns, room for a table, CRC
    rows       int64 [rows, columns]; what the columns mean is ledger.py's business
    table A/B  which key has which row, as JSON, with a sequence number and a CRC

Rule 1: a store into a row is in the page cache at once, so a killed process loses nothing.
Rule 2: the table is written to the older of its two places, its head last; a kill in the
middle leaves the other one standing.
Rule 3: room is allocated on disk before it is stored to, so that a full disk is an error at
the start and not a signal in mid-push.
Rule 4: what cannot be trusted is set aside under another name, never overwritten in place.

One process at a time: the caller holds a lock on the directory. One thread at a time.
"""

import json
import mmap
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = b"SLUICELG"
VERSION = 1
ROWS = 65_536
# A key has at most 127 bytes; with quotes and a number, 65 536 of them fit.
TABLE_ROOM = 16 * 2**20
PAGE = 4096
# Rows allocated at a time: 64 rows of 88 columns are 44 KiB.
STEP = 64

HEADER = struct.Struct("<8sIIIQ")
TABLE_HEAD = struct.Struct("<QQI")
CRC = struct.Struct("<I")

Rows = npt.NDArray[np.int64]


class Torn(Exception):
    """A file that is not a ledger, or not whole; says why."""


def sealed(data: bytes) -> bytes:
    return data + CRC.pack(zlib.crc32(data))


def unsealed(data: bytes, what: str) -> bytes:
    if len(data) < CRC.size:
        raise Torn(f"{what} has {len(data)} bytes, at least {CRC.size} needed")
    body, (wanted,) = data[: -CRC.size], CRC.unpack(data[-CRC.size :])
    if zlib.crc32(body) != wanted:
        raise Torn(f"{what} has checksum {zlib.crc32(body):08x}, {wanted:08x} was written")
    return body


class MemoryRows:
    """The same without a file: what a gate without a state directory counts in."""

    origin = "memory"
    complaint = ""

    def __init__(self, columns: int) -> None:
        self.names: dict[str, int] = {}
        self.rows: Rows = np.zeros((ROWS, columns), np.int64)

    def reserve(self, rows: int) -> None:
        """Nothing to allocate: the pages come when they are written."""

    def write_names(self) -> None:
        """Nothing to write: the names are in `names`."""

    def write_snapshot(self, names: dict[str, int], rows: Rows) -> None:
        """Nothing to write."""

    def close(self) -> None:
        """Nothing to close."""


class FileRows:
    """Rows and their names in `directory`.

    Attributes:
        rows: int64 [ROWS, columns], mapped. Valid until close().
        names: key -> row. Change it, then call write_names().
        origin: "new", "file", "snapshot" or "zero": what the numbers were taken from.
        complaint: why it was not the file, in words; "" if it was, or there was none.

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
        names: dict[str, int] = {}
        rows = np.zeros((0, columns), np.int64)
        if existed or self._snapshot.exists():
            names, rows = self._restored(names, rows)
        self._create(names, rows)

    def reserve(self, rows: int) -> None:
        """Make sure that rows [0, rows) are on disk."""
        rows = -(-rows // STEP) * STEP
        if rows > self._reserved:
            os.posix_fallocate(self._fd, 0, PAGE + rows * self._columns * 8)
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

    def write_snapshot(self, names: dict[str, int], rows: Rows) -> None:
        """Write copies of the rows in use and their names beside the file."""
        table = packed_names(names)
        head = HEADER.pack(MAGIC, VERSION, len(rows), self._columns, len(table))
        new = self._snapshot.with_suffix(".new")
        with new.open("wb") as file:
            file.write(sealed(head + table + rows.tobytes()))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._snapshot)

    def close(self) -> None:
        """Write everything to disk. Arrays taken from `rows` must not be used any more."""
        self._mmap.flush()
        self._unmap()

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
        self.rows = flat.reshape(ROWS, self._columns)

    def _check(self) -> None:
        head = unsealed(self._mmap[: HEADER.size + CRC.size], f"{self._path}: the header")
        wanted = HEADER.pack(MAGIC, VERSION, ROWS, self._columns, TABLE_ROOM)
        if head != wanted:
            raise Torn(f"{self._path}: header {head.hex()}, {wanted.hex()} expected")
        self.names = self._read_names()
        self._lend()
        self.reserve(1 + max(self.names.values(), default=0))
        taken = self.rows[list(self.names.values())]
        if taken.size and taken.min() < 0:
            raise Torn(f"{self._path}: a counter of {taken.min()}, the least is 0")

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

    def _create(self, names: dict[str, int], rows: Rows) -> None:
        new = self._path.with_suffix(".new")
        with new.open("wb") as file:
            file.truncate(self._size())
            file.write(sealed(HEADER.pack(MAGIC, VERSION, ROWS, self._columns, TABLE_ROOM)))
            # With all that is known, so that a kill or a full disk leaves a whole file or none.
            file.seek(PAGE)
            file.write(rows.tobytes())
            file.seek(self._tables)
            file.write(table_of(0, names))
        new.replace(self._path)
        self._map()
        self._lend()
        self._reserved = 0
        self._sequence = 0
        self.names = names
        self.reserve(1 + max(names.values(), default=0))

    def _restored(self, names: dict[str, int], rows: Rows) -> tuple[dict[str, int], Rows]:
        """What the snapshot has, or else what is given."""
        self.complaint = self.complaint or f"{self._path} is gone"
        try:
            names, rows = self._read_snapshot()
        except (Torn, OSError) as error:
            self.origin = "zero"
            self.complaint = f"{self.complaint}; {error}"
        else:
            self.origin = "snapshot"
        return names, rows

    def _read_snapshot(self) -> tuple[dict[str, int], Rows]:
        data = unsealed(self._snapshot.read_bytes(), str(self._snapshot))
        if len(data) < HEADER.size:
            raise Torn(f"{self._snapshot} has {len(data)} bytes, its header {HEADER.size}")
        magic, version, count, columns, size = HEADER.unpack(data[: HEADER.size])
        found, wanted = (magic, version, columns), (MAGIC, VERSION, self._columns)
        if found != wanted:
            raise Torn(f"{self._snapshot}: header {found}, {wanted} expected")
        names = checked_names(data[HEADER.size : HEADER.size + size], self._snapshot)
        rows = np.frombuffer(data, np.int64, count * columns, HEADER.size + size)
        return names, rows.reshape(count, columns)


def table_of(sequence: int, names: dict[str, int]) -> bytes:
    """A table as it stands in the file: its head, then the names."""
    payload = packed_names(names)
    return TABLE_HEAD.pack(sequence, len(payload), zlib.crc32(payload)) + payload


def packed_names(names: dict[str, int]) -> bytes:
    return json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode()


def checked_names(payload: bytes, path: Path) -> dict[str, int]:
    """The table in `payload`, if it is one: every key its own row within range."""
    try:
        names = json.loads(payload)
    except ValueError as error:
        raise Torn(f"{path}: the table is not JSON: {error}") from error
    if not isinstance(names, dict) or not all(
        type(row) is int and 0 <= row < ROWS for row in names.values()
    ):
        raise Torn(f"{path}: the table is not one of keys and rows")
    if len(set(names.values())) != len(names):
        raise Torn(f"{path}: two of {len(names)} keys have the same row")
    return names
