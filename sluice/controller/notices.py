"""Notices: the leader tells people; what they were told stands in the budgets' own status, and the
next leader goes on from there.

    Loop's rows ─► forecasts ─┬─► Notifier, while this process leads ─► sinks, Kubernetes' Events
                              └─► the API
"""

import time
from collections.abc import Callable, Mapping, Sequence

from sluice import chores, forecast, settings
from sluice.controller import event, fleet, loop
from sluice.kube import client
from sluice.notify import notifier, sinks, told
from sluice.notify.change import FORECAST, Change
from sluice.notify.sink import SinkFailed

FORECAST_S, LOOK_S = 5.0, 1.0


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
        """See told.Store; ApiError at the first that the API server does not take."""
        for key, said in sayings.items():
            namespace, _, name = key.partition("/")
            try:
                answer = self._api.patch_budget_status(
                    namespace, name, {"notified": told.as_status(said)}
                )
            except client.NotFound:
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
            made = event.of_forecast(member, change, self._clock(), self._identity)
            try:
                self._api.create_event(member.namespace, made)
            except client.NotFound:
                # The namespace is going, and its budget with it.
                continue
            except client.ApiError as error:
                raise SinkFailed(error.message, error.retry_after_s) from error


class Notices:
    """Forecasts of the cluster's budgets, and the notifier.

    Args:
        leads: whether this process leads, and has seen all that it sums up.

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
    ) -> None:
        self._work, self._leads = work, leads
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
        self.outlooks.observe(self._work.rows(time.time()))

    def _look(self) -> None:
        leads = self._leads()
        if leads and not self._tells:
            self.notifier.start()
        elif self._tells and not leads:
            self.notifier.stop()
        self._tells = leads
        if leads:
            self.notifier.look(time.time())
