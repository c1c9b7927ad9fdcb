"""The ledger objects: `sluice-ledger-N`, which hold the sums of the nodes that are gone.

An object of the API server has room for TEAMS_MAX teams a window and about a megabyte. So there are
several: a node's counts go whole into one of them, the first with room, and a total is the sum over
all. In `status` beside the counts:

    merged   uids of objects that are counted here and may still exist
    folded   month -> uid -> seq: what was folded here. An agent that comes back finds the proof
             in it that its old object was counted, and up to which report.
"""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sluice import ledger, nodeusage, window
from sluice.columns import COUNT_MAX
from sluice.kube import client

# Every zone's yesterday, today and tomorrow are among these days around UTC's.
DAYS_BEHIND, DAYS_AHEAD = 3, 2
# etcd takes 1.5 MiB (--max-request-bytes); the managed fields and the metadata come on top.
SIZE_MAX = 1_000_000
# Each uid is about 40 bytes of every write of the object.
UIDS_MAX = 5000

Object = dict[str, Any]
Folded = dict[str, dict[str, int]]


class NoRoom(client.ApiError):
    """No ledger object can take this."""

    status = 507


@dataclass(frozen=True, slots=True)
class Part:
    """What one object brings into a ledger object.

    Attributes:
        seq: of its last report.
        merged, folded: what an object brings that is a ledger object itself.
    """

    uid: str
    seq: int
    counted: ledger.Counted
    merged: tuple[str, ...]
    folded: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, found: Object) -> "Part":
        """Read an object of the API server."""
        status = found.get("status") or {}
        return cls(
            uid=found["metadata"]["uid"],
            seq=status.get("seq", 0),
            counted=nodeusage.counted(status),
            merged=tuple(status.get("merged") or ()),
            folded=status.get("folded") or {},
        )


