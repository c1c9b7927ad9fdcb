"""Whose a stream is: label string -> row of the ledger and application, remembered.

Shippers send the same label strings again and again, so each distinct one is parsed once. What
is remembered is bounded in strings and in bytes; when full, the older half is forgotten.
"""

import threading

import numpy as np
import numpy.typing as npt

from sluice import errors, ledger, memory, table, usage
from sluice.wire import labels, loki

# 100 000 streams with strings of 150 bytes fit; with Python's overhead about 40 MB at the most.
STRINGS_MAX = 131_072
BYTES_MAX = 16 * 2**20
# A longer string is parsed each time.
STRING_MAX = 4096
# Set in the number of an application whose stream has one of Loki's own labels. The core hands 31
# bits of that number on; usage.Apps needs 14.
LOKI_STREAM = 1 << 30

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

# What reading the strings of one push may cost that were not met before, see work_of(): a second
# or two of CPU at the worst. 40 000 short strings, or 10 000 of ten labels in JSON; by default Loki
# keeps 5000 streams of a tenant.
WORK_MAX = 12 * 2**20
# A string costs microseconds by itself, and so may each byte but these.
STRING_WORK, SPECIAL_WORK = 256, 16
PLAIN = bytes(byte for byte in range(32, 127) if byte not in b'\\"[{')
# Bytes of objects while a byte of a long string is read.
READING = 64


class Known:
    """The owners of label strings under one table of budgets, for the core's assign().

    Attributes:
        turn: the turn of usage.Apps for which they hold.
        owners: row of the ledger << 32 | application, by dialect (one byte) and label string.
        has_loki_streams: a string with one of Loki's own labels was met.

    Threads: any number; two that meet a new string at once both parse it.
    """

    def __init__(self, rules: ledger.Rules, apps: usage.Apps) -> None:
        self.rules = rules
        self.turn = apps.turns
        self._apps = apps
        self.owners: dict[bytes, int] = {}
        self.has_loki_streams = False
        self._shared: dict[int, int] = {}
        self._bytes = 0

    def learn(self, key: bytes) -> int:
        """Parse a label string and remember its owner, which is returned.

        Raises:
            BadPush: Loki cannot parse it, and refuses the whole push for it.
        """
        found = self._parsed(key[1:], loki.Dialect(key[0]))
        if found is None:
            raise errors.BadPush(f"Loki cannot parse the labels {errors.excerpt(key[1:])}")
        own = self.rules.table
        index = own.team_of(found)
        key_of = own.budgets[index].key if index >= 0 else ""
        app = self._apps.number(key_of, own.namespace_of(found), own.app_of(found))
        if table.has_loki_label(found):
            self.has_loki_streams = True
            app |= LOKI_STREAM
        owner = int(self.rules.row_of[index]) << 32 | app
        owner = self._shared.setdefault(owner, owner)
        if len(key) <= STRING_MAX:
            if len(self.owners) >= STRINGS_MAX or self._bytes > BYTES_MAX:
                self._forget()
            self.owners[key] = owner
            self._bytes += len(key)
        return owner

    def _parsed(self, raw: bytes, dialect: loki.Dialect) -> dict[str, str] | None:
        if dialect is loki.Dialect.PROTOBUF:
            return labels.parse_metric(raw)
        if dialect is loki.Dialect.JSON:
            # No "stream" at all is no labels; of a string Loki reads what is between its quotes.
            return labels.parse_json_labels(raw.strip(b'"')) if raw else {}
        text = labels.parse_json_string(raw)
        return None if text is None else labels.parse_metric(text)

    def _forget(self) -> None:
        """Drop the older half, from the dict that pushes are being looked up in."""
        for key in list(self.owners)[: len(self.owners) // 2]:
            self.owners.pop(key, None)
        self._bytes = sum(map(len, list(self.owners)))


class LokiStreams:
    """Counts what came in streams that carry one of Loki's own labels, whoever sent them.

    Attributes:
        entries, size: how many entries, and their bytes.

    Threads: any number.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entries = self.size = 0

    def count(self, app: Int32s, totals: Int64s) -> Int32s:
        """Count marked streams; returns the applications without the mark.

        Args:
            app: int32 [s], each stream's application, as assigned.
            totals: int64 [s, 2], each stream's entries and their bytes.
        """
        marked = app >= LOKI_STREAM
        if marked.any():
            entries, size = totals[marked].sum(axis=0).tolist()
            with self._lock:
                self.entries += entries
                self.size += size
        return app & (LOKI_STREAM - 1)


class Lookup:
    """Finds the owners of one push's label strings, and bounds what the new ones may cost.

    Threads: one at a time.
    """

    def __init__(self, known: Known, claim: memory.Claim) -> None:
        self._known, self._claim = known, claim
        self._work = WORK_MAX
        # What Known does not remember, but a push of one stream an entry repeats.
        self._long: dict[bytes, int] = {}

    def learn(self, key: bytes) -> int:
        """The owner of a string that is not known, as Known.learn().

        Raises:
            TooLarge: the new strings of this push cost too much, or more memory than there is.
            Unavailable: there is not enough memory right now.
        """
        found = self._long.get(key)
        if found is not None:
            return found
        self._work -= work_of(key)
        if self._work < 0:
            raise errors.TooLarge(
                "the labels that were not met before need more work than one push may cost:"
                f" at most {WORK_MAX // STRING_WORK} streams, fewer if they have escapes"
            )
        if len(key) <= STRING_MAX:
            return self._known.learn(key)
        reading = READING * len(key)
        self._claim.take(reading)
        try:
            owner = self._known.learn(key)
        finally:
            self._claim.give(reading)
        self._claim.take(len(key))
        self._long[key] = owner
        return owner


def work_of(key: bytes) -> int:
    """What it costs to read a label string, in units of up to 150 ns."""
    return STRING_WORK + len(key) + SPECIAL_WORK * len(key.translate(None, PLAIN))
