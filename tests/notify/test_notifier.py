"""The notifier whole: once per change, over restarts, and past sinks that are dead."""

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from harness import free_port, wait_until
from hypothesis import strategies as st
from notify.fakes import (
    BAND,
    DAY,
    FAST,
    FREE,
    KEY,
    NOON,
    SPENT,
    Memory,
    Pad,
    World,
    condition,
    listening,
    outlook,
)

from sluice import records
from sluice.notify import url
from sluice.notify.alertmanager import RETRY_MAX_S, Alertmanager
from sluice.notify.change import NOTHING, Said
from sluice.notify.notifier import Notifier
from sluice.notify.rules import Judge
from sluice.notify.sink import SinkFailed
from sluice.notify.sinks import Recorder, open_all
from sluice.notify.told import FileStore, Store, Told
from sluice.notify.worker import ASKED_MAX_S, JITTER, Pace, Teller
from sluice.policy import Action

HOLD_S = 10.0
Start = Callable[..., Notifier]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    """Starts a notifier over the world; all that were started are stopped at the end."""
    made: list[Notifier] = []

    def begin(sinks: list[Any], store: Store | None = None, **more: Any) -> Notifier:
        settings: dict[str, Any] = {"pace": FAST, **more}
        notifier = Notifier(
            sinks,
            Told(store or Memory()),
            rows=world.rows,
            expect=lambda key: world.outlooks.get(key),
            clock=lambda: world.now,
            make_judge=functools.partial(Judge, hold_s=HOLD_S, raise_s=5, clear_s=5),
            **settings,
        )
        made.append(notifier)
        notifier.start()
        return notifier

    yield begin
    for notifier in made:
        notifier.stop()


def see(notifier: Notifier, world: World, day: int, after: float = 1.0) -> None:
    """A look at the team, some seconds later, when it has used so much."""
    world.now += after
    world.day["backend"] = day
    notifier.look(world.now)


def settled(notifier: Notifier) -> bool:
    return all(one["waiting"] == 0 for one in notifier.health())


def test_each_change_is_told_once(world: World, start: Start) -> None:
    pad = Pad()
    notifier = start([pad])
    for day, count in ((FREE, 0), (BAND, 1), (BAND, 1), (SPENT, 2), (SPENT, 2)):
        see(notifier, world, day)
        pad.waits_for(count)
    see(notifier, world, FREE)
    see(notifier, world, FREE, HOLD_S)
    told = pad.waits_for(3)
    wait_until(lambda: settled(notifier), "all is told")
    assert told == [(KEY, "throttle"), (KEY, "drop"), (KEY, "recovery")]


def test_a_team_that_begins_with_allow_is_no_news(world: World, start: Start) -> None:
    pad, events = Pad(), Pad("pad-00000002")
    notifier = start([pad, events])
    see(notifier, world, FREE)
    world.day["other"] = SPENT
    see(notifier, world, FREE)
    assert pad.waits_for(1) == [("default/other", "drop")]


def test_a_forecast_is_told(world: World, start: Start) -> None:
    pad = Pad()
    notifier = start([pad])
    world.outlooks[KEY] = outlook(NOON + 5000)
    see(notifier, world, FREE)
    see(notifier, world, FREE, 5)
    assert pad.waits_for(1) == [(KEY, "forecast")]


def test_nothing_is_told_again_after_a_restart(world: World, start: Start, tmp_path: Path) -> None:
    path, pad = tmp_path / "notified.json", Pad()
    first = start([pad], FileStore(path, NOON))
    world.outlooks[KEY] = outlook(NOON + 5000)
    see(first, world, BAND)
    see(first, world, BAND, 5)
    pad.waits_for(2)
    first.stop()
    second = start([pad], FileStore(path, NOON))
    # a moment below the threshold is no recovery, after a restart as before it
    see(second, world, FREE)
    for _ in range(5):
        see(second, world, BAND, 5)
    wait_until(lambda: settled(second), "all is told")
    assert pad.told == [(KEY, "throttle"), (KEY, "forecast")]
    see(second, world, SPENT)
    assert pad.waits_for(3)[2:] == [(KEY, "drop")]


def test_a_recovery_while_nobody_looked_is_told_afterwards(world: World, start: Start) -> None:
    store, pad = Memory(), Pad()
    first = start([pad], store)
    see(first, world, SPENT)
    pad.waits_for(1)
    first.stop()
    second = start([pad], store)
    see(second, world, FREE, 3600)
    see(second, world, FREE, HOLD_S)
    assert pad.waits_for(2)[1:] == [(KEY, "recovery")]


