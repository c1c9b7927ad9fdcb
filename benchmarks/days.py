"""Synthetic days: what a team offers in each minute, for the forecast's benchmark."""

import math
import random
from collections.abc import Callable, Iterator

DAY_MINUTES = 1440
# Of the mean, from minute to minute.
NOISE = 0.3
# From day to day.
DAILY = 0.15

Shape = Callable[[float], float]


def steady(hour: float) -> float:
    """The same all day."""
    return 1.0


def morning_peak(hour: float) -> float:
    """Quiet nights, a peak at ten, a smaller one after noon."""
    peak, later = ((hour - 10) / 1.6) ** 2, ((hour - 15) / 2.5) ** 2
    return 0.25 + 3.0 * math.exp(-peak) + math.exp(-later)


def office(hour: float) -> float:
    """From eight to eighteen, and little else."""
    return 1.0 if 8 <= hour < 18 else 0.1


SHAPES: dict[str, Shape] = {"steady": steady, "morning peak": morning_peak, "office hours": office}


def minutes(shape: Shape, days: int, mean: float, rng: random.Random) -> Iterator[int]:
    """Bytes of each minute of so many days."""
    for _ in range(days):
        level = mean * rng.lognormvariate(0, DAILY)
        for minute in range(DAY_MINUTES):
            yield int(level * shape(minute / 60) * rng.lognormvariate(0, NOISE))


def with_burst(sizes: list[int], start: int, length: int, factor: int) -> list[int]:
    """The same with a burst: a deployment that logs too much for a while."""
    burst = range(start, start + length)
    return [size * factor if i in burst else size for i, size in enumerate(sizes)]
