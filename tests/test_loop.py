"""The controller's loop where things go wrong: one bad object is not to harm the others."""

from pathlib import Path
from typing import Any

import pytest
from cluster_model import Object, World, nodeusage, own

from sluice.kube import client

TODAY = "d/2026-11-23"


class Refusing:
    """An API server that refuses the status of one budget."""

    def __init__(self, api: Any, refused: str) -> None:
        self._api, self._refused = api, refused
        self.refusals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def patch_budget_status(
        self, namespace: str, name: str, status: Object, version: str | None = None
    ) -> Object:
        if name == self._refused:
            self.refusals += 1
            raise client.Forbidden("not this one")
        found: Object = self._api.patch_budget_status(namespace, name, status, version)
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for name in ("shop", "pay"):
        made.api.apply(name, name, dailyLimit=1_000_000)
    return made


def test_a_status_that_is_refused_does_not_hold_up_the_others(world: World) -> None:
    refusing = Refusing(world.api, "shop")
    world.api = refusing  # type: ignore[assignment]
    world.lead()
    a = world.node("a")
    for _ in range(20):
        a.push("pay", 40_000)
        a.push("shop", 40_000)
        world.settle(5)
    assert world.status("pay/pay")["currentUsage"] == 800_000
    assert "currentUsage" not in world.status("shop/shop")
    # Not asked again with every tick: 100 s, and every 30 s at most.
    assert 2 <= refusing.refusals <= 6


def hostile(world: World, name: str, status: Object) -> None:
    """A NodeLogUsage whose agent writes what it likes, within the schema."""
    made = world.api.create_node_usage(nodeusage.new(name, ""))
    world.api.put_node_usage_status({**made, "status": {"instance": "evil", "seq": 1, **status}})


@pytest.mark.parametrize(
    "status",
    [
        {"usage": {"m/2026-11": {"pay/pay": 1}}, "counts": {"m/2026-11": {"pay/pay": {}}}},
        {"counts": {"m/2026-11": {"pay/pay": {"received": {"entries": 1, "bytes": 1}}}}},
        {"usage": {"": {"pay/pay": 5}, "x/y": {"pay/pay": 5}}},
        {"usage": {f"d/2099-01-{day:02}": {"pay/pay": 5} for day in range(1, 15)}},
        {"usage": {TODAY: {"no/such": 2**63 - 1}, "m/2026-11": {"no/such": 2**63 - 1}}},
        {"reportedAt": "2026-11-23T23:59:60Z"},
        {"counts": {TODAY: {"pay/pay": {"received": {}}}}},
    ],
)
def test_what_one_agent_writes_does_not_harm_other_nodes(world: World, status: Object) -> None:
    a = world.node("a")
    a.push("shop", 1000)
    world.settle(70)
    for name in ("evil-1", "evil-2", "evil-3"):
        hostile(world, name, status)
    world.settle(70)
    a.push("shop", 500)
    world.settle(70)
    assert world.status("shop/shop")["currentUsage"] == 1500
    # And when their nodes go, they are folded like others.
    for name in ("evil-1", "evil-2", "evil-3"):
        world.api.delete_node(name)
    world.settle(400)
    assert [name for _, name in world.api.objects if name.startswith("evil")] == []
    assert world.status("shop/shop")["currentUsage"] == 1500
    assert own(a, "shop/shop", TODAY) == 1500


def test_sums_beyond_an_int64_are_folded_too(world: World) -> None:
    world.node("a")
    huge = {"usage": {TODAY: {"pay/pay": 2**63 - 1}}}
    for name in ("big-1", "big-2"):
        hostile(world, name, huge)
        world.api.delete_node(name)
    world.settle(400)
    book = world.api.node_usage(nodeusage.LEDGER)
    assert book is not None
    assert book["status"]["usage"][TODAY]["pay/pay"] == 2**63 - 1
    assert world.status("pay/pay")["currentUsage"] == 2**63 - 1


def test_a_silent_node_that_goes_is_forgotten(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.push("shop", 1000)
    b.push("shop", 1000)
    world.settle()
    b.is_up = False
    world.settle(300)
    assert world.status("shop/shop")["nodes"]["stale"] == 1
    world.api.delete_node("b")
    world.settle(300)
    assert world.api.node_usage("b") is None
    assert world.status("shop/shop")["nodes"] == {"reporting": 1, "stale": 0}
    assert world.status("shop/shop")["currentUsage"] == 2000


def test_nothing_is_published_while_a_list_is_handed_in(world: World) -> None:
    a = world.node("a")
    a.push("shop", 400_000)
    world.settle()
    world.is_listing = True
    world.loop.on_node("DELETED", world.loop._sums.nodes["a"])
    before = world.status("shop/shop")
    for _ in range(10):
        world.pass_time(1)
        world.loop.tick()
    assert world.status("shop/shop") == before


def test_a_budget_that_is_deleted_while_its_status_is_written_stays_deleted(world: World) -> None:
    class Deleting(Refusing):
        def patch_budget_status(self, namespace: str, name: str, *more: Any) -> Object:
            answer: Object = self._api.patch_budget_status(namespace, name, *more)
            if name == self._refused:
                world.loop.on_budget("DELETED", answer)
            return answer

    world.api = Deleting(world.api, "shop")  # type: ignore[assignment]
    world.lead()
    world.loop.tick()
    assert [row.budget.name for row in world.loop.rows(world.wall)] == ["pay"]
