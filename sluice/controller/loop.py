"""The loop: gather, plan, apply. What the informers bring is summed up; twice a second the leader
writes the statuses that are worth it, and folds the nodes that are gone.

Threads: each informer's hands in what it has; tick() is called by one, the leader's; rows() by
any. A lock guards the sums; it is never held over a call to the API server.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from sluice import budget, pace, usage, window
from sluice.controller import event, fleet, fold_queue, losses, plan, totals
from sluice.kube import client

log = logging.getLogger("sluice.controller")

TICK_S = 0.5
# Together 20 writes per second in any ten seconds; the burst is for decisions that change at once.
WRITES_PER_S, BURST = 18, 20
SKEW_S = 5.0
REPORTS_APART = 2 * (1 + pace.JITTER)
BACKOFF_S, BACKOFF_MAX_S = 1.0, 30.0


class Loop:
    """The controller, but for its threads and its HTTP.

    Args:
        budgets: is filled from the TeamBudgets. settings: when nodes report, when to publish.
        identity: names this process in Events.
        seen: the resource version up to which NodeLogUsages have been handed in; None while they
            are of no one moment.
        clock, monotonic: seconds since the epoch; seconds that only grow.

    Attributes:
        counters: writes, conflicts, failures, events and folds, for /metrics.
        folds: what is to be folded, and what cannot be.
    """

    def __init__(
        self,
        api: client.Api,
        budgets: fleet.Fleet,
        settings: pace.Pace,
        *,
        identity: str,
        seen: Callable[[], int | None],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._api, self._fleet, self._pace = api, budgets, settings
        self._identity, self._seen = identity, seen
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._sums = totals.Totals()
        self._version = 0
        # By node: when its last report was heard (monotonic), and how far off its clock was then.
        self._heard: dict[str, float] = {}
        self._skew: dict[str, float] = {}
        self._silent: frozenset[str] = frozenset()
        self._days: dict[str, tuple[int, int]] = {}
        self._dirty: set[str] = set()
        # Budgets whose status is to be written, and not before when (monotonic).
        self._due: dict[str, tuple[plan.Urgency, float]] = {}
        self._written_at: dict[str, float] = {}
        # Budgets whose status was refused: not again before when (monotonic).
        self._refused: dict[str, float] = {}
        self._tokens, self._filled_at = float(BURST), monotonic()
        self._failures, self._not_before = 0, float("-inf")
        self.losses = losses.Losses()
        self.folds = fold_queue.FoldQueue(api, clock=clock, monotonic=monotonic)
        self.counters = {"written": 0, "conflict": 0, "failed": 0, "events": 0, "folded": 0}

    # gather

    def on_budget(self, kind: str, found: dict[str, Any]) -> None:
        """Take in an event of a TeamBudget."""
        with self._lock:
            if kind == "DELETED":
                key = self._fleet.remove(found)
                self._due.pop(key, None)
                self._dirty.discard(key)
                self.losses.forget(key)
            else:
                self._dirty.add(self._fleet.put(found))
            if self._fleet.has_changed():
                # Any other may win or lose streams by it.
                self._dirty |= self._fleet.members.keys()

    def on_node(self, kind: str, node: totals.Node) -> None:
        """Take in an event of a NodeLogUsage."""
        with self._lock:
            self._version = max(self._version, node.version)
            if kind == "DELETED":
                self._dirty |= self._sums.remove(node.name) & self._fleet.members.keys()
                self.folds.on_gone(node, self._sums)
                self._silent -= {node.name}
                self._heard.pop(node.name, None)
                self._skew.pop(node.name, None)
                return
            before = self._sums.nodes.get(node.name)
            if before is None or before.uid != node.uid or before.seq != node.seq:
                self._hear(node, is_live=kind == "MODIFIED")
            self._dirty |= self._sums.put(node) & self._fleet.members.keys()
            if node.is_ledger:
                self.folds.on_ledger(self._sums)

    def _hear(self, node: totals.Node, *, is_live: bool) -> None:
        """Note when a node was heard, and what its clock said."""
        age = self._clock() - node.reported_at
        # What is read at a start was written some time ago, by a clock that may be off.
        self._heard[node.name] = self._monotonic() - (0 if is_live else max(0.0, age))
        # What a new list brings may be as old as a node's signs of life are apart.
        late = REPORTS_APART * self._pace.ceiling_for(len(self._sums.nodes)) + SKEW_S
        is_off = is_live and not -SKEW_S <= age <= late
        if is_off != (node.name in self._skew):
            self._dirty |= self._teams_of(node)
        if is_off:
            self._skew[node.name] = -age
        elif is_live:
            self._skew.pop(node.name, None)

    def _teams_of(self, node: totals.Node) -> set[str]:
        """The budgets that a node counts for."""
        return {team for teams in node.counted.values() for team in teams} & (
            self._fleet.members.keys()
        )

    # plan

    def tick(self) -> None:
        """Do what is due. In the leader's thread only."""
        now = self._monotonic()
        self._tokens = min(BURST, self._tokens + WRITES_PER_S * (now - self._filled_at))
        self._filled_at = now
        with self._lock:
            if not self._has_settled():
                return
            self._turn_windows()
            self._judge_silence(now)
            dirty, self._dirty = self._dirty, set()
            for key in dirty:
                self._consider(key, now)
            due = sorted((urgency, at, key) for key, (urgency, at) in self._due.items())
        if now < self._not_before:
            return
        try:
            for _, at, key in due:
                if self._monotonic() - now > TICK_S:
                    # The rest waits: by now something may be due that is more urgent.
                    break
                if at <= now and self._tokens >= 1:
                    self._write(key)
            self._failures = 0
        except client.ApiError as error:
            self._back_off(error)
            return
        self._fold_leaving(now)

    def _has_settled(self) -> bool:
        """Whether the sums are those of one moment: no new list is being handed in."""
        seen = self._seen()
        if seen is None:
            return False
        # What informers have seen without an event (bookmarks) counts as seen.
        self._version = max(self._version, seen)
        return True

    def take_over(self) -> None:
        """Begin to lead: whatever is known may have changed unwritten."""
        with self._lock:
            self._dirty |= self._fleet.members.keys()
            self._written_at.clear()
            self._not_before = float("-inf")

    def _back_off(self, error: client.ApiError) -> None:
        wait_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(self._failures, 5))
        wait_s = min(BACKOFF_MAX_S, max(wait_s, error.retry_after_s))
        if self._failures in (0, 4):
            log.warning("the API server does not take what is due: %s", error.message)
        self._failures += 1
        self.counters["failed"] += 1
        self._not_before = self._monotonic() + wait_s

    def _turn_windows(self) -> None:
        """Have the budgets looked at whose day or month is another one now."""
        now = self._clock()
        zones = {m.own.time_zone for m in self._fleet.members.values() if m.own is not None}
        open_in = {zone: window.open_windows(zone, now) for zone in zones}
        days = {zone: (windows.day, windows.month) for zone, windows in open_in.items()}
        turned = {zone for zone in zones if self._days.get(zone, days[zone]) != days[zone]}
        self._days = days
        if turned:
            self._dirty |= {
                key
                for key, member in self._fleet.members.items()
                if member.own is not None and member.own.time_zone in turned
            }

    def _judge_silence(self, now: float) -> None:
        """Find the nodes that have not been heard for too long."""
        longest = self._pace.silence_for(len(self._sums.nodes))
        silent = frozenset(
            node.name
            for node in self._sums.live()
            if not node.is_final and now - self._heard.get(node.name, now) > longest
        )
        for name in silent ^ self._silent:
            if name in self._sums.nodes:
                self._dirty |= self._teams_of(self._sums.nodes[name])
        self._silent = silent

    def _consider(self, key: str, now: float) -> None:
        """See whether and when a budget's status is to be written."""
        member = self._fleet.members.get(key)
        if member is None:
            return
        status = self._status(key, member)
        limit = member.own.daily_limit if member.own is not None else 0
        urgency = plan.urgency(member.status, status, limit)
        if urgency is plan.Urgency.NEVER:
            self._due.pop(key, None)
            return
        at = now
        if urgency is plan.Urgency.IN_TIME:
            nodes = len(self._sums.nodes)
            heartbeat = self._pace.heartbeat_for(len(self._fleet.members), nodes)
            at = self._written_at.get(key, float("-inf")) + heartbeat
        at = max(at, self._refused.get(key, at))
        self._due[key] = (urgency, at)

    def _status(self, key: str, member: fleet.Member) -> plan.Status:
        concern = self._fleet.concern(key)
        if member.own is None:
            return plan.unreadable(concern, member.generation, member.status, self._clock())
        row = plan.row_of(member.own, self._sums, self._clock(), member.status)
        self.losses.learn(row, self._sums, member.status)
        return plan.status_of(
            row,
            self._sums,
            generation=member.generation,
            revision=self._version,
            concern=concern,
            doubt=self._doubt(key, row),
            old=member.status,
        )

    def _doubt(self, key: str, row: usage.Row) -> plan.Doubt:
        """The nodes whose counts of a budget's day are in doubt."""
        day = window.day_key(row.windows.day)
        counting = {
            name: self._sums.nodes[name].counted.get(day, {})[key][0]
            for name in self._silent | self._skew.keys()
            if key in self._sums.nodes[name].counted.get(day, {})
        }
        return plan.Doubt(
            silent=[(name, size) for name, size in counting.items() if name in self._silent],
            skewed=[(name, self._skew[name]) for name in counting if name in self._skew],
        )

    def rows(self, now: float) -> list[usage.Row]:
        """Every budget's row of the API: the cluster's."""
        with self._lock:
            return self._rows(now)

    def lost(self, now: float) -> list[tuple[usage.Row, plan.Lost]]:
        """Every budget's row, and what of its usage no object has any more."""
        with self._lock:
            if not self._seen():
                # Of no one moment, or nothing yet.
                return []
            return [(row, plan.lost_of(row, self._sums)) for row in self._rows(now)]

    def _rows(self, now: float) -> list[usage.Row]:
        return [
            plan.row_of(member.own, self._sums, now, member.status)
            for _, member in sorted(self._fleet.members.items())
            if member.own is not None
        ]

    def members(self) -> dict[str, fleet.Member]:
        """The budgets as last seen, by key."""
        with self._lock:
            return dict(self._fleet.members)

    def put(self, found: client.Object) -> None:
        """Take in what a write to a budget's status returned."""
        with self._lock:
            member = self._fleet.members.get(budget.object_key(found))
            if member is not None and member.uid == found["metadata"]["uid"]:
                self._fleet.put(found)
                if self._fleet.has_changed():
                    self._dirty |= self._fleet.members.keys()

    def problems(self) -> list[dict[str, object]]:
        """What is wrong with budgets, for /api/health."""
        with self._lock:
            found = [(key, self._fleet.concern(key)) for key in sorted(self._fleet.members)]
        return [
            {"budget": key, "error": f"{concern.reason}: {concern.message}"}
            for key, concern in found
            if concern is not None
        ]

    def gauges(self) -> dict[str, int]:
        """Numbers of now, for /metrics and /api/health."""
        with self._lock:
            return {
                "budgets": len(self._fleet.members),
                "nodes": sum(1 for _ in self._sums.live()),
                "silentNodes": len(self._silent),
                "skewedNodes": len(self._skew),
                "statusesDue": len(self._due),
                "foldsFailing": len(self.folds.failing),
            }

    # apply

    def _write(self, key: str) -> None:
        """Write a budget's status as it should be now."""
        with self._lock:
            member = self._fleet.members.get(key)
            self._due.pop(key, None)
            if member is None:
                return
            old, version = member.status, member.version
            if not self._has_settled() or self._version < int(old.get("usageRevision", "0")):
                # Somebody has seen more than this process: usage must not be shown to fall.
                self._dirty.add(key)
                return
            status = self._status(key, member)
        self._tokens -= 1
        try:
            answer = self._api.patch_budget_status(member.namespace, member.name, status, version)
        except client.NotFound:
            return
        except client.Conflict:
            # Somebody else's write, which the informer will bring.
            self.counters["conflict"] += 1
            self._put_back(key)
            return
        except (client.Unreachable, client.Throttled, client.Unauthorized):
            self._put_back(key)
            raise
        except client.ApiError as error:
            # Of this one only: the others are not to suffer for it.
            log.warning("%s: its status is refused: %s", key, error.message)
            self.counters["failed"] += 1
            self._refused[key] = self._monotonic() + BACKOFF_MAX_S
            self._put_back(key)
            return
        self.counters["written"] += 1
        with self._lock:
            self._refused.pop(key, None)
            self._written_at[key] = self._monotonic()
        self.put(answer)
        self._tell(member, old, status)

    def _put_back(self, key: str) -> None:
        with self._lock:
            self._dirty.add(key)

    def _tell(self, member: fleet.Member, old: Any, status: plan.Status) -> None:
        """Make Events of a decision that has changed, and of usage that fell."""
        now = self._clock()
        self._create(member.namespace, event.of(member, old, status, now, self._identity))
        if member.own is None:
            return
        with self._lock:
            row = plan.row_of(member.own, self._sums, now, old)
            lost = self.losses.news(row, self._sums)
        if lost is not None:
            log.error("%s: usage fell inside a window: %s", row.budget.key, lost)
            self._create(member.namespace, event.of_loss(member, lost, now, self._identity))

    def _create(self, namespace: str, found: dict[str, Any] | None) -> None:
        if found is None:
            return
        try:
            self._api.create_event(namespace, found)
            self.counters["events"] += 1
        except client.ApiError as error:
            # The status says the same, and stays.
            log.warning("no Event for %s: %s", found["metadata"]["name"], error.message)

    def _fold_leaving(self, now: float) -> None:
        """Fold what is to be deleted, and whose agent has fallen silent."""
        # Before the nodes: they are those of this version, or newer.
        seen = self._seen()
        if seen is None or not self.folds.is_due:
            return
        with self._lock:
            longest = 2 * self._pace.ceiling_for(len(self._sums.nodes))
            heard = self._heard
            work = fold_queue.Work.of(
                self._sums,
                lambda node: now - heard.get(node.name, now) > longest,
                self._silent,
                seen,
            )
        self.folds.run(work)
        self.counters["folded"] = self.folds.folded
