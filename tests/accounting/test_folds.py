"""Folding where things go wrong: refused writes, full ledger objects, kills at any point."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from cluster_model import KEY, TODAY, ApiServer, Object, World, nodeusage

from sluice.controller import fold, ledgers
from sluice.kube import client

MONTH = "m/2026-11"


def left_by(api: ApiServer, name: str, sizes: dict[str, int]) -> None:
    """The object of a node whose agent has stopped and whose Node is gone."""
    made = api.create_node_usage(nodeusage.new(name, ""))
    usage = {window: dict(sizes) for window in (TODAY, MONTH)}
    status = {"instance": name, "seq": 3, "final": True, "usage": usage}
    api.put_node_usage_status({**made, "status": status})
    api.delete_node(name)


def books(api: ApiServer) -> dict[str, Object]:
    """The ledger objects' statuses."""
    return {
        name: obj.get("status", {})
        for (plural, name), obj in api.objects.items()
        if plural == "nodelogusages" and nodeusage.is_ledger(name)
    }


def total(api: ApiServer, team: str = KEY) -> int:
    """What all ledger objects together have of a team's day."""
    return sum(book.get("usage", {}).get(TODAY, {}).get(team, 0) for book in books(api).values())


def nodes_left(api: ApiServer) -> list[str]:
    return [
        name
        for plural, name in api.objects
        if plural == "nodelogusages" and not nodeusage.is_ledger(name)
    ]


class Through:
    """The API server, with something in the way of ledger objects' writes."""

    def __init__(self, api: ApiServer, check: Callable[[Object], None]) -> None:
        self._api, self._check = api, check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def put_node_usage_status(self, obj: Object) -> Object:
        if nodeusage.is_ledger(obj["metadata"]["name"]):
            self._check(obj)
        return self._api.put_node_usage_status(obj)


def test_nodes_whose_fold_is_refused_do_not_hold_up_the_others(world: World) -> None:
    refused: list[float] = []

    def check(obj: Object) -> None:
        if "bad/bad" in obj["status"]["usage"].get(TODAY, {}):
            refused.append(world.mono)
            raise client.Invalid("the ledger object is not taken with this")

    for number in range(20):
        left_by(world.api, f"a-bad-{number:02}", {"bad/bad": 1})
    for number in range(20):
        left_by(world.api, f"good-{number:02}", {KEY: 10})
    world.api = Through(world.api, check)  # type: ignore[assignment]
    world.lead()
    world.settle(20)
    assert total(world.api) == 200
    assert all(name.startswith("a-bad") for name in nodes_left(world.api))
    world.settle(600)
    # 20 objects, each less and less often: at 0, 2, 6, 14 ... s, and every 5 minutes at last.
    assert len(refused) <= 20 * 11
    assert world.loop.gauges()["foldsFailing"] == 20
    assert "20 NodeLogUsages cannot be folded; a-bad-00: the ledger" in (
        world.loop.folds.complaint()
    )
    # What is late is late only for its pause.
    left_by(world.api, "good-late", {KEY: 1})
    world.settle(3)
    assert total(world.api) == 201


def test_a_fold_whose_answer_never_comes_does_not_hold_up_the_others(world: World) -> None:
    """A write that is too large for etcd ends as 500: nobody knows whether it was done."""

    def check(obj: Object) -> None:
        if "bad/bad" in obj["status"]["usage"].get(TODAY, {}):
            raise client.Unreachable("etcdserver: request is too large")

    for number in range(10):
        left_by(world.api, f"a-bad-{number}", {"bad/bad": 1})
    for number in range(10):
        left_by(world.api, f"good-{number}", {KEY: 10})
    world.api = Through(world.api, check)  # type: ignore[assignment]
    world.lead()
    world.settle(100)
    assert total(world.api) == 100
    assert len(nodes_left(world.api)) == 10


def test_more_teams_than_one_object_takes_are_folded_into_several(world: World) -> None:
    for number in range(4):
        teams = {f"n/team-{number}-{i}": 1 for i in range(1500)}
        left_by(world.api, f"node-{number}", {**teams, KEY: 100})
    world.lead()
    world.settle(20)
    assert nodes_left(world.api) == []
    assert sorted(books(world.api)) == [nodeusage.ledger_name(number) for number in range(4)]
    assert world.status(KEY)["currentUsage"] == 400
    assert world.loop._sums.sum(TODAY, "n/team-3-7")[0] == 1
    assert world.loop.folds.complaint() == ""
    # One with few teams still fits into the first.
    left_by(world.api, "small", {KEY: 1})
    world.settle(5)
    assert books(world.api)[nodeusage.LEDGER]["usage"][TODAY][KEY] == 101


