"""What a message says, and what hostile names cannot make of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notify.fakes import BAND, KEY, NOON, SPENT, condition

from sluice.notify import message
from sluice.notify.change import NOTHING, Change, Said, difference
from sluice.notify.rules import Condition
from sluice.policy import Action

DAY = "d/2026-11-23"
URL = "https://sluice.example.com"


def only(holding: Condition, said: Said = NOTHING) -> Change:
    changes, _ = difference(said, holding, holding.rules, NOON)
    assert len(changes) == 1
    return changes[0]


def test_a_throttled_team_reads_who_how_much_until_when_and_what_becomes_of_lines() -> None:
    holding = condition(
        812_345,
        daily_limit=1_000_000,
        expected=NOON + 4 * 3600,
        time_zone="Europe/Berlin",
        sample_rate=0.5,
        rules=("throttle",),
    )
    change = only(holding)
    assert message.title([change]) == "default/backend has used 80 % of its day's budget"
    assert message.body([change], URL, 4000).splitlines() == [
        "Used in the day so far: 812 kB of 1.00 MB (81.2 %; 812,345 of 1,000,000 bytes).",
        "Lines are sampled: about 50.0 % of new ones are kept."
        " The day ends at 2026-11-24 00:00 CET.",
        "At this pace the day's budget is spent at 2026-11-23 17:00 CET.",
        "https://sluice.example.com/teams/default/backend",
    ]


def test_a_team_at_its_limit_reads_that_lines_are_dropped_and_until_when() -> None:
    change = only(condition(10, month=5000, monthly_limit=5000))
    assert message.title([change]) == "default/backend has spent its month's budget"
    assert message.body([change], None, 4000).splitlines() == [
        "Used in the month so far: 5.00 kB of 5.00 kB (100.0 %; 5,000 of 5,000 bytes).",
        "Lines that do not fit are dropped. The month ends at 2026-12-01 00:00 UTC.",
    ]


def test_a_dry_run_does_not_read_as_if_lines_were_lost() -> None:
    change = only(condition(SPENT, dry_run=True))
    assert message.title([change]).endswith("(dry run)")
    said = message.body([change], None, 4000)
    assert "This is a dry run, all lines pass; enforced: lines that do not fit are dropped." in said


@pytest.mark.parametrize(
    ("day", "words"),
    [(0, "has recovered: below 80 %"), (BAND, "no longer at its limit, but still above 80 %")],
)
def test_a_recovery_says_to_what(day: int, words: str) -> None:
    said = Said(Action.DROP, DAY, NOON)
    assert words in message.title([only(condition(day), said)])


def test_a_forecast_says_when() -> None:
    change = only(condition(expected=NOON + 3600))
    assert message.title([change]) == (
        "default/backend will spend its day's budget before the day ends, at 2026-11-23 13:00 UTC"
    )


def many(count: int) -> list[Change]:
    used = [0, BAND, SPENT]
    said = Said(Action.DROP, "d/2026-11-22", NOON)
    return [only(condition(used[i % 3], name=f"team-{i:03}"), said) for i in range(count)]


def test_many_teams_have_a_line_each_the_most_urgent_first() -> None:
    changes = many(6)
    assert message.title(changes) == (
        "6 budgets changed: 2 at the limit, 2 above 80 %, 2 recovered"
    )
    lines = message.body(changes, URL, 4000).splitlines()
    assert [line.split()[1] for line in lines[:-1]] == [
        "default/team-002", "default/team-005", "default/team-001", "default/team-004",
        "default/team-000", "default/team-003",
    ]  # fmt: skip
    assert lines[0] == "- default/team-002 has spent its day's budget: 100.0 % of 1.00 kB"
    assert lines[-1] == "All teams: https://sluice.example.com/"


@given(count=st.integers(2, 60), size_max=st.integers(150, 3000))
def test_a_message_fits_and_says_how_many_are_missing(count: int, size_max: int) -> None:
    """Whatever the size, the lines shown and the number of those left out are all changes."""
    said = message.body(many(count), URL, size_max)
    assert len(said) <= size_max
    lines = said.splitlines()
    shown = sum(line.startswith("- ") for line in lines)
    left = [int(line.split()[2]) for line in lines if line.startswith("... and ")]
    assert shown + sum(left) == count
    assert lines[-1].startswith("All teams:")


@given(st.text(max_size=300))
def test_a_name_is_a_name_whatever_it_looks_like(name: str) -> None:
    """No end of a line, no markup, no mention and no link can be made of a name."""
    shown = message.plain(name)
    assert len(shown) <= message.NAME_MAX
    assert not set(shown) & set("\r\n\t<>&@#*_`~[]()|\\\"':;{}!$ \x00\u202e\u2028")


def test_a_hostile_name_stays_in_its_line_and_its_link() -> None:
    name = "x\n<!channel> *now* [click](http://evil)"
    change = only(condition(SPENT, name=name))
    title, said = message.title([change]), message.body([change], URL, 4000)
    assert "\n" not in title
    assert "<" not in title + said
    assert said.splitlines()[-1].startswith(f"{URL}/teams/default/x%0A%3C%21channel%3E")


def test_an_event_has_the_reasons_of_the_clusters_events() -> None:
    dropped, told = condition(SPENT), Said(Action.DROP, DAY, NOON)
    found = [
        message.event(only(dropped)),
        message.event(only(condition(0), told)),
        message.event(only(condition(BAND), told)),
        message.event(only(condition(expected=NOON + 60))),
    ]
    assert [(event.kind, event.reason) for event in found] == [
        ("Warning", "Exceeded"),
        ("Normal", "Recovered"),
        ("Warning", "Throttling"),
        ("Warning", "Forecast"),
    ]
    assert (found[0].key, found[0].at) == (KEY, NOON)
