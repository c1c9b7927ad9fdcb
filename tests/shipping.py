"""Threads that push like shippers do: one push after another, each over a connection of its own."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from harness import NO_ANSWER, Server, wait_until
from shippers import Push

# How soon a shipper tries again what was not taken.
PAUSE_S = 0.02
TAKEN = (200, 204)


class Load:
    """What became of the pushes of some threads.

    Attributes:
        answers: pushes by status; 0 counts those without an answer.
    """

    def __init__(self, server: Server, make: Callable[[int], Push], pause_s: float) -> None:
        self._server, self._make, self._pause_s = server, make, pause_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self.answers: Counter[int] = Counter()

    def ship(self) -> None:
        """Push until told to stop."""
        while not self._stopping.is_set():
            with self._lock:
                self._number += 1
                number = self._number
            try:
                status = self._server.send(self._make(number), timeout=60).status
            except NO_ANSWER:
                status = 0
            with self._lock:
                self.answers[status] += 1
            if status not in TAKEN:
                self._stopping.wait(self._pause_s)
        self._server.close()

    def wait_for(self, more: int) -> None:
        """Wait until so many more pushes were answered."""
        wanted = sum(self.answers.values()) + more
        wait_until(lambda: sum(self.answers.values()) >= wanted, f"{more} more answers")

    def stop(self) -> None:
        self._stopping.set()


@contextlib.contextmanager
def shipping(
    server: Server, make: Callable[[int], Push], threads: int = 4, pause_s: float = PAUSE_S
) -> Iterator[Load]:
    """Push make(1), make(2) ... while inside; every push has been answered afterwards."""
    load = Load(server, make, pause_s)
    running = [threading.Thread(target=load.ship) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in running:
            thread.join()
