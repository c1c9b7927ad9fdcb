"""How many pushes may be at work: so many, and the next is told to come back at once.

A hanging upstream keeps every push that is let in for the whole timeout. Two threads fewer are
let in than there are, so that probes and metrics are always answered.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

from sluice import errors

# A full house that moves is worth a short wait; one that stands still is not.
WAIT_S = 0.1


class Turnstile:
    """Lets `places` pushes in at a time.

    Threads: any number.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.inside = 0
        self._left_at = 0.0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Be inside for the length of a with block.

        Raises:
            Unavailable: full, and nobody left within the last WAIT_S seconds.
        """
        with self._changed:
            if self.inside >= self.places:
                self._wait()
            self.inside += 1
        try:
            yield
        finally:
            with self._changed:
                self.inside -= 1
                self._left_at = time.monotonic()
                self._changed.notify()

    def _wait(self) -> None:
        until = time.monotonic() + WAIT_S
        while self.inside >= self.places:
            now = time.monotonic()
            if now >= until or now - self._left_at > WAIT_S:
                raise errors.Unavailable(
                    f"{self.inside} pushes are being handled, at most {self.places} are let in"
                )
            self._changed.wait(until - now)
