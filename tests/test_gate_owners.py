"""Whose a stream is at the gate while budgets change, and of which application its bytes are."""

import numpy as np
import pytest
import shippers
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import (
    MIB,
    NOON,
    counts_of,
    forwarded,
    judged,
    labelled,
    lines_of,
    make,
    one_stream,
    pack,
    row_of,
    totals_of,
)

from sluice import Action, Gate, assign, columns, usage
from sluice.judgement import Judgement
from sluice.wire import loki


@pytest.mark.parametrize(
    "labels",
    [
        b"",
        b'{namespace="free"}',
        b'{namespace=""}',
    ],
)
def test_streams_that_belong_to_nobody_pass_as_unbudgeted(labels):
    gate = Gate([make("shop", 0)])
    body = labelled(labels)
    judgement = gate.push(body, now=NOON)
    assert judgement.body is body
    judgement.commit()
    assert counts_of(gate, "")["forwarded"] == {"entries": 1, "bytes": 10}
    assert counts_of(gate, "shop/shop")["received"]["entries"] == 0


@pytest.mark.parametrize("labels", [b'{namespace="free"}', b"{}"])
def test_what_belongs_to_nobody_is_dropped_where_the_setting_says_so(labels):
    gate = Gate([make("shop", MIB)], drop_unbudgeted=True)
    judgement = gate.push(labelled(labels), now=NOON)
    assert judgement.body is None
    judgement.commit()
    assert counts_of(gate, "")["dropped"] == {"entries": 1, "bytes": 10}
    assert gate.push(labelled(b'{namespace="shop"}'), now=NOON).body is not None
    (action,) = gate.evaluate(gate.resolve(["free"]), [1], now=NOON)
    assert action == Action.DROP


LOKIS_OWN = [
    {"namespace": "shop", "__pattern__": "x"},
    {"namespace": "shop", "__aggregated_metric__": "x"},
]


@pytest.mark.parametrize("dialect", loki.Dialect)
@pytest.mark.parametrize("labels", LOKIS_OWN)
def test_a_label_of_lokis_own_lifts_no_budget(labels, dialect):
    gate = Gate([make("shop", 0)])
    push = pack([one_stream(**labels, lines=["12345", "6"])], dialect)
    for _ in range(2):
        judgement = judged(gate, push)
        assert judgement.body is None
        judgement.commit()
    assert counts_of(gate, "shop/shop")["dropped"] == {"entries": 4, "bytes": 12}
    assert (gate.loki_streams.entries, gate.loki_streams.size) == (4, 12)


@pytest.mark.parametrize("labels", LOKIS_OWN)
def test_a_label_of_lokis_own_lifts_a_budget_where_the_operator_says_so(labels):
    gate = Gate([make("shop", 0)], exempt_loki_streams=True)
    streams = [one_stream(**labels, lines=["12345", "6"]), one_stream("shop", ["no"])]
    judgement = judged(gate, push := pack(streams, loki.Dialect.PROTOBUF))
    assert lines_of(forwarded(push, judgement)) == ["12345", "6"]
    judgement.commit()
    assert counts_of(gate, "")["forwarded"] == {"entries": 2, "bytes": 6}
    assert (gate.loki_streams.entries, gate.loki_streams.size) == (2, 6)
    # counted by their application as any other stream
    assert totals_of(gate.apps)["", "shop", ""] == 6


def test_a_dry_run_lets_everything_pass_and_counts_what_it_would_have_done():
    gate = Gate([make("shop", 100, enforcement="DryRun")])
    push = pack([one_stream("shop", ["x" * 70, "y" * 20, "z" * 500])], loki.Dialect.JSON)
    judgement = judged(gate, push)
    assert judgement.body is push.body
    judgement.commit()
    found = gate.ledger.usage(["shop/shop"], NOON)["shop/shop"]
    assert found.day == 590
    assert found.counts[columns.DRY : columns.DRY + 3] == [70, 20, 500]
    # Enforced from now on, it drops at once.
    gate.load([make("shop", 100)])
    assert judged(gate, pack([one_stream("shop", ["a"])], loki.Dialect.JSON)).body is None