def test_a_notifier_can_be_stopped_and_started_again(world: World, start: Start) -> None:
    pad = Pad()
    notifier = start([pad])
    see(notifier, world, BAND)
    pad.waits_for(1)
    notifier.stop()
    see(notifier, world, SPENT)
    assert pad.attempts == 1
    notifier.start()
    see(notifier, world, SPENT)
    assert pad.waits_for(2) == [(KEY, "throttle"), (KEY, "drop")]


def test_a_crash_between_telling_and_recording_repeats_that_one(world: World, start: Start) -> None:
    store, pad = Memory(), Pad()
    first = start([pad], store)
    see(first, world, BAND)
    pad.waits_for(1)
    wait_until(lambda: settled(first), "all is told")
    # as if the process had been killed here: the sink has it, the store does not
    store.error = OSError("killed")
    see(first, world, SPENT)
    pad.waits_for(2)
    first.stop()
    store.error = None
    second = start([pad], store)
    see(second, world, SPENT)
    see(second, world, SPENT)
    pad.waits_for(3)
    wait_until(lambda: settled(second), "all is told")
    assert pad.told == [(KEY, "throttle"), (KEY, "drop"), (KEY, "drop")]


def test_a_store_that_fails_has_nothing_told_twice(world: World, start: Start) -> None:
    store, pad = Memory(), Pad()
    store.error = OSError("disk full")
    notifier = start([pad], store)
    see(notifier, world, BAND)
    pad.waits_for(1)
    see(notifier, world, SPENT)
    pad.waits_for(2)
    wait_until(lambda: settled(notifier), "all is told")
    assert pad.told == [(KEY, "throttle"), (KEY, "drop")]


@pytest.mark.parametrize("answer", [500, 429, 301, "hang", "drip", "refuse"])
def test_a_dead_sink_delays_no_other_and_hears_the_present_state_later(
    world: World, start: Start, answer: int | str
) -> None:
    with listening() as dead, listening() as living:
        sinks = open_all([f"json://127.0.0.1:{one.port}/hook/{i}?rto=0.2&cto=0.2"
                          for i, one in enumerate([dead, living])])  # fmt: skip
        if answer == "refuse":
            dead.close()
        else:
            dead.answer = answer
        notifier = start(sinks)
        for day, count in ((BAND, 1), (SPENT, 2)):
            see(notifier, world, day)
            wait_until(lambda n=count: len(living.heard) == n, "the living one is told")
        wait_until(lambda: notifier.health()[0]["failures"], "the dead one has failed")
        health = notifier.health()
        assert [one["waiting"] for one in health] == [1, 0]
        assert health[0]["error"]
        assert health[1]["error"] is None
        assert series(notifier, sinks[0].id, "failed") >= 1
        assert series(notifier, sinks[1].id, "sent") == 2
        if answer in (500, 429, 301):
            dead.answer = 200
            wait_until(lambda: dead.heard, "it is told at last")
            wait_until(lambda: settled(notifier), "all is told")
            assert [body["type"] for body in dead.bodies] == ["failure"]


def series(notifier: Notifier, sink: str, result: str) -> float:
    samples = [sample for family in notifier.collect() for sample in family.samples]
    return sum(sample.value for sample in samples
               if sample.labels == {"sink": sink, "result": result})  # fmt: skip


def failures(notifier: Notifier) -> int:
    """Attempts to tell the first sink that failed on end."""
    return int(str(notifier.health()[0]["failures"]))


