"""`sluice agent`: the DaemonSet's process. Budgets from the API server, usage to it.

    informer ─► Budgets ─► gate's table          Reporter ─► NodeLogUsage/<node>
        └─────► Elsewhere ─► ledger's room  ◄────────┘ which reports arrived

Pushes wait for none of it: what was last seen is saved and counts until something newer comes.

Threads: the informer's, the reporter's, the housekeeper's, and those that answer requests.
"""

import logging
import os
import signal
import socket
import threading
import time
import uuid

from sluice import api, budget, jsonfile, port, settings, usage
from sluice.agent import budgets, elsewhere, intake, notice, report, saved, series, serve, service
from sluice.kube import client, informer
from sluice.table import SYSTEM_NAMESPACE

log = logging.getLogger("sluice.agent")

# A limit that changed is in force within a second; this is most of it.
TICK_S = 0.1
LOOK_S = 1.0
SAVE_S = 10.0
# Within what serve.STOP_WAIT_S leaves after pushes in flight.
JOIN_S, FINAL_S = 2.0, 3.0
RETRY_S = 5.0
# For how long reports may be forbidden before the agent is not ready; never above --stale-after.
FORBIDDEN_S = 120.0
# Of --stale-after: when a watch on which nothing happens is renewed.
RENEWED = (0.5, 0.8)


