"""NodeLogUsage: counts as a status says them, and sums and differences of counts."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sluice import columns, ledger, nodeusage

DAY, MONTH = "d/2026-11-23", "m/2026-11"
COUNTERS = st.integers(0, 2**63 - 1)
TEAMS = st.dictionaries(st.sampled_from(["a/a", "b/b", "c/c"]), st.none(), max_size=3)


@st.composite
def counts(draw: Any) -> ledger.Counted:
    made: ledger.Counted = {}
    for name in draw(st.sets(st.sampled_from([DAY, "d/2026-11-22", MONTH]))):
        width = nodeusage.DAY_VALUES if name.startswith("d/") else 1
        values = st.lists(COUNTERS, min_size=width, max_size=width)
        made[name] = {team: draw(values) for team in draw(TEAMS)}
    return made


@given(counts())
def test_a_status_says_what_was_counted(made: ledger.Counted) -> None:
    """Invariant: writing counts into a status and reading them back changes nothing."""
    assert nodeusage.counted(nodeusage.status_of(made)) == made


@given(counts(), counts())
def test_what_is_beyond_and_what_was_there_make_at_least_both(
    one: ledger.Counted, other: ledger.Counted
) -> None:
    """Invariant: other + beyond(one, other) = the larger of both, counter by counter."""
    larger = nodeusage.combined(one, other, max)
    both = nodeusage.plus(other, nodeusage.beyond(one, other))
    # What is zero may be named or not.
    assert nodeusage.beyond(both, {}) == nodeusage.beyond(larger, {})


def test_zeros_are_left_out_of_a_status() -> None:
    values = [100] + [0] * columns.COUNTS
    values[1 + columns.RECEIVED : 3 + columns.RECEIVED] = [2, 100]
    said = nodeusage.status_of({DAY: {"a/a": values}, MONTH: {"a/a": [100]}})
    assert said == {
        "usage": {DAY: {"a/a": 100}, MONTH: {"a/a": 100}},
        "counts": {DAY: {"a/a": {"received": {"entries": 2, "bytes": 100}}}},
    }


@pytest.mark.parametrize("name", ["", "d", "x/2026-11-23", "d/2026-13-01", "m/2026-11-23", "d/"])
def test_what_is_no_window_is_left_out(name: str) -> None:
    status = {"usage": {name: {"a/a": 1}}, "counts": {name: {"a/a": {"received": {"bytes": 1}}}}}
    assert nodeusage.counted(status) == {}


def test_a_new_object_is_owned_by_its_node_and_waits_to_be_folded() -> None:
    made = nodeusage.new("node-a", "uid-1")
    assert made["metadata"] == {
        "name": "node-a",
        "finalizers": ["tco.io/fold-usage"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "node-a", "uid": "uid-1"}],
    }
    assert "ownerReferences" not in nodeusage.new("node-a", "")["metadata"]
    assert not nodeusage.is_folding(made)
