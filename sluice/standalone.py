"""`sluice run`: agent, windows and API in one process without a cluster, budgets from files."""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable

import flask

from sluice import api, columns, gate, ledger, ledger_file, settings, watch
from sluice.agent import app, serve, upstream

log = logging.getLogger("sluice")

TICK_S = 1.0
SNAPSHOT_S = 10.0
# A step of the wall clock that is worth a line in the log.
CLOCK_STEP_S = 60.0


class Standalone:
    """Everything behind the HTTP of `sluice run`: built in the supervisor, alive in the worker.

    Raises:
        BadBudget: no budget can be read. CannotStart: the state directory is not usable.
    """

    def __init__(self, options: settings.Run) -> None:
        self._options = options
        self._files = watch.BudgetFiles(options.budgets)
        reading = self._files.read(first=True)
        self.status = api.Status()
        # Held open for as long as this process and its worker live.
        self._lock = serve.locked(options.state_dir)
        serve.check_port(options.listen.host, options.listen.port)
        try:
            rows = ledger_file.FileRows(options.state_dir, columns.COLUMNS)
        except OSError as error:
            raise serve.CannotStart(
                f"state directory {options.state_dir}: {error.strerror or error}"
            ) from error
        self._ledger = ledger.Ledger(rows, drop_unbudgeted=options.unbudgeted == "drop")
        self._gate = gate.Gate(
            reading.budgets,
            self._ledger,
            max_decoded=options.max_decoded,
            max_decoded_total=options.max_decoded_total,
            namespace_labels=options.namespace_label,
            drop_unbudgeted=options.unbudgeted == "drop",
        )
        self._upstream = upstream.Upstream(
            options.upstream,
            timeout=options.upstream_timeout,
            headers=dict(options.upstream_header),
            ca=str(options.upstream_ca) if options.upstream_ca else None,
        )
        self._note(reading)
        self._is_behind = False
        self._stopping = threading.Event()

    def start(self) -> flask.Flask:
        """Begin to keep house; returns what to serve. In the worker."""
        book = self._ledger
        if book.complaint:
            log.warning("the ledger's file could not be used: %s", book.complaint)
        log.info("usage comes from: %s", book.origin)
        self.status.parts["ledger"] = lambda: {"origin": book.origin, "complaint": book.complaint}
        self.status.parts["budgets"] = lambda: len(book.rows().table.budgets)
        self.status.parts["upstream"] = lambda: {"url": self._upstream.url}
        self._keeper = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)
        self._keeper.start()
        return app.create_app(
            self._gate,
            self._upstream,
            max_body=self._options.max_body,
            max_in_flight=self._options.max_in_flight,
            status=self.status,
        )

    def stop(self) -> None:
        """Write everything down. In the worker, after the last answer."""
        self._stopping.set()
        self._keeper.join()
        self._ledger.close()
        log.info("stopped; the ledger is written")

    def _keep_house(self) -> None:
        """Once a second: budgets, clock; every ten: a snapshot."""
        clock = ClockWatch(time.time, time.monotonic)
        saved_at = time.monotonic()
        while not self._stopping.wait(TICK_S):
            for chore in (self._reload, lambda: self._watch_clock(clock)):
                self._do(chore)
            if time.monotonic() - saved_at >= SNAPSHOT_S:
                saved_at = time.monotonic()
                self._do(self._ledger.save)

    def _do(self, chore: Callable[[], object]) -> None:
        """Run a chore; one that fails must not end the others."""
        try:
            chore()
        except Exception:
            log.exception("housekeeping failed")

    def _reload(self) -> None:
        reading = self._files.read()
        if not (reading.changed or self._is_behind):
            return
        # Until they are in force: a disk that is full now may not be so in a second.
        self._is_behind = True
        self._gate.load(reading.budgets)
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

    def _watch_clock(self, clock: "ClockWatch") -> None:
        step = clock.step()
        if abs(step) > CLOCK_STEP_S:
            self.status.clock_steps += 1
            log.warning("the wall clock jumped by %+.0f s", step)


class ClockWatch:
    """How far the wall clock moved beyond what really passed, from one look to the next."""

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._offset = wall() - monotonic()

    def step(self) -> float:
        """Seconds, negative for a clock that was put back."""
        offset = self._wall() - self._monotonic()
        step, self._offset = offset - self._offset, offset
        return step


def run(options: settings.Run, log_config: dict[str, object]) -> None:
    """Run until told to stop."""
    serve.end_on_signals()
    service = Standalone(options)
    log.info(
        "enforcing %s in front of %s; push to http://%s/loki/api/v1/push",
        options.budgets,
        options.upstream,
        options.listen,
    )
    serve.serve(
        service,
        options.listen.host,
        options.listen.port,
        threads=options.threads,
        log_config=log_config,
    )