class Stuck(Pad):
    """A sink that takes nothing before it may, and then all."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()

    def send(self, changes: Any) -> None:
        asked = list(changes)
        self.attempts += 1
        self.may_go.wait()
        self.told += [(change.key, change.rule) for change in asked]


def test_a_sink_that_hangs_is_not_asked_again_before_it_answers(world: World, start: Start) -> None:
    stuck = Stuck()
    notifier = start([stuck])
    see(notifier, world, BAND)
    wait_until(lambda: failures(notifier) >= 3, "it was tried again")
    assert stuck.attempts == 1
    assert "still has not answered" in str(notifier.health()[0]["error"])
    stuck.may_go.set()
    # taken late, but taken: it is not sent again
    wait_until(lambda: settled(notifier), "all is told")
    assert stuck.told == [(KEY, "throttle")]


def test_stopping_waits_for_no_sink_that_hangs(world: World, start: Start) -> None:
    with listening() as dead:
        dead.answer = "hang"
        notifier = start(open_all([f"json://127.0.0.1:{dead.port}/?rto=60"]))
        see(notifier, world, SPENT)
        wait_until(lambda: dead.attempts, "it was asked")
        began = time.monotonic()
        notifier.stop(0.2)
        # The read alone would last a minute.
        assert time.monotonic() - began < 30
        assert dead.attempts == 1


def test_a_failing_sink_is_not_asked_more_often_because_there_is_news(
    world: World, start: Start
) -> None:
    pad = Pad()
    pad.error = SinkFailed("no")
    notifier = start([pad], pace=Pace(first_s=3600, most_s=3600))
    see(notifier, world, BAND)
    wait_until(lambda: pad.attempts, "it was asked")
    wait_until(lambda: notifier.health()[0]["failures"], "it has failed")
    for day in (SPENT, BAND, SPENT):
        see(notifier, world, day)
    assert pad.attempts == 1
    assert notifier.health() == [
        {
            "sink": pad.label,
            "id": pad.id,
            "waiting": 1,
            "error": "no",
            "failures": 1,
            "lastSent": None,
        }
    ]


def test_a_recovery_while_a_sink_hangs_is_told_after_what_it_took_late(
    world: World, start: Start
) -> None:
    stuck = Stuck()
    notifier = start([stuck])
    see(notifier, world, SPENT)
    wait_until(lambda: stuck.attempts, "it was asked")
    see(notifier, world, FREE)
    see(notifier, world, FREE, HOLD_S)
    wait_until(lambda: failures(notifier), "it is not waited for")
    assert stuck.attempts == 1
    stuck.may_go.set()
    assert stuck.waits_for(2) == [(KEY, "drop"), (KEY, "recovery")]
    wait_until(lambda: settled(notifier) and not failures(notifier), "all is told")
    assert stuck.told == [(KEY, "drop"), (KEY, "recovery")]


def test_a_recovery_from_what_a_sink_never_heard_is_no_news(
    world: World, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pad = Pad()
    pad.error = SinkFailed("no")
    notifier = start([pad])
    see(notifier, world, SPENT)
    wait_until(lambda: failures(notifier) >= 2, "it was tried again")
    see(notifier, world, FREE)
    see(notifier, world, FREE, HOLD_S)
    wait_until(lambda: not failures(notifier), "there is nothing left to tell")
    assert settled(notifier)
    assert "was told" not in caplog.text
    pad.error = None
    # What holds next is news again, and the first that it hears.
    see(notifier, world, BAND)
    assert pad.waits_for(1) == [(KEY, "throttle")]


def test_a_sink_that_failed_is_asked_at_once_by_whoever_begins_anew(
    world: World, start: Start
) -> None:
    pad = Pad()
    pad.error = SinkFailed("no")
    notifier = start([pad], pace=Pace(first_s=3600, most_s=3600))
    see(notifier, world, SPENT)
    wait_until(lambda: failures(notifier), "it has failed")
    notifier.stop()
    pad.error = None
    notifier.start()
    see(notifier, world, SPENT)
    assert pad.waits_for(1) == [(KEY, "drop")]
    see(notifier, world, SPENT)
    wait_until(lambda: settled(notifier) and not failures(notifier), "all is told")
    assert (pad.told, pad.attempts) == ([(KEY, "drop")], 2)


def test_what_a_sink_did_not_take_is_told_once_and_as_of_when_it_did() -> None:
    pad, told, spent = Pad(), Told(Memory()), {KEY: condition(SPENT)}
    teller = Teller(pad, told)
    pad.error = SinkFailed("no")
    for after in (0, 1, 3):
        with pytest.raises(SinkFailed):
            teller.attempt(spent, NOON + after)
        assert told.of(pad.id, KEY) == NOTHING
        assert teller.waiting(spent) == 1
    pad.error = None
    assert teller.attempt(spent, NOON + 7).has_sent
    assert told.of(pad.id, KEY) == Said(Action.DROP, DAY, NOON + 7)
    assert teller.attempt(spent, NOON + 15) == (False, None)
    assert (pad.told, pad.attempts) == ([(KEY, "drop")], 4)


def test_a_recovery_that_a_sink_did_not_take_is_told_unless_the_trouble_is_back() -> None:
    pad, told = Pad(), Told(Memory())
    teller = Teller(pad, told)
    spent, free = {KEY: condition(SPENT)}, {KEY: condition(FREE)}
    teller.attempt(spent, NOON)
    pad.error = SinkFailed("no")
    with pytest.raises(SinkFailed):
        teller.attempt(free, NOON + 1)
    pad.error = None
    assert teller.attempt(spent, NOON + 2) == (False, None)
    assert teller.attempt(free, NOON + 3).has_sent
    assert teller.attempt(free, NOON + 4) == (False, None)
    assert pad.told == [(KEY, "drop"), (KEY, "recovery")]


def test_a_defect_is_counted_and_ends_nothing(
    world: World, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def record(event: records.Event) -> None:
        if len(events) == 0 and not broken:
            broken.append(event)
            raise KeyError("defect")
        events.append(event)

    broken: list[records.Event] = []
    events: list[records.Event] = []
    notifier = start([Recorder(record)])
    see(notifier, world, SPENT)
    wait_until(lambda: events, "the event")
    assert "KeyError" in caplog.text
    assert [event.reason for event in events] == ["Exceeded"]


def test_events_are_of_every_rule_whatever_people_want(world: World, start: Start) -> None:
    events: list[records.Event] = []
    pad = Pad()
    notifier = start([Recorder(events.append), pad], default_rules=())
    see(notifier, world, BAND)
    wait_until(lambda: events, "the event")
    assert (events[0].key, events[0].reason, pad.attempts) == (KEY, "Throttling", 0)


def test_an_alertmanager_that_is_back_is_told_long_before_a_chat_would_be(
    world: World, start: Start
) -> None:
    with listening() as living:
        living.answer = 503
        endpoint = url.alertmanager(f"alertmanager://127.0.0.1:{living.port}")
        assert endpoint is not None
        sink = Alertmanager(endpoint, "alertmanager-00000000", retry_max_s=0.05)
        notifier = start([sink], pace=Pace(first_s=300, most_s=300))
        see(notifier, world, SPENT)
        wait_until(lambda: living.attempts >= 2, "it is asked again")
        living.answer = 200
        wait_until(lambda: living.bodies, "it is told")
    assert 0 < RETRY_MAX_S <= 15


def test_an_alertmanager_that_refuses_is_said_to_refuse() -> None:
    for host in ("127.0.0.1", "nowhere.invalid"):
        endpoint = url.alertmanager(f"alertmanager://{host}:{free_port()}")
        assert endpoint is not None
        sink = Alertmanager(endpoint, "alertmanager-00000000")
        with pytest.raises(SinkFailed, match="no connection: ") as caught:
            sink.attempt({KEY: condition(SPENT)}, NOON)
        assert "no answer" not in caught.value.message


def test_all_changes_of_a_look_are_one_message(world: World, start: Start) -> None:
    with listening() as living:
        notifier = start(open_all([f"json://127.0.0.1:{living.port}/"]))
        world.day = {f"team-{i}": SPENT for i in range(1000)}
        notifier.look(world.now)
        wait_until(lambda: settled(notifier), "all is told")
        assert len(living.heard) == 1
        assert living.bodies[0]["title"] == "1000 budgets changed: 1000 at the limit"
        assert len(living.bodies[0]["message"]) <= 4000


def test_the_wait_doubles_up_to_the_most_with_some_jitter() -> None:
    pace = Pace()
    waits = [pace.pause_s(failures, 0, 0.5) for failures in (1, 2, 3, 9, 10, 2000)]
    assert waits == [1, 2, 4, 256, 300, 300]
    assert (pace.pause_s(1, 0, 0.0), pace.pause_s(1, 0, 1.0)) == (0.8, 1.2)


@hypothesis.given(
    st.integers(1, 10**9),
    st.floats(0, allow_nan=False),
    st.floats(0, 1),
    st.floats(0.001, 300),
    st.floats(300, 3600),
)
def test_a_wait_is_never_shorter_than_the_first_nor_longer_than_an_hour_or_the_most(
    failures: int, asked: float, chance: float, first: float, most: float
) -> None:
    """Whatever a sink asks and however often it failed, it is asked again within a known time."""
    wait = Pace(first_s=first, most_s=most).pause_s(failures, asked, chance)
    assert first * (1 - JITTER) <= wait <= max(most * (1 + JITTER), ASKED_MAX_S)
    assert wait >= min(asked, ASKED_MAX_S)


def test_a_sink_that_asks_for_more_time_gets_it() -> None:
    pace = Pace()
    assert pace.pause_s(1, 77.0, 0.5) == 77
    assert pace.pause_s(9, 1.0, 0.5) == 256
    assert pace.pause_s(1, 10**9, 0.5) == 3600
