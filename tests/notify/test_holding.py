"""What holds: levels and forecasts, steady enough to be told."""

import hypothesis
import pytest
from hypothesis import strategies as st
from notify.fakes import BAND, DAY, FREE, KEY, MIDNIGHT, MONTH, NEXT_DAY, NOON, SPENT, outlook, row

from sluice.forecast import Outlook
from sluice.notify.rules import CLEAR_S, HOLD_S, RAISE_S, Condition, Judge
from sluice.policy import Action
from sluice.usage import Row

LEVEL = {FREE: Action.ALLOW, BAND: Action.THROTTLE, SPENT: Action.DROP}


def judged(judge: Judge, seen: Row, expected: Outlook | None = None) -> Condition:
    return judge.judge([seen], lambda key: expected, seen.now)[KEY]


def levels(judge: Judge, *seen: tuple[float, int]) -> list[Action]:
    return [judged(judge, row(day, NOON + after)).level for after, day in seen]


def test_a_level_that_rises_holds_at_once() -> None:
    found = levels(Judge(), (0, FREE), (1, BAND), (2, SPENT))
    assert found == [Action.ALLOW, Action.THROTTLE, Action.DROP]


def test_the_level_is_the_action_and_no_percentage() -> None:
    # 999 of 1000 bytes are less than all, but a mean entry of 2 bytes does not fit any more
    seen = row(999)
    seen.usage.today[1] = 2
    assert seen.percent < 100
    assert judged(Judge(), seen).level is Action.DROP


def test_a_level_that_falls_holds_when_it_has_lasted() -> None:
    found = levels(Judge(), (0, SPENT), (1, BAND), (1 + HOLD_S - 1, BAND), (1 + HOLD_S, BAND))
    assert found == [Action.DROP, Action.DROP, Action.DROP, Action.THROTTLE]


def test_an_action_that_flickers_is_no_change() -> None:
    seen = [(float(after), SPENT if after % 50 == 0 else FREE) for after in range(0, 1000, 5)]
    assert set(levels(Judge(), *seen)) == {Action.DROP}


def test_a_fall_goes_no_further_than_the_highest_level_meanwhile() -> None:
    found = levels(
        Judge(), (0, SPENT), (1, FREE), (30, BAND), (60, FREE), (61, FREE), (62, FREE), (122, FREE)
    )
    assert found[3:] == [Action.DROP, Action.THROTTLE, Action.THROTTLE, Action.ALLOW]


def test_the_turn_of_the_window_is_a_fall_at_once() -> None:
    judge = Judge()
    assert judged(judge, row(SPENT, MIDNIGHT - 1)).window == DAY
    found = judged(judge, row(FREE, MIDNIGHT))
    assert (found.level, found.window) == (Action.ALLOW, NEXT_DAY)


def test_a_limit_that_was_raised_is_a_fall_at_once() -> None:
    judge = Judge()
    judged(judge, row(SPENT))
    assert judged(judge, row(SPENT, NOON + 1, daily_limit=10_000)).level is Action.ALLOW


def test_a_clock_that_was_put_back_does_not_shorten_the_wait() -> None:
    found = levels(Judge(), (0, SPENT), (100, FREE), (50, FREE), (100, FREE), (110, FREE))
    assert found[1:] == [Action.DROP, Action.DROP, Action.DROP, Action.ALLOW]


def test_the_month_is_the_cause_if_it_alone_is() -> None:
    both = judged(Judge(), row(SPENT, month=5000, monthly_limit=5000))
    alone = judged(Judge(), row(BAND, month=5000, monthly_limit=5000))
    assert (both.window, alone.window) == (DAY, MONTH)


def test_the_cause_stays_while_its_window_is_open_and_the_level_holds() -> None:
    judge = Judge()
    first = judged(judge, row(FREE, month=5000, monthly_limit=5000))
    later = judged(judge, row(SPENT, NOON + 1, month=5000, monthly_limit=5000))
    assert (first.window, later.window, later.since) == (MONTH, MONTH, NOON)
    assert first == later


def test_at_midnight_a_month_that_is_spent_takes_over() -> None:
    judge = Judge()
    judged(judge, row(SPENT, MIDNIGHT - 1, month=5000, monthly_limit=5000))
    found = judged(judge, row(0, MIDNIGHT, month=5000, monthly_limit=5000))
    assert (found.level, found.window, found.since) == (Action.DROP, MONTH, MIDNIGHT)


