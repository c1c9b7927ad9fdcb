"""Cluster accounting where a day or a month ends, in the time zone of each budget."""

import datetime

from cluster_model import KEY, NOON, TODAY, World

DAY = 86_400


def test_a_new_day_begins_at_nothing_for_all(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 1_000_000)
    world.settle()
    assert b.push("shop", 1) == 0
    world.wall, world.mono = NOON + DAY / 2, world.mono + DAY / 2
    assert b.push("shop", 1_000_000) == 1_000_000
    world.settle()
    status = world.status(KEY)
    assert (status["currentDay"], status["currentUsage"]) == ("2026-11-24", 1_000_000)
    assert status["monthlyUsage"] == 2_000_000


def at(text: str) -> float:
    """An instant, from how UTC writes it."""
    return datetime.datetime.fromisoformat(text).timestamp()


def move_to(world: World, text: str) -> None:
    """Set the clock ahead, quietly."""
    world.pass_time(at(text) - world.wall)


def test_midnight_comes_at_its_own_time_in_each_zone(world: World) -> None:
    world.api.apply("shop", "shop", dailyLimit=1000, timeZone="Asia/Tokyo")
    world.api.apply("pay", "pay", dailyLimit=1000, timeZone="America/New_York")
    a = world.node("a")
    assert a.push("shop", 1000) + a.push("pay", 1000) == 2000
    world.settle()
    # 00:00 in Tokyo is 15:00 UTC, in New York it is 05:00 UTC (no summer time in November).
    move_to(world, "2026-11-23T14:59:59Z")
    assert a.push("shop", 1) == 0
    move_to(world, "2026-11-23T15:00:00Z")
    assert (a.push("shop", 1000), a.push("pay", 1)) == (1000, 0)
    world.settle()
    assert world.status("shop/shop")["currentDay"] == "2026-11-24"
    assert world.status("shop/shop")["currentUsage"] == 1000
    assert world.status("pay/pay")["currentDay"] == "2026-11-23"
    move_to(world, "2026-11-24T05:00:00Z")
    assert a.push("pay", 1000) == 1000
    world.settle()
    assert world.status("pay/pay")["currentDay"] == "2026-11-24"
    assert world.status("pay/pay")["monthlyUsage"] == 2000


def test_a_month_ends_for_all_at_once(world: World) -> None:
    world.api.apply("shop", "shop", dailyLimit=1000, monthlyLimit=1000)
    a, b = world.node("a"), world.node("b")
    assert a.push("shop", 1000) == 1000
    world.settle()
    move_to(world, "2026-11-30T12:00:00Z")
    world.settle()
    assert world.status(KEY)["decision"] == "Drop"
    assert (a.push("shop", 1), b.push("shop", 1)) == (0, 0)
    move_to(world, "2026-12-01T00:00:00Z")
    assert b.push("shop", 1000) == 1000
    world.settle()
    status = world.status(KEY)
    assert (status["currentMonth"], status["monthlyUsage"]) == ("2026-12", 1000)
    assert a.push("shop", 1) == 0


def test_a_day_of_25_hours_is_one_day(world: World) -> None:
    world.api.apply("shop", "shop", dailyLimit=1000, timeZone="Europe/Berlin")
    world.wall = at("2026-10-24T22:00:00Z")
    a = world.node("a")
    assert a.push("shop", 600) == 600
    world.settle()
    # 24 hours later it is 23:00 of the same day, for at 03:00 the clocks went back.
    move_to(world, "2026-10-25T22:30:00Z")
    assert a.push("shop", 401) == 0
    assert a.push("shop", 400) == 400
    world.settle()
    assert world.status(KEY)["currentDay"] == "2026-10-25"
    assert world.status(KEY)["currentUsage"] == 1000
    move_to(world, "2026-10-25T23:00:00Z")
    assert a.push("shop", 1000) == 1000


def test_a_limit_below_usage_drops_until_the_window_ends(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 600_000)
    world.settle()
    world.api.apply("shop", "shop", dailyLimit=500_000)
    for node in (a, b):
        node.follow()
        assert node.push("shop", 1) == 0
    world.settle(3)
    status = world.status(KEY)
    assert (status["decision"], status["dailyPercent"]) == ("Drop", 120)
    assert status["observedGeneration"] == 2
    move_to(world, "2026-11-24T00:00:00Z")
    assert a.push("shop", 500_000) == 500_000


def test_what_was_counted_late_in_a_day_is_reported_after_it(world: World) -> None:
    a = world.node("a")
    world.settle(10)
    move_to(world, "2026-11-23T23:59:59Z")
    a.push("shop", 1000)
    move_to(world, "2026-11-24T00:00:01Z")
    a.push("shop", 10)
    world.settle()
    usage = world.api.node_usage("a")
    assert usage is not None
    assert usage["status"]["usage"][TODAY] == {KEY: 1000}
    assert usage["status"]["usage"]["d/2026-11-24"] == {KEY: 10}
    assert world.status(KEY)["monthlyUsage"] == 1010
    move_to(world, "2026-11-24T02:30:00Z")
    a.push("shop", 10)
    world.settle()
    usage = world.api.node_usage("a")
    assert usage is not None
    assert TODAY not in usage["status"]["counts"]
    # West of everything it is still yesterday.
    assert TODAY in usage["status"]["usage"]
    move_to(world, "2026-11-24T12:30:00Z")
    a.push("shop", 10)
    world.settle()
    usage = world.api.node_usage("a")
    assert usage is not None
    assert TODAY not in usage["status"]["usage"]


def test_a_budget_that_was_away_finds_its_usage_in_another_zone_too(world: World) -> None:
    world.api.apply("shop", "shop", dailyLimit=1_000_000, timeZone="Pacific/Auckland")
    a, b = world.node("a"), world.node("b")
    a.push("shop", 700_000)
    world.settle()
    world.api.delete_budget("shop", "shop")
    world.settle(80)
    world.api.apply("shop", "shop", dailyLimit=1_000_000, timeZone="Pacific/Auckland")
    world.settle(5)
    assert world.status(KEY)["currentUsage"] == 700_000
    assert b.push("shop", 300_001) == 0


def test_a_zone_edited_and_edited_back_loses_nothing(world: World) -> None:
    zones = ("America/New_York", "Asia/Tokyo", "America/New_York")
    world.wall = at("2026-11-23T20:00:00Z")
    a, b = world.node("a"), world.node("b")
    for i, zone in enumerate(zones):
        world.api.apply("shop", "shop", dailyLimit=1_000_000, timeZone=zone)
        for node in (a, b):
            node.follow()
        if i == 0:
            a.push("shop", 700_000)
        world.settle()
    assert world.status(KEY)["currentDay"] == "2026-11-23"
    assert world.status(KEY)["currentUsage"] == 700_000
    assert b.push("shop", 300_001) == 0


def test_late_counts_of_a_month_make_nobody_stale(world: World) -> None:
    world.wall = at("2026-11-30T23:00:00Z")
    a = world.node("a")
    world.settle(10)
    move_to(world, "2026-11-30T23:59:59Z")
    a.push("shop", 1000)
    move_to(world, "2026-12-01T00:00:02Z")
    world.settle(400)
    assert a.reporter.uncovered(world.mono, wait=190) == frozenset()
