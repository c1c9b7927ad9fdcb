"""The controller's sums: kept by difference, they are what adding up would give."""

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sluice import nodeusage
from sluice.controller import totals

DAY, MONTH = "d/2026-11-23", "m/2026-11"
TEAMS = ["a/a", "b/b"]
NAMES = st.sampled_from(["node-1", "node-2", "node-3"])
SIZES = st.dictionaries(st.sampled_from(TEAMS), st.integers(0, 1000))


def node(
    name: str, uid: str, day: dict[str, int], merged: frozenset[str] = frozenset()
) -> totals.Node:
    zeros = [0] * (nodeusage.DAY_VALUES - 1)
    counted = {
        DAY: {team: [size, *zeros] for team, size in day.items()},
        MONTH: {team: [2 * size] for team, size in day.items()},
    }
    return totals.Node(name, uid, 1, 1, 0.0, False, False, counted, merged)


class Sums(RuleBasedStateMachine):
    """Invariant: after any changes, sums and contributors are those of adding up what is there,
    and put() and remove() have named every team whose sum has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = totals.Totals()
        self.there: dict[str, totals.Node] = {}
        self.shown = self.wanted()
        self.named: set[str] = set()

    @rule(name=NAMES, life=st.integers(1, 2), day=SIZES)
    def put(self, name: str, life: int, day: dict[str, int]) -> None:
        self.there[name] = node(name, f"{name}-{life}", day)
        self.named = self.sums.put(self.there[name])

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.there.pop(name, None)
        self.named = self.sums.remove(name)

    @rule(day=SIZES, merged=st.frozensets(st.sampled_from(["node-1-1", "node-2-1", "node-3-2"])))
    def put_ledger(self, day: dict[str, int], merged: frozenset[str]) -> None:
        self.there[nodeusage.LEDGER] = node(nodeusage.LEDGER, "ledger", day, merged)
        self.named = self.sums.put(self.there[nodeusage.LEDGER])

    @rule()
    def remove_ledger(self) -> None:
        self.there.pop(nodeusage.LEDGER, None)
        self.named = self.sums.remove(nodeusage.LEDGER)

    def wanted(self) -> dict[tuple[str, str], tuple[int, int]]:
        book = self.there.get(nodeusage.LEDGER)
        merged = book.merged if book else frozenset()
        live = [one for one in self.there.values() if one.uid not in merged]
        found = {}
        for name in (DAY, MONTH):
            for team in TEAMS:
                held = [one for one in live if team in one.counted.get(name, {})]
                size = sum(one.counted[name][team][0] for one in held)
                found[name, team] = (size, sum(not one.is_ledger for one in held))
        return found

    @invariant()
    def sums_are_right(self) -> None:
        wanted = self.wanted()
        for (name, team), (size, contributors) in wanted.items():
            assert self.sums.sum(name, team)[0] == size
            assert self.sums.contributors(name, team) == contributors
        changed = {team for (name, team) in wanted if wanted[name, team] != self.shown[name, team]}
        assert changed <= self.named
        self.shown = wanted


TestSums = Sums.TestCase
