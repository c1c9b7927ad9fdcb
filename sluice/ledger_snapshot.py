"""The ledger's snapshot: a copy of its rows and their keys, which a power loss leaves whole.

    header     magic, version, rows, columns, size of the table; the table's sequence number
    table      which key has which row, as JSON
    rows       int64 [rows, columns]
    CRC        of all of it

Written beside the map by rename, and synced before it. After a power loss the map may have any of
its pages as it was at any moment, so a start takes each row from whichever of the two has it whole
and newer: see repair().
"""

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sluice import durable, row_seal

MAGIC = b"SLUICELG"
VERSION = 2
# Rows without a seal; read, and sealed then.
UNSEALED_VERSION = 1
ROWS = 65_536
# More than any counter of ours: what is above it in a row without a seal was not counted.
COUNTED_MAX = 2**62

HEADER = struct.Struct("<8sIIIQ")
# What a snapshot has behind its header: the sequence number of its table.
SEQUENCE = struct.Struct("<Q")
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


@dataclass(frozen=True, slots=True)
class LedgerCopy:
    """What a snapshot has: a table, its sequence number, and the rows as they were."""

    names: dict[str, int]
    rows: Rows
    sequence: int = 0

    @property
    def clock(self) -> int:
        """When the newest of its rows was changed."""
        return int(self.rows[:, row_seal.CHANGED].max(initial=0))


def read(path: Path, columns: int) -> LedgerCopy:
    """The snapshot in a file.

    Raises:
        Torn: it is not one, or not whole. OSError: it cannot be read.
    """
    data = unsealed(path.read_bytes(), str(path))
    if len(data) < HEADER.size + SEQUENCE.size:
        raise Torn(f"{path} has {len(data)} bytes, its header {HEADER.size}")
    magic, version, count, width, size = HEADER.unpack(data[: HEADER.size])
    if (magic, width) != (MAGIC, columns) or version not in (VERSION, UNSEALED_VERSION):
        raise Torn(
            f"{path}: header {(magic, version, width)}, {(MAGIC, VERSION, columns)} expected"
        )
    sequence, at = 0, HEADER.size
    if version == VERSION:
        (sequence,) = SEQUENCE.unpack(data[at : at + SEQUENCE.size])
        at += SEQUENCE.size
    names = checked_names(data[at : at + size], path)
    rows = np.frombuffer(data, np.int64, count * columns, at + size).reshape(count, columns)
    if any(row >= count for row in names.values()):
        raise Torn(f"{path}: {count} rows, and a key of row {max(names.values())}")
    if version != VERSION:
        rows = rows.copy()
        at_rows = list(names.values())
        rows[at_rows] = first_sealed(rows[at_rows], names)
    return LedgerCopy(names, rows, sequence)


def write(path: Path, found: LedgerCopy) -> None:
    """Replace the snapshot in a file; OSError if it cannot be done, and then it is as it was."""
    table = packed_names(found.names)
    head = HEADER.pack(MAGIC, VERSION, len(found.rows), found.rows.shape[1], len(table))
    head += SEQUENCE.pack(found.sequence)
    durable.replace(path, sealed(head + table + found.rows.tobytes()))


def repair(
    book: row_seal.SealedRows, names: dict[str, int], snapshot: LedgerCopy
) -> tuple[list[str], list[str]]:
    """Take each row from whichever copy of it is whole and newest; where none is, begin at zero.

    Returns:
        The keys whose rows were taken from the snapshot, and those that begin at zero.
    """
    at = np.array(list(names.values()), np.int64)
    is_whole = book.are_whole(at, names)
    undone = book.undone()
    changed = np.where(is_whole, book.rows[at, row_seal.CHANGED], -1).tolist()
    newest = snapshot.rows[:, row_seal.CHANGED].tolist()
    book.journal[row_seal.CLOCK] = clock = max([snapshot.clock, *changed])
    saved, lost = [], []
    for i, (key, row) in enumerate(names.items()):
        # A kill came between two stores of its last change.
        if changed[i] < 0 and undone is not None and undone[0] == row:
            image = undone[1]
            if row_seal.are_whole(image[None], [key], book.weight)[0]:
                book.rows[row] = image
                changed[i] = int(image[row_seal.CHANGED])
        copy = snapshot.names.get(key)
        if copy is not None and newest[copy] > changed[i]:
            book.rows[row] = snapshot.rows[copy]
            saved.append(key)
        elif changed[i] < 0:
            book.begin({key: row})
            lost.append(key)
    book.settle(max([clock, *changed]) + len(lost))
    return saved, lost


def first_sealed(rows: Rows, names: Iterable[str]) -> Rows:
    """Rows of these keys, of a file from before there were seals, with their seal.

    What no counter can be is left without one. The newer of two copies has received more entries.
    """
    rows = rows.copy()
    counters = rows[:, : -row_seal.SEAL_COLUMNS]
    can_be = (counters >= 0).all(axis=1) & (counters <= COUNTED_MAX).all(axis=1)
    owners = np.array([row_seal.owner_of(key) for key in names], np.int64)
    rows[:, row_seal.OWNER] = np.where(can_be, owners, 0)
    rows[:, row_seal.CHANGED] = np.where(can_be, rows[:, 0], 0)
    return row_seal.sealed(rows, row_seal.weights(rows.shape[1]))


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
