"""Cluster accounting when usage objects are lost, and when two agents run on one node."""

from typing import Any

import pytest
from cluster_model import KEY, TODAY, Node, World, nodeusage, own

from sluice import jsonfile, pace
from sluice.kube import client


def used(world: World) -> int:
    """What the cluster says that shop used today."""
    found: int = world.status(KEY)["currentUsage"]
    return found


def crash(node: Node) -> None:
    """Kill the process and start it again on the same disk."""
    node.stop(kill=True)
    node.start()


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_lost_object_of_a_live_node_is_reported_again(world: World, is_restarted: bool) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 600_000)
    b.push("shop", 1_000)
    world.settle()
    a.push("shop", 500)
    world.api.lose("a")
    if is_restarted:
        crash(a)
    world.settle()
    assert used(world) == 601_500
    assert own(a, KEY, TODAY) == 600_500
    assert b.others.bytes_of(KEY, TODAY) == 600_500
    assert a.others.bytes_of(KEY, TODAY) == 1_000


def test_every_lost_object_is_reported_again_and_a_folded_one_is_not(world: World) -> None:
    a = world.node("a")
    a.push("shop", 1_000)
    world.settle()
    a.is_up = False
    world.api.delete_node("a")
    world.settle()
    assert world.api.node_usage("a") is None
    a.is_up = True
    a.push("shop", 100)
    world.settle()
    for passed in (1_110, 1_120):
        world.api.lose("a")
        a.push("shop", 10)
        world.settle()
        assert used(world) == passed
    usage = world.api.node_usage("a")
    assert usage is not None
    assert usage["status"]["usage"][TODAY] == {KEY: 120}


@pytest.mark.parametrize("fault", ["request", "reply"])
def test_a_report_of_unknown_fate_is_counted_once_if_its_object_was_folded(
    world: World, fault: str
) -> None:
    a = world.node("a")
    a.push("shop", 1_000)
    world.settle()
    a.push("shop", 500)
    world.api.fault = fault
    assert not a.reporter.final()
    a.stop(kill=True)
    world.api.delete_node("a")
    world.settle()
    assert world.api.node_usage("a") is None
    a.start()
    world.settle()
    assert used(world) == 1_500


def test_a_ledger_object_that_is_lost_heals_from_the_disks_of_those_it_held(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 1_000)
    world.settle()
    a.is_up = False
    world.api.delete_node("a")
    world.settle()
    a.is_up = True
    a.push("shop", 1)
    world.settle()
    assert used(world) == 1_001
    world.api.lose(nodeusage.LEDGER)
    world.lead()
    b.push("shop", 1)
    world.settle(1_500)
    usage = world.api.node_usage("a")
    assert usage is not None
    assert usage["status"]["usage"][TODAY] == {KEY: 1_001}
    assert used(world) == 1_002


def test_a_proof_is_waited_for_while_no_ledger_object_is_there(world: World) -> None:
    a = world.node("a")
    a.push("shop", 1_000)
    world.settle()
    a.stop()
    world.api.delete_node("a")
    world.settle()
    book = world.api.objects.pop(("nodelogusages", nodeusage.LEDGER))
    a.start()
    a.push("shop", 1)
    for _ in range(40):
        world.pass_time(1)
        a.tick()
    assert "no ledger object" in a.reporter.complaint
    world.api.objects["nodelogusages", nodeusage.LEDGER] = book
    world.settle()
    assert used(world) == 1_001


def test_what_the_others_used_does_not_fall_while_an_object_is_missing(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 900_000)
    b.push("shop", 50_000)
    world.settle()
    a.is_up = False
    world.api.lose("a")
    # A controller that does not know what was published before.
    world.api.objects["teambudgets", KEY]["status"] = {}
    world.lead()
    world.settle()
    assert b.push("shop", 50_001) == 0
    assert b.push("shop", 50_000) == 50_000


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("fault", ["", "request", "reply"])
def test_two_agents_on_a_node_both_count_and_nothing_is_lost(
    world: World, fault: str, is_restarted: bool
) -> None:
    a = world.node("a")
    assert a.push("shop", 10_000) == 10_000
    world.settle()
    a.push("shop", 1_000)
    if fault:
        world.pass_time(70)
        world.api.fault = fault
        a.tick()
        assert a.reporter.counters["unanswered"] == 1
        world.api.fault = ""
        a.push("shop", 30)
    second = world.second_pod("a")
    second.push("shop", 500)
    second.tick()
    if is_restarted:
        crash(a)
    world.settle()
    passed = 11_500 + (30 if fault else 0)
    assert used(world) == passed
    for node in (a, second):
        node.push("shop", 7)
    world.settle()
    assert used(world) == passed + 14
    for node in (a, second):
        assert own(node, KEY, TODAY) + node.others.bytes_of(KEY, TODAY) == passed + 14
        # Neither takes the other's object.
        crash(node)
        node.push("shop", 1)
    world.settle()
    assert used(world) == passed + 16


def test_what_a_pod_reports_after_it_was_read_by_its_successor_is_not_lost(world: World) -> None:
    a = world.node("a")
    a.push("shop", 10_000)
    world.settle()
    second = world.second_pod("a")
    second.push("shop", 500)
    # It has read the object, and its first report does not get through.
    world.api.fault = "request"
    second.tick()
    a.push("shop", 1_000)
    world.pass_time(70)
    a.tick()
    assert own(second, KEY, TODAY) == 10_500
    crash(second)
    world.settle()
    assert used(world) == 11_500


