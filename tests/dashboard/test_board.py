"""The board: one tick for all who look, however many they are and however slow."""

import itertools
import json
import threading
import time
from datetime import UTC, datetime

import pytest
from dashboard.harness import Teams, origin_of, row
from harness import wait_until

from sluice import errors, source
from sluice.dashboard import board

NOW = datetime(2026, 11, 23, 14, 10, tzinfo=UTC).timestamp()


class Asked(Teams):
    """Rows, and how often they were asked for."""

    def __init__(self, rows):
        super().__init__(rows)
        self.times = 0

    def rows(self, now):
        self.times += 1
        return super().rows(now)


@pytest.fixture
def teams():
    return Asked([row("shop", now=NOW, day=10), row("cart", now=NOW, day=20)])


@pytest.fixture
def made(teams):
    one = board.Board(source.Source(teams.rows), lambda: NOW)
    yield one
    one.stop()
    wait_until(lambda: not is_ticking(), "the thread has ended")


def is_ticking():
    return any(one.name == "board" for one in threading.enumerate())


def news(events):
    """What an event says."""
    (data,) = (part for part in events.decode().split("\n") if part.startswith("data: "))
    return json.loads(data.removeprefix("data: "))


def numbered(events):
    """Each event's id with what it says."""
    parts = events.decode().removesuffix("\n\n").split("\n\n")
    found = [part.split("\n") for part in parts]
    return [
        (number.removeprefix("id: "), json.loads(text.removeprefix("data: ")))
        for number, text in found
    ]


def listening(made, **more):
    """A listener that has been told to try again."""
    one = made.listen(**more)
    assert next(one).startswith(b"retry: ")
    return one


def test_all_who_look_in_the_same_second_see_the_same_reading(made, teams):
    first = made.snapshot()
    assert all(made.snapshot() is first for _ in range(100))
    assert teams.times == 1


def test_while_nobody_listens_nothing_is_read(made, teams, monkeypatch):
    monkeypatch.setattr(board, "TICK_S", 0.01)
    one = listening(made)
    next(one)
    one.close()
    assert made.listeners == 0
    asked = teams.times
    # Another board, that somebody listens to, tells how much was read in the same time.
    others = Asked([])
    other = board.Board(source.Source(others.rows), lambda: NOW)
    heard = listening(other)
    wait_until(lambda: others.times >= 50, "the other board has read often")
    read = teams.times
    heard.close()
    other.stop()
    # The one that had begun when the last listener left.
    assert read <= asked + 1
    next(listening(made))
    again = teams.times
    wait_until(lambda: teams.times > again + 1, "with a listener it goes on")


def test_an_event_holds_only_texts_that_changed(made, teams):
    shown = made.snapshot()
    one = listening(made, mark=made.mark(shown))
    teams.put(row("shop", now=NOW, day=11))
    found = news(next(one))
    assert found["rows"].keys() == {"default/shop"}
    assert found["rows"]["default/shop"] == {
        "dayExact": "11 of 1,000,000 bytes",
        "monthExact": "11 bytes, no limit",
        "month": "11 B",
        "used": "11 B of 1.00 MB",
        "sort": made.snapshot().lines["default/shop"]["sort"],
    }
    assert found["gone"] == []
    assert "all" not in found


def test_teams_come_and_go(made, teams):
    one = listening(made, mark=made.mark(made.snapshot()))
    del teams.now["default/cart"]
    teams.put(row("new", now=NOW))
    found = news(next(one))
    assert found["gone"] == ["default/cart"]
    assert found["rows"]["default/new"]["name"] == "new"
    assert found["totals"]["teams"] == "2"


@pytest.mark.parametrize(
    "mark", ["", "0123abcd-7", "nonsense", "-", "\N{SUPERSCRIPT TWO}-\N{SUPERSCRIPT TWO}"]
)
def test_who_shows_what_this_board_did_not_say_gets_everything(made, mark):
    found = news(next(listening(made, mark=mark)))
    assert found["all"] is True
    assert found["rows"].keys() == {"default/shop", "default/cart"}


def test_who_comes_back_soon_gets_what_was_missed_and_who_lags_gets_everything(made, teams):
    mark = made.mark(made.snapshot())
    busy = listening(made, mark=mark)
    for size in range(board.KEPT + 2):
        teams.put(row("shop", now=NOW, day=100 + size))
        next(busy)
        if size == 1:
            late = next(part for part in [listening(made, mark=mark)])
            found = next(late).decode()
            assert found.count("data: ") >= 2
            assert '"all"' not in found
            late.close()
    lagging = listening(made, mark=mark)
    assert news(next(lagging))["all"] is True


