"""Everything fails: agents, controllers, the API server, its history, the network.

What must come out of it: usage exact to the byte, nothing doubled, nothing shown to fall.
"""

import contextlib
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from cluster import chaos
from cluster.chaos import Books, Kubelet
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, apply
from cluster.proxy import Proxy
from cluster.watching import watching
from harness import Server, Upstream, wait_until
from shipping import Load, shipping

from sluice.kube import client

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    # A socket that is reset before TLS begins on it is left to the garbage collector by CPython
    # 3.11 (ssl.SSLSocket._create).
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

# How long the API server is away. The promise is for a minute; this tells as much, and sooner.
OUTAGE_S = float(os.environ.get("SLUICE_TEST_OUTAGE_S", "20"))
# Nobody pauses for more than half a minute; then reports, a status and watches take their time.
RECOVERY_S = 45.0
# A new API server that has not read its roles yet allows nobody anything.
ROLES_S = 1.0
AGENTS, CONTROLLERS = 3, 2
THREADS = 3
PUSHED = 1000
PUSHES_PER_S = 15.0
KILLS = 4
LEASE_S = 6


class Scene:
    """Agents under load and two controllers, each behind a proxy of its own, kept alive.

    Attributes:
        killed: how many agents were.
        started: when the API server was, and when it was ready, epoch seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        agents: list[Agent],
        controllers: list[Controller],
        proxies: dict[Server, Proxy],
        upstream: Upstream,
        rng: random.Random,
    ) -> None:
        self.cluster, self.proxies, self.rng = cluster, proxies, rng
        self.agents, self.controllers = agents, controllers
        self.books = Books(upstream)
        self.killed = 0
        self.started = 0.0, 0.0

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Load on every agent, and whatever ends is started again, while inside."""
        with Kubelet(self.proxies) as self.kubelet, contextlib.ExitStack() as stack:
            self.loads = {agent: self.load(stack, agent) for agent in self.agents}
            yield

    def load(self, stack: contextlib.ExitStack, agent: Agent) -> Load:
        pushes = chaos.evenly(lambda number: chaos.push_of(number, PUSHED), PUSHES_PER_S)
        return stack.enter_context(shipping(agent, pushes, THREADS))

    def kill_an_agent(self) -> None:
        """At a random moment, in a random manner."""
        agent = self.rng.choice(self.agents)
        self.loads[agent].wait_for(self.rng.randrange(1, 20))
        ends = len(self.kubelet.exits_of(agent))
        chaos.kill(agent, self.rng.choice(chaos.TARGETS))
        self.killed += 1
        wait_until(lambda: len(self.kubelet.exits_of(agent)) > ends, "its end is seen")
        self.wait_ready(agent)

    def wait_ready(self, server: Server) -> None:
        wait_until(lambda: server.process is not None and server.is_ready(), "ready again", 30)

    def leader(self) -> Controller:
        found: Controller = wait_until(lambda: chaos.leader(self.controllers), "one leads", 30)
        return found

    def is_starting_at(self, moment: float, _line: str) -> bool:
        """Whether the API server was not quite there."""
        return self.started[0] <= moment <= self.started[1] + ROLES_S

    def check_not_doubled(self) -> None:
        """Nothing is usage that upstream has not acknowledged."""
        shown = chaos.cluster_usage(self.cluster)
        taken = self.books.read()
        assert all(shown[team] <= taken[team] for team in chaos.TEAMS), (shown, taken)


