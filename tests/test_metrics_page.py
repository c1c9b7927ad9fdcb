"""A page that many ask for is made for all of them, within a share of the time."""

import threading

from harness import wait_until
from hypothesis import given
from hypothesis import strategies as st

from sluice import metrics


class Clock:
    """Seconds that a test moves; making a page takes some of them."""

    def __init__(self, cost_s: float) -> None:
        self.now, self.cost_s, self.made = 100.0, cost_s, 0

    def __call__(self) -> float:
        return self.now

    def make(self) -> bytes:
        self.now += self.cost_s
        self.made += 1
        return b"%d" % self.made


def test_a_cheap_page_is_made_for_each_who_asks() -> None:
    clock = Clock(0.002)
    page = metrics.Page(clock.make, clock)
    for i in range(50):
        assert page.get() == b"%d" % (i + 1)
        clock.now += 0.010


def test_a_dear_page_is_made_about_once_a_second() -> None:
    clock = Clock(0.3)
    page = metrics.Page(clock.make, clock)
    pages = []
    for _ in range(400):
        pages.append(page.get())
        clock.now += 0.005
    assert len(set(pages)) <= 5


@given(
    cost_s=st.floats(0.0001, 2.0),
    pauses=st.lists(st.floats(0, 3.0), min_size=1, max_size=200),
)
def test_no_page_is_older_than_a_second_and_making_them_has_a_share(cost_s, pauses) -> None:
    """For any askers: a page given was begun at most PAGE_S before; making has a share."""
    clock = Clock(cost_s)
    page = metrics.Page(clock.make, clock)
    begun, first = [], clock.now
    for pause in pauses:
        before = clock.made
        asked = clock.now
        page.get()
        if clock.made > before:
            begun.append(asked)
        assert clock.made == before or clock.made == before + 1
        assert asked - begun[-1] <= metrics.PAGE_S
        clock.now += pause
    spent, passed = clock.made * cost_s, clock.now - first
    allowance = metrics.PAGE_SHARE * (passed + metrics.PAGE_S) + cost_s
    assert spent <= allowance + cost_s * (passed / metrics.PAGE_S + 1)


def test_those_who_come_while_a_page_is_made_share_the_next_one() -> None:
    is_made, release = threading.Event(), threading.Event()
    made = []

    def make() -> bytes:
        made.append(1)
        is_made.set()
        release.wait(10)
        return b"%d" % len(made)

    asked: list[float] = []

    def monotonic() -> float:
        # Not the real time: a page that took long would be given to all who wait.
        asked.append(len(asked) * 1e-6)
        return asked[-1]

    page = metrics.Page(make, monotonic)
    got: list[bytes] = []
    first = threading.Thread(target=lambda: got.append(page.get()))
    first.start()
    assert is_made.wait(10)
    rest = [threading.Thread(target=lambda: got.append(page.get())) for _ in range(20)]
    for one in rest:
        one.start()
    wait_until(lambda: len(asked) == 2 + len(rest), "all have asked")
    release.set()
    for one in (first, *rest):
        one.join(10)
    assert sorted(got) == [b"1", *[b"2"] * len(rest)]
