"""How many pushes may be at work: so many, and the next is told to come back at once.

A hanging upstream keeps every push that is let in for the whole timeout. Two threads fewer are
let in than there are, so that probes and metrics are always answered.
"""

import threading
import time
from collections import deque

from sluice import errors

# A full house that moves is worth a short wait; one that stands still is not. Those who wait keep
# probes waiting: with two threads to spare, nobody may for long where nothing moves.
WAIT_S = 0.1
LOOK_S, LOOKS = 0.005, 4


class Turnstile:
    """Lets `places` pushes in at a time: each is inside for the length of a with block.

    A house stands still once those who wait have looked LOOKS times and seen nobody come, leave
    or get further. Seen, not timed: in a process that gets no CPU nobody gets further either.

    Raises:
        Unavailable: at the block's begin: full, and still, or no place came free soon enough.

    Threads: any number.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.inside = 0
        self._still, self._looked_at = 0, 0.0
        self._lock = threading.Lock()
        # One lock for each who waits, in the order in which they came; open: the place is theirs.
        self._waiting: deque[threading.Lock] = deque()

    def moved(self) -> None:
        """Say that a push inside has got further."""
        self._still = 0

    def __enter__(self) -> None:
        with self._lock:
            if self.inside < self.places:
                self.inside += 1
                self._still = 0
                return
            if self._still >= LOOKS:
                raise self._full()
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        self._wait(mine)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._still = 0
            if self._waiting:
                # From hand to hand: the one who leaves comes again at once, and would be faster.
                self._waiting.popleft().release()
            else:
                self.inside -= 1

    def _wait(self, mine: threading.Lock) -> None:
        until = time.monotonic() + WAIT_S
        while not mine.acquire(timeout=LOOK_S):
            with self._lock:
                if mine.acquire(blocking=False):
                    return
                now = time.monotonic()
                if now >= self._looked_at + LOOK_S:
                    self._still, self._looked_at = self._still + 1, now
                if self._still >= LOOKS or now >= until:
                    self._waiting.remove(mine)
                    raise self._full()

    def _full(self) -> errors.Unavailable:
        return errors.Unavailable(
            f"{self.inside} requests are being handled, at most {self.places} are let in"
        )
