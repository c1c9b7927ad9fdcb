"""A worker: brings one sink up to date, in threads of its own, and tries again what failed.

Rule 1: it waits for nobody and nobody waits for it: a sink that hangs is left to itself after
ERRAND_S, and is not asked again before it has answered.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sluice import window
from sluice.notify import change
from sluice.notify.change import Change, Said
from sluice.notify.rules import Conditions
from sluice.notify.sink import Done, Keeper, Sink, SinkFailed
from sluice.notify.told import Told

log = logging.getLogger("sluice.notify")

FIRST_S, MOST_S, JITTER = 1.0, 300.0, 0.2
# A sink that asks for more does not know what it says.
ASKED_MAX_S = 3600.0
# Everything that telling may take: connecting, waiting for several addressees in turn.
ERRAND_S = 120.0
NOT_SENT = Done(has_sent=False, again_s=None)
# What a store did not keep is brought to it again after so long.
SAVE_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait after a failure, and for an answer; seconds."""

    first_s: float = FIRST_S
    most_s: float = MOST_S
    errand_s: float = ERRAND_S

    def pause_s(self, failures: int, asked_s: float, chance: float) -> float:
        """The wait after so many failures on end.

        Args:
            failures: 1 and more; the wait doubles with each, up to the most.
            asked_s: what the sink asked for, or 0.
            chance: from 0 to 1; where in the jitter it falls.
        """
        # Beyond this many doublings the most is reached, however short the first wait.
        doubled = self.first_s * math.pow(2.0, min(failures - 1, MOST_S))
        spread = 1 + JITTER * (2 * chance - 1)
        return max(min(doubled, self.most_s) * spread, min(asked_s, ASKED_MAX_S))


@dataclass(slots=True)
class State:
    """What is known of a sink, for health and metrics; it outlives workers.

    `error` is why the last attempt failed, "" if it did not; `failures` those on end.
    """

    sent: int = 0
    failed: int = 0
    failures: int = 0
    error: str = ""
    last_sent: float | None = None

    def as_json(self) -> dict[str, object]:
        """A sink's part of /api/health."""
        last = self.last_sent
        return {
            "error": self.error or None,
            "failures": self.failures,
            "lastSent": None if last is None else window.iso(last),
        }


class Teller:
    """Makes a Sink of changes a Keeper: knows what it was told, and tells it the difference."""

    # As long as the pace has it: chats count calls.
    retry_max_s = math.inf

    def __init__(self, sink: Sink, told: Told) -> None:
        self.id, self.label = sink.id, sink.label
        self._sink, self._told = sink, told

    def attempt(self, holding: Conditions, now: float) -> Done:
        """See Keeper. What was told is recorded as soon as the sink has it."""
        changes, after = self._due(holding, now)
        if changes:
            self._sink.send(changes)
        self._told.record(self.id, after)
        return Done(bool(changes), None if self._told.flush() else SAVE_AGAIN_S)

    def waiting(self, holding: Conditions) -> int:
        """See Keeper."""
        return len(self._due(holding, 0.0)[0])

    def _due(self, holding: Conditions, now: float) -> tuple[list[Change], dict[str, Said]]:
        changes: list[Change] = []
        after: dict[str, Said] = {}
        for key, condition in holding.items():
            said = self._told.of(self.id, key)
            wanted = condition.rules if self._sink.rules is None else self._sink.rules
            made, then = change.difference(said, condition, wanted, now)
            changes += made
            if then != said:
                after[key] = then
        return changes, after


@dataclass(slots=True)
class _Errand:
    """One attempt, in a thread that may never come back."""

    thread: threading.Thread | None = None
    is_over: bool = False
    done: Done | None = None
    error: Exception | None = None


@dataclass(slots=True)
class _Shown:
    holding: Conditions = field(default_factory=dict)
    is_fresh: bool = False


