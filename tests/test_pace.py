"""When nodes report and the controller publishes, and what that may let pass."""

import pytest

from sluice import pace

PACE = pace.Pace()


@pytest.mark.parametrize(
    ("nodes", "floor", "ceiling"), [(1, 2, 60), (200, 2, 60), (300, 3, 60), (5000, 50, 100)]
)
def test_a_cluster_never_reports_more_than_so_often(
    nodes: int, floor: float, ceiling: float
) -> None:
    assert PACE.floor_for(nodes) == floor
    assert PACE.ceiling_for(nodes) == ceiling
    assert nodes / PACE.floor_for(nodes) <= pace.WRITES_PER_S


@pytest.mark.parametrize(
    ("teams", "nodes", "heartbeat"),
    [(1, 1, 10), (500, 10, 50), (500, 1000, 100), (500, 5000, 300), (5000, 5000, 300)],
)
def test_statuses_are_rarer_where_there_are_many_and_many_watch(
    teams: int, nodes: int, heartbeat: float
) -> None:
    assert PACE.heartbeat_for(teams, nodes) == heartbeat


@pytest.mark.parametrize(
    ("limit", "used", "nodes", "due"),
    [
        (1_000_000, 0, 1, 20_000),
        (1_000_000, 850_000, 1, 15_000),
        (1_000_000, 900_000, 1, 10_000),
        (1_000_000, 1_000_000, 1, 100),
        (1_000_000, 2_000_000, 10, 10),
        (0, 0, 3, 1),
        (2**63 - 1, 0, 1, 184_467_440_737_095_516),
    ],
)
def test_a_report_is_due_at_a_share_of_what_is_left(
    limit: int, used: int, nodes: int, due: int
) -> None:
    assert pace.due_at(limit, used, nodes) == due


def test_what_a_lost_node_costs_is_bounded_by_amount_and_by_time() -> None:
    fast = pace.lost_with_node(10**9, 0, nodes=10, rate=10**6, settings=PACE, delay=0.6)
    assert fast == 2 * 10**6 + 3 * 10**6
    slow = pace.lost_with_node(10**9, 0, nodes=1, rate=1_000, settings=PACE, delay=0.6)
    assert slow == 72_600
    near = pace.lost_with_node(10**9, 999_000_000, nodes=1, rate=0, settings=PACE, delay=0.6)
    assert near == 0


def test_the_overshoot_is_what_passes_before_everybody_knows() -> None:
    assert pace.overshoot(10**9, rate=10**6, floor=2, delay=1.5) == 4_000_000
