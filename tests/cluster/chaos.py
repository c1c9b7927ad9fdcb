"""What tests of failures share: a supervisor of processes, an even load, and the books of upstream.

Pushes are about two teams at once, `shop` and `pay`, each of which is a namespace of its own.
"""

import contextlib
import datetime
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import shippers
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, status_of
from cluster.proxy import Proxy
from harness import NO_ANSWER, Server, Upstream, budget
from shippers import Entry, Push, Stream

TEAMS = ("shop", "pay")
LINES = 10
# Whom a SIGKILL may hit of an agent: the out-of-memory killer takes one, a runtime all.
TARGETS = ("supervisor", "worker", "group")


def push_of(number: int, size: int = 1000) -> Push:
    """The push of this number: `size` bytes for each team, in the words of some shipper."""
    line = "x" * (size // LINES)
    streams = [
        Stream({"namespace": team}, [Entry(number * LINES + i, line) for i in range(LINES)])
        for team in TEAMS
    ]
    return (shippers.promtail, shippers.vector_json, shippers.legacy)[number % 3](streams)


def budget_of(team: str, limit: int | str, **spec: Any) -> dict[str, Any]:
    """A TeamBudget whose day is far from its end, and whose band lets everything pass."""
    now = datetime.datetime.now(datetime.UTC)
    # The zones of these names count westwards.
    zone = f"Etc/GMT{now.hour - 12:+d}" if now.hour != 12 else "UTC"
    return budget(team, limit, timeZone=zone, throttle={"sampleRate": 1}, **spec)


def evenly(make: Callable[[int], Push], per_s: float) -> Callable[[int], Push]:
    """`make`, but for all threads together so many times a second at most."""
    lock = threading.Lock()
    due = time.monotonic()

    def wait_and_make(number: int) -> Push:
        nonlocal due
        with lock:
            mine = due = max(due + 1 / per_s, time.monotonic())
        time.sleep(max(0.0, mine - time.monotonic()))
        return make(number)

    return wait_and_make


class Books:
    """The bytes that upstream has acknowledged, by team, read from its record as it grows."""

    def __init__(self, upstream: Upstream) -> None:
        assert upstream.record is not None
        self._path = upstream.record / "acknowledged.jsonl"
        self._at = 0
        self._sums: Counter[str] = Counter()

    def read(self) -> Counter[str]:
        """All of now."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            # The last line may be half written.
            whole = file.read().rpartition(b"\n")[0]
        self._at += len(whole) + bool(whole)
        for line in whole.splitlines():
            push = json.loads(line)
            assert "error" not in push, push
            for team, (_, size) in push["namespaces"].items():
                self._sums[team] += size
        return Counter(self._sums)


class Repeating:
    """Does its step again and again in a thread of its own, as long as the block lasts."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            self.step()

    def step(self) -> None:
        raise NotImplementedError


class Exit(NamedTuple):
    """The end of a process: when it was seen, and what its proxy had accepted by then."""

    server: Server
    code: int
    at: float
    accepted: int


class Kubelet(Repeating):
    """Starts at once again what has ended, as long as the block lasts.

    Attributes:
        exits: in order.
    """

    def __init__(self, proxies: Mapping[Server, Proxy]) -> None:
        super().__init__()
        self._proxies = proxies
        self.exits: list[Exit] = []

    def step(self) -> None:
        for server, proxy in self._proxies.items():
            code = server.process.poll() if server.process is not None else None
            if code is not None:
                self.exits.append(Exit(server, code, time.time(), proxy.accepted))
                server.process = None
                server.launch()

    def exits_of(self, server: Server) -> list[Exit]:
        """The ends of this one's processes."""
        return [each for each in self.exits if each.server is server]


def kill(server: Server, who: str = "supervisor") -> None:
    """SIGKILL one process of a server, or all, and wait for nothing."""
    assert server.process is not None
    if who == "worker":
        assert isinstance(server, Agent)
        server.worker().kill()
    elif who == "group":
        os.killpg(server.process.pid, signal.SIGKILL)
    else:
        server.process.kill()


def leader(controllers: Sequence[Controller]) -> Controller | None:
    """The one that leads, if any says so."""
    for each in controllers:
        with contextlib.suppress(*NO_ANSWER):
            if each.leads:
                return each
    return None


def lease_of(cluster: Cluster) -> Any:
    """The spec of the controllers' lease."""
    path = "/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases/sluice-controller"
    return cluster.call("GET", path).json["spec"]


def epoch_of(text: str) -> float:
    """Seconds since the epoch of a time in an object."""
    return datetime.datetime.fromisoformat(text).timestamp()


def cluster_usage(cluster: Cluster) -> dict[str, int]:
    """What the status of each team says is used."""
    return {team: status_of(cluster, team, team).get("currentUsage", 0) for team in TEAMS}


def node_usage(agents: Sequence[Agent]) -> dict[str, int]:
    """What the agents have counted themselves, of each team."""
    found = [agent.teams() for agent in agents]
    return {team: sum(teams[team]["nodeUsage"] for teams in found) for team in TEAMS}


def seen_by(agent: Agent) -> dict[str, int]:
    """What an agent believes the whole cluster has used."""
    teams = agent.teams()
    return {team: teams[team]["currentUsage"] for team in TEAMS}


def forbidden(server: Server) -> list[tuple[float, str]]:
    """When a process was told that it may not, and what it wrote of that."""
    said = server.log.read_text().splitlines()
    return [(epoch_of(line.split()[0]), line) for line in said if ": 403 " in line]


def check_never_falls(statuses: Sequence[Mapping[str, Any]]) -> int:
    """See that usage only grows within a window; returns how many statuses told of it."""
    shown: dict[tuple[str, str], int] = {}
    told = [found for found in statuses if "usageRevision" in found.get("status", {})]
    for found in told:
        team, status = found["metadata"]["name"], found["status"]
        for name, window in (("currentUsage", "currentDay"), ("monthlyUsage", "currentMonth")):
            key = (team, status[window])
            assert status[name] >= shown.get(key, 0), (team, name, status[name], shown[key])
            shown[key] = status[name]
    return len(told)


def rng_of(name: str) -> random.Random:
    """A source of random moments; its seed is printed, and can be given to repeat a run."""
    seed = os.environ.get("SLUICE_TEST_SEED", str(time.time_ns()))
    print(f"{name}: SLUICE_TEST_SEED={seed}")
    return random.Random(seed)


@contextlib.contextmanager
def proxied(cluster: Cluster, n: int) -> Iterator[list[Proxy]]:
    """So many proxies before an API server."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Proxy(cluster.api.port)) for _ in range(n)]
