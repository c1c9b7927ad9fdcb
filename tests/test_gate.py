"""The gate: bodies in every dialect and encoding, judged against budgets; a plain twin of it."""

import concurrent.futures
import gzip
import json
import random
import resource
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import cramjam
import numpy as np
import pytest
import shippers
from harness import budget
from hypothesis import given, settings
from hypothesis import strategies as st
from shippers import Entry, Push, Stream

from sluice import (
    Action,
    Budget,
    Gate,
    assign,
    columns,
    errors,
    evaluate_usage_stateless,
    policy,
    reference,
    usage,
    window,
)
from sluice.judgement import Judgement
from sluice.wire import loki

MIB = 2**20
DAY = 86_400
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()

# By the name of the encoder: what the header says, and the compression itself.
CODERS: dict[str, tuple[str, Any]] = {
    "none": ("", bytes),
    "gzip": ("gzip", lambda raw: gzip.compress(raw, 1, mtime=0)),
    "deflate": ("deflate", lambda raw: zlib.compress(raw, 1, wbits=-15)),
    "zlib": ("deflate", lambda raw: zlib.compress(raw, 1)),
    "zstd": ("zstd", lambda raw: bytes(cramjam.zstd.compress(raw))),
}
LOKI_TAKES = ("none", "gzip", "deflate")
PLAIN = {
    loki.Dialect.PROTOBUF: shippers.promtail,
    loki.Dialect.JSON: shippers.vector_json,
    loki.Dialect.LEGACY: shippers.legacy,
}


def make(name: str, daily: int, **spec: Any) -> Budget:
    return Budget.from_manifest(budget(name, daily, **spec))


def pack(streams: Sequence[Stream], dialect: loki.Dialect, coder: str = "none") -> Push:
    """The streams as a push in a dialect, its body encoded."""
    push = PLAIN[dialect](streams)
    header, compress = CODERS[coder]
    headers = {**push.headers, **({"Content-Encoding": header} if header else {})}
    return Push(compress(push.body), headers, push.path, push.streams)


def judged(gate: Gate, push: Push, now: float = NOON) -> Judgement:
    dialect = loki.dialect_of(push.headers["Content-Type"], push.path)
    encoding = push.headers.get("Content-Encoding")
    return gate.push(push.body, encoding, now=now, dialect=dialect)


def forwarded(push: Push, judgement: Judgement) -> list[Stream]:
    """The streams of what a judgement forwards, as upstream reads them."""
    assert judgement.body is not None
    headers = {"Content-Type": push.headers["Content-Type"]}
    headers["Content-Encoding"] = judgement.encoding
    return shippers.decode(judgement.body, headers, push.path)


def lines_of(streams: Iterable[Stream]) -> list[str]:
    return [entry.line for stream in streams for entry in stream.entries]


def one_stream(namespace: str, lines: Sequence[str], **labels: str) -> Stream:
    held = [Entry(1_700_000_000_000_000_000 + i, line) for i, line in enumerate(lines)]
    return Stream({"namespace": namespace, **labels}, held)


def spent(gate: Gate, namespace: str, size: int, now: float = NOON) -> None:
    """Use up `size` bytes of the budget of a namespace."""
    (action,) = gate.evaluate(gate.resolve([namespace]), [size], now=now)
    assert action != Action.DROP


def row_of(gate: Gate, name: str, now: float = NOON) -> usage.Row:
    (row,) = (row for row in usage.rows(gate.ledger, now) if row.budget.name == name)
    return row


def counts_of(gate: Gate, key: str, now: float = NOON) -> dict[str, dict[str, int]]:
    return usage.counts(gate.ledger.usage([key], now)[key].counts)


def totals_of(apps: usage.Apps) -> dict[usage.Place, int]:
    """Bytes by team, namespace and application."""
    places, sizes = apps.sizes()
    return dict(zip(places, sizes.tolist(), strict=True))


def nothing_counted(gate: Gate) -> bool:
    found = gate.ledger.usage(["", "shop/shop"], NOON).values()
    return not any(any(one.counts) for one in found) and not gate.ledger.used.any()


# what goes on