def test_a_ledger_object_stays_below_what_etcd_takes(world: World) -> None:
    long = "x" * 200
    for number in range(8):
        made = world.api.create_node_usage(nodeusage.new(f"node-{number}", ""))
        outcomes = {"received": {"entries": 10**12, "bytes": 10**15}}
        teams = [f"n/{long}-{number}-{i}" for i in range(900)]
        status = {
            "instance": "x", "seq": 1, "final": True,
            "usage": {TODAY: dict.fromkeys(teams, 10**15)},
            "counts": {TODAY: dict.fromkeys(teams, outcomes)},
        }  # fmt: skip
        world.api.put_node_usage_status({**made, "status": status})
        world.api.delete_node(f"node-{number}")
    world.lead()
    world.settle(20)
    assert nodes_left(world.api) == []
    assert len(books(world.api)) == 8 // 2


def test_windows_that_are_over_make_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodeusage, "TEAMS_MAX", 3)
    for number in range(2):
        left_by(world.api, f"node-{number}", {f"n/{number}-{i}": 1 for i in range(3)})
    world.lead()
    world.settle(10)
    assert len(books(world.api)) == 2
    world.pass_time(70 * 86400)
    made = world.api.create_node_usage(nodeusage.new("later", ""))
    status = {"instance": "x", "seq": 1, "final": True, "usage": {"d/2027-02-01": {"n/1": 5}}}
    world.api.put_node_usage_status({**made, "status": status})
    world.api.delete_node("later")
    world.settle(10)
    found = books(world.api)
    assert len(found) == 2
    assert found[nodeusage.LEDGER]["usage"] == {"d/2027-02-01": {"n/1": 5}}
    assert list(found[nodeusage.LEDGER]["folded"]) == ["m/2027-02"]


def test_the_proof_of_a_fold_outlives_the_object(world: World) -> None:
    left_by(world.api, "gone", {KEY: 10})
    uid = world.api.objects["nodelogusages", "gone"]["metadata"]["uid"]
    world.lead()
    world.settle(10)
    book = books(world.api)[nodeusage.LEDGER]
    assert book["merged"] == []
    assert book["folded"] == {MONTH: {uid: 3}}


class Dying:
    """The API server as a leader sees it that dies at its n-th write.

    Before the write is done, or after it.
    """

    def __init__(self, api: ApiServer, at: int, *, is_done: bool) -> None:
        self._api, self._at, self._is_done = api, at, is_done

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._api, name)
        if not name.startswith(("put_", "create_")):
            return found

        def write(obj: Object) -> Object:
            self._at -= 1
            if self._at < 0:
                raise client.Unreachable("dead")
            if self._at == 0:
                if self._is_done:
                    found(obj)
                raise client.Unreachable("dead")
            done: Object = found(obj)
            return done

        return write


KILLS = list(itertools.product(range(1, 20), (False, True)))


@pytest.mark.parametrize(("at", "is_done"), KILLS)
def test_folds_into_several_objects_are_done_once_wherever_a_leader_dies(
    world: World, monkeypatch: pytest.MonkeyPatch, at: int, is_done: bool
) -> None:
    monkeypatch.setattr(nodeusage, "TEAMS_MAX", 3)
    api = world.api
    for number in range(4):
        left_by(api, f"node-{number}", {f"n/{number}": 1, f"m/{number}": 1, KEY: 100})
    # One ledger object is itself to be deleted, and has something.
    fold.fold(api, {"node-0": version_of(api, "node-0")}, world.wall)
    api.delete_node(nodeusage.LEDGER)
    judged = {
        name: version_of(api, name)
        for name in (nodeusage.LEDGER, *(f"node-{number}" for number in range(1, 4)))
    }
    with contextlib.suppress(client.Unreachable):
        fold.fold(Dying(api, at, is_done=is_done), judged, world.wall)  # type: ignore[arg-type]
    world.lead()
    world.settle(30)
    assert nodes_left(api) == []
    assert total(api) == 400
    assert sum(total(api, f"n/{number}") for number in range(4)) == 4