def test_who_saw_the_first_of_two_changes_gets_the_second_by_the_id_of_the_first(made, teams):
    shown = made.snapshot()
    mark = made.mark(shown)
    busy = listening(made, mark=mark)
    for key, change in (("shop", 11), ("cart", 21)):
        teams.put(row(key, now=NOW, day=change))
        while f"default/{key}" not in news(next(busy))["rows"]:
            pass
    # Readings without news are told too, of their time.
    told = numbered(next(listening(made, mark=mark)))
    assert [number for number, _ in told] == [made.mark_of(1 + i) for i in range(len(told))]
    (first, one), (second, other), *_ = [(number, text) for number, text in told if text["rows"]]
    assert one["rows"]["default/shop"]["used"] == "11 B of 1.00 MB"
    assert other["rows"]["default/cart"]["used"] == "21 B of 1.00 MB"
    assert (len(one["rows"]), len(other["rows"])) == (1, 1)
    missed = numbered(next(listening(made, mark=first)))
    assert (second, other) in missed
    assert first not in dict(missed)


def test_who_was_not_there_when_nobody_was_gets_everything(made, teams):
    mark = made.mark(made.snapshot())
    teams.put(row("shop", now=NOW, day=11))
    # Nobody listens, so nobody found out what is different.
    wait_until(lambda: made.snapshot().number == 1, "a second reading")
    assert news(next(listening(made, mark=mark)))["all"] is True
    # Nor does what follows once somebody does make up for it.
    busy = listening(made, mark=made.mark_of(1))
    teams.put(row("cart", now=NOW, day=21))
    while not news(next(busy))["rows"]:
        pass
    assert news(next(listening(made, mark=mark)))["all"] is True


def test_a_stream_ends_after_its_time_and_who_connects_anew_gets_what_came_in_between(
    made, teams, monkeypatch
):
    mark = made.mark(made.snapshot())
    with monkeypatch.context() as patch:
        patch.setattr(board, "LASTS_S", 0.0)
        over = made.listen(mark=mark)
    assert made.listeners == 1
    teams.put(row("shop", now=NOW, day=11))
    wait_until(lambda: made.snapshot().number == 1, "there is news")
    # Over is over, though there is something to say.
    assert list(itertools.islice(over, 2)) == [f"retry: {board.RETRY_MS}\n\n".encode()]
    assert made.listeners == 0
    found = news(next(listening(made, mark=mark)))
    assert found["rows"].keys() == {"default/shop"}
    assert "all" not in found


def test_an_event_is_encoded_once_for_all(made, teams):
    mark = made.mark(made.snapshot())
    both = [listening(made, mark=mark) for _ in range(2)]
    teams.put(row("shop", now=NOW, day=11))
    wait_until(lambda: made.snapshot().number == 1, "a second reading")
    shown, changes = made.wait(0)
    assert shown.delta(changes[0]) is shown.delta(changes[0])
    assert next(both[0]) == next(both[1])


def test_a_team_page_hears_of_its_team_only_and_that_it_is_gone(made, teams):
    one = listening(made, key="default/shop")
    assert news(next(one))["texts"]["used"] == "10 B of 1.00 MB"
    del teams.now["default/shop"]
    found = news(next(one))
    while "texts" in found:
        found = news(next(one))
    assert found == {"gone": True}


def test_the_places_of_listeners_are_counted_and_given_back(teams):
    made = board.Board(source.Source(teams.rows), lambda: NOW, listeners_max=2)
    told = []
    made.tell(told.append)
    one, _ = made.listen(), made.listen()
    with pytest.raises(board.TooManyListeners, match="2 pages are live, at most 2 can be"):
        made.listen()
    one.close()
    one.close()
    made.listen()
    assert told == [1, 2, 1, 2]
    made.stop()


def test_stop_wakes_all_who_wait(made):
    made.snapshot()
    ended = []

    def read():
        for _ in made.listen():
            pass
        ended.append(1)

    readers = [threading.Thread(target=read) for _ in range(10)]
    for reader in readers:
        reader.start()
    wait_until(lambda: made.listeners == 10, "all listen")
    made.stop()
    for reader in readers:
        reader.join(5)
    assert len(ended) == 10
    assert made.listeners == 0
    assert list(made.listen()) == [f"retry: {board.RETRY_MS}\n\n".encode()]


def test_who_hears_nothing_for_long_gets_a_heartbeat(teams):
    def away(_):
        raise errors.Unavailable("no list yet")

    made = board.Board(source.Source(away), lambda: NOW, heartbeat_s=0.05)
    one = listening(made)
    assert next(one) == next(one) == board.HEARTBEAT
    made.stop()


def test_a_defect_in_one_second_does_not_end_the_next(teams, caplog):
    def broken(now):
        teams.times += 1
        if teams.times == 1:
            raise RuntimeError("a defect")
        return Teams.rows(teams, now)

    made = board.Board(source.Source(broken), lambda: NOW)
    one = listening(made)
    assert news(next(one))["all"] is True
    assert "the pages' next second failed" in caplog.text
    made.stop()


def test_a_clock_that_jumps_changes_what_is_said_and_not_the_pace(teams):
    times = iter([NOW, NOW + 10**6, *[NOW - 10**6] * 1000])
    made = board.Board(origin_of(teams, NOW), lambda: next(times))
    one = listening(made)
    began = time.monotonic()
    heard = [next(one) for _ in range(3)]
    assert len(set(heard)) == 3
    assert time.monotonic() - began >= board.TICK_S
    made.stop()
