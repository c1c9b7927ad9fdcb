"""`sluice dashboard`: the pages and the API of a cluster, from its TeamBudgets. Read-only.

informer ─► Teams ─► Web ─► waitress
"""

import logging
import signal
import threading
import time

from sluice import api, errors, metrics, port, records, settings, usage
from sluice.dashboard import cluster, history, web
from sluice.kube import client, informer

log = logging.getLogger("sluice.dashboard")

CA_EVERY_S = 10.0
NEEDED = (
    "only Prometheus knows this on a cluster: start `sluice dashboard` with --prometheus-url,"
    " the Prometheus that scrapes Sluice's agents and controller"
)


class Dashboard:
    """The process.

    Raises:
        NoCluster: there are no credentials for an API server. CannotStart: the port is taken, or
            the state directory is not usable.
        BadToken: nobody could show the one of --auth.
    """

    def __init__(self, options: settings.Dashboard) -> None:
        options.auth.check()
        self._api = client.connect(
            options.kubeconfig, options.context, user_agent="sluice-dashboard"
        )
        self._listen = options.listen
        self._teams = cluster.Teams()
        self._watch = informer.Informer(self._api, "teambudgets", self._teams.handle)
        self._events = cluster.Events(self._api, time.monotonic)
        status = api.Status()
        status.waits_for = lambda: "" if self._watch.synced.is_set() else "no list of teambudgets"
        status.more_problems = self._teams.problems
        status.parts["cluster"] = self._health
        try:
            options.state_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise port.CannotStart(
                f"state directory {options.state_dir}: {error.strerror or error}"
            ) from error
        self._web = web.Web(
            self._rows,
            options,
            options.listen,
            status,
            past=self._past,
            collectors=[cluster.WatchCollector(self._watch), metrics.StateCollector(status)],
        )
        self._stopping = threading.Event()

    def _rows(self, now: float) -> list[usage.Row]:
        """All teams; Unavailable before they are known, for none would look like nobody."""
        if not self._watch.synced.is_set():
            raise errors.Unavailable("no list of teambudgets yet")
        return self._teams.rows(now)

    def _health(self) -> dict[str, object]:
        """How long ago the API server was heard of; None: never."""
        at = self._watch.last_contact
        return {"secondsSinceContact": None if at is None else round(time.monotonic() - at)}

    def _past(self, own: history.History, remote: records.Records | None) -> records.Records:
        top = remote or records.NotHere(NEEDED)
        return records.Together(history=remote or own, top=top, events=self._events)

    def run(self) -> None:
        """Work until told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        self._watch.start()
        self._web.start()
        log.info("serving on http://%s/", self._listen)
        while not self._stopping.wait(CA_EVERY_S):
            if self._api.ca_changed():
                log.warning("the cluster's certificates have changed: starting anew")
                break
        self._watch.stop()
        self._web.stop()
        log.info("stopped")


def run(options: settings.Dashboard, _log_config: dict[str, object]) -> None:
    """Run until told to stop."""
    Dashboard(options).run()
