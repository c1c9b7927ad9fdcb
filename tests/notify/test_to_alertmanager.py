"""A real Alertmanager, and a webhook behind it, hear of budgets from the notifier."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import running, wait_until
from monitoring.harness import ROOT
from monitoring.harness import Alertmanager as RealAlertmanager
from notify.fakes import (
    BAND,
    FAST,
    FREE,
    SPENT,
    Listener,
    Memory,
    World,
    condition,
    listening,
    outlook,
    row,
)

from sluice.notify import alertmanager, url
from sluice.notify.alertmanager import ALERTS_MAX, Alertmanager, Identity
from sluice.notify.notifier import Notifier
from sluice.notify.rules import Judge
from sluice.notify.sink import SinkFailed
from sluice.notify.told import Told

pytestmark = pytest.mark.alertmanager

DASHBOARD = "https://sluice.example.com"


@pytest.fixture
def webhook() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


@pytest.fixture
def real(tmp_path: Path, webhook: Listener) -> Iterator[RealAlertmanager]:
    server = RealAlertmanager(
        tmp_path / "alertmanager",
        f"http://127.0.0.1:{webhook.port}/",
        group_by=["namespace", "team"],
    )
    with running(server):
        yield server


def keeper(port: int, **times: float) -> Alertmanager:
    endpoint = url.alertmanager(f"alertmanager://127.0.0.1:{port}")
    assert endpoint is not None
    return Alertmanager(endpoint, "alertmanager-00000000", DASHBOARD, **times)


class Living(World):
    """A world in which it is now: an Alertmanager knows no other time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.time()


@pytest.fixture
def watch() -> Iterator[Callable[[World, Alertmanager], Callable[[], None]]]:
    """Starts a notifier of one sink; gives what has it look."""
    made: list[Notifier] = []

    def begin(world: World, sink: Alertmanager) -> Callable[[], None]:
        notifier = Notifier(
            [sink],
            Told(_Nowhere()),
            rows=world.rows,
            expect=lambda key: world.outlooks.get(key),
            make_judge=lambda rules, before: Judge(rules, before, hold_s=0, raise_s=0, clear_s=0),
            pace=FAST,
        )
        notifier.start()
        made.append(notifier)
        return lambda: notifier.look(time.time())

    yield begin
    for notifier in made:
        notifier.stop()


class _Nowhere:
    """Alertmanager needs no record of what it was told."""

    def load(self) -> dict[str, Any]:
        return {}

    def save(self, sayings: object) -> None:
        raise AssertionError("nothing is told that has to be kept")


def named(alerts: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(alert["labels"]["team"], alert["labels"]["alertname"]) for alert in alerts}


def heard(webhook: Listener, status: str) -> set[tuple[str, str]]:
    """What the webhook behind Alertmanager was told to be firing, or resolved."""
    return {
        found
        for body in webhook.bodies
        for alert in body["alerts"]
        if alert["status"] == status
        for found in named([alert])
    }


def test_alerts_fire_change_and_resolve_as_levels_do(
    real: RealAlertmanager, webhook: Listener, watch: Any
) -> None:
    world = Living()
    look = watch(world, keeper(real.port))
    throttled, exceeded = ("backend", "SluiceBudgetThrottled"), ("backend", "SluiceBudgetExceeded")

    look()
    assert real.alerts() == []
    world.day["backend"] = BAND
    look()
    wait_until(lambda: heard(webhook, "firing") == {throttled}, "throttled")
    (alert,) = real.alerts()
    assert alert["labels"] == {
        "alertname": "SluiceBudgetThrottled",
        "namespace": "default",
        "severity": "warning",
        "team": "backend",
        "window": "day",
    }
    assert alert["generatorURL"] == f"{DASHBOARD}/teams/default/backend"
    assert "default/backend has used 80 %" in alert["annotations"]["summary"]
    assert "900 of 1,000 bytes" in alert["annotations"]["description"]

    world.day["backend"] = SPENT
    look()
    wait_until(lambda: named(real.alerts()) == {exceeded}, "exceeded, and no longer throttled")
    assert real.alerts()[0]["labels"]["severity"] == "critical"
    wait_until(lambda: exceeded in heard(webhook, "firing"), "the webhook: exceeded")
    world.day["backend"] = FREE
    look()
    wait_until(lambda: real.alerts() == [], "resolved")
    wait_until(lambda: heard(webhook, "resolved") == {throttled, exceeded}, "the webhook: resolved")


def test_a_forecast_is_an_alert_beside_the_level(real: RealAlertmanager, watch: Any) -> None:
    world = Living()
    look = watch(world, keeper(real.port))
    # A time before the day ends, whenever the test runs.
    world.outlooks["default/backend"] = outlook(time.time() + 3600)
    world.day["backend"] = BAND
    look()
    names = {("backend", "SluiceBudgetThrottled"), ("backend", "SluiceBudgetForecast")}
    wait_until(lambda: named(real.alerts()) == names, "both")
    world.outlooks["default/backend"] = outlook(None)
    look()
    wait_until(lambda: len(real.alerts()) == 1, "the forecast is over")


def test_teams_are_grouped_apart(real: RealAlertmanager, webhook: Listener, watch: Any) -> None:
    world = Living()
    world.day = {"backend": SPENT, "checkout": BAND}
    watch(world, keeper(real.port))()
    groups = wait_until(lambda: len(webhook.bodies) >= 2 and webhook.bodies, "two groups")
    assert {body["groupLabels"]["team"] for body in groups} == {"backend", "checkout"}


