"""An informer against a real API server: complete, in order, and polite to one that is away.

The figures beside some tests are those of the kubernetes package's own informer, 37.0.2.
"""

import dataclasses
import itertools
import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster.harness import Cluster
from cluster.proxy import Proxy
from cluster.watching import (
    FAST,
    as_controller,
    change_budget,
    create_budget,
    delete_budget,
    through,
    unique,
    watching,
)
from harness import free_port, wait_until
from prometheus_client.parser import text_string_to_metric_families

from sluice.kube import client
from sluice.kube.informer import PACE, Informer, Pace

pytestmark = pytest.mark.cluster

# An agent that has heard nothing for so long counts as cut off.
CUT_OFF_S = 180


@pytest.fixture
def api(cluster: Cluster, proxy: Proxy) -> client.Api:
    return through(cluster, proxy)


def refused_requests(cluster: Cluster) -> int:
    """How many requests the API server did not know the sender of, so far."""
    samples = text_string_to_metric_families(cluster.call("GET", "/metrics").text)
    return sum(
        int(sample.value)
        for family in samples
        for sample in family.samples
        if sample.name == "authentication_attempts" and sample.labels["result"] != "success"
    )


def test_what_is_there_is_told_first_and_then_every_change(
    cluster: Cluster, api: client.Api, namespace: str
) -> None:
    create_budget(cluster, namespace, "old")
    with watching(api, "teambudgets", namespace) as (informer, seen):
        assert informer.synced.wait(10)
        assert seen.kinds() == [("ADDED", "old")]
        create_budget(cluster, namespace, "new")
        change_budget(cluster, namespace, "old", 2000)
        delete_budget(cluster, namespace, "new")
        seen.wait_for("DELETED", "new")
    assert seen.kinds() == [
        ("ADDED", "old"),
        ("ADDED", "new"),
        ("MODIFIED", "old"),
        ("DELETED", "new"),
    ]
    assert seen.changes[2].obj["spec"]["dailyLimit"] == 2000
    assert seen.threads == {"informer teambudgets"}
    # Bare, a watch that works at all takes the lists' method for their items, or never ends.
    assert informer.failures == informer.relists == 0


def test_changes_come_in_the_order_of_versions_and_revision_is_never_ahead(
    cluster: Cluster, api: client.Api, namespace: str
) -> None:
    names = [f"team-{i}" for i in range(8)]

    def live(name: str) -> None:
        create_budget(cluster, namespace, name)
        for limit in range(1, 6):
            change_budget(cluster, namespace, name, limit)
        delete_budget(cluster, namespace, name)
        create_budget(cluster, namespace, name, 7)
        # This thread's connection.
        cluster.api.close()

    with watching(api, "teambudgets", namespace) as (informer, seen):
        informer.synced.wait(10)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(live, names))
        last = max(int(each["metadata"]["resourceVersion"]) for each in api.budgets())
        wait_until(lambda: informer.revision >= last, "all changes are handed over")
        assert len(seen.changes) == len(names) * 8
    versions = [change.version for change in seen.changes]
    assert versions == sorted(versions)
    # What `revision` promises is handed over: the change at hand is not yet.
    assert all(change.revision < change.version for change in seen.changes)
    for name in names:
        kinds = [change.kind for change in seen.changes if change.name == name]
        assert kinds == ["ADDED", *["MODIFIED"] * 5, "DELETED", "ADDED"]


def test_a_watch_that_ends_is_renewed_without_a_list_or_a_repetition(
    cluster: Cluster, api: client.Api, namespace: str
) -> None:
    create_budget(cluster, namespace, "steady")
    with watching(api, "teambudgets", namespace, pace=FAST) as (informer, seen):
        wait_until(lambda: informer.watches >= 3, "the watch has been renewed twice")
        change_budget(cluster, namespace, "steady", 5)
        seen.wait_for("MODIFIED", "steady")
    assert seen.kinds() == [("ADDED", "steady"), ("MODIFIED", "steady")]
    assert informer.failures == informer.relists == 0


def test_bookmarks_move_the_revision_on_where_nothing_happens(
    cluster: Cluster, api: client.Api
) -> None:
    node = unique("node")
    # The API server sends one 2 s before it ends a watch.
    pace = dataclasses.replace(FAST, renew_min_s=4, renew_max_s=4)
    with watching(api, "nodelogusages", name=node, pace=pace) as (informer, seen):
        informer.synced.wait(10)
        # Of a kind that is not watched: only a bookmark can tell.
        moved = int(create_budget(cluster, "default", node)["metadata"]["resourceVersion"])
        wait_until(lambda: informer.revision >= moved, "a bookmark tells of the version", 30)
        assert informer.relists == 0
    assert seen.changes == []
    delete_budget(cluster, "default", node)


