"""Chores in a process that has more important things to do."""

import sys
import threading

from sluice import chores
from sluice.chores import ClockWatch


def test_a_paced_chore_sees_everything_and_lets_other_threads_work_meanwhile():
    usual = sys.getswitchinterval()
    started, done = threading.Event(), threading.Event()
    turns: list[int] = []

    def other() -> None:
        started.set()
        while not done.is_set():
            turns.append(1)
            done.wait(1e-6)

    thread = threading.Thread(target=other)
    thread.start()
    started.wait()
    # Nobody has to give way any more: what the other gets is given.
    sys.setswitchinterval(60)
    try:
        before = len(turns)
        seen = [(item, len(turns)) for item in chores.paced(range(1000))]
        assert [item for item, _ in seen] == list(range(1000))
        assert seen[-1][1] > before
    finally:
        sys.setswitchinterval(usual)
        done.set()
        thread.join()


def test_a_jump_of_the_wall_clock_is_told_from_time_that_passes():
    wall, monotonic = [1000.0], [5.0]
    clock = ClockWatch(lambda: wall[0], lambda: monotonic[0])
    for passed, jump in ((10, 0), (1, 3600), (1, 0), (5, -86_400), (1, 0)):
        wall[0] += passed + jump
        monotonic[0] += passed
        assert clock.step() == jump
