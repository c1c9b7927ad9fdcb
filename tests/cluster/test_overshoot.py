"""Forwarded beyond a limit: at most what is published, nothing where one node has the team alone.

The agents have the settings of an installation. The first part of the limit is used up quickly,
for what matters is the rate at the limit.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
from cluster import chaos
from cluster.chaos import Books
from cluster.harness import Cluster
from cluster.latencies import Latencies
from cluster.processes import Agent, Controller, apply, status_of
from harness import Upstream, wait_until
from shippers import Entry, Push, Stream, promtail
from shipping import shipping

from sluice import pace

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    # Nobody closes a client's pool of connections but the end of a process.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

TEAMS = ("shop", "pay")
AGENTS = 5
LIMIT = 400_000_000
RATE = 4_000_000
# What is left for that rate lasts several times as long as word takes to get around.
QUICK = LIMIT * 3 // 4
LINE, LINES = 2000, 50
THREADS = 2
# What must hold for the bound to be small: rate times delay, in percent of the limit.
WITHIN_PERCENT = 5
DEFAULT = pace.Pace()
STILL_S = 5.0
# When everything reported must show, once nothing is pushed any more.
QUIET_S = (1 + pace.JITTER) * DEFAULT.ceiling + DEFAULT.heartbeat + 2
LONGEST = ("--report-ceiling", str(DEFAULT.ceiling), "--heartbeat", str(DEFAULT.heartbeat))


@pytest.fixture
def cluster(fresh_cluster: Cluster) -> Cluster:
    """An API server whose only budgets and nodes are those of the test."""
    return fresh_cluster.install()


@pytest.fixture
def nodes(
    cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> Callable[..., list[Agent]]:
    """A maker: `nodes(team, count, limit, floor)` starts so many agents, and makes a budget that
    lets everything pass below its limit; a controller runs."""
    upstream.control(keep=False)
    controllers(cluster, args=LONGEST)

    def make(team: str, count: int, limit: int, floor: float = DEFAULT.floor) -> list[Agent]:
        apply(cluster, chaos.budget_of(team, limit))
        args = (*LONGEST, "--report-floor", str(floor), "--stale-after", str(DEFAULT.stale))
        return [agents(cluster, f"{team}-{i}", upstream.url, args=args) for i in range(count)]

    return make


def push_of(team: str) -> Push:
    return promtail([Stream({"namespace": team}, [Entry(i, "x" * LINE) for i in range(LINES)])])


@contextlib.contextmanager
def loaded(agents: list[Agent], team: str, rate: float | None = None) -> Iterator[None]:
    """Push at all agents, together so many bytes per second; None: as fast as they take them."""
    push = push_of(team)
    with contextlib.ExitStack() as stack:
        for agent in agents:
            make: Callable[[int], Push] = lambda _: push  # noqa: E731
            if rate is not None:
                make = chaos.evenly(make, rate / len(agents) / push.billed)
            stack.enter_context(shipping(agent, make, THREADS))
        yield


def wait_until_still(books: Books, team: str) -> int:
    """Wait until upstream gets no more of a team, and return what it has got."""
    last, since = -1, 0.0

    def is_still() -> bool:
        nonlocal last, since
        now = books.read()[team]
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > STILL_S

    wait_until(is_still, "nothing is forwarded any more", 60)
    return last


@contextlib.contextmanager
def at_its_limit(agents: list[Agent], team: str, books: Books) -> Iterator[None]:
    """Use up most of the limit quickly, and go on at RATE while inside."""
    with loaded(agents, team):
        wait_until(lambda: books.read()[team] >= QUICK, "most of the limit is used", 60)
    with loaded(agents, team, RATE):
        yield


def wait_until_shown(cluster: Cluster, team: str, size: int) -> None:
    """Wait until the status of a budget says exactly so."""
    wait_until(
        lambda: status_of(cluster, team, team).get("currentUsage") == size,
        f"{size} bytes in the status",
        QUIET_S,
    )


def test_five_nodes_overshoot_by_no_more_than_is_published_and_by_more_if_they_report_less(
    cluster: Cluster,
    upstream: Upstream,
    nodes: Callable[..., list[Agent]],
) -> None:
    books, (team, other) = Books(upstream), TEAMS
    agents = nodes(team, AGENTS, LIMIT)
    with Latencies(cluster, team, LIMIT, LINE) as latencies:
        with at_its_limit(agents, team, books):
            forwarded = wait_until_still(books, team)
        # Not one byte has passed that this did not see.
        assert books.read()[team] == forwarded
        wait_until_shown(cluster, team, forwarded)
    delay = latencies.delay_s()
    bound = round(pace.overshoot(LIMIT, RATE, DEFAULT.floor, delay))
    said = f"at {RATE} bytes/s, word {delay:.2f} s under way, limit {LIMIT}: at most {bound:+d}"
    print(f"{said}, was {forwarded - LIMIT:+d}; {latencies}")
    assert bound * 100 <= WITHIN_PERCENT * LIMIT
    assert LIMIT - LINE * AGENTS < forwarded <= LIMIT + bound
    assert all(agent.teams()[team]["nodeUsage"] for agent in agents)
    for agent in agents:
        assert agent.stop() == 0, agent.tail()

    agents = nodes(other, AGENTS, LIMIT, DEFAULT.ceiling)
    with at_its_limit(agents, other, books):
        wait_until(lambda: books.read()[other] > LIMIT + bound, "slow ones pass the bound", 60)
    for agent in agents:
        assert agent.stop() == 0, agent.tail()
    forwarded = books.read()[other]
    print(f"with reports every {DEFAULT.ceiling:g} s: {forwarded - LIMIT:+d} and no end")
    wait_until_shown(cluster, other, forwarded)


def test_a_node_that_has_a_team_alone_never_passes_its_limit(
    cluster: Cluster,
    upstream: Upstream,
    nodes: Callable[..., list[Agent]],
) -> None:
    books, (team, _), limit = Books(upstream), TEAMS, LIMIT // 10
    (agent,) = nodes(team, 1, limit)
    with loaded([agent], team):
        forwarded = wait_until_still(books, team)
    assert books.read()[team] == forwarded
    assert limit - LINE < forwarded <= limit
    wait_until_shown(cluster, team, forwarded)
    assert status_of(cluster, team, team)["decision"] == "Drop"
