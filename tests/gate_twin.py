"""A plain twin of the gate: the policy entry by entry, with dicts for counters."""

import json
from collections import Counter
from typing import NamedTuple

import shippers
from harness import budget
from shippers import Entry, Stream

from sluice import Action, Budget, evaluate_usage_stateless, policy, reference, window
from sluice.wire import loki


class Sampled(NamedTuple):
    """What the twin says of one entry."""

    action: Action
    outcome: str


TEAMS = {
    "half": {"daily_limit": 4000, "throttle": {"sampleRate": 0.5}},
    "none": {"daily_limit": 3000, "monthlyLimit": 5000, "throttle": {"sampleRate": 0}},
    "all": {"daily_limit": 2000, "throttle": {"sampleRate": 1}},
    "dry": {"daily_limit": 1000, "enforcement": "DryRun"},
    "empty": {"daily_limit": 0},
}
BUDGETS = [Budget.from_manifest(budget(name, **spec)) for name, spec in TEAMS.items()]
NAMESPACES = (*TEAMS, "free")


class Twin:
    """The policy entry by entry, with dicts for counters."""

    def __init__(self) -> None:
        self.budgets = {own.namespace: own for own in BUDGETS}
        self.used: Counter[tuple[str, str]] = Counter()
        self.entries: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.actions: Counter[tuple[str, Action]] = Counter()
        self.dry: Counter[tuple[str, Action]] = Counter()
        self.apps: Counter[tuple[str, str]] = Counter()

    def windows(self, namespace: str, now: float) -> list[tuple[tuple[str, str], int]]:
        """The open windows of a namespace's budget with their limits."""
        own, found = self.budgets[namespace], window.open_windows("UTC", now)
        limits = [((namespace, window.day_key(found.day)), own.daily_limit)]
        if own.monthly_limit is not None:
            limits.append(((namespace, window.month_key(found.month)), own.monthly_limit))
        return limits

    def action(self, namespace: str, size: int, now: float) -> Action:
        return max(
            evaluate_usage_stateless(namespace, limit, self.used[key], max(size, 1))
            for key, limit in self.windows(namespace, now)
        )

    def judge(self, namespace: str, size: int, keeps: bool, now: float) -> Sampled:
        """Decide one entry and charge what is kept; `keeps` is the sampling's verdict."""
        if namespace not in self.budgets:
            return Sampled(Action.ALLOW, "forwarded")
        action = self.action(namespace, size, now)
        outcome = "forwarded"
        if not self.budgets[namespace].dry_run:
            if action is Action.DROP:
                outcome = "dropped"
            elif action is Action.THROTTLE and not keeps:
                outcome = "sampled"
        if outcome == "forwarded":
            for key, _ in self.windows(namespace, now):
                self.used[key] += size
        return Sampled(action, outcome)

    def book(self, namespace: str, size: int, found: Sampled, app: str | None, ok: bool) -> None:
        for outcome in ("received", found.outcome if ok else "refused"):
            self.entries[namespace, outcome] += 1
            self.bytes[namespace, outcome] += size
        if not ok:
            return
        is_dry = namespace in self.budgets and self.budgets[namespace].dry_run
        self.actions[namespace, Action.ALLOW if is_dry else found.action] += 1
        if is_dry:
            self.dry[namespace, found.action] += size
        if found.outcome == "forwarded" and app is not None:
            self.apps[namespace, app] += size

    def give_back(self, namespace: str, size: int, found: Sampled, now: float) -> None:
        if namespace in self.budgets and found.outcome == "forwarded":
            for key, _ in self.windows(namespace, now):
                self.used[key] -= size


def keeps(stream: Stream, entry: Entry, dialect: loki.Dialect) -> bool:
    """The sampling's verdict on an entry, from its bytes as the shipper writes them."""
    namespace = stream.labels["namespace"]
    rate = TEAMS.get(namespace, {}).get("throttle", {}).get("sampleRate", 0.5)
    if rate == 1:
        return True
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    line = json.dumps(entry.line, **compact)[1:-1].encode()
    if dialect is loki.Dialect.PROTOBUF:
        (message,) = shippers.push_message([Stream(stream.labels, [entry])]).streams
        labels, line = message.labels, message.entries[0].line
        time = message.entries[0].timestamp.SerializeToString()
    elif dialect is loki.Dialect.JSON:
        labels, time = json.dumps(stream.labels, **compact).encode(), str(entry.ts_ns).encode()
    else:
        labels = json.dumps(shippers.labels_text(stream.labels), **compact)[1:-1].encode()
        time = shippers.rfc3339(entry.ts_ns).encode()
    return reference.entry_hash(labels, time, line) < policy.keep_below(rate)