class Worker:
    """Calls a Keeper whenever what holds has changed, or it wants to be called.

    Args:
        clock: epoch seconds.

    Threads: any number may call show(), stop() and waiting().
    """

    def __init__(
        self, keeper: Keeper, state: State, pace: Pace, clock: Callable[[], float]
    ) -> None:
        self._keeper, self._state, self._clock = keeper, state, clock
        self._pace = replace(pace, most_s=min(pace.most_s, keeper.retry_max_s))
        self._wake = threading.Condition()
        self._shown, self._stopping = _Shown(), False
        self._errand = _Errand(is_over=True)
        self._thread = threading.Thread(target=self._run, name=f"notify-{keeper.id}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def show(self, holding: Conditions, *, is_fresh: bool) -> None:
        """What holds from now on; `is_fresh`: there may be something to tell."""
        with self._wake:
            self._shown = _Shown(holding, is_fresh or self._shown.is_fresh)
            if is_fresh:
                self._wake.notify_all()

    def waiting(self) -> int:
        """How many changes the sink has not taken yet."""
        return self._keeper.waiting(self._shown.holding)

    def stop(self) -> None:
        """Have it end, without another attempt."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()

    def join(self, deadline: float) -> bool:
        """Wait for its end, and for the attempt at hand, until a time.monotonic(); did it end?"""
        for thread in (self._thread, self._errand.thread):
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return self._errand.is_over and not self._thread.is_alive()

    def _run(self) -> None:
        state = self._state
        pause_s: float | None = 0.0 if self._state.failures else None
        while (holding := self._next(pause_s)) is not None:
            try:
                done = self._attempt(holding)
            except SinkFailed as error:
                pause_s = self._failed(error.message, error.retry_after_s)
                log.warning(
                    "%s was not told: %s; again in %.0f s",
                    self._keeper.label,
                    error,
                    pause_s,
                    extra={"sink": self._keeper.id},
                )
            except Exception as error:
                pause_s = self._failed(f"a defect of Sluice: {type(error).__name__}", 0.0)
                log.exception("%s was not told", self._keeper.label)
            else:
                # Or there was nothing left to tell it.
                if state.failures and done.has_sent:
                    log.info("%s was told, after %d failures", self._keeper.label, state.failures)
                state.failures, state.error, pause_s = 0, "", done.again_s

    def _failed(self, error: str, asked_s: float) -> float:
        state = self._state
        state.failed, state.failures, state.error = state.failed + 1, state.failures + 1, error
        return self._pace.pause_s(state.failures, asked_s, random.random())

    def _next(self, pause_s: float | None) -> Conditions | None:
        """What to work on once there is something to do; None: to end.

        While it fails, news does not shorten the wait: it will be told with the rest.
        """
        with self._wake:
            self._wake.wait_for(
                lambda: self._stopping or (self._shown.is_fresh and not self._state.failures),
                pause_s,
            )
            if self._stopping:
                return None
            self._shown.is_fresh = False
            return self._shown.holding

    def _attempt(self, holding: Conditions) -> Done:
        if not self._errand.is_over:
            raise SinkFailed("it still has not answered the last attempt")
        errand = _Errand()
        errand.thread = threading.Thread(
            target=self._go, args=(errand, holding), name=f"{self._thread.name}-errand", daemon=True
        )
        errand.thread.start()
        # Not before: a thread that there was no room for will never be over.
        self._errand = errand
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or errand.is_over, self._pace.errand_s)
            if errand.error is not None:
                raise errand.error
            if not (errand.is_over or self._stopping):
                raise SinkFailed(f"no answer in {self._pace.errand_s:g} s")
            return errand.done or NOT_SENT

    def _go(self, errand: _Errand, holding: Conditions) -> None:
        now = self._clock()
        try:
            done = errand.done = self._keeper.attempt(holding, now)
            if done.has_sent:
                self._state.sent += 1
                self._state.last_sent = now
        # Not handled here: handed to the thread that waits.
        except Exception as error:
            errand.error = error
        with self._wake:
            errand.is_over = True
            self._wake.notify_all()
