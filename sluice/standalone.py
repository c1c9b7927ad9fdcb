"""`sluice run`: agent, windows, notifier, API and dashboard in one process without a cluster.

Budgets come from files; all but granian's supervisor live in its one worker, the dashboard's port
too.
"""

import dataclasses
import logging
import time

from sluice import chores, port, records, settings, usage, watch
from sluice.agent import intake, serve, service
from sluice.dashboard import history, web
from sluice.notify import notifier, sinks, told

log = logging.getLogger("sluice")

TICK_S = 1.0
# Names of files that are not read, in one line of the log.
LEFT_OUT_SHOWN = 10
# Sinks that are being told when all ends; they must not take the time of what comes after.
SINKS_S = 0.5


class Standalone(service.Service):
    """Everything behind the HTTP of `sluice run`.

    Raises:
        BadBudget: no budget can be read. BadRequest: a sink is none that anybody can reach.
        CannotStart: the state directory or a port is not usable.
    """

    def __init__(self, options: settings.Run) -> None:
        self._files = watch.BudgetFiles(options.budgets)
        reading = self._files.read(first=True)
        check_apart(options.listen, options.dashboard_listen)
        super().__init__(options, reading.budgets, tick_s=TICK_S)
        pages = port.taken(options.dashboard_listen)
        self._options = dataclasses.replace(options, dashboard_listen=pages)
        self._sinks = sinks.open_all(options.notify, options.dashboard_url)
        self._told = told.Told(
            told.FileStore(options.state_dir / "notified.json", time.time(), self.status.state)
        )
        self._web: web.Web | None = None
        self._notifier: notifier.Notifier | None = None
        self._note(reading)
        if left_out := watch.left_out(options.budgets):
            log.warning(
                "%s: only *.yaml and *.yml files are read; left out: %s",
                watch.printable(options.budgets),
                ", ".join(left_out[:LEFT_OUT_SHOWN]),
            )
        self._is_behind = False

    @property
    def dashboard_listen(self) -> settings.Address:
        """Where the dashboard is; its port is never 0."""
        return self._options.dashboard_listen

    def start(self) -> intake.Intake:
        """Begin to keep house; returns what to serve. In the worker."""

        def rows(now: float) -> list[usage.Row]:
            return usage.rows(self.ledger, now)

        self._web = web.Web(
            rows,
            self._options,
            self._options.dashboard_listen,
            self.status,
            sizes=self.gate.apps.sizes,
            kept=self.ledger.record,
            past=past,
        )
        self.source = self._web.source
        self._notifier = teller = notifier.Notifier(
            [sinks.Recorder(self._web.history.note), *self._sinks],
            self._told,
            rows=lambda now: chores.paced(rows(now)),
            expect=self._web.outlooks.of,
            default_rules=self._options.notify_on,
        )
        teller.start()
        self.status.parts["notifications"] = teller.health
        self.collectors = [teller]
        self.chores.add(TICK_S, lambda: teller.look(time.time()))
        self.chores.add(TICK_S, self._reload)
        self._web.start()
        return super().start()

    def stop(self) -> None:
        """Write everything down. In the worker, after the last answer."""
        self.chores.stop()
        # First of all: a sink that hangs, or a disk, must not cost it. Where it fails, the end of
        # all tries again, and says so.
        self._save_ledger(at_once=True)
        try:
            if self._notifier is not None:
                self._notifier.stop(SINKS_S)
            if self._web is not None:
                self._web.stop()
        finally:
            super().stop()

    def _reload(self) -> None:
        reading = self._files.read()
        if not (reading.changed or self._is_behind):
            return
        if reading.changed:
            self._note(reading)
        # Until they are in force: a disk that is full now may not be so in a second.
        self._is_behind = not self.enforce(reading.budgets)
        if not self._is_behind:
            log.info("budgets read again: %d in force", len(reading.budgets))

    def _note(self, reading: watch.Reading) -> None:
        """Say what was wrong with the budgets: in the log, in /api/health, in the metrics."""
        known = self.status.problems
        self.status.problems = [dataclasses.asdict(problem) for problem in reading.problems]
        for problem in reading.problems:
            if dataclasses.asdict(problem) not in known:
                log.warning("budget refused: %s", problem)
        self.status.reloads["refused" if reading.problems else "applied"] += 1


def check_apart(listen: settings.Address, pages: settings.Address) -> None:
    """See that two servers are not to have one port: each would find it free.

    Raises:
        CannotStart: they are.
    """
    hosts = {port.numeric(one.host, one.port) for one in (listen, pages)}
    if listen.port == pages.port != 0 and (len(hosts) == 1 or hosts & {"0.0.0.0", "::"}):
        raise port.CannotStart(
            f"--listen {listen} and --dashboard-listen {pages}: one port for two"
        )


def past(own: history.History, remote: records.Records | None) -> records.Records:
    """What `run` knows of the past: its own history, or Prometheus'; events are its own."""
    if remote is None:
        return own
    return records.Together(history=remote, top=remote, events=own)


def run(options: settings.Run, log_config: dict[str, object]) -> None:
    """Run until told to stop."""
    serve.end_on_signals()
    running = Standalone(options)
    log.info(
        "enforcing %s in front of %s; push to http://%s/loki/api/v1/push, dashboard on http://%s/",
        options.budgets,
        options.upstream,
        running.options.listen,
        running.dashboard_listen,
    )
    running.serve(log_config)
