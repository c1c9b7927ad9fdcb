"""The agent under wrk: against an empty route, and forwarding against nginx plus bare snappy."""

import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cramjam
import data
import load
import pytest
from harness import Server, Sluice, budget, running, write_budgets
from race import add_row, times

pytestmark = pytest.mark.wrk
GIB = 2**30
CONNECTIONS = 4
# As many shippers as a large node or a gateway has, more than are let in at once.
CROWD = 32
RUNS = [*((size, CONNECTIONS) for size in data.SIZES), ("1 MiB", CROWD)]
TEAMS = 1000
ROUNDS = 3
SECONDS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http")


@pytest.fixture(scope="module")
def endpoints(folder: Path) -> Iterator[tuple[Server, Server]]:
    """The agent without an upstream, and the empty route."""
    agent, empty = (load.Script(folder / kind, "endpoint.py", kind) for kind in ("agent", "empty"))
    with running(agent, empty):
        yield agent, empty


@pytest.fixture(scope="module")
def forwarders(folder: Path) -> Iterator[tuple[Server, Server]]:
    """`sluice run` and nginx in front of the same upstream."""
    sink = load.Script(folder / "sink", "sink.py")
    budgets = [budget(data.team_name(i), data.PLENTY) for i in range(TEAMS)]
    path = write_budgets(folder / "budgets.yaml", budgets)
    sluice = Sluice(folder / "sluice", path, sink.url)
    nginx = load.Nginx(folder / "nginx", sink)
    with running(sink, nginx, sluice):
        yield sluice, nginx


def in_turns(benchmark: Any, first: Any, second: Any) -> tuple[list[Any], list[Any]]:
    """Call both in turns; what they returned. The second is the one pytest-benchmark lists."""
    results: tuple[list[Any], list[Any]] = ([], [])
    benchmark.pedantic(
        lambda: results[1].append(second()),
        setup=lambda: results[0].append(first()),
        rounds=ROUNDS,
    )
    return results


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


@pytest.mark.parametrize(("size", "connections"), RUNS)
def bench_endpoint(
    benchmark: Any, endpoints: Any, folder: Path, size: str, connections: int
) -> None:
    agent, empty = endpoints
    with load.files(folder / "bodies", [data.push(data.SIZES[size]).body]) as bodies:
        theirs, ours = in_turns(
            benchmark,
            lambda: load.drive(empty, bodies, SECONDS, connections),
            lambda: load.drive(agent, bodies, SECONDS, connections),
        )
    pairs = list(zip(ours, theirs, strict=True))
    add_row(
        "HTTP endpoint without an upstream",
        raw_log=size,
        connections=connections,
        requests_per_s=f"{median(run.rate for run in ours):.0f}",
        empty_route_requests_per_s=f"{median(run.rate for run in theirs):.0f}",
        of_the_empty_route=f"{100 * median(a.rate / b.rate for a, b in pairs):.0f} %",
        CPU_ms_per_request=f"{1000 * median(run.cpu_per_request for run in ours):.2f}",
        empty_route_CPU_ms=f"{1000 * median(run.cpu_per_request for run in theirs):.2f}",
        p50_ms=f"{median(run.p50_ms for run in ours):.1f}",
        p99_ms=f"{median(run.p99_ms for run in ours):.1f}",
    )


class Snappy:
    """Decompresses one body again and again, and says what CPU it cost."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.room = bytearray(cramjam.snappy.decompress_raw_len(body))
        self.calls, self.cpu_s = 0, 0.0

    def __call__(self) -> None:
        start = time.thread_time()
        cramjam.snappy.decompress_raw_into(self.body, self.room)
        self.cpu_s += time.thread_time() - start
        self.calls += 1

    def alone(self, seconds: float) -> "Snappy":
        """Decompress for so long, with nothing else to do for this machine."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self()
        return self


class Rivals(NamedTuple):
    """CPU seconds a push: nginx and snappy one after the other, then both at once."""

    nginx: float
    snappy: float
    nginx_beside: float
    snappy_beside: float


def rivals(nginx: Server, body: bytes, bodies: list[Path], connections: int) -> Rivals:
    """Apart, each has the machine for itself. Together they meet the crowd that Sluice meets."""
    apart = load.drive(nginx, bodies, SECONDS, connections)
    snappy = Snappy(body).alone(SECONDS / 4)
    beside = Snappy(body)
    together = load.drive(nginx, bodies, SECONDS, connections, beside)
    return Rivals(
        apart.cpu_per_request,
        snappy.cpu_s / snappy.calls,
        together.cpu_per_request,
        beside.cpu_s / beside.calls,
    )


@pytest.mark.parametrize(("size", "connections"), RUNS)
def bench_forwarding(
    benchmark: Any, forwarders: Any, folder: Path, size: str, connections: int
) -> None:
    sluice, nginx = forwarders
    push = data.push(data.SIZES[size])
    per_gib = GIB / push.billed
    with load.files(folder / "bodies", [push.body]) as bodies:
        theirs, ours = in_turns(
            benchmark,
            lambda: rivals(nginx, push.body, bodies, connections),
            lambda: load.drive(sluice, bodies, SECONDS, connections),
        )
    pairs = [(run.cpu_per_request, them) for run, them in zip(ours, theirs, strict=True)]
    apart = median(own / (them.nginx + them.snappy) for own, them in pairs)
    together = median(own / (them.nginx_beside + them.snappy_beside) for own, them in pairs)
    cost = {
        name.replace("_beside", " beside"): f"{per_gib * median(values):.2f}"
        for name, values in zip(Rivals._fields, zip(*theirs, strict=True), strict=True)
    }
    add_row(
        "CPU seconds per GiB of raw log, forwarding to a real upstream",
        raw_log=size,
        connections=connections,
        sluice=f"{per_gib * median(own for own, _ in pairs):.2f}",
        **cost,
        of_both_apart=times(apart),
        of_both_at_once=times(together),
        pushes_per_s=f"{median(run.rate for run in ours):.0f}",
        p50_ms=f"{median(run.p50_ms for run in ours):.1f}",
        p99_ms=f"{median(run.p99_ms for run in ours):.1f}",
    )