@pytest.mark.parametrize("dialect", loki.Dialect)
@pytest.mark.parametrize("coder", CODERS)
def test_what_nothing_was_taken_from_goes_on_as_loki_takes_it(dialect, coder):
    gate = Gate([make("shop", MIB)])
    push = pack(shippers.make_streams(1, ["shop", "free"]), dialect, coder)
    judgement = judged(gate, push)
    if coder in LOKI_TAKES:
        assert judgement.body is push.body
        assert judgement.encoding == push.headers.get("Content-Encoding", "")
    else:
        assert judgement.encoding == ("" if dialect is loki.Dialect.PROTOBUF else "gzip")
        plain = PLAIN[dialect](push.streams)
        assert shippers.unpacked(judgement.body, {"content-encoding": judgement.encoding}) == (
            plain.body
        )
    assert forwarded(push, judgement) == list(push.streams)


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [("GZIP", "gzip"), ("x-gzip", "gzip"), (" gzip ", "gzip"), ("identity", ""), (None, "")],
)
def test_an_encoding_goes_on_under_the_name_that_loki_knows(said, passed_on):
    push = pack(shippers.make_streams(1, ["shop"]), loki.Dialect.JSON)
    body = gzip.compress(push.body) if passed_on else push.body
    judgement = Gate([]).push(body, said, now=NOON, dialect=loki.Dialect.JSON)
    assert judgement.body is body
    assert judgement.encoding == passed_on


@pytest.mark.parametrize("dialect", loki.Dialect)
@pytest.mark.parametrize("coder", CODERS)
def test_a_filtered_push_stays_in_its_dialect_and_loses_only_the_guilty_teams_lines(dialect, coder):
    gate = Gate([make("over", 0), make("under", MIB)])
    streams = shippers.make_streams(2, ["under", "over", "free"], streams=9)
    push = pack(streams, dialect, coder)
    judgement = judged(gate, push)
    kept = [stream for stream in push.streams if stream.labels["namespace"] != "over"]
    assert forwarded(push, judgement) == kept
    judgement.commit()
    assert counts_of(gate, "over/over")["dropped"]["entries"] == 75
    assert counts_of(gate, "under/under")["forwarded"]["bytes"] == shippers.billed(
        stream for stream in push.streams if stream.labels["namespace"] == "under"
    )


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_a_push_of_which_nothing_is_left_is_not_to_be_sent(dialect):
    gate = Gate([make("over", 0)])
    judgement = judged(gate, pack(shippers.make_streams(3, ["over"]), dialect))
    assert judgement.body is None
    judgement.commit()
    assert counts_of(gate, "over/over")["dropped"]["entries"] == 100


@pytest.mark.parametrize("dialect", loki.Dialect)
@pytest.mark.parametrize("streams", [[], [Stream({"namespace": "shop"}, [])]])
def test_a_push_that_came_without_entries_goes_on_for_loki_to_judge(dialect, streams):
    push = pack(streams, dialect)
    judgement = judged(Gate([make("shop", 0)]), push)
    assert judgement.body is push.body


def test_what_is_kept_of_a_stream_stays_in_order():
    gate = Gate([make("shop", 10_000, throttle={"sampleRate": 0.5})])
    spent(gate, "shop", 8000)
    lines = [f"line {i:03}" for i in range(150)]
    push = pack([one_stream("shop", lines)], loki.Dialect.PROTOBUF)
    kept = lines_of(forwarded(push, judged(gate, push)))
    assert kept == sorted(kept)
    assert set(kept) < set(lines)
    assert 40 < len(kept) < 110


def test_a_line_that_does_not_fit_is_dropped_and_a_smaller_one_behind_it_passes():
    gate = Gate([make("shop", 100)])
    push = pack([one_stream("shop", ["x" * 60, "y" * 50, "z" * 10])], loki.Dialect.JSON)
    judgement = judged(gate, push)
    assert lines_of(forwarded(push, judgement)) == ["x" * 60, "z" * 10]


@pytest.mark.parametrize(
    ("size", "action"),
    [(80, Action.ALLOW), (81, Action.THROTTLE), (100, Action.THROTTLE), (101, Action.DROP)],
)
def test_the_thresholds_are_exact(size, action):
    gate = Gate([make("shop", 100, throttle={"sampleRate": 1})])
    judgement = judged(gate, pack([one_stream("shop", ["x" * size])], loki.Dialect.PROTOBUF))
    judgement.commit()
    counted = gate.ledger.usage(["shop/shop"], NOON)["shop/shop"].counts
    assert counted[columns.ACTIONS : columns.ACTIONS + 3] == [int(a == action) for a in Action]
    assert (judgement.body is None) == (action is Action.DROP)


