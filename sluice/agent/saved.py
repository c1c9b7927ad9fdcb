"""What an agent must still know after a restart, as JSON files in the state directory.

table.json   the budgets as last seen, and the cluster's usage as last heard
report.json  which object holds this node's counts, what it acknowledged, what went before it
"""

import logging
from pathlib import Path

from sluice import jsonfile, ledger, nodeusage

log = logging.getLogger("sluice.agent")

# More than the ledger keeps of any team; days sort before months.
WINDOWS = 16


class Reported:
    """What of this node's counts the cluster has.

    Attributes:
        uid: of the object that holds them; "" before the first.
        acked: all that is acknowledged, what was folded included.
        sent: what is on its way, and may have arrived; {} if nothing is.
        folded: what earlier objects of this node took with them.

    Threads: one writes; others may read `acked`, which is replaced whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found = jsonfile.read(path)
        self.uid = str(found.get("uid") or "")
        self.acked: ledger.Counted = found.get("acked") or {}
        self.sent: ledger.Counted = found.get("sent") or {}
        self.folded: ledger.Counted = found.get("folded") or {}

    def begin(self, uid: str) -> None:
        """The object is another one from here on: all that it had went with the last.

        What was on its way counts as arrived: nothing must be told twice.
        """
        if self.uid:
            self.folded = nodeusage.combined(self.acked, self.sent, max)
        self.uid, self.sent = uid, {}
        self._write()

    def send(self, counted: ledger.Counted) -> None:
        """A report of `counted` is about to be on its way."""
        self.sent = counted
        self._write()

    def acknowledge(self, uid: str, counted: ledger.Counted) -> None:
        """The object has `counted`; windows that it does not name any more it had before."""
        self.uid, self.sent = uid, {}
        old = self.acked
        names = sorted(old.keys() | counted.keys())[-WINDOWS:]
        self.acked = {name: old.get(name, {}) | counted.get(name, {}) for name in names}
        self._write()

    def _write(self) -> None:
        value = {"uid": self.uid, "acked": self.acked, "sent": self.sent, "folded": self.folded}
        try:
            jsonfile.write(self._path, value)
        except OSError as error:
            log.error("%s cannot be written: %s", self._path, error)
