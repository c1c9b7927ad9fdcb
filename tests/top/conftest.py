"""Fixtures of tests that run `sluice top`, on a terminal and before an API."""

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from top.harness import Fake, Terminal


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """A maker of terminals: `terminal(url, ...)` runs `sluice top` on one."""
    made: list[Terminal] = []

    def make(url: str, *args: str, **more: Any) -> Terminal:
        made.append(Terminal(url, *args, **more))
        return made[-1]

    # Where the tests run in the background it may be ignored, and processes inherit that.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield make
    signal.signal(signal.SIGINT, kept)
    for one in made:
        one.close()


@pytest.fixture
def fake() -> Iterator[Fake]:
    """An API, a `top.harness.Fake`, that has no teams until it is told of some."""
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()
