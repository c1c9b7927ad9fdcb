"""The fleet of budgets: TeamBudgets as the controller sees them, and what is wrong with them.

Threads: one at a time; the caller holds the lock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluice import budget, table
from sluice.controller.plan import Concern

ANNOTATION = f"metadata.annotations[{budget.NOTIFY}]"


@dataclass(slots=True)
class Member:
    """One TeamBudget.

    Attributes:
        own: None where it cannot be read, and never could; else the last version that could.
        concern: what keeps it from being Ready, beside what the other budgets do to it.
        version: the resource version that `status` is of.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    version: str
    status: Mapping[str, Any]
    own: budget.Budget | None
    concern: Concern | None


class Fleet:
    """All TeamBudgets, by key.

    Args:
        system_namespace, namespace_labels: as the agents have them, see table.Table.
    """

    def __init__(self, system_namespace: str, namespace_labels: Sequence[str]) -> None:
        self._system_namespace = system_namespace
        self._namespace_labels = tuple(namespace_labels)
        self.members: dict[str, Member] = {}
        self._concerns: dict[str, Concern] | None = None

    def put(self, found: Mapping[str, Any]) -> str:
        """Take in a version of an object; returns its key."""
        metadata, key = found["metadata"], budget.object_key(found)
        before = self.members.get(key)
        if before is not None and before.uid != metadata.get("uid", ""):
            before = None
        if before is not None and int(before.version) > int(metadata["resourceVersion"]):
            # Older than what our own write returned.
            return key
        own, concern = read(found)
        if own is None and before is not None:
            own = before.own
        self.members[key] = Member(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 0),
            version=metadata["resourceVersion"],
            status=found.get("status") or {},
            own=own,
            concern=concern,
        )
        if before is None or before.own != own:
            self._concerns = None
        return key

    def remove(self, found: Mapping[str, Any]) -> str:
        """An object is gone; returns its key."""
        key = budget.object_key(found)
        self.members.pop(key, None)
        self._concerns = None
        return key

    def concern(self, key: str) -> Concern | None:
        """What keeps a budget from being Ready, or None."""
        return self.members[key].concern or self._of_others().get(key)

    def has_changed(self) -> bool:
        """Whether budgets have changed since what they do to each other was last asked for."""
        return self._concerns is None

    def _of_others(self) -> dict[str, Concern]:
        if self._concerns is None:
            self._concerns = self._found_concerns()
        return self._concerns

    def _found_concerns(self) -> dict[str, Concern]:
        own = [member.own for member in self.members.values() if member.own is not None]
        whole = table.Table(
            own,
            trusted=False,
            system_namespace=self._system_namespace,
            namespace_labels=self._namespace_labels,
        )
        found: dict[str, Concern] = {}
        for conflict in whole.conflicts:
            if conflict.wholly:
                winner = own[conflict.winner].key
                found.setdefault(
                    own[conflict.loser].key,
                    Concern(
                        "Overlapping",
                        f"in namespace {conflict.namespace} budget {winner} governs the same"
                        f" streams and comes first ({conflict.on})",
                    ),
                )
        for refused in whole.not_allowed:
            names = ", ".join(refused.namespaces)
            found[own[refused.team].key] = Concern(
                "NamespacesNotAllowed",
                f"only budgets in {self._system_namespace} may govern other namespaces than their"
                f" own: {names}",
            )
        return found


def read(found: Mapping[str, Any]) -> tuple[budget.Budget | None, Concern | None]:
    """Read an object that the API server has taken, and say what of it cannot be used."""
    own, wrong = budget.read_object(found)
    if own is None:
        return None, Concern("InvalidSpec", wrong[0].message)
    for one in wrong:
        if one.field == "spec.timeZone":
            return own, Concern("InvalidTimeZone", f"{one.message}: enforced in UTC")
        if one.field == ANNOTATION:
            return own, Concern("InvalidAnnotation", f"{one.message}: the defaults hold")
    if wrong:
        return own, Concern("UnknownField", "; ".join(one.message for one in wrong))
    return own, None
