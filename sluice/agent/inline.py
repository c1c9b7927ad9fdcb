"""An event loop without a thread: each step of a coroutine runs where the server calls it.

granian hands requests to an asyncio loop, over a queue and a pipe, twice or more a push: 0.18 ms
of CPU on our slow machine, where its WSGI takes 0.08 for all. Its threads can run the steps
themselves, several at a time, and may block in them. See docs/decisions/0007.

    granian's thread ─► create_task ─► step ─► await body ...
    granian's thread, maybe another one, when the body is there ─► step ─► place, upstream, answer
"""

import logging
import threading
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import granian

log = logging.getLogger("sluice.agent")

NAME = "sluice-inline"


class Steps(threading.local):
    """What this thread is to call after the step it is in; None while it is in none."""

    queue: deque[tuple[Callable[..., object], tuple[object, ...]]] | None = None
    task: "Task | None" = None


steps = Steps()


def call(step: Callable[..., object], *args: object) -> None:
    """Call `step`: at once, or after the step that this thread is in.

    Not within that: a step that lets another one go on would nest, without an end.
    """
    if steps.queue is not None:
        steps.queue.append((step, args))
        return
    steps.queue = queue = deque([(step, args)])
    try:
        while queue:
            step, args = queue.popleft()
            step(*args)
    finally:
        steps.queue = None


class Task:
    """A coroutine on its way.

    Threads: one at a time is in a step; the methods may be called by any.
    """

    __slots__ = ("_coroutine", "_turn")

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        # Holds one item while it waits; who takes it, has it go on.
        self._turn: list[None] = []
        call(self._step, None)

    def claim(self) -> bool:
        """Whether it waits, and is not to go on until interrupt()."""
        return taken(self._turn)

    def interrupt(self) -> None:
        """After claim(): have its await raise CancelledError.

        What it waited for is left alone: granian's futures block a thread that cancels them.
        """
        call(self._step, CancelledError())

    def _step(self, error: BaseException | None) -> None:
        """Run it until it waits for something, or ends."""
        steps.task = self
        try:
            waits_for = self._coroutine.throw(error) if error else self._coroutine.send(None)
        except StopIteration:
            return
        except (Exception, CancelledError):
            log.exception("a request failed")
            return
        self._turn = turn = [None]
        waits_for.add_done_callback(lambda _: self._step(None) if taken(turn) else None)


def taken(turn: list[None]) -> bool:
    """Whether this caller is the one to take what is in it."""
    try:
        turn.pop()
    except IndexError:
        return False
    return True


def current() -> Task:
    """The task that this thread is in a step of.

    Raises:
        RuntimeError: it is in none.
    """
    if steps.task is None:
        raise RuntimeError("not in a step of a task")
    return steps.task


class Waiter:
    """Something that a coroutine awaits until another thread says that it is there.

    Threads: any.
    """

    __slots__ = ("_callback", "_error", "_is_set", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._error: Exception | None = None
        self._callback: Callable[[object], object] | None = None

    def __await__(self) -> Generator["Waiter", None, None]:
        if not self._is_set:
            yield self
        if self._error is not None:
            raise self._error

    def add_done_callback(self, callback: Callable[[object], object]) -> None:
        """Call back when it is there."""
        with self._lock:
            if not self._is_set:
                self._callback = callback
                return
        call(callback, self)

    def set(self, error: Exception | None = None) -> None:
        """Say that it is there, or that it will not be."""
        with self._lock:
            self._error, self._is_set = error, True
            callback = self._callback
        if callback is not None:
            call(callback, self)


class Loop:
    """What granian takes for an event loop."""

    def __init__(self) -> None:
        self.handlers: dict[int, Callable[[], object]] = {}
        self._over = threading.Event()

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: object = None
    ) -> None:
        call(callback, *args)

    call_soon = call_soon_threadsafe

    def create_task(self, coroutine: Coroutine[Any, Any, object]) -> Task:
        return Task(coroutine)

    def add_signal_handler(
        self, number: int, handler: Callable[..., object], *args: object
    ) -> None:
        self.handlers[number] = lambda: handler(*args)

    def run_until_complete(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Wait until stop() was called."""
        coroutine.close()
        self._over.wait()

    def stop(self) -> None:
        """Have run_until_complete() return."""
        self._over.set()


@granian.loops.register(NAME)  # type: ignore[arg-type]
def build() -> Loop:
    """The loop of a worker."""
    return Loop()
