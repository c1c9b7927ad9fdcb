"""The gate and a plain twin of it: they agree on every entry and on every counter."""

import random

from gate_twin import BUDGETS, NAMESPACES, Twin, keeps
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import CODERS, DAY, NOON, OUTCOMES, forwarded, judged, pack, totals_of
from shippers import Entry, Stream

from sluice import Action, Gate, columns, usage
from sluice.wire import loki


def some_streams(rng: random.Random) -> list[Stream]:
    made = []
    for _ in range(rng.randrange(5)):
        labels = {"namespace": rng.choice(NAMESPACES), "app": rng.choice("ab")}
        held = [
            Entry(
                rng.randrange(2**60),
                rng.choice(["", "x", 'zażółć \\ "', "tab\t", "y" * rng.randrange(900)]),
                {"user": "ż" * rng.randrange(9)} if rng.random() < 0.2 else {},
            )
            for _ in range(rng.choice([0, 1, 1, 3, 20]))
        ]
        made.append(Stream(labels, held))
    return made


def check_push(gate: Gate, twin: Twin, rng: random.Random, now: float) -> None:
    dialect = rng.choice(list(loki.Dialect))
    push = pack(some_streams(rng), dialect, rng.choice(list(CODERS)))
    found = [
        (stream, entry, twin.judge(stream.labels["namespace"], entry.billed, kept, now))
        for stream in push.streams
        for entry in stream.entries
        for kept in [keeps(stream, entry, dialect)]
    ]
    judgement = judged(gate, push, now)
    lost = [verdict.outcome for *_, verdict in found if verdict.outcome != "forwarded"]
    wanted = [
        (stream.labels, entry) for stream, entry, verdict in found if verdict.outcome == "forwarded"
    ]
    if judgement.body is None:
        assert lost
        assert not wanted
    else:
        sent = forwarded(push, judgement)
        assert [(stream.labels, entry) for stream in sent for entry in stream.entries] == wanted
        assert lost or sent == list(push.streams)
    ok = judgement.body is None or rng.random() < 0.7
    for stream, entry, verdict in found:
        namespace = stream.labels["namespace"]
        twin.book(namespace, entry.billed, verdict, stream.labels["app"], ok)
        if not ok:
            twin.give_back(namespace, entry.billed, verdict, now)
    judgement.commit() if ok else judgement.refund()


def check_batch(gate: Gate, twin: Twin, rng: random.Random, now: float) -> None:
    namespaces = rng.choices(NAMESPACES, k=rng.randrange(6))
    sizes = [rng.choice([0, 1, 30, 700]) for _ in namespaces]
    actions = gate.evaluate(gate.resolve(namespaces), sizes, now=now).tolist()
    for namespace, size, action in zip(namespaces, sizes, actions, strict=True):
        verdict = twin.judge(namespace, size, True, now)
        is_dry = namespace in twin.budgets and twin.budgets[namespace].dry_run
        assert action == (Action.ALLOW if is_dry else verdict.action)
        if namespace != "free":
            twin.book(namespace, size, verdict, None, True)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 20))
def test_a_plain_twin_agrees_on_every_entry_and_on_every_counter(seed, steps):
    """Whatever is pushed, evaluated, committed or refunded on whatever day: the same books."""
    rng = random.Random(seed)
    gate, twin = Gate(BUDGETS), Twin()
    now = NOON
    for _ in range(steps):
        if rng.random() < 0.1:
            now += DAY
        check = check_push if rng.random() < 0.8 else check_batch
        check(gate, twin, rng, now)
    keys = {own.namespace: own.key for own in BUDGETS} | {"free": ""}
    apps = totals_of(gate.apps)
    for namespace, key in keys.items():
        found = gate.ledger.usage([key], now)[key]
        for outcome, values in usage.counts(found.counts).items():
            assert values == {
                "entries": twin.entries[namespace, outcome],
                "bytes": twin.bytes[namespace, outcome],
            }, (namespace, outcome)
        for first, counted in ((columns.ACTIONS, twin.actions), (columns.DRY, twin.dry)):
            assert found.counts[first : first + 3] == [counted[namespace, a] for a in Action]
        for app in ("a", "b"):
            assert apps.get((key, namespace, app), 0) == twin.apps[namespace, app]
    for row in usage.rows(gate.ledger, now):
        used = [twin.used[key] for key, _ in twin.windows(row.budget.namespace, now)]
        shown = [row.usage.day, row.usage.month]
        assert shown[: len(used)] == used
        counts = usage.counts(row.usage.counts)
        for unit in ("entries", "bytes"):
            parts = sum(counts[outcome][unit] for outcome in (*OUTCOMES, "refused"))
            assert counts["received"][unit] == parts