def test_a_budget_that_changes_governs_the_next_push_of_a_known_stream():
    gate = Gate([make("old", 0, namespaces=["shop"])])
    body = labelled(b'{namespace="shop"}')
    assert gate.push(body, now=NOON).body is None
    gate.load([make("new", 15, namespaces=["shop"])])
    first, second = gate.push(body, now=NOON), gate.push(body, now=NOON)
    assert first.body is body
    assert second.body is None
    gate.load([])
    last = gate.push(body, now=NOON)
    assert last.body is body
    for judgement in (first, second, last):
        judgement.commit()
    assert gate.ledger.recorded("new/new")["d/2026-11-22"] == 10


def test_a_push_judged_before_a_reload_ends_in_the_books_of_its_team():
    gate = Gate([make("shop", 100)])
    judgement = gate.push(labelled(b'{namespace="shop"}'), now=NOON)
    gate.load([make("other", 100)])
    judgement.commit()
    gate.load([make("shop", 100)])
    assert row_of(gate, "shop").usage.day == 10


def test_label_strings_are_remembered_within_a_bound(monkeypatch):
    monkeypatch.setattr(assign, "STRINGS_MAX", 100)
    gate = Gate([make("shop", 10 * MIB)])
    for at in range(0, 1000, 50):
        message = shippers.message_class()()
        for i in range(at, at + 50):
            labels = b'{namespace="shop", pod="%d"}' % i
            message.streams.add(labels=labels).entries.add(line=b"0123456789")
        gate.push(shippers.snappy(message.SerializeToString()), now=NOON).commit()
        assert 50 <= len(gate._known.owners) <= 100
    assert row_of(gate, "shop").usage.day == 10_000


def test_the_bytes_of_remembered_label_strings_are_bounded_too(monkeypatch):
    monkeypatch.setattr(assign, "BYTES_MAX", 20_000)
    gate = Gate([make("shop", 10 * MIB)])
    for i in range(100):
        labels = b'{namespace="shop", pod="%s"}' % (b"%05d" % i * 200)
        gate.push(labelled(labels), now=NOON).commit()
        assert sum(map(len, gate._known.owners)) == gate._known._bytes < 22_000
    long = b'{namespace="shop", pod="%s"}' % (b"x" * assign.STRING_MAX)
    gate.push(labelled(long), now=NOON).commit()
    assert not any(long in known for known in gate._known.owners)
    assert row_of(gate, "shop").usage.day == 1010


def test_bytes_by_application_add_up_to_what_was_forwarded_and_stay_few():
    gate = Gate([make("shop", 10 * MIB), make("pay", 10 * MIB)])
    for name in ("shop", "pay", "free"):
        for i in range(70):
            judgement = gate.push(
                labelled(b'{namespace="%s", app="a%d"}' % (name.encode(), i)), now=NOON
            )
            judgement.refund() if i == 69 else judgement.commit()
    totals = totals_of(gate.apps)
    for key in ("shop/shop", "pay/pay", ""):
        mine = {app: size for (team, _, app), size in totals.items() if team == key}
        assert len(mine) == usage.APPS_PER_TEAM + 1
        assert mine[usage.OTHER] == 190
        assert sum(mine.values()) == counts_of(gate, key)["forwarded"]["bytes"] == 690


def test_applications_of_all_teams_together_are_bounded(monkeypatch):
    monkeypatch.setattr(usage, "APPS", 20)
    apps = usage.Apps()
    numbers = [apps.number(f"team-{i}", "shop", f"app-{j}") for i in range(10) for j in range(4)]
    apps.add(np.array(numbers, np.int32), np.ones(len(numbers), np.int64))
    assert len(totals_of(apps)) <= 20 + 10
    assert sum(totals_of(apps).values()) == 40


def test_namespaces_of_one_team_are_bounded_and_leave_room_for_the_others(monkeypatch):
    monkeypatch.setattr(usage, "PLACES_PER_TEAM", 8)
    apps = usage.Apps()
    numbers = [apps.number("", f"namespace-{i}", f"app-{i % 3}") for i in range(100)]
    numbers.append(apps.number("shop/shop", "shop", "web"))
    apps.add(np.array(numbers, np.int32), np.ones(len(numbers), np.int64))
    totals = totals_of(apps)
    assert len(totals) == 8 + 1 + 1
    assert totals["", usage.OTHER, usage.OTHER] == 92
    assert totals["shop/shop", "shop", "web"] == 1


