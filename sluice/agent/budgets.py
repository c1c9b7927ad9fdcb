"""Budgets come down: TeamBudgets as the cluster has them, for the gate's table.

The informer's thread hands every change in; the keeper's takes the whole set when it has changed.
A status does not change the set, only what is known of the other nodes.
"""

import threading
from collections.abc import Mapping
from typing import Any

from sluice import budget
from sluice.agent import elsewhere


class Budgets:
    """The TeamBudgets of the cluster, and what is wrong with those that cannot be used.

    Threads: any number.
    """

    def __init__(self, others: elsewhere.Elsewhere) -> None:
        self._others = others
        self._lock = threading.Lock()
        self._manifests: dict[str, dict[str, Any]] = {}
        self._budgets: dict[str, budget.Budget] = {}
        self._problems: dict[str, str] = {}
        self._fresh: set[str] | None = set()
        self._has_changed = False

    def handle(self, kind: str, found: Mapping[str, Any]) -> None:
        """Take in an event of the informer."""
        key = budget.object_key(found)
        if kind == "DELETED":
            with self._lock:
                self._manifests.pop(key, None)
                self._problems.pop(key, None)
                self._has_changed |= self._budgets.pop(key, None) is not None
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

    def take(self) -> list[budget.Budget] | None:
        """All budgets, if they have changed since the last call; else None."""
        with self._lock:
            if not self._has_changed:
                return None
            self._has_changed = False
            return list(self._budgets.values())

    def problems(self) -> list[dict[str, object]]:
        """What is wrong with budgets, for /api/health."""
        with self._lock:
            return [{"budget": key, "error": text} for key, text in sorted(self._problems.items())]

    def __len__(self) -> int:
        with self._lock:
            return len(self._budgets)

    def dump(self) -> list[dict[str, Any]]:
        """The manifests, for load()."""
        with self._lock:
            return [self._manifests[key] for key in self._budgets]

    def load(self, manifests: list[dict[str, Any]]) -> None:
        """Begin with the manifests of an earlier process, until the cluster's are there."""
        for manifest in manifests:
            key = budget.key_of(manifest)
            if key is not None:
                self._put(key, manifest, is_fresh=False)

    def settle(self) -> None:
        """The cluster's first list is in: what it does not name was deleted meanwhile."""
        with self._lock:
            fresh, self._fresh = self._fresh or set(), None
            for key in self._manifests.keys() - fresh:
                self._manifests.pop(key)
                self._problems.pop(key, None)
                self._has_changed |= self._budgets.pop(key, None) is not None

    def all(self) -> list[budget.Budget]:
        """All budgets."""
        with self._lock:
            return list(self._budgets.values())


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
