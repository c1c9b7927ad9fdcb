"""Whose a stream is: label string -> row of the ledger and application, remembered.

Shippers send the same label strings again and again, so each distinct one is parsed once. What
is remembered is bounded in strings and in bytes; when full, the older half is forgotten.
"""

import numpy as np
import numpy.typing as npt

from sluice import ledger, usage
from sluice.wire import labels, loki

# 100 000 streams with strings of 150 bytes fit; with Python's overhead about 40 MB at the most.
STRINGS_MAX = 131_072
BYTES_MAX = 16 * 2**20
# A longer string is parsed each time.
STRING_MAX = 4096
LABELS, LABELS_END = 3, 4

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Owner = tuple[int, int]


class Known:
    """The owners of label strings under one table of budgets.

    Threads: any number; two that meet a new string at once both parse it.
    """

    def __init__(self, rules: ledger.Rules, apps: usage.Apps) -> None:
        self.rules = rules
        self._apps = apps
        self._owners: dict[bytes, Owner] = {}
        self._shared: dict[Owner, Owner] = {}
        self._bytes = 0
        self._dialect = loki.Dialect.PROTOBUF

    def assign(
        self, view: memoryview, stream: Int64s, dialect: loki.Dialect
    ) -> tuple[Int32s, Int32s, Int32s]:
        """Say whose each stream is.

        Returns:
            rows: int32 [k], the ledger's rows that come up.
            team: int32 [s], each stream's place in `rows`.
            app: int32 [s], each stream's application, as numbered by Apps.
        """
        # One byte in front keeps the dialects' strings apart.
        mark = bytes([dialect.value])
        known = self._owners
        owners = []
        for at, end in stream[:, LABELS : LABELS_END + 1].tolist():
            key = mark + view[at:end]
            owners.append(known.get(key) or self._learn(key, dialect))
        local: dict[int, int] = {}
        team = [local.setdefault(row, len(local)) for row, _ in owners]
        return (
            np.array(list(local), np.int32),
            np.array(team, np.int32),
            np.array([app for _, app in owners], np.int32),
        )

    def _learn(self, key: bytes, dialect: loki.Dialect) -> Owner:
        """Parse a label string and remember its owner."""
        found = self._parsed(key[1:], dialect)
        # Streams whose labels do not parse belong to nobody: upstream will judge them.
        own = self.rules.table
        index = own.team_of(found) if found is not None else -1
        key_of = own.budgets[index].key if index >= 0 else ""
        app = self._apps.number(key_of, own.app_of(found) if found is not None else "")
        owner = (int(self.rules.row_of[index]), app)
        owner = self._shared.setdefault(owner, owner)
        if len(key) <= STRING_MAX:
            if len(self._owners) >= STRINGS_MAX or self._bytes > BYTES_MAX:
                self._forget()
            self._owners[key] = owner
            self._bytes += len(key)
        return owner

    def _parsed(self, raw: bytes, dialect: loki.Dialect) -> dict[str, str] | None:
        if dialect is loki.Dialect.PROTOBUF:
            return labels.parse_metric(raw)
        if dialect is loki.Dialect.JSON:
            return labels.parse_json_labels(raw)
        text = labels.parse_json_string(raw)
        return None if text is None else labels.parse_metric(text)

    def _forget(self) -> None:
        """Drop the older half. Replaces the dict, for other threads may be reading it."""
        kept = list(self._owners.items())[len(self._owners) // 2 :]
        self._owners = dict(kept)
        self._bytes = sum(len(key) for key, _ in kept)