def version_of(api: ApiServer, name: str) -> int:
    return int(api.objects["nodelogusages", name]["metadata"]["resourceVersion"])


def test_two_leaders_that_overlap_fold_a_node_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old leader has chosen a ledger object, in which meanwhile there is no room any more."""
    monkeypatch.setattr(nodeusage, "TEAMS_MAX", 3)
    api = world.api
    left_by(api, "node-0", {"n/0": 1, KEY: 100})
    left_by(api, "node-1", {"n/1": 1, "n/2": 1, KEY: 100})
    # The old leader marks, and its write into the ledger object is long on its way.
    late: list[Object] = []

    def hold(obj: Object) -> None:
        late.append(obj)
        raise client.Unreachable("no answer yet")

    with pytest.raises(client.Unreachable):
        fold.fold(Through(api, hold), {"node-0": version_of(api, "node-0")}, world.wall)  # type: ignore[arg-type]
    # The new one folds another node first.
    fold.fold(api, {"node-1": version_of(api, "node-1")}, world.wall)
    (uid,) = {obj["metadata"]["uid"] for (_, n), obj in api.objects.items() if n == "node-0"}
    fold.fold(api, {"node-0": version_of(api, "node-0")}, world.wall)
    with pytest.raises(client.Conflict):
        api.put_node_usage_status(late[0])
    assert total(api) == 200
    assert [uid in book["merged"] for book in books(api).values()].count(True) == 1


def test_a_ledger_object_that_is_to_be_deleted_moves_into_another_one(world: World) -> None:
    left_by(world.api, "gone", {KEY: 100_000})
    world.lead()
    world.settle(5)
    assert world.status(KEY)["currentUsage"] == 100_000
    world.api.delete_node(nodeusage.LEDGER)
    shown = []
    for _ in range(10):
        world.settle(1)
        shown.append(world.status(KEY)["currentUsage"])
    assert set(shown) == {100_000}
    assert list(books(world.api)) == [nodeusage.ledger_name(1)]
    assert total(world.api) == 100_000
    uids = books(world.api)[nodeusage.ledger_name(1)]["folded"][MONTH]
    assert len(uids) == 2, "the proof goes along"
    assert world.api.told == []


def test_a_ledger_object_that_is_gone_is_written_again(world: World) -> None:
    left_by(world.api, "gone", {KEY: 100_000})
    world.lead()
    world.settle(5)
    before = books(world.api)[nodeusage.LEDGER]
    obj = world.api.objects["nodelogusages", nodeusage.LEDGER]
    obj["metadata"]["finalizers"] = []
    world.api.delete_node(nodeusage.LEDGER)
    assert books(world.api) == {}
    world.settle(10)
    after = books(world.api)[nodeusage.LEDGER]
    assert after["usage"] == before["usage"]
    assert after["folded"][MONTH].items() > before["folded"][MONTH].items()
    assert world.status(KEY)["currentUsage"] == 100_000
    assert total(world.api) == 100_000
    # And not once more, by this leader or by the next.
    world.settle(60)
    world.lead()
    world.settle(60)
    assert total(world.api) == 100_000


def test_a_ledger_object_of_an_older_version_gets_the_finalizer(world: World) -> None:
    bare = {"apiVersion": nodeusage.API_VERSION, "kind": nodeusage.KIND}
    world.api.create_node_usage({**bare, "metadata": {"name": nodeusage.LEDGER}})
    left_by(world.api, "gone", {KEY: 10})
    # Its leader marked it and died.
    obj = world.api.node_usage("gone")
    assert obj is not None
    obj["metadata"]["annotations"] = {nodeusage.MARK: "true"}
    world.api.put_node_usage(obj)
    world.lead()
    world.settle(5)
    book = world.api.node_usage(nodeusage.LEDGER)
    assert book is not None
    assert book["metadata"]["finalizers"] == [nodeusage.FINALIZER]
    assert total(world.api) == 10


def test_as_many_nodes_as_come_and_go_in_two_months_are_folded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "UIDS_MAX", 5)
    for number in range(12):
        left_by(world.api, f"node-{number}", {KEY: 1})
    world.lead()
    world.settle(20)
    assert nodes_left(world.api) == []
    assert total(world.api) == 12
    proofs = [len(book["folded"][MONTH]) for book in books(world.api).values()]
    assert sum(proofs) == 12
