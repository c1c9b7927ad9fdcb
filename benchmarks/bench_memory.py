"""What `sluice run` occupies: idle, and while 1000 teams push 100 000 distinct streams."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data
import load
import pytest
from harness import Sluice, budget, running, write_budgets
from race import add_row
from shippers import Push, promtail

pytestmark = pytest.mark.wrk
MB = 1_000_000
TEAMS = 1000
STREAMS = 100_000
STREAMS_A_PUSH = 500
ENTRIES_A_STREAM = 4
CONNECTIONS = 8
# 600 for the record.
SECONDS = float(os.environ.get("BENCH_MEMORY_SECONDS", "60"))
LOOKS = 10


def pushes() -> Iterator[Push]:
    """Pushes with `STREAMS` different streams between them."""
    rng = random.Random(data.SEED)
    for first in range(0, STREAMS, STREAMS_A_PUSH):
        numbers = range(first, first + STREAMS_A_PUSH)
        yield promtail([data.stream(rng, i, i % TEAMS, ENTRIES_A_STREAM) for i in numbers])


def resident(sluice: Sluice) -> tuple[float, float]:
    """MB resident: supervisor and worker."""
    worker = sluice.worker().memory_info().rss
    return (sum(p.memory_info().rss for p in sluice.family()) - worker) / MB, worker / MB


def bench_memory(benchmark: Any, tmp_path: Path) -> None:
    sink = load.Script(tmp_path / "sink", "sink.py")
    budgets = [budget(data.team_name(i), data.PLENTY) for i in range(TEAMS)]
    path = write_budgets(tmp_path / "budgets.yaml", budgets)
    with running(sink), load.files(tmp_path / "bodies", [p.body for p in pushes()]) as bodies:
        sluice = Sluice(tmp_path / "sluice", path, sink.url)
        with running(sluice):
            time.sleep(2)
            add_look("idle", 0.0, 0, idle := resident(sluice), idle)
            requests = 0
            for i in range(LOOKS):
                run = benchmark_once(benchmark, i, sluice, bodies)
                requests += run.requests
                add_look("loaded", (i + 1) * SECONDS / LOOKS, requests, resident(sluice), idle)
            assert requests >= len(bodies), "not every stream was pushed"


def benchmark_once(benchmark: Any, i: int, sluice: Sluice, bodies: list[Path]) -> load.Load:
    """Load for a tenth of the time; the first is the one that pytest-benchmark lists."""
    seconds = SECONDS / LOOKS
    if i:
        return load.drive(sluice, bodies, seconds, CONNECTIONS)
    run: load.Load = benchmark.pedantic(
        load.drive, args=(sluice, bodies, seconds, CONNECTIONS), rounds=1
    )
    return run


def add_look(
    state: str, seconds: float, requests: int, now: tuple[float, float], idle: tuple[float, float]
) -> None:
    add_row(
        f"Resident memory of `sluice run`, {TEAMS} teams, {STREAMS:,} streams, MB",
        state=state,
        seconds=f"{seconds:.0f}",
        pushes=requests,
        supervisor=f"{now[0]:.1f}",
        worker=f"{now[1]:.1f}",
        together=f"{sum(now):.1f}",
        growth=f"{sum(now) - sum(idle):.1f}",
    )