def test_only_the_object_of_the_given_name_is_watched(cluster: Cluster, api: client.Api) -> None:
    mine, other = unique("node"), unique("node")
    for name in (mine, other):
        api.create_node_usage(usage(name))
    with watching(api, "nodelogusages", name=mine) as (informer, seen):
        informer.synced.wait(10)
        for name in (other, mine):
            obj = api.node_usage(name)
            assert obj is not None
            api.put_node_usage_status({**obj, "status": {"seq": 1}})
        seen.wait_for("MODIFIED", mine)
    assert seen.kinds() == [("ADDED", mine), ("MODIFIED", mine)]
    for name in (mine, other):
        as_controller(cluster).delete_node_usage(name)


def test_a_list_in_pages_is_handed_over_whole(
    cluster: Cluster, api: client.Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 3)
    for i in range(10):
        create_budget(cluster, namespace, f"team-{i}")
    with watching(api, "teambudgets", namespace) as (informer, seen):
        informer.synced.wait(10)
        assert sorted(seen.kinds()) == [("ADDED", f"team-{i}") for i in range(10)]


def test_what_transform_leaves_out_is_neither_handed_over_nor_kept(
    cluster: Cluster, api: client.Api, namespace: str
) -> None:
    create_budget(cluster, namespace, "slim")

    def slimmed(obj: client.Object) -> client.Object:
        del obj["metadata"]["managedFields"]
        return obj

    with watching(api, "teambudgets", namespace, transform=slimmed) as (informer, seen):
        informer.synced.wait(10)
        assert "managedFields" not in seen.changes[0].obj["metadata"]
        # The very object that the handler got, not another like it.
        assert any(obj is seen.changes[0].obj for obj in informer.objects())


def test_a_handler_that_fails_stops_nothing(
    cluster: Cluster, api: client.Api, namespace: str
) -> None:
    told: list[str] = []

    def handler(kind: str, obj: dict[str, Any]) -> None:
        if obj["metadata"].get("namespace") == namespace:
            told.append(obj["metadata"]["name"])
            raise RuntimeError("no")

    informer = Informer(api, "teambudgets", handler, pace=FAST)
    informer.start()
    informer.synced.wait(10)
    create_budget(cluster, namespace, "one")
    last = create_budget(cluster, namespace, "two")
    version = int(last["metadata"]["resourceVersion"])
    wait_until(lambda: informer.revision >= version, "both were handed over")
    assert told == ["one", "two"]
    assert informer.handler_errors == 2
    assert informer.failures == informer.relists == 0
    informer.stop()


def test_a_dead_api_server_is_asked_less_than_once_in_ten_seconds_over_ten_minutes(
    cluster: Cluster,
) -> None:
    """Bare: 1661 watches a second, each with 4 attempts to connect."""
    nowhere = client.connect(cluster.kubeconfig(server=f"https://127.0.0.1:{free_port()}"))
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        assert 0 < seconds <= PACE.backoff_max_s
        now += seconds
        if now >= 600:
            informer.stop()

    informer = Informer(
        nowhere,
        "teambudgets",
        lambda kind, obj: None,
        clock=lambda: now,
        rng=random.Random(7).random,
        wait=wait,
    )
    informer.start()
    wait_until(lambda: now >= 600, "ten minutes are over")
    assert 20 <= informer.failures < 60
    assert informer.last_contact is None
    assert not informer.synced.is_set()


def test_an_api_server_away_for_seconds_costs_a_few_connections_and_nothing_is_missed(
    cluster: Cluster, api: client.Api, proxy: Proxy, namespace: str
) -> None:
    pace = dataclasses.replace(PACE, backoff_s=0.3)
    with watching(api, "teambudgets", namespace, pace=pace) as (informer, seen):
        informer.synced.wait(10)
        wait_until(lambda: informer.watches == 1, "the watch is open")
        before = proxy.accepted
        # Counts what it turns away.
        proxy.set("reset")
        proxy.cut()
        create_budget(cluster, namespace, "meanwhile")
        gone = time.monotonic()
        wait_until(lambda: informer.failures >= 3, "three tries")
        lasted_s = time.monotonic() - gone
        assert lasted_s > 0.45, "two pauses, of 0.15 s and 0.3 s at least"
        # Each try was one; the first failure was that of the connection that stood.
        assert proxy.accepted - before <= 3
        proxy.set("ok")
        seen.wait_for("ADDED", "meanwhile", 10)
    # It went on from where it stood.
    assert informer.relists == 0


