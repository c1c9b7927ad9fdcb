"""The agent under wrk: against an empty route, and forwarding against nginx plus bare snappy."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cramjam
import data
import load
import pytest
from conftest import add_row, times
from harness import Server, Sluice, budget, running, write_budgets

GIB = 2**30
CONNECTIONS = 4
TEAMS = 1000
ROUNDS = 3
SECONDS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load.need("wrk", "nginx")
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
    sluice = Sluice(
        folder / "sluice", write_budgets(folder / "budgets.yaml", budgets), "http://127.0.0.1:0"
    )
    nginx = load.Nginx(folder / "nginx", sink)
    sluice.upstream = sink.url
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


def median(values: Iterator[float]) -> float:
    return statistics.median(list(values))


@pytest.mark.parametrize("size", data.SIZES)
def bench_endpoint(benchmark: Any, endpoints: Any, folder: Path, size: str) -> None:
    agent, empty = endpoints
    with load.files(folder / "bodies", [data.push(data.SIZES[size]).body]) as bodies:
        theirs, ours = in_turns(
            benchmark,
            lambda: load.drive(empty, bodies, SECONDS, CONNECTIONS),
            lambda: load.drive(agent, bodies, SECONDS, CONNECTIONS),
        )
    pairs = list(zip(ours, theirs, strict=True))
    add_row(
        f"HTTP endpoint without an upstream, {CONNECTIONS} connections",
        raw_log=size,
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


@pytest.mark.parametrize("size", data.SIZES)
def bench_forwarding(benchmark: Any, forwarders: Any, folder: Path, size: str) -> None:
    """nginx runs while the other core decompresses: the same crowd that Sluice works in."""
    sluice, nginx = forwarders
    push = data.push(data.SIZES[size])
    per_gib = GIB / push.billed
    with load.files(folder / "bodies", [push.body]) as bodies:

        def theirs() -> tuple[load.Load, Snappy]:
            snappy = Snappy(push.body)
            return load.drive(nginx, bodies, SECONDS, CONNECTIONS, snappy), snappy

        theirs_runs, ours = in_turns(
            benchmark, theirs, lambda: load.drive(sluice, bodies, SECONDS, CONNECTIONS)
        )
    passing = [run.cpu_per_request * per_gib for run, _ in theirs_runs]
    unpacking = [snappy.cpu_s / snappy.calls * per_gib for _, snappy in theirs_runs]
    own = [run.cpu_per_request * per_gib for run in ours]
    add_row(
        "CPU seconds per GiB of raw log, forwarding to a real upstream",
        raw_log=size,
        sluice=f"{median(own):.2f}",
        nginx=f"{median(passing):.2f}",
        snappy=f"{median(unpacking):.2f}",
        of_both=times(median(a / (b + c) for a, b, c in zip(own, passing, unpacking, strict=True))),
        pushes_per_s=f"{median(run.rate for run in ours):.0f}",
        MB_per_s_of_raw_log=f"{median(run.rate for run in ours) * push.billed / 1e6:.0f}",
        p50_ms=f"{median(run.p50_ms for run in ours):.1f}",
        p99_ms=f"{median(run.p99_ms for run in ours):.1f}",
    )
