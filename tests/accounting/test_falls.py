"""Usage objects that are lost: what was published stands, is said to be missing, and heals."""

from typing import Any

from cluster_model import KEY, TODAY, Node, Object, World, nodeusage

from sluice.controller import app, plan

DAY = TODAY[2:]


def lose(world: World, name: str) -> None:
    """An administrator takes the finalizer off an object and deletes it."""
    world.api.objects["nodelogusages", name]["metadata"]["finalizers"] = []
    world.api.delete_node(name)


def condition(world: World) -> tuple[str, str]:
    """Status and reason of the condition UsageLost; ("", "") without it."""
    for found in world.status(KEY).get("conditions", ()):
        if found["type"] == plan.LOST:
            return found["status"], found["reason"]
    return "", ""


def events(world: World) -> list[Object]:
    return [event for event in world.api.told if event["reason"] == plan.LOST]


def spent(world: World) -> tuple[Node, Node]:
    """Two nodes that have used the whole budget."""
    a, b = world.node("a"), world.node("b")
    assert a.push("shop", 600_000) == 600_000
    assert b.push("shop", 400_000) == 400_000
    world.settle(100)
    assert world.status(KEY)["currentUsage"] == 1_000_000
    assert condition(world) == ("", "")
    return a, b


def test_what_was_published_stands_when_an_object_is_lost(world: World) -> None:
    _, b = spent(world)
    # Its agent is gone for good, so that nobody reports it again.
    world.nodes.pop("a").stop(kill=True)
    lose(world, "a")
    world.settle(20)
    status = world.status(KEY)
    assert (status["currentUsage"], status["monthlyUsage"]) == (1_000_000, 1_000_000)
    assert status["decision"] == "Drop"
    assert status["today"]["forwarded"] == {"entries": 2, "bytes": 1_000_000}
    assert b.push("shop", 1) == 0
    assert condition(world) == ("True", "UsageFell")
    (event,) = events(world)
    assert event["type"] == "Warning"
    assert "600000 bytes of the day and 600000 of the month" in event["note"]
    ((_, lost),) = world.loop.lost(world.wall)
    assert (lost.day, lost.month) == (600_000, 600_000)
    told = app.lost_series(world.loop, world.wall)
    assert told.name == "tco_budget_lost_bytes"
    assert {sample.labels["window"]: sample.value for sample in told.samples} == {
        "day": 600_000,
        "month": 600_000,
    }
    assert world.loop.losses.falls == 1


def test_a_loss_is_told_once_and_by_one_leader(world: World) -> None:
    spent(world)
    world.nodes.pop("a").stop(kill=True)
    lose(world, "a")
    world.settle(20)
    for _ in range(3):
        world.lead()
        world.settle(20)
    assert len(events(world)) == 1
    assert condition(world) == ("True", "UsageFell")
    world.nodes.pop("b").stop(kill=True)
    lose(world, "b")
    world.settle(20)
    assert len(events(world)) == 2, "more is missing than before"
    assert world.status(KEY)["currentUsage"] == 1_000_000


def test_a_loss_ends_with_its_windows(world: World) -> None:
    _, b = spent(world)
    world.nodes.pop("a").stop(kill=True)
    lose(world, "a")
    world.settle(20)
    world.pass_time(86400)
    world.settle(100)
    status = world.status(KEY)
    assert status["currentUsage"] == 0
    assert status["monthlyUsage"] == 1_000_000
    assert condition(world) == ("True", "UsageFell")
    world.pass_time(10 * 86400)
    world.settle(100)
    assert world.status(KEY)["monthlyUsage"] == 0
    assert condition(world) == ("False", "UsageComplete")
    assert b.push("shop", 1000) == 1000
    assert len(events(world)) == 1


def test_what_is_reported_again_ends_the_loss(world: World) -> None:
    spent(world)
    whole = world.api.node_usage("a")
    assert whole is not None
    world.nodes.pop("a").stop(kill=True)
    lose(world, "a")
    world.settle(20)
    assert condition(world) == ("True", "UsageFell")
    made = world.api.create_node_usage(nodeusage.new("a", ""))
    world.api.put_node_usage_status({**made, "status": whole["status"]})
    world.settle(20)
    assert condition(world) == ("False", "UsageComplete")
    assert world.status(KEY)["currentUsage"] == 1_000_000
    assert world.loop.lost(world.wall)[0][1] == plan.Lost(0, 0)


def test_an_operator_can_lower_what_was_published(world: World) -> None:
    """As after a node that reported nonsense: its object is deleted, and the status patched."""
    spent(world)
    world.nodes.pop("a").stop(kill=True)
    lose(world, "a")
    world.settle(20)
    world.api.patch_budget_status("shop", "shop", {"currentUsage": 0, "monthlyUsage": 0})
    world.settle(20)
    assert world.status(KEY)["currentUsage"] == 400_000
    assert condition(world) == ("False", "UsageComplete")


def test_nothing_is_called_lost_while_a_list_is_handed_in(world: World) -> None:
    spent(world)
    world.is_listing = True
    world.loop.on_node("DELETED", world.loop._sums.nodes["a"])
    assert world.loop.lost(world.wall) == []


def test_the_crd_is_deleted_and_applied_again(world: World) -> None:
    """What a GitOps tool does that prunes. It ends, and meanwhile no team gets its limit again."""
    a, b = spent(world)
    world.api.delete_crd()
    assert world.api.crd == "ending"
    shown: list[Any] = []
    for _ in range(60):
        world.settle(1)
        shown.append(world.status(KEY)["currentUsage"])
        assert a.push("shop", 1000) + b.push("shop", 1000) == 0
    assert world.api.crd == "gone", "live agents keep on reporting, and nothing waits for them"
    world.api.crd = "served"
    for _ in range(200):
        world.settle(1)
        shown.append(world.status(KEY)["currentUsage"])
        assert a.push("shop", 1000) + b.push("shop", 1000) == 0
    assert set(shown) == {1_000_000}
    assert len(events(world)) == 1


def test_after_the_crd_came_back_the_counts_of_nodes_that_are_gone_are_there(
    world: World,
) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 300_000)
    b.push("shop", 200_000)
    world.settle(70)
    assert a.reporter.final()
    world.nodes.pop("a").stop(kill=True)
    world.api.delete_node("a")
    world.settle(20)
    assert list(world.api.objects) == [
        ("teambudgets", KEY),
        ("nodelogusages", "b"),
        ("nodelogusages", nodeusage.LEDGER),
    ]
    world.api.delete_crd()
    world.settle(60)
    assert world.api.crd == "gone"
    world.api.crd = "served"
    world.settle(60)
    book = world.api.node_usage(nodeusage.LEDGER)
    assert book is not None
    assert book["status"]["usage"][TODAY] == {KEY: 300_000}
    assert world.status(KEY)["currentUsage"] == 500_000
