"""How many pushes there may be at a time: who waits for a turn, and who is sent away."""

import threading
import time
from collections.abc import Mapping

import pytest
from front import PUSH, SHOP, Front, Sender, error_of
from harness import wait_until

from sluice import errors
from sluice.agent import turnstile, upstream


class Waiting(Sender):
    """An upstream that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        super().send(path, body, headers)
        assert self.let.wait(20)
        return self.reply


def test_one_push_more_than_may_wait_for_upstream_is_told_at_once_to_come_back():
    front = Front([SHOP], Waiting(), max_in_flight=2)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(front.send(PUSH).status_code))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(front.sender.sent) == 2, "two pushes wait")
    used = front.gate.ledger.used.copy()
    began = time.monotonic()
    response = front.send(PUSH)
    assert time.monotonic() - began < 1
    assert response.status_code == 503
    assert "at most 2" in error_of(response)
    assert (front.gate.ledger.used == used).all()
    assert front.sample("tco_pushes_in_flight") == 2
    assert front.client.get("/ready").status_code == 200
    assert front.call("/api/v1/evaluate", {"namespace": "shop", "size": 1}).status_code == 200
    front.sender.let.set()
    for thread in threads:
        thread.join()
    assert statuses == [204, 204]
    assert front.counts("shop/shop")["received"]["entries"] == 3
    assert front.send(PUSH).status_code == 204
    assert front.sample("tco_pushes_in_flight") == 0


def somebody_coming(turns: turnstile.Turnstile) -> tuple[threading.Thread, threading.Event]:
    """Who comes in and leaves once started, and what is set once inside."""
    entered = threading.Event()

    def come() -> None:
        with turns:
            entered.set()

    return threading.Thread(target=come), entered


def test_a_crowd_waits_for_a_turn_while_others_leave_and_is_sent_away_when_nobody_does(monkeypatch):
    turns = turnstile.Turnstile(1)
    monkeypatch.setattr(turnstile, "WAIT_S", 20.0)
    monkeypatch.setattr(turnstile, "LOOK_S", 20.0)
    second, entered = somebody_coming(turns)
    with turns:
        second.start()
        assert not entered.wait(0.1)
    second.join()
    assert entered.is_set()
    monkeypatch.setattr(turnstile, "LOOK_S", 0.001)
    with turns, pytest.raises(errors.Unavailable, match="1 requests"), turns:
        pass
    assert turns.inside == 0


def test_of_a_house_that_stands_still_the_next_is_sent_away_at_once_until_somebody_gets_further(
    monkeypatch,
):
    turns = turnstile.Turnstile(1)
    with turns:
        with pytest.raises(errors.Unavailable), turns:
            pass
        monkeypatch.setattr(turnstile, "LOOK_S", 20.0)
        with pytest.raises(errors.Unavailable), turns:
            pass
        turns.moved()
        patient = threading.Thread(target=turns.__enter__)
        patient.start()
        wait_until(lambda: turns._waiting, "it waits")
    patient.join()
    assert turns.inside == 1


def test_a_process_that_gets_no_cpu_is_no_house_that_stands_still(monkeypatch):
    monkeypatch.setattr(turnstile, "WAIT_S", 20.0)
    monkeypatch.setattr(turnstile, "LOOKS", 20)
    turns = turnstile.Turnstile(1)
    second, entered = somebody_coming(turns)
    with turns:
        second.start()
        wait_until(lambda: turns._waiting, "it waits")
        # Many times as long as it would look, and no other thread runs meanwhile.
        began = time.monotonic()
        while time.monotonic() < began + 4 * turnstile.LOOKS * turnstile.LOOK_S:
            sum(range(20_000_000))
    second.join()
    assert entered.is_set()


def test_whoever_leaves_does_not_come_in_again_before_those_who_wait(monkeypatch):
    monkeypatch.setattr(turnstile, "WAIT_S", 20.0)
    monkeypatch.setattr(turnstile, "LOOK_S", 20.0)
    turns = turnstile.Turnstile(1)
    order: list[str] = []

    def come(name: str) -> None:
        with turns:
            order.append(name)

    names = ["first", "second", "third"]
    threads = [threading.Thread(target=come, args=[name]) for name in names]
    with turns:
        for n, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda n=n: len(turns._waiting) == n, "it waits")
    come("again")
    for thread in threads:
        thread.join()
    assert order == [*names, "again"]
    assert turns.inside == 0