def test_an_endless_name_is_not_kept():
    apps = usage.Apps()
    long = "x" * usage.PLACE_CHARACTERS
    for namespace, app in (("shop", long), ("shop", long + "y"), (long + "y", "web")):
        apps.add(np.array([apps.number("", namespace, app)], np.int32), np.array([1]))
    assert totals_of(apps) == {
        ("", "shop", long): 1,
        ("", "shop", usage.OTHER): 1,
        ("", usage.OTHER, "web"): 1,
    }


def test_the_bytes_of_an_application_are_those_that_were_kept():
    gate = Gate([make("shop", 25)])
    streams = [one_stream("shop", ["0123456789"] * 2, app=app) for app in ("a", "b")]
    judged(gate, pack(streams, loki.Dialect.JSON)).commit()
    totals = totals_of(gate.apps)
    assert totals["shop/shop", "shop", "a"] == 20
    assert ("shop/shop", "shop", "b") not in totals or totals["shop/shop", "shop", "b"] == 0


def test_an_application_gets_its_name_back_after_a_crowd_of_others_has_gone():
    gate = Gate([make("shop", 10 * MIB)])

    def push(app: str, *, ends: bool = True) -> Judgement:
        judgement = gate.push(labelled(b'{namespace="shop", app="%s"}' % app.encode()), now=NOON)
        if ends:
            judgement.commit()
        return judgement

    for i in range(usage.APPS_PER_TEAM):
        push(f"random-{i}")
    waiting = push("random-0", ends=False)
    push("real")
    named = gate.apps.totals(usage.APP)
    assert named["shop/shop", usage.OTHER] == 10
    seen = dict(named)
    for _ in range(4):
        gate.apps.turn()
        push("real")
        push("random-1")
        now = gate.apps.totals(usage.APP)
        assert all(now.get(key, size) >= size or key[1] == "real" for key, size in seen.items())
        seen = now
    assert gate.apps.totals(usage.NAMESPACE) == {("shop/shop", "shop"): 10 * 59}
    assert seen["shop/shop", "real"] == 30
    assert seen["shop/shop", "random-1"] == 50
    assert ("shop/shop", "random-2") not in seen
    waiting.refund()


def test_a_push_that_waits_for_upstream_keeps_its_place_for_a_turn():
    gate = Gate([make("shop", 10 * MIB)])
    for i in range(usage.APPS_PER_TEAM + 1):
        gate.push(labelled(b'{namespace="shop", app="a%d"}' % i), now=NOON).commit()
    gate.apps.turn()
    waiting = gate.push(labelled(b'{namespace="shop", app="a0"}'), now=NOON)
    gate.apps.turn()
    assert ("shop/shop", "a1") not in gate.apps.totals(usage.APP)
    gate.push(labelled(b'{namespace="shop", app="new"}'), now=NOON).commit()
    waiting.commit()
    totals = gate.apps.totals(usage.APP)
    assert totals["shop/shop", "a0"] == 20
    assert totals["shop/shop", "new"] == 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=60))
def test_series_of_places_never_fall_while_they_are_there(steps):
    """Whatever is forgotten: a series falls to nothing or not at all, and none counts twice."""
    apps = usage.Apps()
    counted, grown, before = 0, 0, {}
    sizes = np.zeros(0, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "APPS_PER_TEAM", 2)
        patch.setattr(usage, "PLACES_PER_TEAM", 4)
        for namespace, app, kind in steps:
            if kind == 0:
                apps.turn()
            else:
                number = np.array([apps.number("t", f"n{namespace}", f"a{app}")], np.int32)
                apps.add(number, np.array([kind], np.int64))
                counted += kind
            for at in (usage.NAMESPACE, usage.APP):
                now = apps.totals(at)
                assert all(now.get(key, size) >= size for key, size in before.get(at, {}).items())
                assert sum(now.values()) <= counted
                before[at] = now
            _, new = apps.sizes()
            assert (new[: len(sizes)] >= sizes).all()
            grown += int(new.sum() - sizes.sum())
            sizes = new
    assert grown == counted


def test_of_teams_whose_places_were_forgotten_nothing_is_kept():
    apps = usage.Apps()
    for team in range(usage.APPS + 1):
        apps.number(f"team-{team}", "web", "shop")
    for _ in range(2):
        apps.turn()
    assert apps.totals(usage.APP) == {}
    assert (len(apps._names), len(apps._per_team)) == (0, 0)
