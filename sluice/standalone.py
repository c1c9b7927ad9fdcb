"""`sluice run`: agent, windows and API in one process without a cluster, budgets from files."""

import dataclasses
import logging

import flask

from sluice import settings, watch
from sluice.agent import serve, service

log = logging.getLogger("sluice")

TICK_S = 1.0


class Standalone(service.Service):
    """Everything behind the HTTP of `sluice run`.

    Raises:
        BadBudget: no budget can be read. CannotStart: the state directory is not usable.
    """

    def __init__(self, options: settings.Run) -> None:
        self._files = watch.BudgetFiles(options.budgets)
        reading = self._files.read(first=True)
        super().__init__(options, reading.budgets, tick_s=TICK_S)
        self._note(reading)
        self._is_behind = False

    def start(self) -> flask.Flask:
        """Begin to keep house; returns what to serve. In the worker."""
        self.chores.add(TICK_S, self._reload)
        return super().start()

    def _reload(self) -> None:
        reading = self._files.read()
        if not (reading.changed or self._is_behind):
            return
        # Until they are in force: a disk that is full now may not be so in a second.
        self._is_behind = True
        self.gate.load(reading.budgets)
        self._is_behind = False
        self._note(reading)
        log.info("budgets read anew: %d in force", len(reading.budgets))

    def _note(self, reading: watch.Reading) -> None:
        """Say what was wrong with the budgets: in the log, in /api/health, in the metrics."""
        known = self.status.problems
        self.status.problems = [dataclasses.asdict(problem) for problem in reading.problems]
        for problem in reading.problems:
            if dataclasses.asdict(problem) not in known:
                log.warning("budget refused: %s", problem)
        self.status.reloads["refused" if reading.problems else "applied"] += 1


def run(options: settings.Run, log_config: dict[str, object]) -> None:
    """Run until told to stop."""
    serve.end_on_signals()
    running = Standalone(options)
    log.info(
        "enforcing %s in front of %s; push to http://%s/loki/api/v1/push",
        options.budgets,
        options.upstream,
        options.listen,
    )
    running.serve(log_config)
