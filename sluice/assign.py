"""Whose a stream is: label string -> row of the ledger and application, remembered.

Shippers send the same label strings again and again, so each distinct one is parsed once. What
is remembered is bounded in strings and in bytes; when full, the older half is forgotten.
"""

from sluice import ledger, usage
from sluice.wire import labels, loki

# 100 000 streams with strings of 150 bytes fit; with Python's overhead about 40 MB at the most.
STRINGS_MAX = 131_072
BYTES_MAX = 16 * 2**20
# A longer string is parsed each time.
STRING_MAX = 4096


class Known:
    """The owners of label strings under one table of budgets, for the core's assign().

    Attributes:
        owners: row of the ledger << 32 | application, by dialect (one byte) and label string.

    Threads: any number; two that meet a new string at once both parse it.
    """

    def __init__(self, rules: ledger.Rules, apps: usage.Apps) -> None:
        self.rules = rules
        self._apps = apps
        self.owners: dict[bytes, int] = {}
        self._shared: dict[int, int] = {}
        self._bytes = 0

    def learn(self, key: bytes) -> int:
        """Parse a label string and remember its owner, which is returned."""
        found = self._parsed(key[1:], loki.Dialect(key[0]))
        # Streams whose labels do not parse belong to nobody: upstream will judge them.
        own = self.rules.table
        index = own.team_of(found) if found is not None else -1
        key_of = own.budgets[index].key if index >= 0 else ""
        place = (own.namespace_of(found), own.app_of(found)) if found is not None else ("", "")
        app = self._apps.number(key_of, *place)
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
            return labels.parse_json_labels(raw)
        text = labels.parse_json_string(raw)
        return None if text is None else labels.parse_metric(text)

    def _forget(self) -> None:
        """Drop the older half, from the dict that pushes are being looked up in."""
        for key in list(self.owners)[: len(self.owners) // 2]:
            self.owners.pop(key, None)
        self._bytes = sum(map(len, list(self.owners)))