class Ledgers:
    """The ledger objects, each read at most once, and again after a write that failed.

    Args:
        now: epoch seconds; decides which windows are kept.
    """

    def __init__(self, api: client.Api, now: float) -> None:
        self._api, self._now = api, now
        self._found: dict[str, Object | None] = {}

    def get(self, name: str) -> Object | None:
        """The ledger object of this name, or None."""
        if name not in self._found:
            self._found[name] = self._api.node_usage(name)
        return self._found[name]

    def usable(self, name: str) -> Object | None:
        """The ledger object of this name if it may be written: it is there, and to stay."""
        book = self.get(name)
        return None if book is None or "deletionTimestamp" in book["metadata"] else book

    def holder_of(self, uid: str) -> Object | None:
        """The ledger object that counts the object with this uid, read now; or None."""
        self._found.clear()
        for _, book in self._all():
            if book is not None and holds(book, uid):
                return book
        return None

    def home_for(self, part: Part) -> Object:
        """The first ledger object with room for a part; made if there is none.

        Raises:
            NoRoom: all that there may be are full.
            client.Terminating: it cannot be made, because the CRD is being deleted.
        """
        for name, book in self._all():
            if book is None:
                return self.make(name)
            if self.usable(name) is not None and self.status_with(book, part) is not None:
                return book
        raise NoRoom(f"the {nodeusage.LEDGERS_MAX} ledger objects have no room for it")

    def first(self) -> Object:
        """A ledger object that may be written; made if there is none. Raises as home_for()."""
        for name, book in self._all():
            if book is None:
                return self.make(name)
            if self.usable(name) is not None:
                return book
        raise NoRoom("all ledger objects are to be deleted")

    def make(self, name: str) -> Object:
        """Create a ledger object. Conflict if another process was first."""
        metadata = {"name": name, "finalizers": [nodeusage.FINALIZER]}
        kind = {"apiVersion": nodeusage.API_VERSION, "kind": nodeusage.KIND}
        self._found.pop(name, None)
        made = self._api.create_node_usage({**kind, "metadata": metadata})
        self._found[name] = made
        return made

    def status_with(self, book: Object, part: Part) -> Object | None:
        """The status of a ledger object with a part added; None where there is no room for it."""
        status = book.get("status") or {}
        ours = recent(nodeusage.counted(status), self._now)
        theirs = recent(part.counted, self._now)
        sums = nodeusage.combined(ours, theirs, lambda a, b: min(COUNT_MAX, a + b))
        merged = list(dict.fromkeys([*(status.get("merged") or ()), part.uid, *part.merged]))
        month = window.month_key(window.open_windows("UTC", self._now).month)
        proofs = joined(status.get("folded") or {}, part.folded)
        folded = kept_months(joined(proofs, {month: {part.uid: part.seq}}), self._now)
        made = self._status(book, merged, folded, sums)
        if len(merged) + sum(map(len, folded.values())) > UIDS_MAX:
            return None
        # What was an object of its own fits into an empty one.
        return made if not ours or _fits(made, sums) else None

    def take_in(self, book: Object, part: Part) -> None:
        """Add a part that is not in it yet, in one write; NoRoom if it does not fit."""
        status = self.status_with(book, part)
        if status is None:
            raise NoRoom(f"{book['metadata']['name']} has no room for it")
        self._write(self._with_finalizer(book), status)

    def touch(self, book: Object) -> None:
        """Write it as it is, so that a write on its way that names this version fails."""
        status = book.get("status") or {}
        self._write(book, {**status, "seq": status.get("seq", 0) + 1})

    def keep_merged(self, book: Object, merged: list[str]) -> None:
        """Replace the uids of what may still exist, and let old windows go."""
        status = book.get("status") or {}
        folded = kept_months(status.get("folded") or {}, self._now)
        sums = recent(nodeusage.counted(status), self._now)
        self._write(book, self._status(book, merged, folded, sums))

    def _all(self) -> Iterator[tuple[str, Object | None]]:
        for number in range(nodeusage.LEDGERS_MAX):
            name = nodeusage.ledger_name(number)
            yield name, self.get(name)

    def _with_finalizer(self, book: Object) -> Object:
        """The object with our finalizer; versions with one ledger object made it without."""
        metadata = book["metadata"]
        finalizers = metadata.get("finalizers") or []
        if nodeusage.FINALIZER in finalizers:
            return book
        finalizers = [*finalizers, nodeusage.FINALIZER]
        self._found.pop(metadata["name"], None)
        return self._api.put_node_usage(
            {**book, "metadata": {**metadata, "finalizers": finalizers}}
        )

    def _status(
        self, book: Object, merged: list[str], folded: Folded, sums: ledger.Counted
    ) -> Object:
        return {
            "instance": "sluice-controller",
            "seq": (book.get("status") or {}).get("seq", 0) + 1,
            "reportedAt": window.iso(self._now),
            "merged": merged,
            "folded": folded,
            **nodeusage.status_of(sums),
        }

    def _write(self, book: Object, status: Object) -> None:
        name = book["metadata"]["name"]
        self._found.pop(name, None)
        self._found[name] = self._api.put_node_usage_status({**book, "status": status})


def holds(book: Object, uid: str) -> bool:
    """Whether a ledger object counts the object with this uid."""
    status = book.get("status") or {}
    folded: Folded = status.get("folded") or {}
    return uid in (status.get("merged") or ()) or any(uid in uids for uids in folded.values())


def _fits(status: Object, sums: ledger.Counted) -> bool:
    """Whether the API server and etcd take a status of this size."""
    has_room = all(len(teams) <= nodeusage.TEAMS_MAX for teams in sums.values())
    return has_room and len(orjson.dumps(status)) <= SIZE_MAX


def joined(one: Mapping[str, Mapping[str, int]], other: Mapping[str, Mapping[str, int]]) -> Folded:
    """What either says was folded."""
    return {
        month: {**one.get(month, {}), **other.get(month, {})} for month in one.keys() | other.keys()
    }


def kept_months(folded: Folded, now: float) -> Folded:
    """Of what was folded, the months that an agent may still report."""
    kept = recent({month: {} for month in folded}, now)
    return {month: folded[month] for month in kept}


def recent(sums: ledger.Counted, now: float) -> ledger.Counted:
    """The windows that may be open somewhere, and the last few: an object has room for 16.

    Not those that a clock far ahead has counted into.
    """
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).date().toordinal()
    month = window.open_windows("UTC", now).month
    kept = {window.day_key(today + ahead) for ahead in range(-DAYS_BEHIND, DAYS_AHEAD + 1)}
    kept |= {window.month_key(month + ahead) for ahead in (-1, 0, 1)}
    return {name: teams for name, teams in sums.items() if name in kept}