@pytest.mark.parametrize(("rate", "kept"), [(0, 0), (1, 100)])
def test_a_sample_rate_of_0_keeps_nothing_and_of_1_everything(rate, kept):
    gate = Gate([make("shop", 10_000, throttle={"sampleRate": rate})])
    spent(gate, "shop", 8000)
    lines = [f"line {i:03}" for i in range(100)]
    judgement = judged(gate, pack([one_stream("shop", lines)], loki.Dialect.JSON))
    judgement.commit()
    counts = counts_of(gate, "shop/shop")
    # One more was forwarded: what was spent before.
    assert counts["forwarded"]["entries"] == 1 + kept
    assert counts["sampled"]["entries"] == 100 - kept


# the same entry, the same verdict


def in_the_band() -> Gate:
    gate = Gate([make("shop", 1000 * MIB)])
    spent(gate, "shop", 900 * MIB)
    return gate


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_a_batch_that_comes_again_keeps_the_same_lines(dialect):
    gate = in_the_band()
    push = pack(shippers.make_streams(4, ["shop"], start_ns=1), dialect)
    first = judged(gate, push)
    kept = lines_of(forwarded(push, first))
    assert 20 < len(kept) < 80
    first.refund()
    again = judged(gate, push)
    assert lines_of(forwarded(push, again)) == kept
    again.commit()
    assert lines_of(forwarded(push, judged(in_the_band(), push))) == kept


PROCESS = """
import sys
sys.path.insert(0, {tests!r})
from test_gate import forwarded, in_the_band, judged, lines_of, loki, pack, shippers
push = pack(shippers.make_streams(4, ["shop"], start_ns=1), loki.Dialect.{name})
print(lines_of(forwarded(push, judged(in_the_band(), push))))
"""


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_another_process_keeps_the_same_lines(dialect):
    push = pack(shippers.make_streams(4, ["shop"], start_ns=1), dialect)
    kept = lines_of(forwarded(push, judged(in_the_band(), push)))
    here = Path(__file__).parent
    code = PROCESS.format(tests=str(here), name=dialect.name)
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=here.parent, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == str(kept)


# a plain twin


class Sampled(NamedTuple):
    """What the twin says of one entry."""

    action: Action
    outcome: str


TEAMS = {
    "half": {"daily_limit": 4000, "throttle": {"sampleRate": 0.5}},
    "none": {"daily_limit": 3000, "monthlyLimit": 5000, "throttle": {"sampleRate": 0}},
    "all": {"daily_limit": 2000, "throttle": {"sampleRate": 1}},
    "dry": {"daily_limit": 1000, "enforcement": "DryRun"},
    "empty": {"daily_limit": 0},
}
BUDGETS = [Budget.from_manifest(budget(name, **spec)) for name, spec in TEAMS.items()]
NAMESPACES = (*TEAMS, "free")
OUTCOMES = ("forwarded", "sampled", "dropped")


class Twin:
    """The policy entry by entry, with dicts for counters."""

    def __init__(self) -> None:
        self.budgets = {own.namespace: own for own in BUDGETS}
        self.used: Counter[tuple[str, str]] = Counter()
        self.entries: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.actions: Counter[tuple[str, Action]] = Counter()
        self.dry: Counter[tuple[str, Action]] = Counter()
        self.apps: Counter[tuple[str, str]] = Counter()

    def windows(self, namespace: str, now: float) -> list[tuple[tuple[str, str], int]]:
        """The open windows of a namespace's budget with their limits."""
        own, found = self.budgets[namespace], window.open_windows("UTC", now)
        limits = [((namespace, window.day_key(found.day)), own.daily_limit)]
        if own.monthly_limit is not None:
            limits.append(((namespace, window.month_key(found.month)), own.monthly_limit))
        return limits

    def action(self, namespace: str, size: int, now: float) -> Action:
        return max(
            evaluate_usage_stateless(namespace, limit, self.used[key], size)
            for key, limit in self.windows(namespace, now)
        )

    def judge(self, namespace: str, size: int, keeps: bool, now: float) -> Sampled:
        """Decide one entry and charge what is kept; `keeps` is the sampling's verdict."""
        if namespace not in self.budgets:
            return Sampled(Action.ALLOW, "forwarded")
        action = self.action(namespace, size, now)
        outcome = "forwarded"
        if not self.budgets[namespace].dry_run:
            if action is Action.DROP:
                outcome = "dropped"
            elif action is Action.THROTTLE and not keeps:
                outcome = "sampled"
        if outcome == "forwarded":
            for key, _ in self.windows(namespace, now):
                self.used[key] += size
        return Sampled(action, outcome)

    def book(self, namespace: str, size: int, found: Sampled, app: str | None, ok: bool) -> None:
        for outcome in ("received", found.outcome if ok else "refused"):
            self.entries[namespace, outcome] += 1
            self.bytes[namespace, outcome] += size
        if not ok:
            return
        is_dry = namespace in self.budgets and self.budgets[namespace].dry_run
        self.actions[namespace, Action.ALLOW if is_dry else found.action] += 1
        if is_dry:
            self.dry[namespace, found.action] += size
        if found.outcome == "forwarded" and app is not None:
            self.apps[namespace, app] += size

    def give_back(self, namespace: str, size: int, found: Sampled, now: float) -> None:
        if namespace in self.budgets and found.outcome == "forwarded":
            for key, _ in self.windows(namespace, now):
                self.used[key] -= size


