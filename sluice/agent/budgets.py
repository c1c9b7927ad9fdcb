"""Keeps the gate's table equal to the cluster's TeamBudgets.

The informer's thread hands every change in; the keeper's takes the whole set when it has changed.
A status does not change the set, only what is known of the other nodes.

A deleted budget ends at once while others are left. If none is left, or the API server does not
know the kind, the deletion is more likely an accident: budgets that were deleted within the last
`grace` seconds are in force again, each until `grace` after its deletion.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sluice import budget
from sluice.agent import elsewhere

# How long budgets may take to come back, once the first one has.
BACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Gone:
    """A budget that was deleted, and when (epoch seconds)."""

    own: budget.Budget
    manifest: dict[str, Any]
    at: float


class Budgets:
    """The TeamBudgets of the cluster, and what is wrong with those that cannot be used.

    Args:
        grace: seconds for which budgets stay in force once all of them have vanished.
        clock: seconds since the epoch.

    Threads: any number.
    """

    def __init__(
        self,
        others: elsewhere.Elsewhere,
        *,
        grace: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._others, self._grace, self._clock = others, grace, clock
        self._lock = threading.Lock()
        self._manifests: dict[str, dict[str, Any]] = {}
        self._budgets: dict[str, budget.Budget] = {}
        self._problems: dict[str, str] = {}
        self._fresh: set[str] | None = set()
        self._has_changed = False
        self._gone: dict[str, Gone] = {}
        self._is_holding = False
        # When budgets began to come back; when the kind was first found missing. Epoch seconds.
        self._back_at: float | None = None
        self._missing_at: float | None = None
        self._is_over = False

    def handle(self, kind: str, found: Mapping[str, Any]) -> None:
        """Take in an event of the informer."""
        key = budget.object_key(found)
        if kind == "DELETED":
            with self._lock:
                self._drop(key)
            self._others.forget(key)
            return
        self._put(key, slim(found), is_fresh=True)
        status = elsewhere.Status.of(found.get("status") or {})
        if status is not None:
            self._others.hear(key, status)

    def _put(self, key: str, manifest: dict[str, Any], *, is_fresh: bool) -> None:
        own, wrong = budget.read_object(manifest)
        # One step: settle() between the two would take a new budget for one that was deleted.
        with self._lock:
            if is_fresh and self._fresh is not None:
                self._fresh.add(key)
            self._problems.pop(key, None)
            if own is not None:
                self._manifests[key] = manifest
            if wrong:
                self._problems[key] = "; ".join(error.message for error in wrong)
            # What cannot be read at all keeps the last version that could.
            if own is not None and own != self._budgets.get(key):
                self._budgets[key] = own
                self._has_changed = True
            if key in self._budgets:
                self._gone.pop(key, None)

    def _drop(self, key: str) -> None:
        manifest, own = self._manifests.pop(key, None), self._budgets.pop(key, None)
        self._problems.pop(key, None)
        if own is not None and manifest is not None:
            self._gone[key] = Gone(own, manifest, self._clock())
            self._has_changed = True

    def look(self, *, is_missing: bool) -> None:
        """See whether the budgets have vanished, are back, or are out of time.

        Args:
            is_missing: the API server does not know the kind.
        """
        now = self._clock()
        with self._lock:
            before = self._is_holding, len(self._gone), self._is_over
            self._gone = {
                key: gone for key, gone in self._gone.items() if now - gone.at < self._grace
            }
            if is_missing and self._missing_at is None:
                self._missing_at = now
            elif not is_missing:
                self._missing_at = None
            self._is_over = self._missing_at is not None and now - self._missing_at >= self._grace
            if not self._budgets:
                self._is_holding, self._back_at = bool(self._gone), None
            elif self._is_holding:
                self._back_at = now if self._back_at is None else self._back_at
                if now - self._back_at >= BACK_S or not self._gone:
                    self._is_holding, self._gone = False, {}
            if before != (self._is_holding, len(self._gone), self._is_over):
                self._has_changed = True

    def complaint(self) -> str:
        """Why budgets are in force that the cluster does not have, or are not any more; or ""."""
        with self._lock:
            count = len(self._in_force())
            if self._missing_at is not None:
                stay = f"the {count} last known budgets stay in force for {self._grace:g} s"
                return "the API server has no TeamBudgets resource (is the CRD deleted?): " + (
                    f"{stay} (--budgets-grace)" if count else "none is in force"
                )
            if self._is_holding:
                return (
                    f"the cluster has {len(self._budgets) or 'no'} TeamBudgets:"
                    f" {len(self._gone)} that it had stay in force for {self._grace:g} s"
                    " (--budgets-grace)"
                )
            return ""

    def held(self) -> int:
        """The budgets in force that the cluster does not have."""
        with self._lock:
            return len(self._in_force()) - (
                0 if self._missing_at is not None else len(self._budgets)
            )

    def take(self) -> list[budget.Budget] | None:
        """All budgets, if they have changed since the last call; else None."""
        with self._lock:
            if not self._has_changed:
                return None
            self._has_changed = False
            return self._in_force()

    def _in_force(self) -> list[budget.Budget]:
        if self._is_over:
            return []
        held = [gone.own for gone in self._gone.values()] if self._is_holding else []
        return [*self._budgets.values(), *held]

    def problems(self) -> list[dict[str, object]]:
        """What is wrong with budgets, for /api/health."""
        with self._lock:
            return [{"budget": key, "error": text} for key, text in sorted(self._problems.items())]

    def __len__(self) -> int:
        with self._lock:
            return len(self._in_force())

    def dump(self) -> dict[str, Any]:
        """What load() reads: plain JSON."""
        with self._lock:
            return {
                "budgets": [self._manifests[key] for key in self._budgets],
                "gone": [[gone.manifest, gone.at] for gone in self._gone.values()],
                "holding": self._is_holding,
                "missingAt": self._missing_at,
            }

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Begin with what an earlier process had, until the cluster's budgets are there.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is not what dump() gave.
        """
        for manifest, at in dumped.get("gone") or ():
            key, (own, _) = budget.key_of(manifest), budget.read_object(manifest)
            if key is not None and own is not None:
                self._gone[key] = Gone(own, manifest, float(at))
        self._is_holding = bool(dumped.get("holding"))
        missing_at = dumped.get("missingAt")
        self._missing_at = None if missing_at is None else float(missing_at)
        for manifest in dumped["budgets"]:
            key = budget.key_of(manifest)
            if key is not None:
                self._put(key, manifest, is_fresh=False)

    def settle(self) -> None:
        """The cluster's first list is in: what it does not name was deleted meanwhile."""
        with self._lock:
            fresh, self._fresh = self._fresh or set(), None
            for key in self._manifests.keys() - fresh:
                self._drop(key)

    def all(self) -> list[budget.Budget]:
        """All budgets in force."""
        with self._lock:
            return self._in_force()


def slim(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a budget is read from, of an object that may carry a lot more."""
    metadata = found["metadata"]
    kept = {name: metadata[name] for name in ("name", "namespace", "creationTimestamp")
            if name in metadata}  # fmt: skip
    return {
        "apiVersion": found.get("apiVersion", budget.API_VERSION),
        "kind": found.get("kind", budget.KIND),
        "metadata": kept,
        "spec": found.get("spec", {}),
    }
