"""What pages say of a team: texts, exact and rounded down."""

import dataclasses
from array import array
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from dashboard.harness import Memory, Teams, a_day, origin_of, row
from hypothesis import example, given
from hypothesis import strategies as st

from sluice import errors, source, texts
from sluice.dashboard import panel, views
from sluice.records import Event, Place

NOW = datetime(2026, 11, 23, 14, 10, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
GIB = 2**30


def outlook(**more):
    """A forecast that says what the test says."""
    teams = Teams([row(now=NOW, day=500_000)])
    found = origin_of(teams, NOW).outlooks.of("default/shop")
    return dataclasses.replace(found, **more)


def team(cost=None, foreseen=None, **more):
    return views.Team(row(now=NOW, **more), foreseen, cost)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_399, "12.3 kB"),
        (999_999, "999 kB"),
        (2**63 - 1, "9.22 EB"),
        (10**27, "1,000 YB"),
    ],
)
def test_a_size_has_three_figures_and_is_rounded_down(size, words):
    assert texts.bytes_text(size) == words


@given(st.integers(0, 2**70))
@example(2**53 + 1)
def test_a_size_in_words_is_never_more_than_the_size_and_never_off_by_a_hundredth(size):
    number, unit = texts.bytes_text(size).split(" ")
    meant = Fraction(number.replace(",", "")) * 1000 ** texts.UNITS.index(unit)
    assert meant <= size
    assert size - meant <= Fraction(size, 100)


@given(st.integers(0, 2**70), st.integers(0, 2**70))
@example(2**63 - 2, 2**63 - 1)
@example(9, 10)
def test_keys_sort_as_text_like_their_numbers(one, other):
    assert (texts.order(one) < texts.order(other)) == (one < other)