def keeps(stream: Stream, entry: Entry, dialect: loki.Dialect) -> bool:
    """The sampling's verdict on an entry, from its bytes as the shipper writes them."""
    namespace = stream.labels["namespace"]
    rate = TEAMS.get(namespace, {}).get("throttle", {}).get("sampleRate", 0.5)
    if rate == 1:
        return True
    compact = {"ensure_ascii": False, "separators": (",", ":")}
    line = json.dumps(entry.line, **compact)[1:-1].encode()
    if dialect is loki.Dialect.PROTOBUF:
        (message,) = shippers.push_message([Stream(stream.labels, [entry])]).streams
        labels, line = message.labels, message.entries[0].line
        time = message.entries[0].timestamp.SerializeToString()
    elif dialect is loki.Dialect.JSON:
        labels, time = json.dumps(stream.labels, **compact).encode(), str(entry.ts_ns).encode()
    else:
        labels = json.dumps(shippers.labels_text(stream.labels), **compact)[1:-1].encode()
        time = shippers.rfc3339(entry.ts_ns).encode()
    return reference.entry_hash(labels, time, line) < policy.keep_below(rate)


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


def test_any_number_of_threads_stays_within_the_limit_and_loses_no_byte():
    gate = Gate([make("shop", 300_000), make("pay", 200_000, throttle={"sampleRate": 0.3})])
    pushes = [
        pack(shippers.make_streams(seed, ["shop", "pay"], entries=10), dialect)
        for seed in range(60)
        for dialect in loki.Dialect
    ]

    def send(push: Push) -> list[Stream]:
        judgement = judged(gate, push)
        if judgement.body is not None and zlib.crc32(push.body) % 5 == 0:
            judgement.refund()
            return []
        sent = [] if judgement.body is None else forwarded(push, judgement)
        judgement.commit()
        return sent

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        sent = [stream for streams in pool.map(send, pushes) for stream in streams]
    for name, limit in (("shop", 300_000), ("pay", 200_000)):
        counts = counts_of(gate, f"{name}/{name}")
        arrived = shippers.billed(s for s in sent if s.labels["namespace"] == name)
        assert counts["forwarded"]["bytes"] == arrived <= limit
        assert arrived > limit * 0.75
        assert counts["received"]["bytes"] == shippers.billed(
            s for push in pushes for s in push.streams if s.labels["namespace"] == name
        )
        for unit in ("entries", "bytes"):
            parts = sum(counts[outcome][unit] for outcome in (*OUTCOMES, "refused"))
            assert counts["received"][unit] == parts


# whose it is


def labelled(labels: bytes, line: bytes = b"0123456789") -> bytes:
    """A snappy push of one stream with these raw labels."""
    message = shippers.message_class()()
    message.streams.add(labels=labels).entries.add(line=line)
    return shippers.snappy(message.SerializeToString())


