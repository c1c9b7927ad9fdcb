"""Races: ours and its rivals in turns, in one run, so that a busy machine slows them all.

Every benchmark adds a row to a table; conftest.py prints the tables at the end.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

# Rounds end early when they take longer than this altogether.
PATIENCE_S = 2.0
ROUNDS_LEAST = 7

Row = dict[str, str]
tables: dict[str, list[Row]] = {}


class Result:
    """What a race measured: seconds of every contestant, round by round."""

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        self.seconds = seconds

    def best(self, name: str = "ours") -> float:
        """Seconds of the fastest round: the one that nothing else on the machine slowed."""
        return min(self.seconds[name])

    def ratio(self, rival: str) -> float:
        """How many times the rival's time ours takes, best against best."""
        return self.best() / self.best(rival)


def add_row(title: str, **cells: object) -> None:
    """Add a row to the table of this title; underscores in names are spaces."""
    tables.setdefault(title, []).append(
        {name.replace("_", " "): str(cell) for name, cell in cells.items()}
    )


def ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"


def times(ratio: float) -> str:
    return f"{ratio:.3g}x"


def timed(call: Callable[[], object], seconds: list[float]) -> None:
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)


def race(
    benchmark: Any,
    ours: Callable[[], object],
    rivals: Mapping[str, Callable[[], object]],
    reset: Callable[[], object] = lambda: None,
    rounds: int = 30,
) -> Result:
    """In each round every rival runs once, beginning with another one each time, and then ours.

    Args:
        reset: called before each run, and not timed.
        rounds: at most; fewer where a round takes long.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *rivals)}
    names = list(rivals)
    start = time.perf_counter()
    for call in (*rivals.values(), ours):
        reset()
        call()
    once = time.perf_counter() - start

    def others() -> None:
        for name in names:
            reset()
            timed(rivals[name], seconds[name])
        names.append(names.pop(0))
        reset()

    rounds = max(ROUNDS_LEAST, min(rounds, int(PATIENCE_S / once)))
    benchmark.pedantic(lambda: timed(ours, seconds["ours"]), setup=others, rounds=rounds)
    result = Result(seconds)
    benchmark.extra_info.update({name: result.best(name) for name in seconds})
    return result


def as_markdown(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[row.get(name, "") for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
