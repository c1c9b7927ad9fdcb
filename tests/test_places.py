"""How many requests there may be at a time: who waits for a place, and who is sent away."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from front import PUSH, SHOP, Front, Sender
from harness import wait_until
from hypothesis import given
from hypothesis import strategies as st

from sluice import errors
from sluice.agent import inline, places, upstream


class Waiting(Sender):
    """An upstream that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def send(self, target: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        super().send(target, body, headers)
        assert self.let.wait(20)
        return self.reply


class Guest:
    """Somebody who comes for a place, and says what came of it."""

    def __init__(
        self, room: places.Places, name: str = "", into: Any = None, peer: str = ""
    ) -> None:
        self.outcome: object = None
        self.room, self.name, self.into, self.peer = room, name, into, peer
        inline.Task(self.come())

    async def come(self) -> None:
        try:
            waiter = self.room.enter(self.peer)
            if waiter is not None:
                await waiter
        except errors.Unavailable as error:
            self.outcome = error
            return
        self.outcome = "inside"
        if self.into is not None:
            self.into.append(self.name)
            self.room.leave(self.peer)


def room_of(count: int, **more: Any) -> places.Places:
    return places.Places(count, **{"wait_s": 1000.0, **more})


def test_those_who_wait_come_in_one_by_one_in_the_order_in_which_they_came():
    room = room_of(1)
    order: list[str] = []
    assert room.enter() is None
    guests = [Guest(room, str(i), order) for i in range(2000)]
    assert (order, room.waiting) == ([], 1000)
    # More than may wait are sent away.
    assert all(isinstance(guest.outcome, errors.Unavailable) for guest in guests[1000:])
    # Each lets the next one in, however many there are.
    room.leave()
    assert order == [str(i) for i in range(1000)]
    assert room.inside == 0


def test_of_a_house_that_stands_still_all_are_sent_away_until_somebody_gets_further():
    room = room_of(1)
    assert room.enter() is None
    guest = Guest(room)
    for _ in range(places.LOOKS):
        assert guest.outcome is None
        assert not room.is_stuck()
        room.look()
    room.look()
    assert isinstance(guest.outcome, errors.Unavailable)
    assert "1 requests are being handled, at most 1" in str(guest.outcome)
    assert room.is_stuck()
    with pytest.raises(errors.Unavailable):
        room.enter()
    room.note_progress()
    assert not room.is_stuck()
    patient = Guest(room)
    room.look()
    assert patient.outcome is None
    room.leave()
    assert patient.outcome == "inside"
    assert room.inside == 1


def test_while_others_get_on_one_waits_for_the_time_that_is_allowed():
    room = room_of(1, wait_s=0.2)
    assert room.enter() is None
    guest, began = Guest(room), time.monotonic()
    while guest.outcome is None:
        room.note_progress()
        room.look()
        time.sleep(0.01)
    assert time.monotonic() - began >= 0.2
    assert isinstance(guest.outcome, errors.Unavailable)


def test_patient_ones_wait_though_all_stand_still():
    room = room_of(1, is_patient=True)
    assert room.enter() is None
    guest = Guest(room)
    for _ in range(10 * places.LOOKS):
        room.look()
    assert guest.outcome is None
    room.leave()
    assert guest.outcome == "inside"


def test_one_peer_leaves_a_quarter_of_the_places_to_others():
    room = room_of(8)
    assert [room.enter(peer) for peer in "ab"] == [None, None]
    for peer in "ab":
        room.leave(peer)
    greedy = [Guest(room, peer="a") for _ in range(20)]
    assert sum(one.outcome == "inside" for one in greedy) == 6
    others = [Guest(room, peer=peer) for peer in "bcd"]
    assert [one.outcome for one in others] == ["inside", "inside", None]
    # A place that comes free is for the peer with the fewest.
    room.leave("a")
    assert others[2].outcome == "inside"
    assert sum(one.outcome == "inside" for one in greedy) == 6
    room.leave("a")
    room.leave("b")
    assert sum(one.outcome == "inside" for one in greedy) == 8
    assert room.inside == 8


def test_a_peer_with_its_share_waits_though_places_are_free():
    room = room_of(4)
    assert [room.enter(peer) for peer in "ab"] == [None, None]
    for peer in "ab":
        room.leave(peer)
    assert [room.enter("a") for _ in range(3)] == [None] * 3
    guest = Guest(room, peer="a")
    assert (guest.outcome, room.inside) == (None, 3)
    room.leave("a")
    assert (guest.outcome, room.inside) == ("inside", 3)


def test_a_crowd_that_waits_makes_room_for_another_peer():
    room = room_of(1, waiting_max=3)
    crowd = [Guest(room, peer="a") for _ in range(5)]
    assert [type(one.outcome) for one in crowd[1:]] == [
        *(type(None),) * 3,
        errors.Unavailable,
    ]
    other = Guest(room, peer="b")
    assert other.outcome is None
    assert isinstance(crowd[3].outcome, errors.Unavailable)
    # One of the crowd does not crowd out another.
    assert isinstance(Guest(room, peer="a").outcome, errors.Unavailable)
    for _ in range(3):
        assert other.outcome is None
        room.leave("a")
    assert other.outcome == "inside"


def test_a_peer_that_comes_alone_may_have_all_places_and_another_is_the_next():
    room = room_of(8)
    assert [room.enter("a") for _ in range(8)] == [None] * 8
    own, other = Guest(room, peer="a"), Guest(room, peer="b")
    room.leave("a")
    assert (own.outcome, other.outcome) == (None, "inside")
    room.leave("a")
    # Now that there is another, the first one has its share and no more.
    assert own.outcome is None
    assert (room.inside, room.share) == (7, 6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_few_places_one_peer_may_have_all(count: int):
    room = room_of(count)
    assert [room.enter("a") for _ in range(count)] == [None] * count


@given(st.integers(1, 9), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_places_are_never_lost_and_no_peer_has_more_than_its_share(count, steps):
    """For any comings and goings: who is inside is counted, within the limits, and none is lost."""
    room = room_of(count)
    guests: list[Guest] = []
    assert room.enter("y") is None
    room.leave("y")
    assert room.enter("z") is None
    room.leave("z")
    for peer, comes in steps:
        if comes:
            guests.append(Guest(room, peer=peer))
        elif left := next((g for g in guests if g.peer == peer and g.outcome == "inside"), None):
            guests.remove(left)
            room.leave(peer)
        inside = Counter(one.peer for one in guests if one.outcome == "inside")
        assert inside.total() == room.inside <= count
        assert max(inside.values(), default=0) <= room.share
        waiting = {one.peer for one in guests if one.outcome is None}
        assert room.inside == count or all(inside[peer] == room.share for peer in waiting)


def test_a_push_that_waits_for_upstream_keeps_nobody_from_asking():
    front = Front([SHOP], Waiting())
    statuses: list[int] = []
    pushing = threading.Thread(target=lambda: statuses.append(front.send(PUSH).status_code))
    pushing.start()
    wait_until(lambda: front.sender.sent, "it waits")
    assert front.client.get("/ready").status_code == 200
    front.sender.let.set()
    pushing.join()
    assert statuses == [204]
