"""Both controllers dead while a limit is being consumed: the nodes notice, and share what is left.

Until they have, each thinks that the others stand still; the bound on what that costs is published.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from cluster import chaos
from cluster.chaos import Books, Repeating
from cluster.harness import Cluster
from cluster.processes import HEARTBEAT_S, STALE_S, Agent, Controller, apply, status_of
from harness import Upstream, wait_until
from shipping import shipping

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

AGENTS = 5
PUSHED = 10_000
# Of one agent; the second pushes twice as often, and so on.
PUSHES_PER_S = 2.0
BYTES_PER_S = PUSHED * PUSHES_PER_S * sum(range(1, AGENTS + 1))
# The controllers die when so much is left as the load takes in so many seconds: that is soon
# consumed, and each node believes it to be its own.
LEFT_S = 2.5
LIMIT = 3_000_000


class Sampler(Repeating):
    """What upstream had acknowledged at each moment."""

    def __init__(self, books: Books) -> None:
        super().__init__()
        self._books = books
        self._samples: list[tuple[float, Counter[str]]] = [(time.monotonic(), books.read())]

    def step(self) -> None:
        self._samples.append((time.monotonic(), self._books.read()))

    @property
    def now(self) -> Counter[str]:
        return self._samples[-1][1]

    def at(self, moment: float) -> Counter[str]:
        """By a moment of the monotonic clock; none later than the last sample."""
        assert moment <= self._samples[-1][0]
        return next(taken for at, taken in reversed(self._samples) if at <= moment)


@contextlib.contextmanager
def loaded(agents: list[Agent]) -> Iterator[None]:
    """Each agent pushes evenly, each at a rate of its own."""
    with contextlib.ExitStack() as stack:
        for number, agent in enumerate(agents, 1):
            pushes = chaos.evenly(lambda i: chaos.push_of(i, PUSHED), number * PUSHES_PER_S)
            stack.enter_context(shipping(agent, pushes, 2))
        yield


def stale_teams(agent: Agent) -> int:
    found: int = agent.get("/api/health").json["cluster"]["staleTeams"]
    return found


def test_without_controllers_the_nodes_stop_at_the_published_bound(
    fresh_cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    cluster = fresh_cluster.install()
    upstream.control(keep=False)
    shared, free = chaos.TEAMS
    # The same load on both; the second shows what it would come to.
    apply(cluster, chaos.budget_of(shared, LIMIT), chaos.budget_of(free, LIMIT, onStale="Allow"))
    led = [controllers(cluster) for _ in range(2)]
    nodes = [agents(cluster, f"node-{i}", upstream.url) for i in range(AGENTS)]
    books = Books(upstream)
    with Sampler(books) as sampler, loaded(nodes):
        last = LIMIT - LEFT_S * BYTES_PER_S
        wait_until(lambda: sampler.now[shared] >= last, "little is left", 60)
        for controller in led:
            controller.kill()
        died = time.monotonic()
        at_death = sampler.now[shared]
        unreported = at_death - status_of(cluster, shared, shared)["currentUsage"]
        noticed = wait_for_all(nodes, died)
        window_s = STALE_S + HEARTBEAT_S
        at_most = LIMIT + unreported + sampler.at(died + window_s)[shared] - at_death
        total = rest_of(sampler, shared, free)
        # So much would pass if nobody heeded it: the test can fail.
        wait_until(lambda: sampler.now[free] > at_most, f"{free} passes the bound", 30)
        print(f"stale after {', '.join(f'{each:.1f}' for each in noticed)} s; limit {LIMIT},"
              f" {LIMIT - at_death} of it left at the controllers' death, {unreported} unreported,"
              f" {at_most - LIMIT - unreported} admitted in {window_s:g} s;"
              f" total {total}, at most {at_most}; with Allow {sampler.now[free]}")  # fmt: skip
        assert total == sampler.now[shared]
        assert LIMIT < total <= at_most
    for controller in led:
        controller.start()
    taken = books.read()
    wait_until(lambda: chaos.cluster_usage(cluster) == taken, f"the status says {taken}")
    assert status_of(cluster, shared, shared)["decision"] == "Drop"
    wait_until(lambda: not any(map(stale_teams, nodes)), "all trust the status again")
    assert nodes[0].send(chaos.push_of(1, PUSHED)).status == 204
    assert books.read()[shared] == total


def wait_for_all(nodes: list[Agent], since: float) -> list[float]:
    """Until both teams are stale everywhere; how long after `since` each node was so."""
    noticed: dict[Agent, float] = {}

    def all_have() -> bool:
        for node in nodes:
            if node not in noticed and stale_teams(node) == len(chaos.TEAMS):
                noticed[node] = time.monotonic() - since
        return len(noticed) == len(nodes)

    wait_until(all_have, "every node has noticed", 30)
    return list(noticed.values())


def rest_of(sampler: Sampler, shared: str, free: str) -> int:
    """What a team has used once it uses no more, though another one goes on under the same load."""
    mark: Counter[str] = Counter()

    def stands_still() -> bool:
        nonlocal mark
        now = sampler.now
        if now[shared] > mark[shared]:
            mark = now
        return now[free] - mark[free] > 3 * BYTES_PER_S

    wait_until(stands_still, f"{shared} uses no more", 60)
    return mark[shared]
