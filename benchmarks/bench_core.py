"""The core's steps of a push: scan, judge and split, against protobuf and plain copies."""

import functools
from typing import Any

import data
import numpy as np
import pytest
import xxhash
from race import add_row, times
from shippers import message_class

from sluice import _core

PROTOBUF = 0
KEEP_HALF = 2**63 - 1
FAR = 2**61


class Scanned:
    """A decoded push with the rows of its scan, all of one team."""

    def __init__(self, size: str) -> None:
        self.raw = data.decoded(data.SIZES[size])
        self.stream = np.zeros((64, 8), np.int64)
        self.entry = np.zeros((32_768, 3), np.int64)
        streams, entries = self.scan()
        self.stream, self.entry = self.stream[:streams], self.entry[:entries]
        self.outcome = np.zeros(entries, np.uint8)
        self.out = bytearray(len(self.raw))

    def scan(self) -> tuple[int, int]:
        return _core.scan_push(self.raw, self.stream, self.entry)

    def judge(self, soft: int) -> None:
        """Judge all entries; above `soft` half of them are sampled out."""
        rule = np.array([[soft, FAR, KEEP_HALF, 0]], np.int64)
        self.outcome[:] = 0
        team = np.zeros(len(self.stream), np.int32)
        slot = np.zeros(1, np.int32)
        tally = np.zeros((1, 12), np.int64)
        used = np.zeros(1, np.int64)
        _core.judge(
            *(self.raw, PROTOBUF, self.stream, self.entry, team, slot, rule, used),
            *(self.outcome, tally),
        )

    def split(self) -> int:
        return _core.split(
            self.raw, PROTOBUF, self.stream, self.entry, self.outcome, memoryview(self.out)
        )

    def copy(self) -> None:
        """The least that any step could cost: to read the push once and write it once."""
        self.out[:] = self.raw

    def hash(self) -> None:
        """The hash of everything in one go."""
        xxhash.xxh64_intdigest(self.raw)

    def parse(self) -> Any:
        """Google's protobuf (upb, in C)."""
        message = message_class()()
        message.ParseFromString(self.raw)
        return message

    def filter(self) -> bytes:
        """Parse, take the entries out, serialize."""
        message = self.parse()
        outcome = iter(self.outcome.tolist())
        for stream in message.streams:
            kept = [entry for entry in stream.entries if not next(outcome)]
            del stream.entries[:]
            stream.entries.extend(kept)
        filtered: bytes = message.SerializeToString()
        return filtered


@functools.cache
def scanned(size: str) -> Scanned:
    return Scanned(size)


def add_step(result: Any, step: str, size: str, rival: str = "", words: str = "") -> None:
    case = scanned(size)
    against = {}
    if rival:
        against = {
            "against": words,
            "its us": f"{1e6 * result.best(rival):.4g}",
            "of that": times(result.ratio(rival)),
        }
    add_row(
        "The core's steps",
        step=step,
        raw_log=size,
        entries=len(case.entry),
        us=f"{1e6 * result.best():.4g}",
        of_one_copy=times(result.ratio("copy")),
        **against,
    )


@pytest.mark.parametrize("size", data.SIZES)
def bench_scan(race: Any, size: str) -> None:
    case = scanned(size)
    assert len(case.entry) == sum(len(s.entries) for s in case.parse().streams)
    result = race(case.scan, {"copy": case.copy, "parse": case.parse})
    add_step(result, "scan", size, "parse", "protobuf's parsing")


@pytest.mark.parametrize("size", data.SIZES)
def bench_judge_below(race: Any, size: str) -> None:
    case = scanned(size)
    result = race(lambda: case.judge(FAR), {"copy": case.copy})
    assert not case.outcome.any()
    add_step(result, "judge, below the band", size)


@pytest.mark.parametrize("size", data.SIZES)
def bench_judge_sampling(race: Any, size: str) -> None:
    case = scanned(size)
    result = race(lambda: case.judge(-1), {"copy": case.copy, "hash": case.hash})
    assert 0.3 < case.outcome.mean() < 0.7
    add_step(result, "judge, half sampled out", size, "hash", "XXH64 of the whole")


@pytest.mark.parametrize("size", data.SIZES)
def bench_split(race: Any, size: str) -> None:
    case = scanned(size)
    case.judge(-1)
    assert bytes(case.out[: case.split()]) == case.filter()
    result = race(case.split, {"copy": case.copy, "filter": case.filter})
    add_step(result, "split, every other entry", size, "filter", "protobuf's there and back")
