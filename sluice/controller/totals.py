"""Totals: what all nodes counted, by window and team, kept by difference. No I/O, no clock.

An object counts unless its uid is in the `merged` of a ledger object: then it has been folded, and
its counts are the ledger object's.

Threads: one at a time; the caller holds the lock.
"""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sluice import ledger, nodeusage

NO_VALUES: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One NodeLogUsage, as far as it matters here.

    Attributes:
        version: the resource version of this state of it.
        seq: of its last report; 0 before the first.
        reported_at: by its own clock, epoch seconds; that of its creation before the first report.
        is_final: its agent has stopped for good. is_leaving: it is to be deleted.
        is_extra: it is that of a second agent pod on its node.
        merged, folded: only of ledger objects: what is folded into it, see ledgers.py.
    """

    name: str
    uid: str
    version: int
    seq: int
    reported_at: float
    is_final: bool
    is_leaving: bool
    counted: ledger.Counted
    merged: frozenset[str]
    folded: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    is_extra: bool = False

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Node":
        """Read an object."""
        metadata, status = found["metadata"], found.get("status") or {}
        at = status.get("reportedAt") or metadata.get("creationTimestamp")
        return cls(
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            version=int(metadata["resourceVersion"]),
            seq=status.get("seq", 0),
            reported_at=instant(at),
            is_final=bool(status.get("final")),
            is_leaving="deletionTimestamp" in metadata,
            counted=nodeusage.counted(status),
            merged=frozenset(status.get("merged") or ()),
            folded=status.get("folded") or {},
            is_extra=nodeusage.is_extra(found),
        )

    @property
    def is_ledger(self) -> bool:
        """Whether this is one of the controller's own objects."""
        return nodeusage.is_ledger(self.name)


def instant(text: str | None) -> float:
    """A time as an agent wrote it, in epoch seconds; 0.0 if it cannot be read."""
    try:
        return datetime.datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return 0.0


class Totals:
    """The sums, and who contributes.

    Attributes:
        nodes: by name, the ledger objects among them.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._sums: dict[str, dict[str, list[int]]] = {}
        self._contributors: dict[str, dict[str, int]] = {}
        self._merged: frozenset[str] = frozenset()

    def put(self, node: Node) -> set[str]:
        """Take in a new version of an object; returns the teams whose sums have changed."""
        before = self.nodes.get(node.name)
        old = self._part(before)
        self.nodes[node.name] = node
        if not node.is_ledger:
            return self._replace(old, self._part(node), is_node=True)
        return self._replace(old, self._part(node), is_node=False) | self._merge()

    def remove(self, name: str) -> set[str]:
        """An object is gone; returns the teams whose sums have changed."""
        node = self.nodes.get(name)
        old = self._part(node)
        self.nodes.pop(name, None)
        if node is None or not node.is_ledger:
            return self._replace(old, {}, is_node=True)
        return self._replace(old, {}, is_node=False) | self._merge()

    def _part(self, node: Node | None) -> ledger.Counted:
        """What a node's object adds to the sums."""
        return {} if node is None or node.uid in self._merged else node.counted

    def _merge(self) -> set[str]:
        """Have exactly the objects count as folded that a ledger object names."""
        changed = set()
        before = self._merged
        self._merged = frozenset().union(*(one.merged for one in self.ledgers()))
        moved = self._merged ^ before
        for node in [node for node in self.nodes.values() if node.uid in moved]:
            parts = ({}, node.counted) if node.uid in before else (node.counted, {})
            changed |= self._replace(*parts, is_node=not node.is_ledger)
        return changed

    def _replace(self, old: ledger.Counted, new: ledger.Counted, *, is_node: bool) -> set[str]:
        changed: set[str] = set()
        for name in old.keys() | new.keys():
            before, after = old.get(name, {}), new.get(name, {})
            for team in before.keys() | after.keys():
                was, now = before.get(team), after.get(team)
                if was != now:
                    self._add(name, team, was, now, is_node)
                    changed.add(team)
        return changed

    def _add(
        self, name: str, team: str, was: list[int] | None, now: list[int] | None, is_node: bool
    ) -> None:
        width = len(now or was or NO_VALUES)
        teams = self._sums.setdefault(name, {})
        sums = teams.setdefault(team, [0] * width)
        for i in range(width):
            sums[i] += (now[i] if now else 0) - (was[i] if was else 0)
        if is_node:
            counts = self._contributors.setdefault(name, {})
            counts[team] = counts.get(team, 0) + (now is not None) - (was is not None)
        if not any(sums) and not self._contributors.get(name, {}).get(team):
            del teams[team]
            self._contributors.get(name, {}).pop(team, None)
            if not teams:
                del self._sums[name]
                self._contributors.pop(name, None)

    def sum(self, name: str, team: str) -> list[int]:
        """A team's [bytes, *outcome counts] of a window; [0] if nobody counted any."""
        return self._sums.get(name, {}).get(team, [0])

    def contributors(self, name: str, team: str) -> int:
        """How many nodes count a team in a window."""
        return self._contributors.get(name, {}).get(team, 0)

    def live(self) -> Iterator[Node]:
        """The nodes that are there and have not been folded."""
        return (
            node
            for node in self.nodes.values()
            if not node.is_ledger and node.uid not in self._merged
        )

    def ledgers(self) -> Iterator[Node]:
        """The ledger objects."""
        return (node for node in self.nodes.values() if node.is_ledger)

    def is_merged(self, uid: str) -> bool:
        """Whether the object with this uid has been folded."""
        return uid in self._merged
