"""How soon a push shows in the status of its budget: large ones at once, small ones in time."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest
from cluster import chaos
from cluster.harness import Cluster
from cluster.processes import CEILING_S, HEARTBEAT_S, Agent, Controller, apply, status_of
from harness import Upstream, wait_until
from shippers import Entry, Push, Stream, promtail

from sluice import pace

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DEFAULT = pace.Pace()
LIMIT = 1_000_000
TEAMS = ("shop", "pay", "mail")
PUSHES = 20
SHOWN_S = 3.0
# The longest that an agent may keep still after a report, and a moment for the test to see it.
SILENT_S = DEFAULT.floor * (1 + pace.JITTER) + 0.1
SMALL_PUSHES = 8
# Beside what is waited for on purpose: ticks and writes.
REST_S = 2.0


def push_of(team: str, size: int) -> Push:
    return promtail([Stream({"namespace": team}, [Entry(time.time_ns(), "x" * size)])])


def shown_after_s(cluster: Cluster, agent: Agent, team: str, size: int, whole: int) -> float:
    """Push so many bytes; the seconds until the status says `whole`."""
    began = time.monotonic()
    assert agent.send(push_of(team, size)).status == 204
    wait_until(
        lambda: status_of(cluster, team, team).get("currentUsage") == whole,
        f"{whole} bytes in the status of {team}",
        90,
    )
    return time.monotonic() - began


def said(seconds: list[float]) -> str:
    return " ".join(f"{each:.2f}" for each in sorted(seconds))


def test_a_push_of_a_tenth_of_the_limit_shows_within_three_seconds(
    fresh_cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    cluster = fresh_cluster.install()
    apply(cluster, *(chaos.budget_of(team, LIMIT) for team in TEAMS))
    longest = ("--report-ceiling", str(DEFAULT.ceiling), "--heartbeat", str(DEFAULT.heartbeat))
    controllers(cluster, args=longest)
    args = (*longest, "--report-floor", str(DEFAULT.floor))
    nodes = [agents(cluster, f"node-{i}", upstream.url, args=args) for i in range(3)]
    silent_at = dict.fromkeys(nodes, time.monotonic() + SILENT_S)
    used: Counter[str] = Counter()
    seconds = []
    # Three nodes, three teams: each node pushes for each team in turn.
    pairs = itertools.cycle([(nodes[(i + i // 3) % 3], TEAMS[i % 3]) for i in range(9)])
    for node, team in itertools.islice(pairs, PUSHES):
        wait_until(lambda node=node: time.monotonic() >= silent_at[node], "it has been silent")
        used[team] += LIMIT // 10
        seconds.append(shown_after_s(cluster, node, team, LIMIT // 10, used[team]))
        silent_at[node] = time.monotonic() + SILENT_S
    print(f"a tenth of the limit shown after {said(seconds)} s")
    assert sorted(seconds)[PUSHES * 9 // 10 - 1] <= SHOWN_S


def test_any_push_shows_within_ceiling_and_heartbeat(
    fresh_cluster: Cluster,
    upstream: Upstream,
    agents: Callable[..., Agent],
    controllers: Callable[..., Controller],
) -> None:
    cluster = fresh_cluster.install()
    (team, *_) = TEAMS
    apply(cluster, chaos.budget_of(team, LIMIT))
    controllers(cluster)
    node = agents(cluster, "node-0", upstream.url)
    longest = (1 + pace.JITTER) * CEILING_S + HEARTBEAT_S
    rng = random.Random(1)
    seconds = []
    for number in range(1, SMALL_PUSHES + 1):
        seconds.append(shown_after_s(cluster, node, team, 10, 10 * number))
        # So that pushes meet every phase of agent and controller.
        time.sleep(rng.uniform(0, CEILING_S / 2))
    print(f"a line shown after {said(seconds)} s, at most {longest + REST_S:.1f}")
    assert max(seconds) <= longest + REST_S
    # It was time that brought them up, not their size.
    assert max(seconds) > HEARTBEAT_S
