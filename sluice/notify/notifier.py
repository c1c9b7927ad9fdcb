"""The notifier: looks at what holds every so often, and has each sink told by a worker of its own.

    look() ─► Judge ─► what holds ─► a Worker for each sink ─► what it was told, the sink

`run` has one all the time, a controller while it leads: start() takes up what was told before, by
whoever told it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice import budget, usage
from sluice.notify import rules
from sluice.notify.sink import Keeper, Sink
from sluice.notify.told import Told
from sluice.notify.worker import Pace, State, Teller, Worker

log = logging.getLogger("sluice.notify")

STOP_S = 3.0
# (default rules, what was told before) -> what judges from a start on.
MakeJudge = Callable[[Sequence[str], rules.Before], rules.Judge]


class Notifier(Collector):
    """Tells sinks what has changed about teams; a collector of its own series.

    Args:
        sinks: all different in id.
        told: what they were told.
        rows: every team's row at a moment (epoch seconds).
        expect: what is expected of a team, by key.
        default_rules: for budgets that name none of their own.
        clock: epoch seconds.
        make_judge, pace: other times than the usual.

    Threads: one calls start(), look() and stop(); any number the rest.
    """

    def __init__(
        self,
        sinks: Sequence[Sink | Keeper],
        told: Told,
        *,
        rows: Callable[[float], Iterable[usage.Row]],
        expect: rules.Expect,
        default_rules: Sequence[str] = budget.RULES,
        clock: Callable[[], float] = time.time,
        make_judge: MakeJudge = rules.Judge,
        pace: Pace | None = None,
    ) -> None:
        self._keepers: list[Keeper] = [
            sink if isinstance(sink, Keeper) else Teller(sink, told) for sink in sinks
        ]
        self._told, self._rows, self._expect, self._clock = told, rows, expect, clock
        self._default_rules, self._make_judge = tuple(default_rules), make_judge
        self._pace = pace or Pace()
        self._state = {keeper.id: State() for keeper in self._keepers}
        self._workers: dict[str, Worker] = {}
        self._judge: rules.Judge | None = None
        self._holding: rules.Conditions = {}

    def start(self) -> None:
        """Begin, or begin anew after stop().

        Raises:
            SluiceError, OSError: what was told before cannot be read. Nothing was begun.
        """
        self._told.load(self._state)
        self._judge = self._make_judge(self._default_rules, self._told.levels)
        self._holding = {}
        self._workers = {
            keeper.id: Worker(keeper, self._state[keeper.id], self._pace, self._clock)
            for keeper in self._keepers
        }
        for worker in self._workers.values():
            worker.start()

    def look(self, now: float) -> None:
        """Judge what holds now and have it told; nothing between stop() and start(). Quick.

        Args:
            now: epoch seconds.
        """
        if self._judge is None:
            return
        before, self._holding = (
            self._holding,
            self._judge.judge(self._rows(now), self._expect, now),
        )
        is_fresh = self._holding != before
        for worker in self._workers.values():
            worker.show(self._holding, is_fresh=is_fresh)

    def stop(self, timeout_s: float = STOP_S) -> None:
        """End all workers, and wait so long for attempts at hand; there are no further ones."""
        self._judge = None
        workers, self._workers = self._workers, {}
        for worker in workers.values():
            worker.stop()
        deadline = time.monotonic() + timeout_s
        left = [sink for sink, worker in workers.items() if not worker.join(deadline)]
        if left:
            log.warning("left behind, for they do not answer: %s", ", ".join(left))

    def health(self) -> list[dict[str, object]]:
        """Every sink's part of /api/health."""
        workers = self._workers
        return [
            {
                "sink": keeper.label,
                "id": keeper.id,
                "waiting": workers[keeper.id].waiting() if keeper.id in workers else 0,
                **self._state[keeper.id].as_json(),
            }
            for keeper in self._keepers
        ]

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The series of /metrics."""
        attempts = CounterMetricFamily(
            "tco_notifications",
            "Attempts to tell a sink, by result: sent or failed.",
            labels=["sink", "result"],
        )
        failing = GaugeMetricFamily(
            "tco_notification_failures", "Attempts that failed since the last that did not.",
            labels=["sink"],
        )  # fmt: skip
        for sink, state in self._state.items():
            attempts.add_metric([sink, "sent"], state.sent)
            attempts.add_metric([sink, "failed"], state.failed)
            failing.add_metric([sink], state.failures)
        yield attempts
        yield failing