def test_a_wrong_token_is_refused_a_few_times_and_said_once(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Bare: 1468 calls a second."""
    api = client.connect(cluster.kubeconfig(token="nobody-knows-this"))
    pace = Pace(backoff_s=0.1, backoff_max_s=0.2)
    refused, begun = refused_requests(cluster), time.monotonic()
    with (
        caplog.at_level(logging.INFO),
        watching(api, "teambudgets", pace=pace) as (informer, seen),
    ):
        wait_until(lambda: informer.failures >= 5, "five tries")
    assert time.monotonic() - begun > 4 * 0.05
    assert refused_requests(cluster) - refused <= 6
    assert seen.changes == []
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "401 Unauthorized" in warnings[0]


def test_a_crd_that_is_installed_later_is_waited_for(fresh_cluster: Cluster) -> None:
    api = client.connect(fresh_cluster.kubeconfig())
    with watching(api, "teambudgets", "default") as (informer, seen):
        wait_until(lambda: informer.failures >= 2, "there is no such kind yet")
        assert not informer.synced.is_set()
        fresh_cluster.install()
        create_budget(fresh_cluster, "default", "first")
        seen.wait_for("ADDED", "first")


def test_a_version_too_old_is_listed_anew_and_missed_deletions_are_told(
    fresh_cluster: Cluster,
) -> None:
    fresh_cluster.install()
    with Proxy(fresh_cluster.api.port) as proxy:
        api = through(fresh_cluster, proxy)
        for name in ("stays", "goes", "changes", "returns"):
            create_budget(fresh_cluster, "default", name)
        with watching(api, "teambudgets", "default") as (informer, seen):
            informer.synced.wait(10)
            wait_until(lambda: informer.watches == 1, "the watch is open")
            proxy.set("refuse")
            proxy.cut()
            told = len(seen.changes)
            revision = informer.revision
            change_budget(fresh_cluster, "default", "changes", 5)
            delete_budget(fresh_cluster, "default", "goes")
            delete_budget(fresh_cluster, "default", "returns")
            create_budget(fresh_cluster, "default", "returns", 6)
            create_budget(fresh_cluster, "default", "appears")
            fresh_cluster.etcd.compact()
            fresh_cluster.api.kill()
            fresh_cluster.api.start()
            proxy.set("ok")
            seen.wait_for("ADDED", "appears")
            wait_until(lambda: informer.revision > revision, "the list is handed over")
            assert seen.kinds()[told:] == [
                ("DELETED", "goes"),
                ("MODIFIED", "changes"),
                ("DELETED", "returns"),
                ("ADDED", "returns"),
                ("ADDED", "appears"),
            ]
            assert informer.relists == 1
            delete_budget(fresh_cluster, "default", "stays")
            seen.wait_for("DELETED", "stays")
            assert informer.relists == 1


def test_a_connection_that_is_dead_and_says_nothing_is_given_up(
    cluster: Cluster, api: client.Api, proxy: Proxy, namespace: str
) -> None:
    """Bare: for ever."""
    with watching(api, "teambudgets", namespace) as (informer, seen):
        informer.synced.wait(10)
        wait_until(lambda: informer.watches >= 1, "the watch is open")
        proxy.set("blackhole")
        create_budget(cluster, namespace, "unseen")
        begun = time.monotonic()
        wait_until(lambda: informer.failures >= 1, "the silence is noticed")
        assert time.monotonic() - begun < FAST.renew_max_s + FAST.slack_s + 1
        assert informer.last_contact is not None
        assert informer.last_contact < begun + 0.5
        assert seen.kinds() == []
        proxy.set("ok")
        seen.wait_for("ADDED", "unseen")


def test_by_default_a_silent_connection_is_given_up_before_an_agent_counts_as_cut_off() -> None:
    assert PACE.renew_max_s + PACE.slack_s < CUT_OFF_S
    assert PACE.steady_s < PACE.renew_min_s


@pytest.mark.parametrize("mode", ["ok", "blackhole", "refuse"])
def test_stop_returns_at_once_silently_and_nothing_is_told_after(
    cluster: Cluster,
    api: client.Api,
    proxy: Proxy,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    mode: str,
) -> None:
    with watching(api, "teambudgets", namespace, pace=PACE) as (informer, seen):
        informer.synced.wait(10)
        wait_until(lambda: informer.watches == 1, "the watch is open")
        proxy.set(mode)
        begun = time.monotonic()
        informer.stop()
        assert time.monotonic() - begun < 1.9
    assert "informer teambudgets" not in {thread.name for thread in threading.enumerate()}
    create_budget(cluster, namespace, "late")
    assert seen.changes == []
    assert caplog.records == []


def test_stop_returns_at_once_while_a_black_hole_holds_the_first_list(
    api: client.Api, proxy: Proxy
) -> None:
    proxy.set("blackhole")
    with watching(api, "teambudgets", pace=PACE) as (informer, _):
        wait_until(lambda: proxy.accepted == 1, "it is connecting")
        begun = time.monotonic()
        informer.stop()
        assert time.monotonic() - begun < 1.9
    # Its thread, which would hold up nobody, ends by its time-out.
    wait_until(lambda: not informer._thread.is_alive(), "the thread has ended")


def test_last_contact_is_renewed_where_nothing_happens(api: client.Api) -> None:
    ticks = itertools.count()
    with watching(api, "nodelogusages", clock=lambda: float(next(ticks))) as (informer, _):
        wait_until(lambda: informer.watches == 1, "the watch is open")
        opened = informer.last_contact
        wait_until(lambda: informer.watches == 2, "the watch was renewed")
        assert opened is not None
        assert informer.last_contact is not None
        assert informer.last_contact > opened


def usage(name: str) -> client.Object:
    return {"apiVersion": "tco.io/v1", "kind": "NodeLogUsage", "metadata": {"name": name}}
