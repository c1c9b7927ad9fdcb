"""evaluate against numpy: the sum of its input, and what one would write with it instead."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import data
import numpy as np
import numpy.typing as npt
import pytest
from race import add_row, ms, times

from sluice import _core, reference

N = 1_000_000
N_PYTHON = 20_000
Call = Callable[[], object]
STATES = {
    "below": "all stay below 80 %",
    "band": "all in the band",
    "over": "nothing fits",
    "to band": "every team enters the band half-way",
    "to limit": "every team reaches its limit half-way",
}


class Case:
    """A batch, the thresholds that put it into a state, and room for what evaluate writes."""

    def __init__(self, batch: data.Batch, state: str) -> None:
        self.team, self.size, teams = batch
        total = np.bincount(self.team, self.size, teams).astype(np.int64)
        none, far = np.full(teams, -1), np.full(teams, 2**61)
        self.soft, self.hard = {
            "below": (far, far),
            "band": (none, far),
            "over": (none, none),
            "to band": (total // 2, far),
            "to limit": (total // 4, total // 2),
        }[state]
        self.rule = np.zeros((teams, 4), np.int64)
        self.rule[:, 0], self.rule[:, 1], self.rule[:, 2] = self.soft, self.hard, -1
        self.used = np.zeros(teams, np.int64)
        self.action = np.empty(len(self.team), np.uint8)
        self.teams = teams

    def reset(self) -> None:
        self.used[:] = 0

    def evaluator(self, threads: int, pool: ThreadPoolExecutor) -> Call:
        """Calls evaluate, in so many threads with a part of the batch each."""
        parts = list(self.parts(threads))
        tallies = [np.zeros((self.teams, 8), np.int64) for _ in parts]

        def run(i: int) -> None:
            team, size, action = parts[i]
            _core.evaluate(team, size, self.rule, self.used, action, tallies[i])

        return in_threads(run, threads, pool)

    def summer(self, threads: int, pool: ThreadPoolExecutor) -> Call:
        parts = list(self.parts(threads))
        return in_threads(lambda i: (np.sum(parts[i][0]), np.sum(parts[i][1])), threads, pool)

    def reader(self, threads: int, pool: ThreadPoolExecutor) -> Call:
        """The same sums without the conversion of int32 to int64, which costs half of them."""
        parts = [(team.view(np.int64), size) for team, size, _ in self.parts(threads)]
        return in_threads(lambda i: (np.sum(parts[i][0]), np.sum(parts[i][1])), threads, pool)

    def parts(self, n: int) -> Any:
        arrays = (np.array_split(array, n) for array in (self.team, self.size, self.action))
        return zip(*arrays, strict=True)

    def bincount(self) -> npt.NDArray[np.uint8]:
        """What one would write with numpy; right only while nobody leaves the first 80 %."""
        after = self.used + np.bincount(self.team, self.size, self.teams).astype(np.int64)
        assert (after <= self.soft).all()
        self.used[:] = after
        return np.zeros(len(self.team), np.uint8)

    def add_at(self) -> npt.NDArray[np.uint8]:
        """The same in whole numbers; numpy >= 2 made it fast."""
        np.add.at(self.used, self.team, self.size)
        assert (self.used <= self.soft).all()
        return np.zeros(len(self.team), np.uint8)

    def sort_cumsum(self) -> npt.NDArray[np.uint8]:
        """Every entry's verdict with numpy; right only while nothing is dropped."""
        order = np.argsort(self.team, kind="stable")
        team, sums = self.team[order], np.cumsum(self.size[order])
        first = np.searchsorted(team, np.arange(self.teams))
        before = np.where(first > 0, sums[first - 1], 0)
        used = self.used[team] + sums - before[team]
        action = np.empty(len(team), np.uint8)
        action[order] = (used > self.soft[team]).astype(np.uint8) + (used > self.hard[team])
        self.used += np.append(before[1:], sums[-1]) - before
        return action

    def sort_cumsum_tuned(self) -> npt.NDArray[np.uint8]:
        """The same, with np.repeat instead of look-ups: half the time where grouped."""
        order = np.argsort(self.team, kind="stable")
        count = np.bincount(self.team, minlength=self.teams)
        sums = np.concatenate([[0], np.cumsum(self.size[order])])
        end = np.cumsum(count)
        used = sums[1:] + np.repeat(self.used - sums[end - count], count)
        over = (used > np.repeat(self.soft, count)).view(np.uint8)
        over += used > np.repeat(self.hard, count)
        action = np.empty_like(over)
        action[order] = over
        self.used += sums[end] - sums[end - count]
        return action

    def check(self, rival: Callable[[], npt.NDArray[np.uint8]], pool: ThreadPoolExecutor) -> None:
        """Fail unless a rival says the same."""
        self.reset()
        self.evaluator(1, pool)()
        used = self.used.copy()
        self.reset()
        assert np.array_equal(rival(), self.action)
        assert np.array_equal(self.used, used)


def in_threads(run: Callable[[int], object], threads: int, pool: ThreadPoolExecutor) -> Call:
    """Calls run(0), run(1) ... at once and waits for all; in this very thread if it is one."""

    def together() -> None:
        if threads == 1:
            run(0)
        else:
            list(pool.map(run, range(threads)))

    return together


@pytest.fixture(scope="module")
def pool() -> Any:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("teams", [10, 1000, 10_000])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("order", ["grouped", "mixed"])
def bench_evaluate(race: Any, pool: Any, order: str, state: str, teams: int, threads: int) -> None:
    case = Case(data.batch(N, teams, order), state)
    totals = {"bincount": case.bincount, "add.at": case.add_at}
    sorting = {"sort + cumsum": case.sort_cumsum, "the same tuned": case.sort_cumsum_tuned}
    numpy_way = {"below": totals, "band": sorting, "to band": sorting}.get(state, {})
    rivals: dict[str, Any] = {"sum": case.summer(threads, pool), "read": case.reader(threads, pool)}
    if threads == 1:
        for rival in numpy_way.values():
            case.check(rival, pool)
        rivals |= numpy_way
    result = race(case.evaluator(threads, pool), rivals, case.reset)
    faster = {f"faster than {name}": times(1 / result.ratio(name)) for name in list(rivals)[2:]}
    add_row(
        f"evaluate, {order}, {N:,} entries",
        usage=STATES[state],
        teams=teams,
        threads=threads,
        ms=ms(result.best()),
        of_numpy_sum=times(result.ratio("sum")),
        of_plain_reading=times(result.ratio("read")),
        **faster,
    )


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("order", ["grouped", "mixed"])
def bench_evaluate_in_python(race: Any, pool: Any, order: str, state: str) -> None:
    case = Case(data.batch(N_PYTHON, 1000, order), state)

    def in_python() -> npt.NDArray[np.uint8]:
        action = np.empty_like(case.action)
        tally = np.zeros((case.teams, 8), np.int64)
        reference.evaluate(case.team, case.size, case.rule, case.used, action, tally)
        return action

    case.check(in_python, pool)
    result = race(case.evaluator(1, pool), {"python": in_python}, case.reset)
    add_row(
        f"evaluate and plain Python, {N_PYTHON:,} entries of 1000 teams",
        order=order,
        usage=STATES[state],
        ms=ms(result.best()),
        Python_ms=ms(result.best("python")),
        faster=times(1 / result.ratio("python")),
    )
