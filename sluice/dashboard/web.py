"""The dashboard with all that it shows, as `run` and `sluice dashboard` both have it.

rows ─► forecasts, every FORECAST_S ─┐
  └───► history, every minute ───────┴─► pages and API
"""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from prometheus_client.registry import Collector

from sluice import api, auth, chores, forecast, jsonfile, records, settings, usage
from sluice.dashboard import app, history, prometheus, server
from sluice.dashboard.counted import Kept

log = logging.getLogger("sluice.dashboard")

FORECAST_S = 5.0
LOOK_S, MINUTE_S = 1.0, 60
SAVE_S = 300.0


class Options(Protocol):
    """The settings that Web goes by, see settings.Run and settings.Dashboard."""

    @property
    def state_dir(self) -> Path: ...
    @property
    def prometheus_url(self) -> str | None: ...
    @property
    def cost_per_gib(self) -> float | None: ...
    @property
    def currency(self) -> str: ...
    @property
    def auth(self) -> auth.Auth: ...


class Web:
    """History, forecasts and pages.

    Args:
        rows: every team's row at a moment.
        sizes: usage.Apps.sizes, where places are counted in this process.
        kept: what the ledger still has of days that ended, where there is one.
        collectors: further series of /metrics.
        past: what is kept elsewhere, given what is kept here and by Prometheus, if there is one.

    Raises:
        CannotStart: the port is not usable, or who may look cannot be found out.

    Threads: start() and stop() are called by one.
    """

    def __init__(
        self,
        rows: Callable[[float], list[usage.Row]],
        options: Options,
        listen: settings.Address,
        status: api.Status,
        *,
        sizes: Callable[[], usage.Sizes] | None = None,
        kept: Kept | None = None,
        past: Callable[[history.History, records.Records | None], records.Records],
        clock: Callable[[], float] = time.time,
        collectors: Iterable[Collector] = (),
    ) -> None:
        self._rows, self._sizes, self._kept, self._clock = rows, sizes, kept, clock
        self._status = status
        self._forecasts = options.state_dir / "forecast.json"
        self.outlooks = forecast.Outlooks()
        self._resume()
        self.history = history.History(options.state_dir / "history.db", state=status.state)
        remote = prometheus.Prometheus(options.prometheus_url) if options.prometheus_url else None
        self.source = api.Source(
            rows, self.outlooks, past(self.history, remote), options.cost_per_gib
        )
        made = app.create_app(
            self.source,
            status,
            guard=options.auth,
            clock=clock,
            currency=options.currency,
            collectors=collectors,
        )
        self._server = server.Server(made, listen)
        self._minute = int(clock() // MINUTE_S)
        # Its own: a slow disk must hold up nothing else.
        self._chores = chores.Chores(LOOK_S)
        self._chores.add(FORECAST_S, self._observe)
        self._chores.add(LOOK_S, self._look)
        self._chores.add(SAVE_S, self._save)

    def start(self) -> None:
        """Begin to serve, and to keep what is shown up to date."""
        self._observe()
        # A first row: what is added from here on is known to the minute.
        self._record()
        self._chores.start()
        self._server.start()

    def stop(self) -> None:
        """End, and write down what is known."""
        self._server.stop()
        self._chores.stop()
        self._record()
        self._save()
        self.history.close()

    def _resume(self) -> None:
        found = jsonfile.read(self._forecasts)
        try:
            self.outlooks.load(found)
        except (TypeError, ValueError, AttributeError) as error:
            log.warning("%s is left out: %r", self._forecasts, error)

    def _is_known(self) -> bool:
        """Whether teams are known: before, what was learned of them would be forgotten."""
        return not self._status.waits_for()

    def _observe(self) -> None:
        if self._is_known():
            self.outlooks.observe(chores.paced(self._rows(self._clock())))

    def _look(self) -> None:
        minute = int(self._clock() // MINUTE_S)
        if minute != self._minute:
            self._minute = minute
            self._record()

    def _record(self) -> None:
        if not self._is_known():
            return
        now = self._clock()
        sizes = self._sizes() if self._sizes is not None else None
        self.history.record(self._rows(now), now, sizes=sizes, kept=self._kept)

    def _save(self) -> None:
        with self._status.state.writing(self._forecasts):
            jsonfile.write(self._forecasts, self.outlooks.dump())
