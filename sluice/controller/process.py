"""`sluice controller`: informers, the election, the loop, and a small HTTP server. One process.

    informers ─► Loop.on_...      election ─► Loop.tick, while leading      waitress ─► app

A leader that cannot renew its lease ends at once; the other replica, or the next start, takes
over. What it needs to know stands in the objects.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time

from sluice import api, chores, http_server, settings
from sluice.controller import app, fleet, fold, loop, notices, totals
from sluice.kube import client, informer, lease
from sluice.table import SYSTEM_NAMESPACE

log = logging.getLogger("sluice.controller")

LEASE = "sluice-controller"
THREADS = 8
# client-go's proportions: a leader gives up after two thirds, and asks every seventh of a lease.
DEADLINE, RETRY = 2 / 3, 2 / 15
STOP_S, NOTICES_S = 8.0, 4.0
CA_EVERY_S, LOOK_S = 10.0, 0.5


class Controller:
    """The process.

    Raises:
        NoCluster: there are no credentials for an API server. CannotStart: the port is taken.
        BadToken: nobody could show the one of --auth. BadRequest: a sink is none.
    """

    def __init__(self, options: settings.Controller) -> None:
        options.auth.check()
        self._api = client.connect(options.kubeconfig, options.context, user_agent=LEASE)
        home = options.system_namespace or self._api.identity().namespace or SYSTEM_NAMESPACE
        identity = f"{socket.gethostname()}_{os.getpid()}"
        self._loop = loop.Loop(
            self._api,
            fleet.Fleet(home, options.namespace_label),
            options.pace,
            identity=identity,
            seen=lambda: None if self._usages.is_listing else self._usages.revision,
            clock=time.time,
            monotonic=time.monotonic,
        )
        self._budgets = informer.Informer(self._api, "teambudgets", self._loop.on_budget)
        self._usages = informer.Informer(
            self._api, "nodelogusages", self._loop.on_node, transform=totals.Node.of
        )
        self._stopping, self._election_over = threading.Event(), threading.Event()
        lasts = options.lease_duration
        self._election = lease.Election(
            api=self._api,
            name=LEASE,
            namespace=home,
            identity=identity,
            work=self._lead,
            stopping=self._stopping,
            lease_s=lasts,
            deadline_s=lasts * DEADLINE,
            retry_s=lasts * RETRY,
        )
        self._status = api.Status()
        self._status.parts["cluster"] = self._health
        self._status.waits_for = self._not_ready
        self._status.more_problems = self._loop.problems
        self._status.complaints["folding"] = self._loop.folds.complaint
        self._status.complaints["usage"] = self._lost_usage
        self._watches = {"teambudgets": self._budgets, "nodelogusages": self._usages}
        self._notices = notices.Notices(
            self._api,
            self._loop,
            options,
            identity,
            leads=lambda: self._election.state.is_leader,
            is_whole=lambda: not self._not_ready(),
        )
        self._notices_over = threading.Event()
        self._status.parts["notifications"] = self._notices.notifier.health
        self._chores = chores.Chores(LOOK_S)
        made = app.create_app(
            self._loop,
            self._watches,
            lambda: self._election.state,
            self._status,
            api.Source(self._loop.rows, self._notices.outlooks),
            options.auth,
            [self._notices.notifier],
        )
        self._server = http_server.Server(made, options.listen, threads=THREADS, name="http")
        self._ended_well = True

    def run(self) -> int:
        """Work until told to stop; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        self._server.start()
        threading.Thread(target=self._elect, name="election", daemon=True).start()
        self._budgets.start()
        self._usages.start()
        self._notices.start(self._chores)
        self._chores.start()
        while not self._stopping.wait(CA_EVERY_S):
            if self._api.ca_changed():
                log.warning("the cluster's certificates have changed: starting anew")
                break
        self._stopping.set()
        self._chores.stop()
        self._notices.stop()
        self._notices_over.set()
        self._election_over.wait(STOP_S)
        for watch in self._watches.values():
            watch.stop()
        self._server.stop()
        log.info("stopped")
        return 0 if self._ended_well else 1

    def _elect(self) -> None:
        """Lead whenever there is nobody else, until told to stop."""
        try:
            self._election.run()
        except Exception:
            log.exception("the leader's work failed: this process ends")
            self._ended_well = False
            self._stopping.set()
        self._election_over.set()

    def _lead(self) -> None:
        while not (self._budgets.synced.is_set() and self._usages.synced.is_set()):
            # A partial sum must never be published.
            if self._stopping.wait(0.1):
                return
        self._loop.take_over()
        pause_s = loop.TICK_S
        while not self._stopping.wait(pause_s):
            began = time.monotonic()
            self._loop.tick()
            # What writing takes is part of the tick, or a slow API server would be given half.
            pause_s = max(0.0, loop.TICK_S - (time.monotonic() - began))
        # Before the lease is given back: nobody else is to tell the same.
        self._notices_over.wait(NOTICES_S)

    def _not_ready(self) -> str:
        missing = [name for name, watch in self._watches.items() if not watch.synced.is_set()]
        return f"no list of {' and '.join(missing)} yet" if missing else ""

    def _lost_usage(self) -> str:
        found = [row.budget.key for row, lost in self._loop.lost(time.time()) if lost.is_any]
        if not found:
            return ""
        return f"usage of {len(found)} budgets fell inside a window; first {found[0]}: UsageLost"

    def _health(self) -> dict[str, object]:
        state = self._election.state
        return {"leader": state.is_leader, "leaderIs": state.holder, **self._loop.gauges()}


def run(options: settings.Controller, _log_config: dict[str, object]) -> None:
    """Run until told to stop, or take the finalizers off and end."""
    if options.uninstall:
        server = client.connect(options.kubeconfig, options.context, user_agent=LEASE)
        released = fold.release_all(server)
        print(f"{released} NodeLogUsages released; they and the CRDs can be deleted now")
        return
    sys.exit(Controller(options).run())
