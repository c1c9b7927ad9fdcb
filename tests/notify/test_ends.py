"""Alerts end as Alertmanager takes it, also by a clock that was put back meanwhile."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import running, wait_until
from monitoring.harness import Alertmanager as RealAlertmanager
from notify.fakes import NOON, SPENT, Listener, condition, listening

from sluice import window
from sluice.notify import url
from sluice.notify.alertmanager import ALIVE_S, Alertmanager
from sluice.notify.rules import Conditions
from sluice.notify.sink import SinkFailed

HOUR_S = 3600.0
KEY = "default/backend"


def keeper(port: int) -> Alertmanager:
    endpoint = url.alertmanager(f"alertmanager://127.0.0.1:{port}")
    assert endpoint is not None
    return Alertmanager(endpoint, "alertmanager-00000000")


def spent_at(now: float) -> Conditions:
    return {KEY: condition(SPENT, now)}


def times(alert: dict[str, Any]) -> tuple[str, str]:
    return alert["startsAt"], alert["endsAt"]


def test_no_alert_ends_before_it_begins_whenever_the_clock_is_put_back() -> None:
    holding = spent_at(NOON)
    with listening() as listener:
        sink = keeper(listener.port)
        for now in (NOON, NOON + 60, NOON - HOUR_S):
            sink.attempt(holding, now)
        sink.attempt({}, NOON - 2 * HOUR_S)
        sent = [times(alert) for body in listener.bodies for alert in body]
    iso = window.iso
    assert sent == [
        (iso(NOON), iso(NOON + ALIVE_S)),
        (iso(NOON), iso(NOON + 60 + ALIVE_S)),
        (iso(NOON - HOUR_S), iso(NOON - HOUR_S + ALIVE_S)),
        (iso(NOON - 2 * HOUR_S), iso(NOON - 2 * HOUR_S)),
    ]


def test_an_alert_that_is_over_keeps_its_beginning() -> None:
    with listening() as listener:
        sink = keeper(listener.port)
        sink.attempt(spent_at(NOON), NOON)
        sink.attempt({}, NOON + 60)
        (over,) = listener.bodies[-1]
    assert times(over) == (window.iso(NOON), window.iso(NOON + 60))


def test_a_begin_that_was_refused_is_waited_for_and_its_end_is_not() -> None:
    with listening() as listener:
        listener.answer = 500
        sink = keeper(listener.port)
        for now in (NOON, NOON + 1):
            with pytest.raises(SinkFailed, match="status 500"):
                sink.attempt(spent_at(NOON), now)
            assert sink.waiting(spent_at(NOON)) == 1
        # It is over before anybody heard of it: there is nothing to tell.
        assert sink.waiting({}) == 0
        assert sink.attempt({}, NOON + 2) == (False, None)
        listener.answer = 200
        assert sink.attempt(spent_at(NOON + 3), NOON + 3).has_sent
        assert [times(body[0])[0] for body in listener.bodies] == [window.iso(NOON + 3)]


def test_an_end_that_was_refused_is_told_unless_the_alert_is_back() -> None:
    with listening() as listener:
        sink = keeper(listener.port)
        sink.attempt(spent_at(NOON), NOON)
        listener.answer = 500
        with pytest.raises(SinkFailed, match="status 500"):
            sink.attempt({}, NOON + 1)
        assert (sink.waiting({}), sink.waiting(spent_at(NOON + 2))) == (1, 0)
        listener.answer = 200
        sink.attempt(spent_at(NOON + 2), NOON + 2)
        sink.attempt({}, NOON + 3)
        assert sink.attempt({}, NOON + 4) == (False, None)
        ends = [times(alert)[1] for body in listener.bodies for alert in body]
    assert ends == [window.iso(NOON + after) for after in (ALIVE_S, 2 + ALIVE_S, 3)]


@pytest.fixture
def webhook() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


@pytest.fixture
def real(tmp_path: Path, webhook: Listener) -> Iterator[RealAlertmanager]:
    server = RealAlertmanager(tmp_path / "alertmanager", f"http://127.0.0.1:{webhook.port}/")
    with running(server):
        yield server


def heard(webhook: Listener) -> list[str]:
    """What the webhook behind Alertmanager was told of the one alert, in order."""
    return [alert["status"] for body in webhook.bodies for alert in body["alerts"]]


@pytest.mark.alertmanager
@pytest.mark.parametrize("began", [HOUR_S, 0], ids=["it was ahead", "it is behind"])
def test_alertmanager_takes_an_alert_as_resolved_after_the_clock_was_put_back(
    real: RealAlertmanager, webhook: Listener, began: float
) -> None:
    sink, now = keeper(real.port), time.time() + began
    sink.attempt(spent_at(now), now)
    wait_until(lambda: heard(webhook) == ["firing"], "it fires")
    assert len(real.alerts()) == 1
    assert sink.attempt({}, now - HOUR_S).has_sent
    wait_until(lambda: real.alerts() == [], "it is no longer active")
    wait_until(lambda: heard(webhook) == ["firing", "resolved"], "the webhook has heard")
    assert sink.attempt({}, now - HOUR_S) == (False, None)


@pytest.mark.alertmanager
def test_an_alert_that_is_kept_alive_by_a_clock_put_back_goes_on_and_ends(
    real: RealAlertmanager, webhook: Listener
) -> None:
    sink, now = keeper(real.port), time.time()
    holding = spent_at(now + HOUR_S)
    sink.attempt(holding, now + HOUR_S)
    wait_until(lambda: heard(webhook) == ["firing"], "it fires")
    assert sink.attempt(holding, now).has_sent
    assert len(real.alerts()) == 1
    assert sink.attempt({}, now).has_sent
    wait_until(lambda: heard(webhook) == ["firing", "resolved"], "it is over")
    assert real.alerts() == []