def test_a_team_that_is_gone_is_forgotten() -> None:
    judge = Judge()
    judged(judge, row(SPENT))
    assert judge.judge([], lambda key: None, NOON) == {}
    assert judged(judge, row(FREE, NOON + 1)).level is Action.ALLOW


def test_figures_are_no_change() -> None:
    judge = Judge()
    assert judged(judge, row(1)) == judged(judge, row(2, NOON + 5))


@pytest.mark.parametrize(
    ("told", "silent"),
    [
        ([(Action.DROP, DAY)], True),
        ([(Action.ALLOW, ""), (Action.DROP, MONTH)], True),
        ([(Action.DROP, "d/2026-11-22")], False),
        ([(Action.THROTTLE, DAY)], False),
        ([], False),
    ],
)
def test_a_level_below_what_others_were_told_has_yet_to_last(
    told: list[tuple[Action, str]], silent: bool
) -> None:
    judge = Judge(before=lambda key: told)
    assert (judge.judge([row(BAND)], lambda key: None, NOON) == {}) == silent
    later = NOON + HOLD_S
    assert judged(judge, row(BAND, later)).level is Action.THROTTLE


def test_what_others_were_told_holds_as_soon_as_it_is_seen() -> None:
    judge = Judge(before=lambda key: [(Action.DROP, DAY)])
    assert judge.judge([row(BAND)], lambda key: None, NOON) == {}
    assert judged(judge, row(SPENT, NOON + 1)).level is Action.DROP


def forecasts(judge: Judge, *seen: tuple[float, float | None], day: int = FREE) -> list[bool]:
    return [judged(judge, row(day, at), outlook(spent)).forecast for at, spent in seen]


def test_a_forecast_holds_when_it_has_lasted_and_is_over_when_that_has_lasted() -> None:
    spent, raised = NOON + 5000, NOON + RAISE_S
    found = forecasts(
        Judge(), (NOON, spent), (raised - 1, spent), (raised, spent), (raised + 10, None),
        (raised + 9 + CLEAR_S, None), (raised + 10 + CLEAR_S, None),
    )  # fmt: skip
    assert found == [False, False, True, True, True, False]


def test_a_forecast_that_comes_and_goes_is_none() -> None:
    spent = NOON + 5000
    seen = [(NOON + 10 * i, spent if i % 10 else None) for i in range(100)]
    assert not any(forecasts(Judge(), *seen))


def test_a_forecast_ends_with_the_day_and_at_the_limit() -> None:
    judge = Judge(raise_s=0)
    assert forecasts(judge, (MIDNIGHT - 2, MIDNIGHT - 1)) == [True]
    assert forecasts(judge, (MIDNIGHT, MIDNIGHT + 5)) == [False]
    assert forecasts(judge, (MIDNIGHT + 1, MIDNIGHT + 9)) == [True]
    assert forecasts(judge, (MIDNIGHT + 2, MIDNIGHT + 9), day=SPENT) == [False]


def test_a_moment_that_has_passed_is_no_forecast() -> None:
    assert forecasts(Judge(raise_s=0), (NOON, NOON)) == [False]


def test_that_nothing_is_expected_yet_ends_no_forecast() -> None:
    judge = Judge(raise_s=0, clear_s=0)
    assert forecasts(judge, (NOON, NOON + 9)) == [True]
    assert judged(judge, row(FREE, NOON + 1), None).forecast


def test_a_budget_has_rules_of_its_own_or_the_default() -> None:
    judge = Judge(("drop",))
    assert judged(judge, row()).rules == ("drop",)
    assert judged(judge, row(notify=("forecast",))).rules == ("forecast",)
    assert judged(judge, row(notify=())).rules == ()


LOOK_S = 5


@hypothesis.given(st.lists(st.tuples(st.sampled_from([FREE, BAND, SPENT]), st.integers(1, 30))))
def test_what_holds_is_the_action_or_was_it_lately(runs: list[tuple[int, int]]) -> None:
    """What holds is never below the action, and was the action within twice HOLD_S and a look."""
    judge, now, seen = Judge(), NOON, []
    for day, count in runs:
        for _ in range(count):
            seen.append((now, LEVEL[day]))
            level = judged(judge, row(day, now)).level
            assert level >= LEVEL[day]
            assert level in {action for at, action in seen if at >= now - 2 * (HOLD_S + LOOK_S)}
            now += LOOK_S
