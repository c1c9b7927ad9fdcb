"""History: whatever happens to clock, process and file, a day's steps add up to the day's bytes."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from dashboard.histories import DAY_S, HOUR_S, MIDNIGHT, MINUTE_S, NOON, ZONES, row, sums, team
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sluice import budget, window
from sluice.dashboard import history

# In Berlin, clocks are set back: the day has 25 hours.
LONG_DAY = 1_792_915_200  # 2026-10-25T08:00:00Z


class Days(RuleBasedStateMachine):
    """Invariant: whatever is recorded when, the steps of a day add up to the day's bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.past = history.History(self.folder / "history.db")
        self.teams = [team(f"team-{i}", zone) for i, zone in enumerate(ZONES)]
        self.zones = {one.key: one.time_zone for one in self.teams}
        # By team and day: what was counted, and what of that was recorded.
        self.counted: dict[tuple[str, int], list[int]] = {}
        self.recorded: dict[tuple[str, int], list[int]] = {}
        self.first: dict[tuple[str, int], float] = {}

    @initialize(now=st.sampled_from([NOON, MIDNIGHT, LONG_DAY, MIDNIGHT - 19 * MINUTE_S]))
    def begin(self, now: int) -> None:
        self.now = float(now)

    def teardown(self) -> None:
        self.past.close()
        shutil.rmtree(self.folder)

    @rule(seconds=st.integers(1, 3 * HOUR_S), size=st.integers(0, 2**55), which=st.integers(0, 15))
    def count(self, seconds: int, size: int, which: int) -> None:
        self.now += seconds
        self.add(self.teams[which % 4], which // 4, size)

    def add(self, own: budget.Budget, outcome: int, size: int) -> None:
        day = window.open_windows(own.time_zone, self.now).day
        self.counted.setdefault((own.key, day), [0] * 4)[outcome] += size

    @rule()
    def record(self) -> None:
        rows = []
        for own in self.teams:
            here = window.open_windows(own.time_zone, self.now)
            sizes = self.counted.get((own.key, here.day), [0] * 4)
            rows.append(row(own, self.now, *sizes))
            self.recorded[own.key, here.day] = [*sizes]
            self.first.setdefault((own.key, here.day), self.now)
        self.past.record(rows, self.now)
        # What is too old, or recorded by a clock that was wrong, may be gone.
        for key, day in [*self.recorded]:
            here = window.open_windows(self.zones[key], self.first[key, day])
            if here.end > self.now + DAY_S or here.start < self.now - history.DAYS * DAY_S:
                del self.recorded[key, day]

    @rule(minutes=st.integers(1, 40), size=st.integers(1, 999), which=st.integers(0, 15))
    def go_on(self, minutes: int, size: int, which: int) -> None:
        for _ in range(minutes):
            self.count(MINUTE_S, size, which)
            self.record()

    @rule(seconds=st.integers(1, 20 * HOUR_S))
    def put_the_clock_back(self, seconds: int) -> None:
        self.now -= seconds

    @rule(hours=st.integers(1, 60))
    def stand_still(self, hours: int) -> None:
        self.now += hours * HOUR_S

    @rule()
    def thin_out(self) -> None:
        for _ in range(20):
            self.record()

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        if not is_killed:
            self.past.close()
        self.past = history.History(self.folder / "history.db")

    @invariant()
    def days_add_up(self) -> None:
        for (key, day), sizes in self.recorded.items():
            here = window.open_windows(self.zones[key], self.first[key, day])
            assert here.day == day
            for step_s in (MINUTE_S, 15 * MINUTE_S):
                assert sums(self.past, key, here.start, here.end, step_s) == sizes


TestDays = Days.TestCase
TestDays.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
