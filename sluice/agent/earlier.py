"""Objects that this agent no longer writes, and the proof that the cluster still has their counts.

An object that is gone was either folded into a ledger object, which then names its uid, or it is
lost. What was folded must not be reported again; what was lost must be. Without a proof the counts
are reported again, because only this node's disk still has them.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sluice import ledger, nodeusage, window
from sluice.agent import windows

log = logging.getLogger("sluice.agent")

# Ledger objects are numbered without gaps, unless somebody deletes one.
GAP = 2
LOST = -1


class Api(Protocol):
    """What this needs of kube.client.Api."""

    def node_usage(self, name: str) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the cluster has of this ledger in an object that this agent no longer writes.

    Attributes:
        name, uid: of the object. "" where another pod of this node took the object over: it counts
            these bytes as its own and reports them again if its object is lost.
        counted: what that object has of this ledger.
    """

    name: str
    uid: str
    counted: ledger.Counted


class Proofs:
    """Finds out what became of objects. Reads the ledger objects once, when first needed.

    Attributes:
        has_books: whether there was a ledger object that has been written.

    Raises:
        client.ApiError: from any method, if the API server does not answer.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._folded: dict[str, int | None] | None = None
        self.has_books = False

    def kept(self, all_: Iterable[Earlier], utc: window.Windows) -> list[Earlier]:
        """What the cluster still has of these objects; of a lost one, what is long over.

        A ledger object names an uid for as long as a window of its object may be open.
        """
        found = []
        for one in all_:
            kept = one
            if one.uid and self.last_report(one.name, one.uid) == LOST:
                over = {
                    name: teams
                    for name, teams in one.counted.items()
                    if not windows.is_near(utc, *window.parse_key(name))
                }
                kept = Earlier("", "", over)
            if kept.counted:
                found.append(kept)
        return found

    def last_report(self, name: str, uid: str) -> int | None:
        """The number of the last report that the cluster has of an object.

        None if that is not known; LOST if the object is.
        """
        if self._folded is None:
            self._folded = dict(self._folds())
        if uid in self._folded:
            return self._folded[uid]
        found = self._api.node_usage(name)
        if found is None or found["metadata"].get("uid", "") != uid:
            return LOST
        return int((found.get("status") or {}).get("seq", 0))

    def _folds(self) -> Iterator[tuple[str, int | None]]:
        number = missing = 0
        while missing < GAP and number < nodeusage.LEDGERS_MAX:
            book = self._api.node_usage(nodeusage.ledger_name(number))
            missing = 0 if book is not None else missing + 1
            number += 1
            status = (book or {}).get("status") or {}
            self.has_books |= "seq" in status
            # Of one that an older controller folded, only the uid is known.
            yield from ((uid, None) for uid in status.get("merged") or ())
            for uids in (status.get("folded") or {}).values():
                yield from uids.items()