class Daemon(service.Service):
    """Everything behind the HTTP of `sluice agent`.

    Raises:
        CannotStart: the state directory is not usable, or the node has no name.
        NoCluster: there are no credentials for an API server.
    """

    def __init__(self, options: settings.Agent) -> None:
        self._api = client.connect(options.kubeconfig, options.context, user_agent="sluice-agent")
        identity = self._api.identity()
        self._node = options.node_name or identity.node
        if not self._node:
            raise port.CannotStart(
                "the token names no node: give --node-name, from spec.nodeName of the pod"
            )
        self._options = options
        self._instance = identity.pod_uid or str(uuid.uuid4())
        self._others = elsewhere.Elsewhere()
        self._budgets = budgets.Budgets(self._others, grace=options.budgets_grace)
        super().__init__(
            options,
            None,
            room=self._others.room,
            system_namespace=options.system_namespace or identity.namespace or SYSTEM_NAMESPACE,
            tick_s=TICK_S,
        )
        # Not before a table is loaded: a cluster that cannot be asked must not cost its logs.
        self._drop_unbudgeted, self.ledger.drop_unbudgeted = self.ledger.drop_unbudgeted, False
        self._table = options.state_dir / "table.json"
        self.status.not_ready = "no budgets are known yet"
        self._resume()
        self._attach()

    def _resume(self) -> None:
        """Begin with the table of an earlier process, if there is one."""
        table = jsonfile.read(self._table)
        self._has_resumed = False
        try:
            self._budgets.load(table)
            self._others.load(table["elsewhere"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if table:
                log.warning("%s is left out: %r", self._table, error)
            return
        self._has_resumed = True
        log.info("%d budgets from the last run", len(self._budgets))
        self._load(self._budgets.all())

    def _attach(self) -> None:
        """Make what talks to the API server; nothing is said to it yet."""
        options = self._options
        self._reporter = report.Reporter(
            self._api,
            self.ledger,
            self._others,
            saved.Reported(options.state_dir / "report.json", self.status.state),
            node=self._node,
            instance=self._instance,
            settings=options.pace,
            clock=time.time,
            monotonic=time.monotonic,
        )
        # In touch well within the time after which it would count as cut off.
        least, most = (max(1, round(options.stale_after * share)) for share in RENEWED)
        rhythm = informer.Pace(renew_min_s=min(100, least), renew_max_s=min(160, most))
        self._informer = informer.Informer(
            self._api, "teambudgets", self._budgets.handle, pace=rhythm
        )
        self._has_synced = False
        self._is_behind = self._has_resumed and bool(self.status.not_ready)
        self._vanished = ""
        self._has_told_forbidden = False
        self._saved: dict[str, object] = {}
        self._stopping = threading.Event()
        self._reports = threading.Thread(target=self._report, name="reports", daemon=True)
        self.status.parts["cluster"] = self._health
        self.status.complaints["cluster"] = lambda: (
            self._budgets.complaint() or self._may_not_report()
        )
        self.status.waits_for = self._may_not_report
        self.source = api.Source(lambda now: usage.rows(self.ledger, now, self._others))
        self.is_node = True
        self.collectors = [
            series.ClusterCollector(self._informer, self._reporter, self._others, self._budgets)
        ]

    def start(self) -> intake.Intake:
        """Begin to watch, to report and to keep house; returns what to serve. In the worker."""
        self._started_at = time.monotonic()
        self.chores.add(TICK_S, self._follow)
        self.chores.add(LOOK_S, self._look)
        self.chores.add(LOOK_S, self._tell_forbidden)
        self.chores.add(SAVE_S, self._save)
        self.chores.add(SAVE_S, self._watch_ca)
        self._informer.start()
        self._reports.start()
        return super().start()

    # budgets come down

    def _follow(self) -> None:
        """Have the gate follow what the informer has brought."""
        if self._informer.synced.is_set() and not self._has_synced:
            self._budgets.settle()
            self._has_synced = self._is_behind = True
        # Before they are taken: not for a moment may all be gone.
        self._budgets.look(is_missing=self._informer.is_missing)
        self._say_what_vanished()
        if self._has_synced or self._has_resumed:
            if self._budgets.take() is not None:
                self._is_behind = True
            if self._is_behind:
                # Until they are in force: a disk that is full now may not be so in a moment.
                self._is_behind = not self._load(self._budgets.all())
            problems = self._budgets.problems()
            if problems != self.status.problems:
                for problem in problems:
                    if problem not in self.status.problems:
                        log.warning("%s: %s", problem["budget"], problem["error"])
                self.status.problems = problems
        elif self.status.not_ready:
            self._wait_for_table()
        self.ledger.redraw(self._others.changed())

    def _say_what_vanished(self) -> None:
        """Log once that budgets are missing in the cluster, and once that it is over."""
        words, before = self._budgets.complaint(), self._vanished
        self._vanished = words
        if words and not before:
            log.error("%s", words)
        elif before and not words:
            log.warning("budgets in force are those of the cluster again: %d", len(self._budgets))

    def _load(self, found: list[budget.Budget]) -> bool:
        self.ledger.drop_unbudgeted = self._drop_unbudgeted
        if not self.enforce(found):
            return False
        self.status.not_ready = ""
        self.status.reloads["applied"] += 1
        log.info("%d budgets in force", len(found))
        return True

    def _wait_for_table(self) -> None:
        """With neither a saved table nor the API server, let everything pass after a while."""
        if time.monotonic() - self._started_at < self._options.start_grace:
            return
        if not self.enforce([]):
            return
        self.status.not_ready = ""
        text = f"no budgets were seen in {self._options.start_grace:g} s: everything passes"
        self.status.problems = [{"budget": "", "error": text}]
        log.error("%s", text)

    # usage comes up

    def _report(self) -> None:
        while not self._stopping.is_set():
            try:
                self._reporter.run(self._stopping)
            except Exception:
                # The outermost loop of this thread: nobody would notice its end.
                log.exception("reporting failed")
                self._stopping.wait(RETRY_S)

    def _may_not_report(self) -> str:
        """Why this agent is not ready: it would enforce limits for itself alone, unseen."""
        # From the first answer to the last: an API server that starts says 403 for a moment, and
        # the next try may come after the grace.
        forbidden_s = self._reporter.forbidden_s
        if forbidden_s is None or forbidden_s < min(FORBIDDEN_S, self._options.pace.stale):
            return ""
        return f"this agent may not report what it counts: {self._reporter.complaint}"

    def _tell_forbidden(self) -> None:
        """Make an Event, once, of an agent that may not report."""
        why = self._may_not_report()
        if why and not self._has_told_forbidden:
            self._has_told_forbidden = True
            log.error("%s", why)
            # Not in this thread: budgets are followed here.
            threading.Thread(target=self._make_event, args=(why,), daemon=True).start()

    def _make_event(self, why: str) -> None:
        identity = self._api.identity()
        namespace = identity.namespace or self._options.system_namespace or SYSTEM_NAMESPACE
        pod, uid = socket.gethostname().lower(), identity.pod_uid
        event = notice.may_not_report(pod, uid, namespace, self._node, why, time.time())
        try:
            self._api.create_event(namespace, event)
        except client.ApiError as error:
            # The readiness, the log and a metric say the same.
            log.warning("no Event of it: %s", error.message)

    def _end(self) -> None:
        """Have the supervisor end this process as SIGTERM does."""
        os.kill(os.getppid(), signal.SIGTERM)

    def _look(self) -> None:
        """Turn the windows, and see whether what is known of the cluster can be trusted."""
        if self.ledger.rules is None:
            return
        self.ledger.rules_at(time.time())
        now, settings_ = time.monotonic(), self._options.pace
        heard = (self._informer.last_contact, self._reporter.acknowledged_at, self._started_at)
        keys = frozenset(own.key for own in self.ledger.rules.table.budgets)
        if now - max(at for at in heard if at is not None) <= settings_.stale:
            nodes = self._others.most_nodes()
            wait = settings_.stale + settings_.heartbeat_for(len(keys), nodes)
            keys &= self._reporter.uncovered(now, wait)
        if len(keys) != len(self._others.stale):
            log.warning("usage of the cluster is stale for %d teams: onStale applies", len(keys))
        self._others.distrust(keys)

    def _watch_ca(self) -> None:
        if self._api.ca_changed():
            log.warning("the cluster's certificates have changed: starting anew")
            self._end()

    def _health(self) -> dict[str, object]:
        at, now = self._informer.last_contact, time.monotonic()
        reported = self._reporter.acknowledged_at
        return {
            "node": self._node,
            "object": self._reporter.name,
            "synced": self._informer.synced.is_set(),
            "lastContactSeconds": None if at is None else round(now - at, 1),
            "lastReportSeconds": None if reported is None else round(now - reported, 1),
            "reportProblem": self._reporter.complaint,
            "staleTeams": len(self._others.stale),
        }

    def _save(self) -> None:
        """Save the table, if it is another than the one saved."""
        if not (self._has_synced or self._has_resumed):
            return
        table: dict[str, object] = {**self._budgets.dump(), "elsewhere": self._others.dump()}
        # Again, too, where the whole directory was removed.
        if table != self._saved or not self._table.exists():
            with self.status.state.writing(self._table):
                jsonfile.write(self._table, table)
                self._saved = table

    def stop(self) -> None:
        """Report for the last time, and write everything down. After the last answer."""
        self._stopping.set()
        self._informer.stop()
        self.chores.stop()
        if self._reports.is_alive():
            self._reports.join(timeout=JOIN_S)
        if not self._reports.is_alive():
            last = threading.Thread(target=self._reporter.final, name="final", daemon=True)
            last.start()
            last.join(timeout=FINAL_S)
        self._save()
        super().stop()


def run(options: settings.Agent, log_config: dict[str, object]) -> None:
    """Run until told to stop."""
    serve.end_on_signals()
    daemon = Daemon(options)
    log.info(
        "enforcing the cluster's budgets in front of %s on %s", options.upstream, options.listen
    )
    daemon.serve(log_config)
