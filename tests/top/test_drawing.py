"""What `sluice top` draws: the teams and all that is known of them, as wide and high as it may."""

import re
from typing import Any

import pytest
import rich.console
from past import HUGE
from top.harness import CONTROL, answer, team, top, top_process

from sluice import overview, policy


def drawn(width: int, height: int, *teams: dict[str, Any], **more: Any) -> list[str]:
    """The lines of an overview in a terminal of this size."""
    console = rich.console.Console(
        width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    lines = overview.read(answer(*teams))
    shown = overview.Overview("http://a", "now", lines, more.get("most"), "Ctrl-C ends it")
    with console.capture() as captured:
        console.print(shown, end="")
    return captured.get().splitlines()


# what is shown


def test_teams_are_in_the_order_that_was_asked_for(fake):
    forecast = {"trend": "rising", "dayExhausted": None, "monthExhausted": None}
    fake.has(
        team("a", percent=5.0, currentUsage=7, forecast={**forecast, "bytesPerSecond": 10}),
        team("b", percent=90.0, currentUsage=5, forecast={**forecast, "bytesPerSecond": 0}),
        team("c", percent=50.0, currentUsage=9, namespace="eu"),
    )

    def names(*args: str) -> str:
        return "".join(line.split()[0] for line in top(fake.url, *args).stdout.splitlines()[1:])

    assert names() == "bca"
    assert names("--sort", "usage") == "cab"
    assert names("--sort", "name") == "abc"
    assert names("--sort", "rate") == "abc"
    assert names("--limit", "2") == "bc"
    assert names("--namespace", "eu") == "c"
    assert names("--namespace", "asia") == ""


def test_a_line_says_all_that_is_known_of_a_team(fake):
    expected = {
        "bytesPerSecond": 12_345,
        "usualBytesPerSecond": 9,
        "trend": "rising",
        "dayExhausted": "2026-11-23T14:10:30Z",
        "monthExhausted": "2026-11-28T00:00:00Z",
    }
    counts = {"sampled": {"entries": 1, "bytes": 5000}, "dropped": {"entries": 1, "bytes": 7}}
    fake.has(team("shop", forecast=expected, counts=counts))
    line = " ".join(top(fake.url).stdout.splitlines()[1].split())
    assert line == (
        "shop default throttle ████▊ 81.2 812 B 1.00 kB 30.0 12.3 kB/s ↑ 2 h 10 min 5.00 kB 7 B"
    )


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (("2026-11-23T12:00:00Z", None), "spent"),
        (("2026-11-23T11:00:00Z", None), "spent"),
        (("2026-11-23T12:00:30Z", None), "< 1 min"),
        ((None, "2026-11-25T13:00:00Z"), "2 d 1 h"),
        (("2026-11-23T15:00:00Z", "2026-11-23T13:00:00Z"), "1 h"),
        ((None, None), "-"),
    ],
)
def test_the_time_left_is_that_of_the_limit_that_is_spent_first(expected, words):
    day, month = expected
    found = {"bytesPerSecond": 1, "trend": "steady", "dayExhausted": day, "monthExhausted": month}
    (line,) = overview.read(answer(team("a", forecast=found)))
    assert line.left == words


def test_numbers_that_no_double_can_hold_are_counted_whole(fake):
    teams = [
        team("a", currentUsage=HUGE, dailyLimit=HUGE, monthlyLimit=HUGE, monthlyUsage=HUGE - 1),
        team("b", currentUsage=2 * HUGE, dailyLimit=0, monthlyLimit=None),
    ]
    lines = overview.read(answer(*teams))
    assert [line.day for line in lines] == [1000, 1000]
    assert lines[0].month == 999
    fake.has(*teams)
    shown = top(fake.url).stdout
    assert re.search(r"a .* 100\.0  9\.22 EB  9\.22 EB     99\.9 ", shown)
    assert re.search(r"b .* 100\.0  18\.4 EB      0 B        - ", shown)


HOSTILE = "\x1b[2J\x07[red]b[/] [/bold]\u202e\u2028\x9b31m:skull: 名"


