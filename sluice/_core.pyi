# The types of the compiled core; what each door does is said here, how in reference.py.
# Arrays are C-contiguous; outputs come last, are sized by the caller and named *_out.

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

_Int64s = NDArray[np.int64]
_Int32s = NDArray[np.int32]
_Bytes = NDArray[np.uint8]

WORDS: dict[int, str]
LABELS_MAX: int

def scan_push(body: Buffer, stream_out: _Int64s, entry_out: _Int64s) -> tuple[int, int]:
    """Find the streams and entries of a protobuf PushRequest (not compressed).

    Args:
        body: uint8 [n].
        stream_out: int64 [s, 8]. Per stream: raw range (at, end), where its payload begins, its
            labels (at, end), its first entry's row, number of entries, their bytes.
        entry_out: int64 [e, 3]. Per entry: raw range (at, end) and the bytes that Loki bills.

    Returns:
        How many streams and entries there are. Rows beyond the room given are counted, not
        written: call again with room for what is returned.

    Raises:
        BadPush: names stream and entry (counted from 0), the byte, and what is wrong there. What
            was written means nothing.

    Threads: any number, each with its own outputs. Runs without the GIL, but for small bodies.
    """

def scan_json(
    body: Buffer, legacy: bool, stream_out: _Int64s, entry_out: _Int64s
) -> tuple[int, int, bool]:
    """The same for a JSON push: Loki's v1 dialect, or the legacy one.

    The third value says that a legacy body repeats a list, which Loki mixes with the first one:
    the rows have the second only, and what goes to Loki must be what split() writes of them.
    """

def evaluate(
    team: _Int32s,
    size: _Int64s,
    rule: _Int64s,
    used: _Int64s,
    action_out: _Bytes,
    tally_out: _Int64s,
) -> None:
    """Judge a batch of (team, size) pairs and charge what is not dropped.

    Each entry is judged after those before it. Entries in the throttle band are charged in
    full: whoever calls samples them, or not. Team -1 is allowed and charged nowhere.

    Args:
        team: int32 [n], -1 <= team < t.
        size: int64 [n], bytes, >= 0.
        rule: int64 [t, 4]: soft, hard, bound of the sampling hash (as uint64), dry run.
            -1 <= soft <= hard <= 2^62, on the scale of `used`.
        used: int64 [t], bytes in [0, 2^62]. Changed in place by compare-and-swap.
        action_out: uint8 [n]. 0 allow, 1 throttle, 2 drop; a dry run allows all.
        tally_out: int64 [t, 8], added to: entries allowed, throttled, dropped; bytes charged,
            dropped; in a dry run the bytes that would have been allowed, throttled, dropped.
            Bytes stop at 2^63-1.

    Raises:
        ValueError: lengths differ, or a size is below 0. Nothing was charged.
        IndexError: a team is out of range. Nothing was charged.

    Threads: any number on the same `used`. Runs without the GIL.
    """

def assign(
    body: Buffer,
    dialect: int,
    stream: _Int64s,
    known: dict[bytes, int],
    learn: Callable[[bytes], int],
    team_out: _Int32s,
    app_out: _Int32s,
) -> list[int]:
    """Say whose each stream is, by its label string.

    Args:
        body, stream: as scanned.
        known: the owners of strings met before, row << 32 | application (31 bits). A key is
            the string behind one byte that is the dialect.
        learn: called with the key of a string that is not known; returns its owner.
        team_out: int32 [s]. Each stream's place in what is returned.
        app_out: int32 [s]. Its application.

    Returns:
        The rows that come up.

    Raises:
        BadPush: a stream has more than LABELS_MAX bytes of label text. By default Loki keeps 15
            labels of at most 1024 and 2048 bytes. What is not read could belong to any budget, so
            that it cannot pass.
        ValueError: arrays that do not fit together.

    Threads: any number, for it holds the GIL.
    """

def judge(
    body: Buffer,
    dialect: int,
    stream: _Int64s,
    entry: _Int64s,
    team: _Int32s,
    slot: _Int32s,
    rule: _Int64s,
    used: _Int64s,
    outcome_out: _Bytes,
    tally_out: _Int64s,
) -> None:
    """Decide every entry of a scanned push, sampling those in the throttle band.

    Args:
        body, stream, entry: as scanned; `dialect` 0 protobuf, 1 JSON, 2 legacy JSON.
        team: int32 [s]. The local number of each stream's team.
        slot: int32 [k]. The place of each local team in `rule` and `used`.
        rule, used: as for evaluate; what is kept is charged.
        outcome_out: uint8 [e], zeroed. 0 kept, 1 sampled out, 2 dropped.
        tally_out: int64 [k, 12], added to: entries allowed, throttled, dropped; entries and
            bytes kept, sampled out, dropped; in a dry run the bytes that would have been
            allowed, throttled, dropped.

    Raises:
        ValueError, IndexError: arrays that do not fit together. Nothing was charged.

    Threads: any number on the same `used`. Runs without the GIL from the first stream on whose
    entries must be looked at.
    """

def split(
    body: Buffer, dialect: int, stream: _Int64s, entry: _Int64s, outcome: _Bytes, out: Buffer
) -> int:
    """Write the body without the entries whose outcome is not 0; returns its size in bytes.

    `out` needs room for the body's size, and for 64 bytes a stream and 64 more with JSON.

    Threads: any number, each with its own `out`. Runs without the GIL.
    """

def book(
    row: _Int64s,
    at: _Int32s,
    totals: _Int64s,
    committed: _Int64s,
    kind: _Int64s,
    key: _Int32s,
    cell: _Int32s,
    weight: _Int64s,
    journal: _Int64s,
) -> None:
    """Add what became of a push to the ledger's rows. Sums stop at 2^63-1.

    Args:
        row: int64 [r, c]. Changed in place, row by row: a kill in between leaves whole ones.
        at: int32 [k]. The rows that it touches.
        totals: int64 [k, w]. Added to the first w columns.
        committed: int64 [k]. Added to the windows' bytes.
        kind: int64 [z, 4]. Where cells of each kind of window lie: the first one's column, how
            many, columns of each, and how many of the first totals are counted in them too.
            A cell's columns: key, when it was entered, bytes committed, counters.
        key, cell: int32 [z, r]. Each row's window and its cell; nothing is added to a cell
            that has another key by now.

    Raises:
        ValueError, IndexError: arrays that do not fit together. Nothing was added.

    Threads: one at a time on the same rows.
    """

def add(cell: _Int64s, at: _Int32s, n: _Int64s) -> None:
    """Add n[i] (int64) to cell[at[i]] (int64, int32), each atomically; n may be negative."""

def entry_hash(labels: Buffer, time: Buffer, line: Buffer) -> int:
    """The sampling hash: XXH64 of labels (seed 0), of time, of line, each seeding the next."""
