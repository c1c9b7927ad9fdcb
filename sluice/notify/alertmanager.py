"""Alertmanager, by its API v2: alerts that are kept alive while they hold, and resolved after.

Rule 1: it is told all that holds, on each change and every KEEP_ALIVE_S, and what it did not take
is sent again; so nothing need be remembered of what it was told before this process began.
Rule 2: an alert's labels do not change while it is active; the figures are annotations.
Source: Alertmanager's api/v2/openapi.yaml, postAlerts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import urllib3

from sluice import window
from sluice.notify import message
from sluice.notify.change import DROP, FORECAST, THROTTLE, Change
from sluice.notify.rules import Condition, Conditions
from sluice.notify.sink import Done, SinkFailed
from sluice.notify.url import Endpoint
from sluice.policy import Action

KEEP_ALIVE_S = 60.0
# An alert ends by itself so long after it was last sent: late enough that one outlives a restart,
# after which a forecast has to last for RAISE_S before it holds again.
ALIVE_S = 480.0
ALERTS_MAX = 500
# The longest pause after failures. A restarted Alertmanager has lost its alerts, and it does not
# limit how often it is called.
RETRY_MAX_S = 15.0
CALL_S = urllib3.Timeout(connect=3.05, read=10.0)
# Characters shown of an answer.
SAMPLE = 120

# By rule: name, severity.
ALERTS = {
    THROTTLE: ("SluiceBudgetThrottled", "warning"),
    DROP: ("SluiceBudgetExceeded", "critical"),
    FORECAST: ("SluiceBudgetForecast", "warning"),
}
# Of a dry run: no line is lost, and nobody need get up.
DRY_RUN = "warning"
TEST_ALERT = ("SluiceNotifyTest", "info")

Alert = dict[str, Any]


class Identity(NamedTuple):
    """What Alertmanager knows an alert by: its labels."""

    alertname: str
    severity: str
    namespace: str
    team: str
    window: str


class Alertmanager:
    """A Keeper: one Alertmanager. Where several form a cluster, each one is a sink.

    Args:
        keep_alive_s, alive_s: how often alerts are sent, and how long they then live.
        retry_max_s: see Keeper.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        sink_id: str,
        dashboard_url: str | None = None,
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
        alive_s: float = ALIVE_S,
        retry_max_s: float = RETRY_MAX_S,
    ) -> None:
        self.id, self.label = sink_id, f"Alertmanager {endpoint.base}"
        self._url = f"{endpoint.base}/api/v2/alerts"
        self._dashboard_url = dashboard_url
        self._keep_alive_s, self._alive_s = keep_alive_s, alive_s
        self.retry_max_s = retry_max_s
        headers = {"Content-Type": "application/json", "User-Agent": "sluice"}
        if endpoint.user or endpoint.password:
            basic = f"{endpoint.user}:{endpoint.password}"
            headers |= urllib3.make_headers(basic_auth=basic)
        self._pool = urllib3.PoolManager(timeout=CALL_S, headers=headers, retries=False)
        # What it was told to be active and has not been told to be over.
        self._active: dict[Identity, Alert] = {}

    def attempt(self, holding: Conditions, now: float) -> Done:
        """Send all that holds and all that is over; see Keeper."""
        alerts = dict(self._alerts(holding, now))
        over = [(identity, self._ended(identity, now))
                for identity in self._active.keys() - alerts.keys()]  # fmt: skip
        due = [*over, *alerts.items()]
        for at in range(0, len(due), ALERTS_MAX):
            part = due[at : at + ALERTS_MAX]
            self._post([alert for _, alert in part])
            for identity, alert in part:
                if identity in alerts:
                    self._active[identity] = alert
                else:
                    del self._active[identity]
        return Done(bool(due), self._keep_alive_s if alerts else None)

    def _ended(self, identity: Identity, now: float) -> Alert:
        """An alert that is over; a clock that was put back may end it before it began."""
        alert, ends = self._active[identity], window.iso(now)
        return {**alert, "startsAt": min(str(alert["startsAt"]), ends), "endsAt": ends}

    def waiting(self, holding: Conditions) -> int:
        """How many alerts have begun or are over without its knowing."""
        begun = {
            identity for condition in holding.values() for identity, _ in changes_of(condition)
        }
        return len(begun ^ self._active.keys())

    def test(self, team: str) -> None:
        """Have an alert that ends by itself, as `sluice notify test` does."""
        namespace, _, name = team.rpartition("/")
        identity = Identity(*TEST_ALERT, namespace, name, "day")
        words = "This is a test of Sluice's notifications: nothing has happened."
        self._post([self._alert(identity, {"summary": words}, team, None, None)])

    def _alerts(self, holding: Conditions, now: float) -> Iterator[tuple[Identity, Alert]]:
        for condition in holding.values():
            for identity, change in changes_of(condition):
                since = condition.since
                if change.rule == FORECAST:
                    since = condition.forecast_since
                notes = {
                    "summary": message.headline(change),
                    "description": message.details(change),
                }
                # A clock that was put back must not have it begin after its end.
                alert = self._alert(identity, notes, change.key, min(since, now), now)
                yield identity, alert

    def _alert(
        self,
        identity: Identity,
        notes: Mapping[str, str],
        key: str,
        since: float | None,
        now: float | None,
    ) -> Alert:
        alert: Alert = {"labels": identity._asdict(), "annotations": dict(notes)}
        if since is not None and now is not None:
            alert |= {"startsAt": window.iso(since), "endsAt": window.iso(now + self._alive_s)}
        if where := message.link(self._dashboard_url, key):
            alert["generatorURL"] = where
        return alert

    def _post(self, alerts: Sequence[Alert]) -> None:
        try:
            answer = self._pool.request(
                "POST", self._url, body=json.dumps(alerts).encode(), redirect=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise SinkFailed(reason(error)) from None
        if answer.status // 100 != 2:
            said = " ".join(answer.data[:SAMPLE].decode(errors="replace").split())
            raise SinkFailed(
                f"status {answer.status}: {said!r}", retry_after(answer.headers.get("Retry-After"))
            )


def changes_of(condition: Condition) -> Iterator[tuple[Identity, Change]]:
    """The alerts that a condition stands for, as far as the team's rules want them."""
    namespace, _, name = condition.key.rpartition("/")
    for rule in (condition.level.word, FORECAST if condition.forecast else ""):
        if rule in ALERTS and rule in condition.rules:
            change = Change(rule, Action.ALLOW, condition)
            about = message.WINDOWS[message.kind_of(change)]
            alert, severity = ALERTS[rule]
            if condition.row.budget.dry_run:
                severity = DRY_RUN
            yield Identity(alert, severity, namespace, name, about), change


def reason(error: urllib3.exceptions.HTTPError) -> str:
    """Why there was no answer, in a few words."""
    # A refused connection and an unknown name first: urllib3 derives them from its timeouts.
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return f"no connection: {error.__cause__ or 'refused'}"
    if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
        return f"no connection in {CALL_S.connect_timeout} s"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return f"no answer in {CALL_S.read_timeout} s"
    return f"{type(error).__name__}: {error.__cause__ or 'the connection broke'}"


def retry_after(value: str | None) -> float:
    """Seconds to wait, if a server said so in seconds; else 0."""
    return float(value) if value is not None and value.isascii() and value.isdigit() else 0.0
