"""Orders the folding of nodes that are gone: failures are retried later and delay no other node.

Threads: run() is one, the leader's; others may read the attributes and call complaint().
"""

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from sluice.controller import fold, totals
from sluice.controller.ledgers import Ledgers, Part
from sluice.kube import client

log = logging.getLogger("sluice.controller")

EVERY_S = 1.0
# Objects per round; each costs four calls.
FOLDS, RELEASES = 10, 50
# For what concerns all calls. An agent waits a minute for a lost ledger to be written again.
BACKOFF_S, BACKOFF_MAX_S = 1.0, 5.0
# For one object.
RETRY_S, RETRY_MAX_S = 2.0, 300.0


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do, as the informer sees it.

    Attributes:
        leaving: name -> version of what can be folded now. ending: all that is to be deleted.
        left: name and uid of objects of second pods, which have stopped: no one else deletes them.
        has_ledger: whether a ledger object is there, and to stay.
        outdated: ledger objects whose `merged` has uids of objects that are gone.
        is_there: whether an object with this uid exists, as of version `seen`.
    """

    leaving: Mapping[str, int]
    ending: Sequence[str]
    left: Sequence[tuple[str, str]]
    has_ledger: bool
    outdated: Sequence[str]
    is_there: Callable[[str], bool]
    seen: int

    @classmethod
    def of(
        cls,
        sums: totals.Totals,
        is_silent: Callable[[totals.Node], bool],
        stale: Collection[str],
        seen: int,
    ) -> "Work":
        """What there is to do.

        Args:
            is_silent: whether an agent has stopped that was to stop.
            stale: objects of which no report came for longer than a live agent takes.
        """
        nodes, books = list(sums.nodes.values()), list(sums.ledgers())
        ending = [node for node in nodes if node.is_leaving]
        uids = {node.uid for node in nodes}
        return cls(
            leaving={
                node.name: node.version
                for node in ending
                if node.is_ledger or node.is_final or is_silent(node)
            },
            ending=[node.name for node in ending],
            left=[
                (node.name, node.uid)
                for node in nodes
                if node.is_extra and not node.is_leaving and (node.is_final or node.name in stale)
            ],
            has_ledger=any(not book.is_leaving for book in books),
            outdated=[book.name for book in books if book.merged - uids],
            is_there=uids.__contains__,
            seen=seen,
        )


@dataclass(frozen=True, slots=True)
class Failing:
    """An object that could not be folded: how often in a row, why, and when it is tried again."""

    failures: int
    why: str
    not_before: float


class FoldQueue:
    """Folds what is to be deleted, a few objects a second.

    Args:
        clock, monotonic: seconds since the epoch; seconds that only grow.
        rng: in [0, 1), for pauses that differ.

    Attributes:
        folded: how many objects were, since the process began.
        failing: objects that could not be folded, by name. Replaced whole.
    """

    def __init__(
        self,
        api: client.Api,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._api, self._clock, self._monotonic, self._rng = api, clock, monotonic, rng
        # When each object was last tried: the one that waited longest is first.
        self._tried: dict[str, float] = {}
        self._failures, self._not_before = 0, float("-inf")
        self._why = ""
        self._lock = threading.Lock()
        # By uid: name and content of ledger objects that went without being folded.
        self._lost: dict[str, tuple[str, Part]] = {}
        self.folded = 0
        self.failing: Mapping[str, Failing] = {}

    @property
    def is_due(self) -> bool:
        """Whether run() would do anything."""
        return self._monotonic() >= self._not_before

    def on_gone(self, node: totals.Node, sums: totals.Totals) -> None:
        """An object is gone. A ledger object that was not folded is to be written again."""
        if node.is_ledger and node.seq and not is_held(sums, node.uid):
            merged = tuple(sorted(node.merged))
            part = Part(node.uid, node.seq, node.counted, merged, node.folded)
            with self._lock:
                self._lost[node.uid] = (node.name, part)

    def on_ledger(self, sums: totals.Totals) -> None:
        """A ledger object has changed: another leader may have written again what was lost."""
        with self._lock:
            self._lost = {uid: one for uid, one in self._lost.items() if not is_held(sums, uid)}

    def run(self, work: Work) -> None:
        """Do what is due."""
        self._not_before = self._monotonic() + EVERY_S
        self._forget_gone(work)
        try:
            self._run(work)
            self._failures, self._why = 0, ""
        except client.Terminating:
            self._release(work)
        except client.ApiError as error:
            self._back_off(error)

    def complaint(self) -> str:
        """What keeps nodes from being folded, "" when nothing does."""
        failing = self.failing
        if not failing:
            return self._why
        name = min(failing)
        return f"{len(failing)} NodeLogUsages cannot be folded; {name}: {failing[name].why}"

    def _run(self, work: Work) -> None:
        books = Ledgers(self._api, self._clock())
        with self._lock:
            lost = list(self._lost.items())
        # First: what is merged there must not be folded once more.
        for uid, (name, part) in lost:
            fold.restore(books, name, part)
            with self._lock:
                self._lost.pop(uid, None)
        if work.ending and not (work.has_ledger or lost):
            # Also to find out whether the CRD is being deleted: no agent of a node falls silent
            # then, so that nothing would ever be due.
            books.first()
        for name, uid in work.left[:FOLDS]:
            with contextlib.suppress(client.NotFound, client.Conflict):
                self._api.delete_node_usage(name, uid)
        due = self._due(work.leaving)
        for name in due:
            self._tried[name] = self._monotonic()
        done = fold.fold(self._api, due, self._clock(), self._failed)
        self.folded += len(done)
        self.failing = {name: one for name, one in self.failing.items() if name not in done}
        if not due:
            for name in work.outdated:
                fold.forget(books, name, work.is_there, work.seen)

    def _due(self, leaving: Mapping[str, int]) -> dict[str, int]:
        """The objects to try now: those that were not tried for longest."""
        now = self._monotonic()
        ready = [
            name
            for name in leaving
            if name not in self.failing or self.failing[name].not_before <= now
        ]
        ready.sort(key=lambda name: self._tried.get(name, float("-inf")))
        return {name: leaving[name] for name in ready[:FOLDS]}

    def _failed(self, name: str, error: client.ApiError) -> None:
        """One object could not be folded: it is tried again after a pause of its own."""
        before = self.failing.get(name)
        failures = 1 if before is None else before.failures + 1
        pause_s = min(RETRY_MAX_S, RETRY_S * 2 ** min(failures - 1, 10))
        # Half of it sure, half by chance.
        pause_s = max(pause_s * (1 + self._rng()) / 2, error.retry_after_s)
        log.warning(
            "NodeLogUsage/%s is not folded (try %d, the next in %.0f s): %s",
            *(name, failures, pause_s, error.message),
        )
        one = Failing(failures, error.message, self._monotonic() + pause_s)
        self.failing = {**self.failing, name: one}

    def _forget_gone(self, work: Work) -> None:
        self._tried = {n: at for n, at in self._tried.items() if n in work.leaving}
        self.failing = {n: one for n, one in self.failing.items() if n in work.leaving}

    def _back_off(self, error: client.ApiError) -> None:
        wait_s = max(BACKOFF_S * 2 ** min(self._failures, 5), error.retry_after_s)
        self._not_before = self._monotonic() + min(BACKOFF_MAX_S, wait_s)
        if self._failures in (0, 4):
            log.warning("nodes that are gone wait to be folded: %s", error.message)
        self._failures += 1
        self._why = error.message

    def _release(self, work: Work) -> None:
        """The CRD is being deleted: have that end. Agents report again under new objects."""
        released = 0
        try:
            for name in work.ending[:RELEASES]:
                released += fold.release(self._api, name)
        except client.ApiError as error:
            self._back_off(error)
        self.failing, self._why = {}, "the CRD nodelogusages.tco.io is being deleted"
        if released:
            log.warning("%s: %d NodeLogUsages are let go", self._why, released)


def is_held(sums: totals.Totals, uid: str) -> bool:
    """Whether a ledger object counts the object with this uid."""
    return sums.is_merged(uid) or any(
        uid in uids for book in sums.ledgers() for uids in book.folded.values()
    )
