"""What the benchmarks work on: batches of (team, size) pairs, budgets and pushes, from one seed.

A line is what a service in a cluster writes: JSON of about 200 bytes with a random trace id.
The random part decides how well snappy does: these pushes shrink to about 40 %.
"""

import functools
import json
import random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from harness import budget
from shippers import Entry, Push, Stream, promtail, push_message, vector_json

from sluice import Budget

SEED = 20261123
START_NS = 1_795_420_800 * 10**9
NOW = 1_795_420_800.0
# Bytes of raw log: what Loki bills.
SIZES = {"10 KB": 10_000, "100 KB": 100_000, "1 MiB": 2**20, "4 MiB": 2**22}
LEVELS = ("debug", "info", "info", "info", "warn", "error")
PATHS = ("cart", "orders", "payments", "search", "sessions", "users")
MESSAGES = (
    "request handled",
    "cache miss, asked the database",
    "upstream answered late",
    "retrying after a refused connection",
)
LINE_BYTES = 205
PLENTY = 2**60


class Batch(NamedTuple):
    """(team, size) pairs, and how many teams there are."""

    team: npt.NDArray[np.int32]
    size: npt.NDArray[np.int64]
    teams: int


def batch(n: int, teams: int, order: str) -> Batch:
    """`n` pairs in runs of one team each ("grouped"), or with a random team each ("mixed")."""
    rng = np.random.default_rng(SEED)
    team = rng.integers(0, teams, n).astype(np.int32)
    if order == "grouped":
        team.sort()
    return Batch(team, rng.integers(100, 300, n), teams)


def team_name(i: int) -> str:
    return f"team-{i:05d}"


def budgets(teams: int, limits: tuple[int, ...] = (PLENTY,)) -> list[Budget]:
    """Budgets of so many teams, with these daily limits in turn."""
    return [
        Budget.from_manifest(budget(team_name(i), limits[i % len(limits)])) for i in range(teams)
    ]


def line(rng: random.Random) -> str:
    """One line; the random ids are 48 of its about 200 bytes."""
    said = {
        "ts": f"2026-11-23T08:{rng.randrange(60):02d}:07.{rng.randrange(10**6):06d}Z",
        "level": rng.choice(LEVELS),
        "trace_id": f"{rng.getrandbits(128):032x}",
        "span_id": f"{rng.getrandbits(64):016x}",
        "path": f"/api/v1/{rng.choice(PATHS)}/{rng.randrange(100_000)}",
        "status": rng.choice((200, 200, 200, 201, 404, 503)),
        "msg": rng.choice(MESSAGES),
    }
    return json.dumps(said, separators=(",", ":"))


def stream(rng: random.Random, number: int, team: int, entries: int) -> Stream:
    """A pod's stream, labelled as Promtail labels it; `number` tells it from all others."""
    labels = {
        "namespace": team_name(team),
        "app": f"app-{number % 7}",
        "container": "server",
        "node_name": "node-17",
        "pod": f"app-{number % 7}-{number:010x}",
        "stream": "stdout",
    }
    times = (START_NS + number + 1_000_003 * i for i in range(entries))
    return Stream(labels, [Entry(ts_ns, line(rng)) for ts_ns in times])


def streams(raw_bytes: int, teams: int = 1000, count: int | None = None) -> list[Stream]:
    """About `raw_bytes` of lines in `count` streams, of so many teams as far as they go round.

    By default as many streams as a busy node's pods: 40, but ten entries each at the least.
    """
    rng = random.Random(SEED)
    entries = max(1, raw_bytes // LINE_BYTES)
    count = count or max(4, min(40, entries // 10))
    share = [entries // count + (i < entries % count) for i in range(count)]
    return [stream(rng, i, i % teams, n) for i, n in enumerate(share)]


@functools.cache
def push(raw_bytes: int, teams: int = 1000, count: int | None = None) -> Push:
    """A push as Promtail sends it: protobuf in snappy."""
    return promtail(streams(raw_bytes, teams, count))


@functools.cache
def json_push(raw_bytes: int, encoding: str = "") -> Push:
    """The same as JSON."""
    return vector_json(streams(raw_bytes), encoding)


def decoded(raw_bytes: int) -> bytes:
    """The protobuf inside `push(raw_bytes)`."""
    raw: bytes = push_message(streams(raw_bytes)).SerializeToString()
    return raw
