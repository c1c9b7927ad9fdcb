"""Notices: the leader tells people; what they were told stands in the budgets' own status, and the
next leader goes on from there.

    Loop's rows ─► forecasts ─┬─► Notifier, while this process leads ─► sinks, Kubernetes' Events
                              └─► the API
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from sluice import chores, forecast, settings
from sluice.controller import event, fleet, loop
from sluice.kube import client
from sluice.notify import notifier, sinks, told
from sluice.notify.change import FORECAST, Change
from sluice.notify.sink import SinkFailed

log = logging.getLogger("sluice.controller")

FORECAST_S, LOOK_S = 5.0, 1.0
# Between two writes of what was told.
APART_S = 0.05
# What concerns all calls; anything else is about one object.
PASSING = (client.Unreachable, client.Throttled, client.Unauthorized)


class StatusStore:
    """A told.Store in TeamBudget.status.notified.

    Args:
        members: the budgets as last seen, by key.
        put: takes in what a write returned.
    """

    def __init__(
        self,
        api: client.Api,
        members: Callable[[], Mapping[str, fleet.Member]],
        put: Callable[[client.Object], object],
    ) -> None:
        self._api, self._members, self._put = api, members, put

    def load(self) -> Mapping[str, told.Sayings]:
        """See told.Store."""
        return {
            key: told.from_status(member.status.get("notified"))
            for key, member in self._members().items()
        }

    def save(self, sayings: Mapping[str, told.Sayings]) -> None:
        """See told.Store; ApiError if the API server takes nothing now.

        What it refuses of one budget is logged, and told again by whoever leads next.
        """
        for i, (key, said) in enumerate(sayings.items()):
            namespace, _, name = key.partition("/")
            if i:
                # Each goes to every node, as the statuses do.
                time.sleep(APART_S)
            try:
                answer = self._api.patch_budget_status(
                    namespace, name, {"notified": told.as_status(said)}
                )
            except PASSING:
                raise
            except client.NotFound:
                continue
            except client.ApiError as error:
                log.warning("%s: what was told is not kept: %s", key, error.message)
                continue
            self._put(answer)


class ForecastEvents:
    """A sink that makes a Kubernetes Event of a forecast; those of decisions come with the status.

    Args:
        members: the budgets as last seen, by key.
        identity: who says so.
        clock: epoch seconds.
    """

    id = "events"
    label = "Kubernetes Events"
    rules: tuple[str, ...] | None = (FORECAST,)

    def __init__(
        self,
        api: client.Api,
        members: Callable[[], Mapping[str, fleet.Member]],
        identity: str,
        clock: Callable[[], float],
    ) -> None:
        self._api, self._members = api, members
        self._identity, self._clock = identity, clock

    def send(self, changes: Sequence[Change]) -> None:
        """See sink.Sink."""
        members = self._members()
        for change in changes:
            member = members.get(change.key)
            if member is None:
                continue
            # Named by its day: one that is made again after half a batch is the same.
            made = event.of_forecast(member, change, self._clock(), self._identity)
            try:
                self._api.create_event(member.namespace, made)
            except PASSING as error:
                raise SinkFailed(error.message, error.retry_after_s) from error
            except client.ApiError as error:
                if not (isinstance(error, client.Conflict) and error.already_exists):
                    # Of this one only: its namespace is going, or has no room left.
                    log.warning("no Event for %s: %s", change.key, error.message)


class Notices:
    """Forecasts of the cluster's budgets, and the notifier.

    Args:
        leads: whether this process leads.
        is_whole: whether it has seen all that it sums up. Before, teams would seem to have sent
            in a moment what they sent all day.

    Attributes:
        notifier: for /metrics and /api/health.

    Raises:
        BadRequest: a sink is none that anybody can reach.
    """

    def __init__(
        self,
        api: client.Api,
        work: loop.Loop,
        options: settings.Controller,
        identity: str,
        leads: Callable[[], bool],
        is_whole: Callable[[], bool],
    ) -> None:
        self._work, self._leads, self._is_whole = work, leads, is_whole
        self._tells = False
        self.outlooks = forecast.Outlooks()
        self.notifier = notifier.Notifier(
            [
                ForecastEvents(api, work.members, identity, time.time),
                *sinks.open_all(options.notify, options.dashboard_url),
            ],
            told.Told(StatusStore(api, work.members, work.put)),
            rows=work.rows,
            expect=self.outlooks.of,
            default_rules=options.notify_on,
        )

    def start(self, house: chores.Chores) -> None:
        """Begin, once `house` is started."""
        house.add(FORECAST_S, self._observe)
        house.add(LOOK_S, self._look)

    def stop(self) -> None:
        """End; after the chores have ended."""
        if self._tells:
            self.notifier.stop()

    def _observe(self) -> None:
        if not self._is_whole():
            return
        self.outlooks.observe(self._work.rows(time.time()))

    def _look(self) -> None:
        leads = self._leads() and self._is_whole()
        if leads and not self._tells:
            self.notifier.start()
        elif self._tells and not leads:
            self.notifier.stop()
        self._tells = leads
        if leads:
            self.notifier.look(time.time())