@pytest.fixture
def scene(
    fresh_cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> Iterator[Scene]:
    cluster = fresh_cluster.install()
    # As long as a push of a shipper takes; some are always in flight.
    upstream.control("slow:0.05", keep=False)
    apply(cluster, *(chaos.budget_of(team, "1Gi", monthlyLimit="10Gi") for team in chaos.TEAMS))
    with chaos.proxied(cluster, AGENTS + CONTROLLERS) as proxies:
        lease = ("--lease-duration", str(LEASE_S))
        led = [controllers(cluster, server=each.url, args=lease) for each in proxies[AGENTS:]]
        nodes = [
            agents(cluster, f"node-{i}", upstream.url, server=proxies[i].url) for i in range(AGENTS)
        ]
        behind: dict[Server, Proxy] = dict(zip([*nodes, *led], proxies, strict=True))
        yield Scene(cluster, nodes, led, behind, upstream, chaos.rng_of("chaos"))


def test_after_all_failures_usage_is_exact_and_was_never_shown_to_fall(scene: Scene) -> None:
    watch = watching(client.connect(scene.cluster.kubeconfig()), "teambudgets")
    with watch as (_, recorder):
        with scene.busy():
            wait_until(lambda: min(chaos.cluster_usage(scene.cluster).values()), "usage shows")
            for number in range(KILLS):
                scene.kill_an_agent()
                if number == KILLS // 2:
                    kill_the_leader(scene)
                scene.check_not_doubled()
            cut_the_watches(scene)
            scene.check_not_doubled()
            stop_the_api_server(scene)
            scene.check_not_doubled()
        begun = time.monotonic()
        settle(scene)
        print(f"exact {time.monotonic() - begun:.1f} s after the load's end")
    told = chaos.check_never_falls([change.obj for change in recorder.changes])
    print(f"{told} statuses, none of which fell")
    for server in scene.proxies:
        assert "refused this node's report" not in server.log.read_text(), server.log
        assert not [line for line in chaos.forbidden(server) if not scene.is_starting_at(*line)]


def kill_the_leader(scene: Scene) -> None:
    first = scene.leader()
    before = chaos.lease_of(scene.cluster)
    chaos.kill(first)
    wait_until(lambda: chaos.lease_of(scene.cluster)["holderIdentity"] != before["holderIdentity"],
               "another one holds the lease", 3 * LEASE_S)  # fmt: skip
    scene.wait_ready(first)


def cut_the_watches(scene: Scene) -> None:
    """Put the leader and an agent into a black hole: it is gone before another one leads."""
    first, agent = scene.leader(), scene.rng.choice(scene.agents)
    before = chaos.lease_of(scene.cluster)["holderIdentity"]
    ends = len(scene.kubelet.exits_of(first))
    begun = time.time()
    for server in (first, agent):
        scene.proxies[server].set("blackhole")
    wait_until(lambda: chaos.lease_of(scene.cluster)["holderIdentity"] != before,
               "another one holds the lease", 3 * LEASE_S)  # fmt: skip
    taken = chaos.lease_of(scene.cluster)["acquireTime"]
    gone = scene.kubelet.exits_of(first)[ends]
    assert gone.code == 1, first.tail()
    assert gone.at < chaos.epoch_of(taken)
    print(f"the leader ended {gone.at - begun:.2f} s after the cut,"
          f" the next led {chaos.epoch_of(taken) - begun:.2f} s after it")  # fmt: skip
    # One connection is lost for good, the other goes on where it was.
    scene.proxies[first].cut()
    for server in (first, agent):
        scene.proxies[server].set("ok")
    scene.wait_ready(first)


def stop_the_api_server(scene: Scene) -> None:
    """Away for a while, and with it the history; an agent and a controller die meanwhile."""
    first, proxies = scene.leader(), scene.proxies
    ends = {server: len(scene.kubelet.exits_of(server)) for server in proxies}
    lists = relists(scene)
    before = {server: proxy.accepted for server, proxy in proxies.items()}
    begun = time.monotonic()
    scene.cluster.api.kill()
    wait_until(lambda: time.monotonic() - begun > OUTAGE_S / 3, "a part of it", OUTAGE_S)
    scene.kill_an_agent()
    wait_until(lambda: time.monotonic() - begun > OUTAGE_S, "the rest of it", OUTAGE_S)
    lasted_s = time.monotonic() - begun
    calls = {server: proxy.accepted for server, proxy in proxies.items()}
    scene.cluster.etcd.compact()
    started = time.time()
    scene.cluster.api.start()
    scene.started = started, time.time()
    for server in proxies:
        # A process that was started anew counts for itself.
        ended = [each.accepted for each in scene.kubelet.exits_of(server)[ends[server] :]]
        marks = [before[server], *ended, calls[server]]
        made = [after - before for before, after in itertools.pairwise(marks)]
        print(f"{server.folder.name}: {made} calls in {lasted_s:.1f} s of no API server")
        assert max(made) < lasted_s, server.tail()
    assert len(scene.kubelet.exits_of(first)) > ends[first], "it led on without a lease"
    # A sum would miss it: the agent that was started anew begins at 0.
    wait_until(
        lambda: any(now > lists[agent] for agent, now in relists(scene).items()),
        f"who watched has listed anew: {list(lists.values())} before",
        RECOVERY_S,
    )


def relists(scene: Scene) -> dict[Agent, float]:
    return {agent: agent.metric("tco_api_relists_total") for agent in scene.agents}


def settle(scene: Scene) -> None:
    """Everybody agrees on what was used: cluster, nodes, upstream."""
    for agent in scene.agents:
        wait_until(lambda agent=agent: agent.metric("tco_pushes_in_flight") == 0, "all is quiet")
    counted = chaos.node_usage(scene.agents)
    what = f"the status says {counted}"
    wait_until(lambda: chaos.cluster_usage(scene.cluster) == counted, what, RECOVERY_S)
    taken = scene.books.read()
    missing = Counter({team: taken[team] - counted[team] for team in chaos.TEAMS})
    print(f"of {dict(taken)} the books miss {dict(missing)} after {scene.killed} kills")
    for team in chaos.TEAMS:
        assert 0 <= missing[team] <= scene.killed * THREADS * PUSHED
    for agent in scene.agents:
        wait_until(lambda agent=agent: chaos.seen_by(agent) == counted, "it knows", RECOVERY_S)