def test_alerts_are_kept_alive_past_the_time_they_would_end(
    real: RealAlertmanager, webhook: Listener, watch: Any
) -> None:
    world = Living()
    world.day["backend"] = SPENT
    watch(world, keeper(real.port, keep_alive_s=0.3, alive_s=2.0))()
    first = wait_until(real.alerts, "the alert")[0]
    ends = first["endsAt"]
    # Nothing changes and nobody looks: the worker alone has it live on.
    wait_until(lambda: real.alerts()[0]["startsAt"] == first["startsAt"]
               and real.alerts()[0]["endsAt"] > ends
               and time.time() > world.now + 4, "it has outlived its first end")  # fmt: skip
    assert heard(webhook, "resolved") == set()


def test_an_alert_that_nobody_keeps_alive_resolves_by_itself(
    real: RealAlertmanager, webhook: Listener
) -> None:
    holding = {"default/backend": condition(SPENT, time.time())}
    keeper(real.port, alive_s=2.0).attempt(holding, time.time())
    wait_until(real.alerts, "the alert")
    wait_until(lambda: real.alerts() == [], "it is over")
    wait_until(lambda: heard(webhook, "resolved"), "the webhook has heard")


def test_an_alertmanager_that_comes_back_hears_what_holds(
    real: RealAlertmanager, watch: Any
) -> None:
    world = Living()
    look = watch(world, keeper(real.port))
    real.kill()
    world.day = {"backend": BAND, "checkout": SPENT}
    look()
    world.day["backend"] = FREE
    look()
    real.start()
    wait_until(lambda: named(real.alerts()) == {("checkout", "SluiceBudgetExceeded")}, "one alert")


def test_hostile_names_are_labels_as_they_are(real: RealAlertmanager, watch: Any) -> None:
    world = Living()
    name = 'x"}\n<script>{{ .Labels }}'
    world.day = {name: SPENT}
    watch(world, keeper(real.port))()
    alert = wait_until(real.alerts, "the alert")[0]
    assert alert["labels"]["team"] == name
    assert "<" not in alert["annotations"]["summary"]


def test_a_test_alert_is_an_alert(real: RealAlertmanager) -> None:
    keeper(real.port).test("default/backend")
    assert named(real.alerts()) == {("backend", "SluiceNotifyTest")}


def test_a_team_has_the_alerts_that_its_rules_want() -> None:
    spent = time.time() + 60

    def names(day: int, *rules: str) -> list[str]:
        holding = condition(day, rules=rules, expected=spent, now=spent - 60)
        return [identity.alertname for identity, _ in alertmanager.changes_of(holding)]

    assert names(SPENT, "drop", "forecast") == ["SluiceBudgetExceeded"]
    assert names(SPENT, "throttle", "recovery") == []
    assert names(BAND, "throttle", "drop") == ["SluiceBudgetThrottled"]
    assert names(BAND, "forecast") == ["SluiceBudgetForecast"]
    assert names(FREE, "throttle", "drop", "recovery") == []


def test_the_readme_names_the_alerts_that_routes_go_by() -> None:
    text = (ROOT / "README.md").read_text()
    for rule, (alert, severity) in alertmanager.ALERTS.items():
        assert f"| `{rule}` | `{alert}` | {severity}" in text
    labels = set(Identity._fields) - {"alertname", "severity"}
    assert labels == {"namespace", "team", "window"}


def test_a_dry_run_at_its_limit_is_a_warning() -> None:
    ((identity, _),) = alertmanager.changes_of(condition(SPENT, dry_run=True))
    assert (identity.alertname, identity.severity) == ("SluiceBudgetExceeded", "warning")


def test_what_was_not_taken_is_sent_again_and_what_is_over_said_once() -> None:
    now = time.time()
    holding = {
        f"default/t-{i}": condition(SPENT, now, name=f"t-{i}") for i in range(ALERTS_MAX + 1)
    }
    with listening() as listener:
        sink = keeper(listener.port)
        assert sink.attempt(holding, now).has_sent
        assert [len(body) for body in listener.bodies] == [ALERTS_MAX, 1]
        listener.answer = 500
        for _ in range(2):
            with pytest.raises(SinkFailed, match="status 500"):
                sink.attempt({}, now)
        assert sink.waiting({}) == len(holding)
        listener.answer = 200
        assert sink.attempt({}, now).has_sent
        assert sink.attempt({}, now) == (False, None)
        over = [alert for body in listener.bodies[2:] for alert in body]
    assert len({Identity(**alert["labels"]) for alert in over}) == len(over) == len(holding)
    assert all(alert["endsAt"] >= alert["startsAt"] for alert in over)


def test_a_dry_run_that_is_enforced_is_critical_at_once_and_the_warning_is_over() -> None:
    world, is_dry = World(), [True]
    with listening() as listener:
        notifier = Notifier(
            [keeper(listener.port)],
            Told(Memory()),
            rows=lambda now: [row(SPENT, now, dry_run=is_dry[0])],
            expect=world.outlooks.get,
            clock=lambda: world.now,
        )
        notifier.start()
        try:
            notifier.look(world.now)
            wait_until(lambda: len(listener.bodies) == 1, "the dry run is told")
            is_dry[0] = False
            world.now += 1
            notifier.look(world.now)
            wait_until(lambda: len(listener.bodies) == 2, "that it is none any more is told")
        finally:
            notifier.stop()
        (over, begun) = sorted(listener.bodies[1], key=lambda alert: str(alert["endsAt"]))
    assert (over["labels"]["severity"], over["endsAt"]) == ("warning", "2026-11-23T12:00:01Z")
    assert begun["labels"]["severity"] == "critical"