@pytest.mark.parametrize(
    ("size", "per_gib", "words"),
    [
        (GIB, 0.1, "0.10 EUR"),
        (3 * GIB, 0.1, "0.30 EUR"),
        (GIB // 1000, 0.5, "< 0.01 EUR"),
        (0, 0.5, "0.00 EUR"),
        (2**63 - 1, 1.0, "8,589,934,592.00 EUR"),
    ],
)
def test_cost_is_exact_where_floats_are_not(size, per_gib, words):
    assert texts.cost(texts.cost_of(size, per_gib), "EUR") == words


def test_a_bar_ends_at_its_end_and_its_percent_does_not():
    line = views.line(team(day=3_000_000, limit=1_000_000))
    assert line["dayBar"] == "100.0"
    assert line["day"] == "300.0 %"
    assert line["dayExact"] == "3,000,000 of 1,000,000 bytes"


def test_the_colour_follows_the_action_and_not_the_percent():
    line = views.line(team(day=999_990, limit=1_000_000, entries=10))
    assert line["day"] == "99.9 %"
    assert line["action"] == line["dayAction"] == "drop"
    assert line["monthAction"] == "allow none"


def test_every_byte_of_the_largest_limit_is_there():
    most = 2**63 - 1
    line = views.line(team(day=most - 1, limit=most))
    assert line["dayExact"] == "9,223,372,036,854,775,806 of 9,223,372,036,854,775,807 bytes"


def test_a_limit_of_nothing_is_full_only_once_something_passed():
    assert views.line(team(limit=0))["day"] == "0.0 %"
    assert views.line(team(limit=0, day=1))["day"] == "100.0 %"


def test_of_a_limit_of_nothing_nobody_is_told_that_it_was_spent_or_comes_back():
    nothing = team(limit=0, foreseen=outlook(day=NOW))
    assert views.means(nothing.row) == "The day's limit is 0: all entries are dropped."
    assert views.detail(nothing)["dayForecast"] == "There is nothing to spend."
    dry = team(limit=0, month_limit=0, day=5, dry_run=True)
    assert views.means(dry.row) == "The month's limit is 0: all entries would be dropped."


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (59, "in under 1 min"),
        (60, "in 1 min"),
        (7260, "in 2 h 1 min"),
        (86_399, "in 23 h 59 min"),
        (86_400 + 300, "in 1 d"),
        (90_300, "in 1 d 1 h"),
    ],
)
def test_how_long_it_is_has_minutes_within_a_day_only(seconds, words):
    assert texts.until(seconds) == words


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("checkout", "checkout"),
        ("שלום 日本", "שלום 日本"),
        ("\u202elive\u202c", "\\u202elive\\u202c"),
        ("api\u200b", "api\\u200b"),
        ("a\n\x1b[0m", "a\\n\\x1b[0m"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_name_shows_what_hides_in_it(name, shown):
    assert texts.visible(name) == shown


def test_the_first_limit_to_be_spent_is_told_in_the_teams_own_time():
    foreseen = outlook(day=NOW + 7800, month=NOW + 90_000)
    told = team(foreseen=foreseen, time_zone="Europe/Berlin")
    assert views.line(told)["spent"] == "17:20, in 2 h 10 min"
    assert views.line(told)["spentExact"] == "the day's limit: 2026-11-23 17:20:00 Europe/Berlin"
    month = team(foreseen=outlook(month=NOW + 90_000), month_limit=10**9)
    assert views.line(month)["spent"] == "24 Nov 15:10 (month)"
    assert "spent at 24 Nov 15:10" in views.detail(month)["monthForecast"]


def test_without_a_forecast_nothing_is_foretold():
    line, detail = views.line(team()), views.detail(team())
    assert (line["rate"], line["trend"], line["spent"]) == ("", "", "\N{EN DASH}")
    assert detail["dayForecast"] == "No forecast yet."
    assert detail["monthForecast"] == ""


def test_a_dry_run_says_what_would_be():
    told = team(day=1_000_000, dry_run=True)
    assert views.line(told)["dry"] == "dry run"
    assert views.means(told.row) == (
        "The day's limit is spent: entries would be dropped until 24 Nov 00:00."
    )


def test_the_sample_rate_is_told_as_it_is_written():
    told = team(day=900_000, sample_rate=0.001)
    assert "0.1 % of entries are kept" in views.means(told.row)


def test_totals_are_of_all_teams():
    teams = [
        team(0.5, day=GIB, limit=2 * GIB),
        team(day=100, limit=100, today={"dropped": 7, "sampled": 5}),
    ]
    found = views.totals(teams, NOW, "EUR")
    assert (found["teams"], found["allow"], found["drop"]) == ("2", "1", "1")
    assert found["cutExact"] == "12 bytes"
    assert found["cost"] == "0.50 EUR"
    assert views.totals([], NOW)["used"] == "0 B of 0 B"


def test_a_name_cannot_leave_its_place_in_a_path():
    assert views.href("../x", 'a"b/c?d#e') == "/teams/..%2Fx/a%22b%2Fc%3Fd%23e"


# the panel


def a_panel(span=panel.DAY, zone="UTC", now=NOW, records=None, **more):
    points, used, dropped = a_day(now, 1_000_000)
    teams = Teams([row(now=now, day=used, today={"dropped": dropped}, time_zone=zone, **more)])
    memory = (
        Memory(points, [Place("shop", used)], [Place("", used // 2)])
        if records is None
        else records
    )
    origin = origin_of(teams, now, memory or None)
    one = teams.rows(now)[0]
    return panel.panel(origin, views.Team(one, origin.outlooks.of(one.budget.key), None), span)


def test_a_plot_ends_with_what_is_used_now():
    plot = a_panel()["plots"]["usage"]
    assert plot["used"]["x"][-1] == "2026-11-23 14:10:00"
    assert plot["unit"] == "MB"
    assert plot["limit"] == 1.0
    assert plot["soft"] == 0.8
    assert plot["forecast"]["x"][-1] == "2026-11-24 00:00:00"
    assert len(plot["used"]["x"]) == len(plot["used"]["hover"])


def test_a_plot_has_a_table_that_says_the_same():
    plots = a_panel()["plots"]
    for plot in plots.values():
        assert 1 <= len(plot["table"]["rows"]) <= panel.TABLE_ROWS
        assert {len(cells) for cells in plot["table"]["rows"]} == {len(plot["table"]["head"])}
    assert plots["usage"]["table"]["rows"][-1][0] == "14:10"


@pytest.mark.parametrize(
    ("day", "labels"),
    [
        # Europe/Berlin: clocks go back at 3 and forward at 2.
        (datetime(2026, 10, 25, 20, tzinfo=UTC), ["00:00", "03:00", "06:00"]),
        (datetime(2026, 3, 29, 20, tzinfo=UTC), ["00:00", "03:00", "06:00"]),
    ],
)
def test_a_day_of_25_or_23_hours_is_labelled_as_its_clocks_are(day, labels):
    axis = a_panel(zone="Europe/Berlin", now=day.timestamp())["plots"]["usage"]["axis"]
    assert axis["labels"][:3] == labels
    first, second = (datetime.fromisoformat(at) for at in axis["at"][:2])
    assert (second - first).total_seconds() == (4 if day.month == 10 else 2) * 3600


def test_times_on_a_plot_are_those_of_the_teams_zone_though_it_is_off_by_a_part_of_an_hour():
    # Asia/Kathmandu is ahead of UTC by 5 hours and 45 minutes.
    plots = a_panel(zone="Asia/Kathmandu")["plots"]
    axis = plots["usage"]["axis"]
    assert axis["range"] == ["2026-11-22 18:15:00", "2026-11-23 18:15:00"]
    assert axis["at"][:3] == ["2026-11-22 18:15:00", "2026-11-22 21:15:00", "2026-11-23 00:15:00"]
    assert axis["labels"] == [
        "00:00", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00", "00:00",
    ]  # fmt: skip
    assert plots["outcomes"]["x"][0] == "2026-11-23 00:00:00"
    assert plots["outcomes"]["hover"][0].startswith("05:45  ")
    assert plots["outcomes"]["table"]["rows"][0][0] == "05:45"
    assert plots["usage"]["used"]["hover"][-1].startswith("19:55  ")
    assert plots["usage"]["table"]["rows"][-1][0] == "19:55"
    assert plots["usage"]["summary"].endswith(" at 19:55.")


def test_the_last_hour_has_round_labels_in_every_zone():
    axis = a_panel(span=panel.HOUR, zone="Asia/Kathmandu")["plots"]["usage"]["axis"]
    assert axis["at"][0] == "2026-11-23 13:15:00"
    assert axis["labels"] == [
        "19:00", "19:10", "19:20", "19:30", "19:40", "19:50", "20:00", "20:10",
    ]  # fmt: skip


def test_the_last_hour_is_drawn_in_minutes():
    found = a_panel(span=panel.HOUR)["plots"]
    assert found["outcomes"]["widthMs"] == 60_000
    assert found["usage"]["axis"]["range"] == ["2026-11-23 13:10:00", "2026-11-23 14:25:00"]
    assert found["usage"]["axis"]["labels"] == [
        "13:10", "13:20", "13:30", "13:40", "13:50", "14:00", "14:10", "14:20",
    ]  # fmt: skip


def test_the_forecast_ends_with_the_plot_and_its_scale_is_of_what_is_seen():
    # A dry run that goes on far beyond its limit: a kilobyte a second.
    moments, sizes = array("d", [NOW, NOW + 1800, MIDNIGHT]), array("d", [5e5, 2.3e6, 3.59e7])
    one = row(now=NOW, day=500_000, limit=600_000, dry_run=True)
    seen = views.Team(one, outlook(moments=moments, sizes=sizes), None)
    origin = source.Source(lambda _: [one], None, Memory())
    hour, day = (
        panel.panel(origin, seen, span)["plots"]["usage"] for span in (panel.HOUR, panel.DAY)
    )
    assert day["forecast"]["x"][-1] == day["axis"]["range"][1] == "2026-11-24 00:00:00"
    assert (day["unit"], day["forecast"]["y"]) == ("MB", [0.5, 2.3, 35.9])
    assert hour["forecast"]["x"][-1] == hour["axis"]["range"][1] == "2026-11-23 14:25:00"
    assert (hour["unit"], hour["forecast"]["y"]) == ("MB", [0.5, 1.4])
    assert hour["forecast"]["hover"][-1] == "14:25  1.40 MB expected, 233.3 %"


def test_shares_are_of_what_was_used_today():
    apps = a_panel()["lists"]["apps"]
    assert apps[0]["name"] == "(none)"
    assert apps[0]["share"] in ("49.9 %", "50.0 %")


class Away(Memory):
    def history(self, *_):
        raise errors.Unavailable("Prometheus does not answer")


def test_a_part_that_cannot_be_had_says_why_and_the_others_are_there():
    found = a_panel(records=Away(told=[Event(NOW, "default/shop", "Normal", "Read", "words")]))
    assert found["plots"] == {"missing": "Prometheus does not answer"}
    assert found["lists"] == {"missing": "Nothing that passed today is on record yet."}
    assert found["events"][0]["text"] == "words"


def test_without_records_every_part_says_so():
    found = a_panel(records=False)
    for part in ("plots", "lists", "events"):
        assert "keeps no history" in found[part]["missing"]


def test_teams_that_differ_in_the_moment_only_are_the_same():
    one, foreseen = row(now=NOW, day=5), outlook()
    team = views.Team(one, foreseen, 0.5)
    assert views.reads_the_same(
        team, views.Team(dataclasses.replace(one, now=NOW + 1), foreseen, 0.5)
    )
    assert not views.reads_the_same(team, views.Team(row(now=NOW, day=6), foreseen, 0.5))
    assert not views.reads_the_same(team, views.Team(one, outlook(), 0.5))
    assert not views.reads_the_same(team, views.Team(one, foreseen, 0.25))
