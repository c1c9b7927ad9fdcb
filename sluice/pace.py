"""Pace: how often nodes report and the controller publishes, and what that may let pass.

An amount triggers a report: a node tells what it counted once that is a share of what its team
has left, so reports come thick near a limit and thin far from it. Time only bounds them: a floor
keeps a whole cluster below WRITES_PER_S, a ceiling keeps usage fresh.

Source: measurements on a real API server, and the distributed-threshold scheme of Cormode,
Muthukrishnan and Yi, "Algorithms for distributed functional monitoring" (2011).
"""

from dataclasses import dataclass

# For the whole cluster: reports of nodes, statuses of budgets, and statuses times their watchers.
WRITES_PER_S = 100
STATUSES_PER_S = 10
WATCH_EVENTS_PER_S = 5000

# A report is due at one part in so many of what is left, at the latest at one in LOSS_PARTS of the
# limit, and never below one in LIMIT_PARTS of it. All are divided by the nodes of the team.
HEADROOM_PARTS = 10
LOSS_PARTS = 50
LIMIT_PARTS = 10_000

HEARTBEAT_MAX_S = 300.0
# Reports are spread, so that nodes that met once do not meet again.
JITTER = 0.2
# Windows turn everywhere at once: the reports that follow are spread over so long.
ROLLOVER_SPREAD_S = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The settings of it: seconds. The defaults are for clusters of any size.

    Attributes:
        floor: F_min, the least time between two reports of a node.
        ceiling: F_max, the most that passes until something counted is reported.
        heartbeat: H, the least time between two statuses of a budget that nothing urges.
        stale: usage of the rest of the cluster that is older than this is not trusted.
    """

    floor: float = 2.0
    ceiling: float = 60.0
    heartbeat: float = 10.0
    stale: float = 180.0

    def floor_for(self, nodes: int) -> float:
        """F_min where so many nodes count the busiest team."""
        return max(self.floor, nodes / WRITES_PER_S)

    def ceiling_for(self, nodes: int) -> float:
        """F_max where so many nodes report."""
        return max(self.ceiling, 2 * nodes / WRITES_PER_S)

    def heartbeat_for(self, teams: int, nodes: int) -> float:
        """H with so many budgets, each of whose statuses goes to so many nodes."""
        wanted = max(teams / STATUSES_PER_S, teams * nodes / WATCH_EVENTS_PER_S)
        return max(self.heartbeat, min(HEARTBEAT_MAX_S, wanted))

    def silence_for(self, nodes: int) -> float:
        """How long a node may be silent before what it counted is called stale."""
        return 3 * self.ceiling_for(nodes)


def due_at(limit: int, used: int, nodes: int) -> int:
    """The unreported bytes at which a node reports a team; at least 1.

    Args:
        limit: bytes of the window. used: of them, in the whole cluster. nodes: that report it.
    """
    left = max(0, limit - used)
    share = min(limit // LOSS_PARTS, left // HEADROOM_PARTS)
    return max(1, max(limit // LIMIT_PARTS, share) // max(1, nodes))


def lost_with_node(
    limit: int, used: int, nodes: int, rate: float, settings: Pace, delay: float
) -> float:
    """The most bytes of a team that are lost with a node and its state directory.

    Only while the API server takes reports; else what was counted since the last one it took.

    Args:
        rate: bytes/s that the node lets through. delay: seconds from when a report is due until
            the API server has it.
    """
    by_amount = due_at(limit, used, nodes) + rate * (
        settings.floor_for(nodes) * (1 + JITTER) + delay
    )
    by_time = rate * (settings.ceiling_for(nodes) * (1 + JITTER) + delay)
    return min(by_amount, by_time)


def overshoot(limit: int, rate: float, floor: float, delay: float) -> float:
    """The most bytes that a cluster forwards beyond a limit.

    Args:
        rate: bytes/s that the team is let through at its limit, over all nodes.
        floor: F_min, seconds; the jitter comes on top.
        delay: seconds from when a report is due until every node heeds it: how often agent and
            controller look, the report's write and the status's, and the watch events of both.
    """
    return rate * (floor * (1 + JITTER) + delay) + limit / LIMIT_PARTS