@pytest.mark.parametrize(
    "labels",
    [
        b'{namespace="shop"',
        b'{namespace="shop", app="a"b"}',
        b"",
        b"\xff\xfe",
        b'{namespace="free"}',
        b'{namespace=""}',
        b'{namespace="shop", __aggregated_metric__="x"}',
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


@pytest.mark.parametrize("labels", [b'{namespace="free"}', b'{namespace="shop"'])
def test_what_belongs_to_nobody_is_dropped_where_the_setting_says_so(labels):
    gate = Gate([make("shop", MIB)], drop_unbudgeted=True)
    judgement = gate.push(labelled(labels), now=NOON)
    assert judgement.body is None
    judgement.commit()
    assert counts_of(gate, "")["dropped"] == {"entries": 1, "bytes": 10}
    assert gate.push(labelled(b'{namespace="shop"}'), now=NOON).body is not None
    (action,) = gate.evaluate(gate.resolve(["free"]), [1], now=NOON)
    assert action == Action.DROP


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


# limits


CLAIM = (2**32 - 1).to_bytes(4, "little")
BOMBS = {
    "snappy": (b"\xff\xff\xff\xff\x0f" + bytes(1000), "", loki.Dialect.PROTOBUF),
    # A frame header with a content size of four bytes: nearly 4 GB.
    "zstd": (b"\x28\xb5\x2f\xfd\xa0" + CLAIM + bytes(1000), "zstd", loki.Dialect.JSON),
    "snappy in gzip": (
        gzip.compress(b"\xff\xff\xff\xff\x0f" + bytes(1000)),
        "gzip",
        loki.Dialect.PROTOBUF,
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_kilobyte_that_claims_to_be_4_gb_is_refused_before_anything_is_allocated(name):
    body, encoding, dialect = BOMBS[name]
    gate = Gate([])
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(errors.TooLarge, match=r"429496\d{4}|at most"):
            gate.push(body, encoding, now=NOON, dialect=dialect)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 16 * 1024
    assert nothing_counted(gate)


@pytest.mark.parametrize("coder", ["gzip", "deflate", "zlib", "zstd"])
def test_a_body_that_grows_past_the_limit_is_refused_before_it_has_grown(coder):
    header, compress = CODERS[coder]
    body = compress(b'{"streams":[]}' + b" " * 64 * MIB)
    assert len(body) < MIB
    gate = Gate([], max_decoded=4 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(errors.TooLarge, match=f"at most {4 * MIB}"):
            gate.push(body, header, now=NOON, dialect=loki.Dialect.JSON)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_a_body_of_exactly_the_limit_is_taken_and_one_byte_more_is_not(dialect):
    push = pack(shippers.make_streams(5, ["shop"], entries=2000), dialect)
    decoded = push.body
    if dialect is loki.Dialect.PROTOBUF:
        decoded = bytes(cramjam.snappy.decompress_raw(push.body))
    assert judged(Gate([], max_decoded=len(decoded)), push).body is push.body
    gate = Gate([], max_decoded=len(decoded) - 1)
    with pytest.raises(errors.TooLarge, match=f"at most {len(decoded) - 1} "):
        judged(gate, push)
    assert nothing_counted(gate)


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_a_push_of_many_tiny_entries_may_not_make_an_index_that_dwarfs_it(dialect):
    tiny = {
        loki.Dialect.PROTOBUF: b"\x12\x00" * 200_000,
        loki.Dialect.JSON: b'{"streams":[{"values":[' + b",".join([b"[]"] * 200_000) + b"]}]}",
        loki.Dialect.LEGACY: b'{"streams":[{"entries":[' + b",".join([b"{}"] * 200_000) + b"]}]}",
    }[dialect]
    if dialect is loki.Dialect.PROTOBUF:
        size = len(tiny)
        head = b"\x0a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
        tiny = shippers.snappy(head + tiny)
    gate = Gate([], max_decoded=2 * MIB)
    with pytest.raises((errors.TooLarge, errors.BadPush), match=r"index|streams"):
        gate.push(tiny, now=NOON, dialect=dialect)
    assert nothing_counted(gate)


def test_too_many_bytes_being_decoded_at_once_are_refused_and_the_room_comes_back():
    gate = Gate([make("shop", MIB)], max_decoded_total=2 * MIB)
    push = pack([one_stream("shop", ["x"])], loki.Dialect.PROTOBUF)
    gate._enter(2 * MIB)
    with pytest.raises(errors.Unavailable, match=f"at most {2 * MIB}"):
        judged(gate, push)
    gate._leave(2 * MIB)
    assert nothing_counted(gate)
    judged(gate, push).commit()
    for body in (b"garbage", b"\xff" * 100):
        with pytest.raises(errors.BadPush):
            gate.push(body, now=NOON)
    assert gate._decoding == 0


def test_pushes_that_wait_for_upstream_hold_no_room():
    gate = Gate([make("shop", MIB)], max_decoded_total=2 * MIB)
    push = pack([one_stream("shop", ["x"])], loki.Dialect.PROTOBUF)
    waiting = [judged(gate, push) for _ in range(50)]
    for judgement in waiting:
        judgement.commit()
    assert row_of(gate, "shop").usage.day == 50


def test_a_scratch_that_served_a_large_push_is_not_kept():
    gate = Gate([])
    body = shippers.snappy(
        shippers.push_message([one_stream("shop", ["x" * 20 * MIB])]).SerializeToString()
    )
    gate.push(body, now=NOON).commit()
    (scratch,) = gate._idle
    assert len(scratch.decoded.room(0)) == 0


# the end of a judgement


@pytest.mark.parametrize("first", ["commit", "refund"])
@pytest.mark.parametrize("second", ["commit", "refund"])
def test_a_judgement_ends_once(first, second):
    gate = Gate([make("shop", 100)])
    judgement = gate.push(labelled(b'{namespace="shop"}'), now=NOON)
    getattr(judgement, first)()
    before = counts_of(gate, "shop/shop")
    with pytest.raises(ValueError, match="before"):
        getattr(judgement, second)()
    assert counts_of(gate, "shop/shop") == before
    assert row_of(gate, "shop").usage.day == (10 if first == "commit" else 0)


def test_a_refund_makes_room_at_once_and_books_every_entry_as_refused():
    gate = Gate([make("shop", 100, throttle={"sampleRate": 0})])
    push = pack([one_stream("shop", ["x" * 70, "y" * 20, "z" * 40])], loki.Dialect.PROTOBUF)
    judged(gate, push).refund()
    counts = counts_of(gate, "shop/shop")
    assert counts["received"] == counts["refused"] == {"entries": 3, "bytes": 130}
    assert not any(counts[outcome]["entries"] for outcome in OUTCOMES)
    judged(gate, push).commit()
    assert row_of(gate, "shop").usage.day == 70


def test_a_push_that_upstream_stored_in_part_is_usage_and_counted_apart():
    gate = Gate([make("shop", 100)])
    gate.push(labelled(b'{namespace="shop"}'), now=NOON).commit(rejected=True)
    found = gate.ledger.usage(["shop/shop"], NOON)["shop/shop"]
    assert found.day == found.counts[columns.REJECTED] == 10


def test_nothing_is_booked_before_the_end_of_a_push_but_its_bytes_are_reserved():
    gate = Gate([make("shop", 15)])
    body = labelled(b'{namespace="shop"}')
    waiting = gate.push(body, now=NOON)
    assert not any(gate.ledger.usage(["shop/shop"], NOON)["shop/shop"].counts)
    assert row_of(gate, "shop").usage.day == 0
    assert gate.push(body, now=NOON).body is None
    waiting.refund()
    assert gate.push(body, now=NOON).body is body


# evaluate and resolve


def test_resolve_gives_a_team_for_each_namespace_and_minus_one_where_none_governs():
    gate = Gate([make("shop", 100), make("pay", 100, namespaces=["pay", "pay-eu"])])
    teams = gate.resolve(["pay", "free", "shop", "pay-eu", "pay", ""])
    assert teams.dtype == np.int32
    assert teams[0] == teams[3] == teams[4] != teams[2]
    assert teams[1] == teams[5] == -1
    assert gate.resolve([]).shape == (0,)


def test_evaluate_charges_allow_and_throttle_in_full_and_commits_at_once():
    gate = Gate([make("shop", 100)])
    teams = gate.resolve(["shop", "free", "shop", "shop", "shop"])
    actions = gate.evaluate(teams, [80, 10**18, 20, 1, 0], now=NOON)
    assert actions.dtype == np.int8
    assert actions.tolist() == [Action.ALLOW, Action.ALLOW, Action.THROTTLE, Action.DROP, 1]
    row = row_of(gate, "shop")
    assert (row.usage.day, row.usage.month) == (100, 100)
    assert counts_of(gate, "shop/shop") == {
        "received": {"entries": 4, "bytes": 101},
        "forwarded": {"entries": 3, "bytes": 100},
        "sampled": {"entries": 0, "bytes": 0},
        "dropped": {"entries": 1, "bytes": 1},
        "refused": {"entries": 0, "bytes": 0},
    }
    assert not any(counts_of(gate, "")["received"].values())


def test_evaluate_without_charge_says_what_would_be_and_changes_nothing():
    gate = Gate([make("shop", 100)])
    teams = gate.resolve(["shop"] * 3)
    for _ in range(2):
        actions = gate.evaluate(teams, [80, 20, 1], now=NOON, charge=False)
        assert actions.tolist() == [Action.ALLOW, Action.THROTTLE, Action.DROP]
    assert nothing_counted(gate)


@pytest.mark.parametrize(
    ("teams", "sizes", "error"),
    [([1, 1], [5, -1], ValueError), ([1, 99], [5, 5], IndexError), ([1, 1], [5], ValueError)],
)
def test_evaluate_refuses_what_makes_no_sense_and_charges_nothing(teams, sizes, error):
    gate = Gate([make("shop", 100)])
    with pytest.raises(error):
        gate.evaluate(teams, sizes, now=NOON)
    assert nothing_counted(gate)


def test_evaluate_takes_the_largest_sizes_and_no_counter_wraps():
    huge = 2**63 - 1
    gate = Gate([make("shop", huge), make("dry", 100, enforcement="DryRun"), make("pay", 100)])
    for _ in range(3):
        for name in ("shop", "pay", "dry"):
            gate.evaluate(gate.resolve([name]), [huge], now=NOON)
    for name in ("shop", "dry", "pay"):
        found = gate.ledger.usage([f"{name}/{name}"], NOON)[f"{name}/{name}"]
        assert min(found.counts) >= 0
        assert min(found.today) >= 0
        assert min(found.day, found.month) >= 0
    assert counts_of(gate, "pay/pay")["dropped"] == {"entries": 3, "bytes": huge}


def test_a_team_whose_budget_was_removed_since_may_pass():
    gate = Gate([make("shop", 100), make("pay", 100)])
    teams = gate.resolve(["shop", "shop"])
    gate.load([make("pay", 100)])
    assert gate.evaluate(teams, [90, 90], now=NOON).tolist() == [Action.ALLOW] * 2
    assert gate.sample_rate(int(teams[0])) == 1


def test_usage_by_evaluate_alone_shows_in_the_rows():
    gate = Gate([make("shop", 1000)])
    spent(gate, "shop", 900)
    row = row_of(gate, "shop").as_json()
    assert row["currentUsage"] == row["monthlyUsage"] == 900
    assert row["percent"] == 90.0
    # Its mean entry of 900 bytes would not fit any more.
    assert row["action"] == "drop"


def test_the_action_of_a_team_is_what_its_mean_entry_would_get():
    gate = Gate([make("shop", 1000)])
    assert row_of(gate, "shop").as_json()["action"] == "allow"
    for used, action in ((790, "allow"), (800, "throttle"), (990, "throttle"), (1000, "drop")):
        before = row_of(gate, "shop").usage.day
        gate.evaluate(gate.resolve(["shop"] * (used - before)), [1] * (used - before), now=NOON)
        assert row_of(gate, "shop").as_json()["action"] == action, used


def test_a_moment_may_be_given_as_number_or_as_datetime():
    gate = Gate([make("shop", 100)])
    teams = gate.resolve(["shop"])
    assert gate.evaluate(teams, [60], now=datetime.fromtimestamp(NOON, UTC)) == Action.ALLOW
    assert gate.evaluate(teams, [60], now=NOON) == Action.DROP
    assert gate.evaluate(teams, [60], now=NOON + DAY) == Action.ALLOW


@given(
    st.one_of(st.binary(max_size=300), st.binary(max_size=200).map(shippers.snappy)),
    st.sampled_from(["", "snappy", "gzip", "deflate", "zstd", "br", "gzip, gzip", "ż"]),
    st.sampled_from(loki.Dialect),
)
def test_any_bytes_are_judged_or_refused_and_a_refusal_charges_nothing(body, encoding, dialect):
    """A judgement, or a 4xx: never anything else, and a refused push leaves no trace."""
    gate = Gate([make("shop", 100)])
    try:
        gate.push(body, encoding, now=NOON, dialect=dialect).commit()
    except (errors.BadPush, errors.TooLarge):
        assert nothing_counted(gate)
        assert gate._decoding == 0
