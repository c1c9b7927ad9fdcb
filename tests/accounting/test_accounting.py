"""Cluster accounting: what nodes counted, what the status says, what each node may still admit."""

from typing import Any

import pytest
from cluster_model import KEY, TODAY, World, nodeusage, own

from sluice import columns, usage
from sluice.controller import fold
from sluice.kube import client


def test_usage_of_all_nodes_is_summed_up(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert a.push("shop", 1000) + b.push("shop", 500) == 1500
    world.settle()
    status = world.status(KEY)
    assert status["currentUsage"] == status["monthlyUsage"] == 1500
    assert status["today"]["forwarded"] == {"entries": 2, "bytes": 1500}
    assert status["nodes"] == {"reporting": 2, "stale": 0}
    assert status["decision"] == "Allow"
    for node, others in ((a, 500), (b, 1000)):
        assert node.others.bytes_of(KEY, TODAY) == others


def test_a_node_decides_on_what_the_others_used(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert a.push("shop", 700_000) == 700_000
    world.settle()
    assert b.push("shop", 300_001) == 0
    assert b.push("shop", 300_000) == 300_000
    world.settle()
    assert world.status(KEY)["currentUsage"] == 1_000_000
    assert world.status(KEY)["decision"] == "Drop"
    assert a.push("shop", 1) == 0


def test_a_node_alone_never_overshoots_and_never_undershoots(world: World) -> None:
    a = world.node("a")
    for _ in range(10):
        assert a.push("shop", 100_000) == 100_000
        world.settle(3)
    assert a.push("shop", 1) == 0


def test_a_status_ahead_of_the_answer_to_a_report_does_not_count_it_twice(world: World) -> None:
    a = world.node("a")
    world.settle(5)
    a.push("shop", 700_000)
    world.pass_time(5)
    world.api.fault = "reply"
    a.tick()
    # The controller has seen the report, and so hears the node of it before it knows itself.
    world.control()
    a.follow()
    assert world.status(KEY)["currentUsage"] == 700_000
    assert a.push("shop", 250_000) == 250_000


def test_a_restart_goes_on_where_it_was(world: World) -> None:
    a = world.node("a")
    a.push("shop", 600_000)
    world.settle()
    a.push("shop", 100_000)
    a.stop(kill=True)
    a.start()
    assert own(a, KEY, TODAY) == 700_000
    assert a.push("shop", 300_001) == 0
    world.settle()
    assert world.status(KEY)["currentUsage"] == 700_000


def test_a_new_pod_without_the_file_takes_over_what_was_reported(world: World) -> None:
    a = world.node("a")
    a.push("shop", 600_000)
    world.settle()
    a.stop()
    a.start(keep=False)
    # Before it has read the object it may count: that comes on top.
    assert a.push("shop", 1000) == 1000
    world.settle()
    assert own(a, KEY, TODAY) == 601_000
    assert world.status(KEY)["currentUsage"] == 601_000
    assert a.push("shop", 399_001) == 0


def test_a_report_that_is_refused_as_a_decrease_is_never_forced(world: World) -> None:
    a = world.node("a")
    a.push("shop", 1000)
    world.settle()
    # As if the file had been put back to an older state under the running process.
    row = a.book._file.names[KEY]
    for kind in (0, 1):
        a.book._cells.of(kind, row)[:, columns.COMMITTED] -= 400
    assert own(a, KEY, TODAY) == 600
    a.push("shop", 1)
    world.settle()
    assert a.reporter.counters["refused"] == 1
    # The larger of both stands: nobody can tell which bytes the one has and the other lacks.
    assert own(a, KEY, TODAY) == world.status(KEY)["currentUsage"] == 1000
    a.push("shop", 5)
    world.settle()
    assert world.status(KEY)["currentUsage"] == 1005


def test_a_node_that_is_gone_is_folded_once(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 1000)
    b.push("shop", 10)
    world.settle()
    world.api.delete_node("a")
    a.stop(kill=True)
    world.settle(30)
    assert world.api.node_usage("a") is not None, "it may still report"
    world.settle()
    assert world.api.node_usage("a") is None
    book = world.api.node_usage(nodeusage.LEDGER)
    assert book is not None
    assert book["status"]["usage"][TODAY] == {KEY: 1000}
    assert book["status"]["merged"] == []
    assert world.status(KEY)["currentUsage"] == 1010


class DyingLeader:
    """The API server as a leader sees it that dies before it lets go of what it has folded."""

    def __init__(self, world: World) -> None:
        self.api = world.api

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)

    def put_node_usage(self, obj: dict[str, Any]) -> Any:
        if not obj["metadata"]["finalizers"]:
            raise client.Unreachable("dead")
        return self.api.put_node_usage(obj)


def test_a_new_leader_that_is_behind_forgets_no_node_that_it_has_not_seen(world: World) -> None:
    for name in ("early", "late"):
        node = world.node(name)
        node.push("shop", 1000)
        if name == "early":
            world.settle(10)
        else:
            # From here on only the old leader sees what happens.
            node.tick()
        node.stop()
        world.api.delete_node(name)
        if name == "early":
            fold.fold(world.api, {name: world.api.revision}, world.wall)
            known = len(world.api.events)
    with pytest.raises(client.Unreachable):
        fold.fold(DyingLeader(world), {"late": world.api.revision}, world.wall)
    world.pass_time(5)
    world.control(known - world.at)
    world.settle()
    assert world.status(KEY)["currentUsage"] == 2000


def test_a_report_that_arrived_unheard_before_its_node_was_folded_is_not_told_twice(
    world: World,
) -> None:
    a = world.node("a")
    a.push("shop", 1000)
    world.settle(5)
    a.stop()
    world.api.delete_node("a")
    known = len(world.api.events)
    # The container is started again, for its node is still there; what it reports arrives.
    a.start()
    a.push("shop", 5)
    world.pass_time(5)
    world.api.fault = "reply"
    a.tick()
    world.control(known - world.at)
    world.settle()
    assert world.status(KEY)["currentUsage"] == 1005


def test_a_node_that_comes_back_under_its_name_counts_anew(world: World) -> None:
    a = world.node("a")
    a.push("shop", 1000)
    world.settle()
    world.api.delete_node("a")
    a.stop()
    world.settle()
    a.start(keep=False)
    a.push("shop", 5)
    world.settle()
    assert world.status(KEY)["currentUsage"] == 1005
    assert a.others.bytes_of(KEY, TODAY) == 1000


def test_an_agent_that_outlives_its_node_object_does_not_report_it_twice(world: World) -> None:
    a = world.node("a")
    a.push("shop", 1000)
    world.settle()
    a.is_up = False
    world.api.delete_node("a")
    world.settle()
    assert world.api.node_usage("a") is None
    a.is_up = True
    a.push("shop", 5)
    world.settle()
    assert world.status(KEY)["currentUsage"] == 1005
    assert own(a, KEY, TODAY) == 1005
    assert a.others.bytes_of(KEY, TODAY) == 0


def test_a_budget_made_again_goes_on_in_its_day(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 600_000)
    world.settle()
    world.api.delete_budget("shop", "shop")
    world.settle(5)
    world.api.apply("shop", "shop", dailyLimit=1_000_000)
    for node in (a, b):
        node.follow()
    assert b.push("shop", 400_001) == 0, "what was heard of it stands until there is a new status"
    world.settle()
    assert world.status(KEY)["currentUsage"] == 600_000


def test_a_stale_team_shares_what_is_left(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 300_000)
    b.push("shop", 100_000)
    world.settle()
    for node in (a, b):
        node.others.distrust(frozenset({KEY}))
        node.book.redraw(node.others.changed())
    more = [0, 0]
    for i, node in enumerate((a, b)):
        while node.push("shop", 1000):
            more[i] += 1000
    # Half of 600 000 by what each used (3:1), half the same for both.
    assert more == [375_000, 225_000]


@pytest.mark.parametrize(("mode", "passes"), [("Allow", True), ("Drop", False)])
def test_a_stale_team_follows_its_own_word(world: World, mode: str, passes: bool) -> None:
    world.api.apply("shop", "shop", dailyLimit=1_000_000, onStale=mode)
    a = world.node("a")
    a.push("shop", 900_000)
    a.others.distrust(frozenset({KEY}))
    a.book.redraw(a.others.changed())
    (row,) = usage.rows(a.book, world.wall, a.others)
    assert row.action.word == ("allow" if passes else "drop")
    assert (a.push("shop", 200_000) > 0) is passes


def test_controllers_that_are_dead_make_usage_stale(world: World) -> None:
    a = world.node("a")
    world.settle(5)
    a.push("shop", 1000)
    for _ in range(14):
        world.pass_time(20)
        a.tick()
    assert a.reporter.uncovered(world.mono, wait=150) == {KEY}
    world.settle(5)
    assert not a.reporter.uncovered(world.mono, wait=150)


def test_a_silent_node_makes_usage_stale_and_its_return_cures_it(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 1000)
    b.push("shop", 1000)
    world.settle()
    b.is_up = False
    world.settle()
    stale = verdict(world, "DataStale")
    assert stale["status"] == "True"
    assert "1 of 2 nodes are silent: b" in stale["message"]
    assert world.status(KEY)["nodes"] == {"reporting": 2, "stale": 1}
    b.is_up = True
    world.settle(200)
    assert verdict(world, "DataStale")["status"] == "False"


def test_without_its_notes_an_agent_does_not_report_twice(world: World) -> None:
    a = world.node("a")
    a.push("shop", 400_000)
    world.settle()
    a.stop(kill=True)
    (a.folder / "report.json").unlink()
    a.start()
    world.settle()
    assert own(a, KEY, TODAY) == world.status(KEY)["currentUsage"] == 400_000


def test_a_last_report_whose_answer_was_lost_is_not_folded_twice(world: World) -> None:
    a = world.node("a")
    a.push("shop", 1_000)
    world.settle()
    a.push("shop", 500)
    world.api.fault = "reply"
    assert not a.reporter.final()
    a.stop(kill=True)
    world.api.delete_node("a")
    world.settle()
    assert world.api.node_usage("a") is None
    a.start()
    a.push("shop", 1)
    world.settle()
    assert world.status(KEY)["currentUsage"] == 1501


def test_a_node_that_can_only_listen_still_hears_what_others_use(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 1000)
    world.settle()
    a.push("shop", 1000)
    world.pass_time(70)
    world.api.fault = "reply"
    a.tick()
    a.is_up = False
    b.push("shop", 750_000)
    world.settle(30)
    a.is_up, world.api.is_down = True, True
    a.follow()
    for _ in range(60):
        world.pass_time(10)
        a.tick()
    assert a.push("shop", 248_001) == 0
    assert a.push("shop", 248_000) == 248_000


def test_a_budget_made_again_is_not_stale_for_what_it_was(world: World) -> None:
    a = world.node("a")
    world.settle(5)
    a.push("shop", 200_000)
    world.pass_time(5)
    a.tick()
    world.api.delete_budget("shop", "shop")
    a.follow()
    world.pass_time(500)
    world.api.apply("shop", "shop", dailyLimit=1_000_000)
    a.follow()
    assert a.reporter.uncovered(world.mono, wait=190) == frozenset()


def verdict(world: World, kind: str) -> dict[str, Any]:
    """A condition of the budget."""
    (found,) = (c for c in world.status(KEY)["conditions"] if c["type"] == kind)
    made: dict[str, Any] = found
    return made


def test_a_clock_that_is_off_is_reported(world: World) -> None:
    a = world.node("a")
    a.clock_error_s = 30
    a.push("shop", 1000)
    world.settle()
    skew = verdict(world, "ClockSkew")
    assert (skew["status"], "a by +30 s" in skew["message"]) == ("True", True)
    a.clock_error_s = 0
    a.push("shop", 1000)
    world.settle()
    assert verdict(world, "ClockSkew")["status"] == "False"


def test_conditions_keep_the_time_of_their_last_change(world: World) -> None:
    a = world.node("a")
    world.settle(5)
    ready = verdict(world, "Ready")
    for _ in range(9):
        a.push("shop", 100_000)
    world.settle()
    assert verdict(world, "Ready")["lastTransitionTime"] == ready["lastTransitionTime"]
    assert verdict(world, "Throttling")["status"] == "True"
    assert verdict(world, "Throttling")["lastTransitionTime"] > ready["lastTransitionTime"]


def test_a_status_is_not_written_without_need(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 1000)
    world.settle()
    before = world.status(KEY)["lastUpdated"]
    # Heartbeats of nodes only.
    world.settle(600)
    assert world.status(KEY)["lastUpdated"] == before
    b.push("shop", 20_000)
    world.settle(70)
    assert world.status(KEY)["lastUpdated"] > before


def test_a_hot_team_costs_a_bounded_number_of_reports(world: World) -> None:
    a = world.node("a")
    world.settle(5)
    begun = world.api.calls
    for _ in range(600):
        a.push("shop", 1500)
        world.pass_time(1)
        a.follow()
        a.tick()
        world.control()
    # 900 kB of 1 MB: a tenth of what is left each time, and no more often than the floor.
    reports = a.reporter.counters["acknowledged"]
    assert 10 <= reports <= 60
    assert world.api.calls - begun < 3 * reports


def test_after_an_outage_of_any_length_a_node_reports_within_half_a_minute(world: World) -> None:
    a = world.node("a")
    world.settle(5)
    a.push("shop", 1000)
    # The worst moment for its end is just after a try.
    while a.reporter.counters["unanswered"] < 10:
        world.api.fault = "request"
        world.pass_time(1)
        a.tick()
    world.api.fault = ""
    world.settle(31)
    assert world.status(KEY)["currentUsage"] == 1000
