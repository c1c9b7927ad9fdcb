"""Housekeeping: what a process does every so often beside answering. One thread."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from sluice import api

log = logging.getLogger("sluice")

# A step of the wall clock that is worth a line in the log.
CLOCK_STEP_S = 60.0
# A chore that failed is tried again after so long.
FAILED_S = 5.0
# A pause in a chore over all teams, and after how many of them: half a millisecond's work.
PAUSE_S, PAUSE_EVERY = 0.0002, 25

T = TypeVar("T")


class Chores:
    """Calls each chore every so many seconds; one that fails does not end the others.

    Threads: start() makes one; what is added then runs in it.
    """

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._chores: list[tuple[float, Callable[[], object]]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def add(self, every_s: float, chore: Callable[[], object]) -> None:
        """Have `chore` called every `every_s` seconds; before start()."""
        self._chores.append((every_s, chore))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the chore at hand."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        due = [time.monotonic() + every_s for every_s, _ in self._chores]
        while not self._stopping.wait(self._tick_s):
            for i, (every_s, chore) in enumerate(self._chores):
                now = time.monotonic()
                if now < due[i]:
                    continue
                due[i] = now + every_s
                try:
                    chore()
                except Exception:
                    log.exception("housekeeping failed")
                    due[i] = now + max(every_s, FAILED_S)


def paced(items: Iterable[T]) -> Iterator[T]:
    """The items, with short pauses in which other threads get the interpreter.

    Where this thread does not give it away, each that wants it waits for 5 ms, and a push wants it
    several times: of every second's look at 1000 teams its slowest ones took twice as long.
    """
    for i, item in enumerate(items):
        if i % PAUSE_EVERY == 0:
            time.sleep(PAUSE_S)
        yield item


class ClockWatch:
    """How far the wall clock moved beyond what really passed, from one look to the next."""

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()

    def step(self) -> float:
        """Seconds, negative for a clock that was put back."""
        offset = self._wall() - self._monotonic()
        step, self._offset = offset - self._offset, offset
        return step

    def look(self, status: api.Status) -> None:
        """Log and count a step that is worth it."""
        step = self.step()
        if abs(step) > CLOCK_STEP_S:
            status.clock_steps += 1
            log.warning("the wall clock jumped by %+.0f s", step)
