"""What an agent must still know after a restart, as JSON files in the state directory.

table.json   the budgets as last seen, and the cluster's usage as last heard
report.json  which object holds this node's counts, what it acknowledged, what went before it
"""

import functools
from collections.abc import Iterable
from pathlib import Path

from sluice import jsonfile, ledger, nodeusage
from sluice.agent.earlier import Earlier
from sluice.state_files import StateFiles

# More than the ledger keeps of any team; days sort before months.
WINDOWS = 16


class Reported:
    """What of this node's counts the cluster has.

    Attributes:
        name, uid: of the object that holds them; uid "" before the first.
        instance: the pod that last wrote it with this state; "" before the first report.
        seq: the number of that report.
        acked: all that is acknowledged, what earlier objects have included.
        sent: what is on its way, and may have arrived; {} if nothing is.
        sent_seq: the number of that report.
        earlier: the objects before this one.
        folded: the sums of those.

    Args:
        state: where it is said that the file cannot be written.

    Threads: one writes; others may read `acked`, which is replaced whole.
    """

    def __init__(self, path: Path, state: StateFiles | None = None) -> None:
        self._path, self._state = path, state or StateFiles()
        found = jsonfile.read(path)
        self.name = str(found.get("name") or "")
        self.uid = str(found.get("uid") or "")
        self.instance = str(found.get("instance") or "")
        self.seq = int(found.get("seq") or 0)
        self.acked: ledger.Counted = found.get("acked") or {}
        self.sent: ledger.Counted = found.get("sent") or {}
        self.sent_seq = int(found.get("sentSeq") or 0)
        self.earlier = [Earlier(*one) for one in found.get("earlier") or ()]
        if found.get("folded"):
            # Written before proofs were kept.
            self.earlier.append(Earlier("", "", found["folded"]))
        self.folded = _sum(self.earlier)

    def own(self, *, with_sent: bool = False) -> ledger.Counted:
        """What the present object has; `with_sent`: if the report on its way arrived."""
        all_ = nodeusage.combined(self.acked, self.sent, max) if with_sent else self.acked
        return nodeusage.beyond(all_, self.folded)

    def begin(self, name: str, uid: str, earlier: list[Earlier]) -> None:
        """Another object holds the counts from here on, and has none yet."""
        self.name, self.uid, self.sent = name, uid, {}
        self.instance, self.seq = "", 0
        self.earlier, self.folded = earlier, _sum(earlier)
        self.acked = self.folded
        self._write()

    def keep(self, earlier: list[Earlier]) -> None:
        """Of the objects before this one only these are not lost."""
        own = self.own()
        self.earlier, self.folded = earlier, _sum(earlier)
        self.acked = nodeusage.plus(own, self.folded)
        self._write()

    def send(self, counted: ledger.Counted, seq: int) -> None:
        """Report number `seq`, of `counted`, is about to be on its way."""
        self.sent, self.sent_seq = counted, seq
        self._write()

    def did_not_arrive(self) -> None:
        """The report on its way was refused."""
        self.sent = {}
        self._write()

    def acknowledge(self, uid: str, counted: ledger.Counted, instance: str, seq: int) -> None:
        """The object has `counted`; windows that it does not name any more it had before.

        Args:
            instance: who wrote it; "" for a pod that had another state directory.
            seq: the number of the report.
        """
        self.uid, self.sent = uid, {}
        self.instance, self.seq = instance, seq
        old = self.acked
        names = sorted(old.keys() | counted.keys())[-WINDOWS:]
        self.acked = {name: old.get(name, {}) | counted.get(name, {}) for name in names}
        self._write()

    def _write(self) -> None:
        value = {
            "name": self.name,
            "uid": self.uid,
            "instance": self.instance,
            "seq": self.seq,
            "acked": self.acked,
            "sent": self.sent,
            "sentSeq": self.sent_seq,
            "earlier": [[one.name, one.uid, one.counted] for one in self.earlier],
        }
        with self._state.writing(self._path):
            jsonfile.write(self._path, value)


def _sum(earlier: Iterable[Earlier]) -> ledger.Counted:
    return functools.reduce(nodeusage.plus, (one.counted for one in earlier), {})
