"""How many pushes may be at work: so many, and the next is told to come back at once.

A hanging upstream keeps every push that is let in for the whole timeout. Two threads fewer are
let in than there are, so that probes and metrics are always answered.
"""

import threading
import time
from collections import deque

from sluice import errors

# A full house that moves is worth a short wait; one that stands still is not. Those who wait keep
# probes waiting: with two threads to spare, nobody may, where fewer than 50 a second leave.
WAIT_S = 0.1
STILL_S = 0.02


class Turnstile:
    """Lets `places` pushes in at a time: each is inside for the length of a with block.

    Raises:
        Unavailable: at the block's begin: full, and nobody came or left for STILL_S seconds, or
            not soon enough.

    Threads: any number.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.inside = 0
        self._moved_at = 0.0
        self._lock = threading.Lock()
        # One lock for each who waits, in the order in which they came; open: the place is theirs.
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self.inside < self.places:
                self.inside += 1
                self._moved_at = time.monotonic()
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        self._wait(mine)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._moved_at = time.monotonic()
            if self._waiting:
                # From hand to hand: the one who leaves comes again at once, and would be faster.
                self._waiting.popleft().release()
            else:
                self.inside -= 1

    def _wait(self, mine: threading.Lock) -> None:
        began = time.monotonic()
        while True:
            left = min(began + WAIT_S, self._moved_at + STILL_S) - time.monotonic()
            if mine.acquire(timeout=max(0.0, left)):
                return
            if left > 0:
                # Somebody may have moved meanwhile.
                continue
            with self._lock:
                if mine.acquire(blocking=False):
                    return
                self._waiting.remove(mine)
                raise errors.Unavailable(
                    f"{self.inside} requests are being handled, at most {self.places} are let in"
                )