@pytest.mark.parametrize("kill", [False, True])
def test_the_object_of_a_pod_that_is_gone_is_folded_though_its_node_stays(
    world: World, kill: bool
) -> None:
    a = world.node("a")
    a.push("shop", 10_000)
    world.settle()
    second = world.second_pod("a")
    second.push("shop", 500)
    world.settle()
    a.push("shop", 70)
    world.settle()
    a.stop(kill=kill)
    world.settle(600)
    names = {name for plural, name in world.api.objects if plural == "nodelogusages"}
    assert names == {"a", nodeusage.LEDGER}
    assert used(world) == 10_570
    if kill:
        # It comes back after all, and nothing of what was folded is counted twice.
        a.start()
        a.push("shop", 1)
        world.settle()
        assert used(world) == 10_571


def test_the_object_of_a_second_pod_is_lost_and_reported_again(world: World) -> None:
    a = world.node("a")
    a.push("shop", 10_000)
    world.settle()
    second = world.second_pod("a")
    second.push("shop", 500)
    world.settle()
    a.push("shop", 70)
    world.settle()
    (extra,) = (name for _, name in world.api.objects if name.startswith("a."))
    for name in (extra, "a"):
        world.api.lose(name)
        world.settle()
        assert used(world) == 10_570


@pytest.mark.parametrize("rate", [100, 2_000, 20_000])
def test_a_node_that_is_lost_with_its_state_costs_no_more_than_is_written_down(
    world: World, rate: int
) -> None:
    a = world.node("a")
    world.settle(5)
    passed = 0
    for _ in range(300):
        known = passed
        passed += a.push("shop", rate)
        usage = world.api.node_usage("a")
        assert usage is not None
        reported = usage["status"]["usage"].get(TODAY, {}).get(KEY, 0)
        # Two ticks of this test a report may be late: the one of the push, and that of the look.
        bound = pace.lost_with_node(1_000_000, known, 1, rate, world.pace, delay=2)
        assert passed - reported <= min(bound, 20_000 + rate * 4.4)
        world.pass_time(1)
        a.follow()
        a.tick()
        world.control()
    a.stop(kill=True)
    a.start(keep=False)
    world.settle()
    assert passed - used(world) <= 20_000 + rate * 4.4


def test_a_state_directory_that_outlives_its_pod_goes_on(world: World) -> None:
    a = world.node("a")
    a.push("shop", 10_000)
    world.settle()
    a.push("shop", 5)
    a.stop(kill=True)
    a.pod = "a-pod-next"
    a.start()
    a.push("shop", 1)
    world.settle()
    assert used(world) == 10_006
    assert [name for plural, name in world.api.objects if plural == "nodelogusages"] == ["a"]


def test_an_object_from_a_backup_is_made_whole_again(world: World) -> None:
    a = world.node("a")
    a.push("shop", 10_000)
    world.settle()
    old = world.api.node_usage("a")
    assert old is not None
    a.stop()
    a.start(keep=False)
    a.push("shop", 5)
    world.settle()
    world.api.save("nodelogusages", "MODIFIED", old)
    a.push("shop", 1)
    world.settle()
    assert used(world) == 10_006


def test_notes_of_the_last_version_are_read(world: World) -> None:
    a = world.node("a")
    a.push("shop", 10_000)
    world.settle()
    a.stop(kill=True)
    found = world.api.node_usage("a")
    assert found is not None
    month = "m/2026-11"
    jsonfile.write(
        a.folder / "report.json",
        {
            "uid": found["metadata"]["uid"],
            "acked": {month: {KEY: [10_000]}},
            "sent": {},
            "folded": {month: {KEY: [4_000]}},
        },
    )
    a.start()
    assert a.reporter._state.folded == {month: {KEY: [4_000]}}


class Refusing:
    """The API server as an agent sees it whose reports it refuses."""

    def __init__(self, world: World) -> None:
        self.api = world.api
        self.error: client.ApiError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)

    def create_node_usage(self, obj: dict[str, Any]) -> Any:
        if self.error is not None:
            raise self.error
        return self.api.create_node_usage(obj)


def test_only_an_agent_whose_every_report_is_forbidden_may_not_report(world: World) -> None:
    a = world.node("a")
    a.reporter._api = api = Refusing(world)

    def forbidden_for(seconds: int = 120) -> float | None:
        """Seconds of 403, after so many seconds of tries."""
        for _ in range(seconds):
            world.pass_time(1)
            a.tick()
        return a.reporter.forbidden_s

    api.error = client.Forbidden("this token is not bound to a pod on a node")
    assert (forbidden_for() or 0) > 60
    for other in client.Unreachable("down"), client.Terminating("the CRD is being deleted"):
        api.error = other
        assert forbidden_for() is None
    api.error = client.Forbidden("this token is not bound to a pod on a node")
    assert (forbidden_for() or 0) > 60
    # One answer does not count for the time until the next try.
    api.error = client.Unreachable("down")
    assert forbidden_for() is None
    api.error = client.Forbidden("the API server is starting")
    while a.reporter.forbidden_s is None:
        forbidden_for(1)
    assert forbidden_for(5) == 0
    api.error = None
    assert forbidden_for() is None
    # It may: what is forbidden later is another fault, and this agent is in the sums.
    world.api.lose("a")
    a.push("shop", 1)
    api.error = client.Forbidden("an administrator's mistake")
    assert forbidden_for() is None
    assert a.reporter.complaint == "an administrator's mistake"