def test_hostile_names_are_neither_markup_nor_orders_to_the_terminal(fake, terminal):
    fake.has(team(HOSTILE, namespace=HOSTILE, action=HOSTILE))
    shown = top(fake.url).stdout
    assert "?[2J?[red]b[/] [/bold]???31m:skull: 名" in shown
    assert not CONTROL.search(shown)
    live = terminal(fake.url, width=120)
    live.shows("?[2J?[red]b[/]")
    assert live.end() == 0
    assert "\x07" not in live.text
    assert "\u202e" not in live.text
    assert "Traceback" not in live.text


def test_a_name_with_half_a_surrogate_ends_nothing(fake):
    # As JSON may have it.
    fake.has(team("\ud800"))
    done = top_process(fake.url)
    assert (done.returncode, done.stdout.splitlines()[1][:2]) == (0, "? ")


def test_a_terminal_without_other_letters_gets_ascii(fake):
    fake.has(team("caf\u00e9"))
    done = top_process(fake.url, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stdout.splitlines()[1].split()[:4] == ["caf?", "default", "throttle", "#####"]


def test_a_file_gets_no_colours_and_a_terminal_none_if_none_are_wanted(fake, terminal):
    fake.has(team("shop"))
    assert "\x1b" not in top(fake.url).stdout
    for env, has_colours in (({}, True), ({"NO_COLOR": "1"}, False)):
        once = terminal(fake.url, "--once", **env)
        assert once.wait() == 0
        assert ("\x1b[33m" in once.text) == has_colours
    dumb = terminal(fake.url, TERM="dumb")
    assert dumb.wait() == 0
    assert "shop" in dumb.text


# how it fits


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 79, 80, 100, 120, 160, 300])
@pytest.mark.parametrize("height", [1, 4, 6, 24])
def test_it_never_exceeds_the_terminal(width, height):
    teams = [team(f"team-{i}-" + "x" * (i * 7)) for i in range(9)]
    shown = drawn(width, height, *teams)
    assert len(shown) <= max(height, overview.FRAME)
    assert max(map(len, shown)) <= width


def test_a_thousand_teams_on_80_by_24_show_the_first_and_how_many_more():
    teams = [
        team(f"team-{i:04}", percent=i / 10, action="drop" if i > 990 else "allow")
        for i in range(1000)
    ]
    shown = drawn(80, 24, *teams)
    assert len(shown) == 24
    assert shown[1].rstrip() == "1,000 teams: 991 allow, 9 drop"
    head = shown[2].split()
    assert head == ["team", "action", "today", "day", "%", "used", "limit", "month", "%",
                    "spent", "in"]  # fmt: skip
    assert [line.split()[0] for line in shown[3:22]] == [f"team-{i:04}" for i in range(19)]
    assert shown[23].rstrip() == "981 more teams; Ctrl-C ends it"
    assert len(drawn(80, 24, *teams, most=3)) == 3 + overview.FRAME


def test_a_thousand_teams_are_drawn_in_a_real_terminal(fake, terminal):
    teams = [team(f"team-{i:04}", percent=i / 10) for i in range(1000)]
    fake.has(*teams)
    live = terminal(fake.url, "--interval", "0.5")
    live.shows("team-0981")
    live.shows("981 more teams; Ctrl-C ends it")
    assert live.end() == 0
    assert "team-0980" not in live.text
    assert len(top(fake.url).stdout.splitlines()) == 1001


def test_names_that_several_have_are_told_apart_where_there_is_no_room_for_namespaces():
    teams = [team("shop", namespace="eu"), team("shop", namespace="us"), team("pay")]
    narrow, wide = drawn(80, 24, *teams), drawn(160, 24, *teams)
    assert [line.split()[0] for line in narrow[3:6]] == ["eu/shop", "us/shop", "pay"]
    assert [line.split()[:2] for line in wide[3:6]] == [
        ["shop", "eu"], ["shop", "us"], ["pay", "default"],
    ]  # fmt: skip


def test_long_names_get_the_room_that_is_left():
    name = "a-name-of-twenty-seven-char"
    assert name[:12] in drawn(80, 24, team(name))[3]
    assert drawn(200, 24, team(name))[3].startswith(f"{name} ")


def test_every_action_has_a_colour():
    assert set(overview.COLOURS) == {action.word for action in policy.Action}
