"""What every process that takes pushes is made of: state directory, ledger, gate, upstream.

Built in the supervisor, so that mistakes end with exit code 2; alive in the worker, which start()
and stop() run in.
"""

import contextlib
import errno
import logging
import math
import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import replace

from prometheus_client.registry import Collector

from sluice import (
    api,
    budget,
    chores,
    columns,
    errors,
    gate,
    ledger,
    ledger_file,
    metrics,
    port,
    settings,
    usage,
)
from sluice.agent import (
    answer,
    app,
    certificates,
    destination,
    intake,
    reconcile,
    serve,
    upstream,
)

log = logging.getLogger("sluice")

SNAPSHOT_S = 10.0
# How often certificates are looked at while no connection is made.
FILES_S = 10.0
LOOK_S = 1.0
# Budgets that could not be put in force are tried again after so long.
RETRY_S = 5.0


class Service:
    """The parts of `sluice run` and `sluice agent`.

    Args:
        budgets: what to enforce from the first push on; None: not known yet.
        room: what this node may count of each budget.
        system_namespace: see gate.Gate.
        tick_s: how often chores may run.

    Raises:
        BadToken: nobody could show the one of --auth. CannotStart: the state directory or the port
            is not usable.
    """

    def __init__(
        self,
        options: settings.Serving,
        budgets: Iterable[budget.Budget] | None,
        *,
        room: ledger.Room = ledger.alone,
        system_namespace: str | None = None,
        tick_s: float,
    ) -> None:
        options.auth.check()
        self.status = api.Status()
        # Held open for as long as this process and its worker live.
        self._lock = serve.locked(options.state_dir)
        options = replace(options, listen=port.taken(options.listen))
        self.options = options
        try:
            rows = ledger_file.FileRows(options.state_dir, columns.COLUMNS)
            self.ledger = ledger.Ledger(
                rows, drop_unbudgeted=options.unbudgeted == "drop", room=room
            )
            # Loads the budgets, each of which gets a row of the file.
            self.gate = gate.Gate(
                budgets,
                self.ledger,
                max_decoded=options.max_decoded,
                max_memory=options.max_memory,
                namespace_labels=options.namespace_label,
                exempt_loki_streams=options.exempt_loki_streams,
                system_namespace=system_namespace,
            )
        except OSError as error:
            raise port.CannotStart(
                f"state directory {options.state_dir}: {error.strerror or error}"
            ) from error
        ca, cert, key = files = [
            str(file) if file else None
            for file in (options.upstream_ca, options.upstream_cert, options.upstream_key)
        ]
        self.upstream = upstream.Upstream(
            options.upstream,
            timeout=options.upstream_timeout,
            headers=dict(options.upstream_header),
            ca=ca,
            cert=cert,
            key=key,
            proxy=options.upstream_proxy,
        )
        self.upstream.check_apart(options.listen)
        self._map = options.state_dir / "ledger.map"
        self.chores = chores.Chores(tick_s)
        # Set before start(), where there is more to show; see app.create_app().
        self.source = api.Source(lambda now: usage.rows(self.ledger, now))
        self.is_node = False
        self.collectors: list[Collector] = []
        # Why the newest budgets are not in force, "" if they are.
        self._refusal, self._retry_at = "", -math.inf
        self.status.more_problems = self._refusals
        self.settled = metrics.SettledBytes(answer.Settlement)
        page, proxy = options.upstream_metrics or "", options.upstream_metrics_proxy
        self.reconciliation = reconcile.Reconciliation(
            self.settled.sums,
            url=options.upstream_metrics,
            tenants=options.upstream_tenant,
            tls=certificates.Certificates(*files) if page.startswith("https:") else None,
            proxy=destination.Proxy.parse(proxy) if proxy else None,
        )

    def start(self) -> intake.Intake:
        """Begin to keep house; returns what to serve. In the worker."""
        book, parts = self.ledger, self.status.parts
        if book.complaint:
            log.warning("not all of the ledger's file could be used: %s", book.complaint)
        log.info("usage comes from: %s", book.origin)
        self.status.complaints["ledger"] = lambda: book.complaint
        parts["ledger"] = lambda: {"origin": book.origin, "complaint": book.complaint}
        parts["budgets"] = lambda: 0 if book.rules is None else len(book.rules.table.budgets)
        parts["upstream"] = self.upstream.as_json
        self.status.complaints["upstream"] = lambda: self.upstream.complaint
        log.info("listening on %s", self.options.listen)
        self.upstream.announce()
        self.chores.add(FILES_S, self.upstream.look_at_files)
        parts["reconciliation"] = self.reconciliation.as_json
        self.status.complaints["reconciliation"] = lambda: self.reconciliation.trouble
        self.reconciliation.start()
        clock = chores.ClockWatch(time.time, time.monotonic)
        self.chores.add(1.0, lambda: clock.look(self.status))
        self.chores.add(usage.TURN_S, self.gate.apps.turn)
        self.chores.add(LOOK_S, self._look_at_ledger)
        self.chores.add(SNAPSHOT_S, self._save_ledger)
        self.chores.start()
        loki = urllib.parse.urlsplit(self.upstream.url)
        made = app.create_app(
            self.gate,
            self.upstream,
            max_body=self.options.max_body,
            max_in_flight=self.options.max_in_flight,
            threads=self.options.threads,
            status=self.status,
            source=self.source,
            is_node=self.is_node,
            collectors=[*self.collectors, self.reconciliation, self.upstream.state],
            settled=self.settled,
            guard=self.options.auth,
            evaluates=self.options.evaluate,
            upstream_url=f"{loki.scheme}://{loki.netloc}",
            port=self.options.listen.port,
        )
        return made.intake

    def enforce(self, budgets: Iterable[budget.Budget]) -> bool:
        """Put budgets in force; says whether it was done.

        Where it cannot be done (more keys than the ledger has rows, a full disk), those of before
        stay in force, log and health say so, and a call some seconds later tries again.
        """
        if time.monotonic() < self._retry_at:
            return False
        try:
            self.gate.load(budgets)
        except (errors.SluiceError, OSError) as error:
            words = f"the budgets as they are now are not in force: {error}"
            if words != self._refusal:
                log.error("%s; those of before stay, and it is tried again", words)
                self.status.reloads["refused"] += 1
            self._refusal, self._retry_at = words, time.monotonic() + RETRY_S
            return False
        self._refusal, self._retry_at = "", -math.inf
        return True

    def _refusals(self) -> list[dict[str, object]]:
        return [{"budget": "", "error": self._refusal}] if self._refusal else []

    def _look_at_ledger(self) -> None:
        """Say at once that the ledger's file is gone; the next snapshot makes it again."""
        with self.status.state.writing(self._map):
            if self.ledger.is_gone:
                raise FileNotFoundError(errno.ENOENT, "it was removed or replaced")

    def _is_ledger_gone(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ledger.is_gone
        # What is wrong is said by the one who writes.
        return False

    def _save_ledger(self, *, at_once: bool = False) -> None:
        """Write a snapshot, and the file where it is gone.

        Args:
            at_once: do not wait until it has been said that the file is gone.
        """
        state = self.status.state
        if self._is_ledger_gone() and not state.reason(self._map.name) and not at_once:
            return
        with state.writing(self._map.with_suffix(".snapshot")):
            try:
                self._lock = serve.kept(self.options.state_dir, self._lock)
            except port.CannotStart as error:
                raise OSError(str(error)) from error
            self.ledger.save()

    def give_up(self) -> None:
        """End pushes that still wait for upstream, as without an answer. In the worker."""
        self.upstream.give_up()

    def stop(self) -> None:
        """Write everything down. In the worker, after the last answer."""
        self.chores.stop()
        self._save_ledger(at_once=True)
        is_gone = self._is_ledger_gone()
        reason = self.status.state.reason(self._map.with_suffix(".snapshot").name)
        try:
            self.ledger.close()
        except OSError as error:
            reason = reason or error.strerror or str(error)
        if is_gone:
            log.error("stopped; the ledger is lost, its file is gone: %s", reason)
        elif reason:
            log.error("stopped; the ledger is written, but no snapshot of it: %s", reason)
        else:
            log.info("stopped; the ledger is written")

    def serve(self, log_config: dict[str, object]) -> None:
        """Serve until told to stop."""
        serve.serve(
            self,
            self.options.listen,
            threads=intake.threads_for(self.options.threads, self.options.max_in_flight),
            log_config=log_config,
        )
