"""Sluice's usage is what Loki counts as received, whatever Loki answers.

One Loki whose tenants each have a limit of their own, and one Sluice before it. The answers' texts
are Loki's; sluice/agent/answer.py has the table.
"""

import contextlib
import datetime as dt
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cramjam
import pytest
import shippers
from front import Front
from harness import Sluice, budget, running, wait_until, write_budgets
from loki.harness import Loki
from needs import need
from shippers import Entry, Push, Stream

from sluice import metrics
from sluice.agent import reconcile, upstream
from sluice.agent.answer import Settlement

pytestmark = pytest.mark.loki

HOUR_NS = 3600 * 10**9
TEAMS = ("shop", "pay")
ONE_STREAM = {"per_stream_rate_limit": "1KB", "per_stream_rate_limit_burst": "2KB"}
MESSAGE_MAX = 1_000_000


def limits() -> dict[str, Any]:
    """The limits of each tenant."""
    until = (dt.datetime.now(dt.UTC) + dt.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    selector = [{"selector": '{namespace="pay"}', "priority": 1}]
    policy = {
        "policy_stream_mapping": {"finance": selector},
        "block_ingestion_policy_until": {"finance": until},
    }
    return {
        "hot": ONE_STREAM,
        "hot-unsharded": {**ONE_STREAM, "shard_streams": {"enabled": False}},
        "hot-alone": ONE_STREAM,
        "hot-partly": {**ONE_STREAM, "shard_streams": {"enabled": False}},
        "rate": {"ingestion_rate_mb": 0.001, "ingestion_burst_size_mb": 0.001},
        "streams": {"max_global_streams_per_user": 2},
        "blocked": {"block_ingestion_until": until},
        "blocked-429": {"block_ingestion_until": until, "block_ingestion_status_code": 429},
        "policy-260": policy,
        "policy-403": {**policy, "block_ingestion_status_code": 403},
        "policy-429": {**policy, "block_ingestion_status_code": 429},
        "policy-503": {**policy, "block_ingestion_status_code": 503},
        "policy-silent": {**policy, "block_ingestion_status_code": 200},
        "required": {"enforced_labels": ["team"]},
        "no-metadata": {"allow_structured_metadata": False},
        "metadata": {
            "max_structured_metadata_size": "1KB",
            "max_structured_metadata_entries_count": 3,
        },
        "old": {"reject_old_samples": True, "reject_old_samples_max_age": "1h"},
        "lines": {"max_line_size": "100B"},
        "no-labels": {"discover_service_name": []},
    }


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loki]:
    """A Loki with limits that tests run into."""
    folder = tmp_path_factory.mktemp("strict")
    distributor = {"max_recv_msg_size": MESSAGE_MAX}
    with running(server := Loki(folder, need("loki"), limits(), distributor=distributor)):
        yield server


@pytest.fixture(scope="module")
def front(strict: Loki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sluice]:
    """Sluice before it; what is in a budget is not the question here."""
    folder = tmp_path_factory.mktemp("front")
    budgets = write_budgets(folder / "budgets.yaml", [budget(team, 10**12) for team in TEAMS])
    args = ["--upstream-metrics", f"{strict.url}/metrics", "--upstream-tenant", "seen"]
    with running(server := Sluice(folder, budgets, strict.url, args=args)):
        yield server


class Seen(NamedTuple):
    """What a push did to both sides."""

    status: int
    text: str
    received: int
    usage: int
    settled: Mapping[str, int]


def settled(front: Sluice) -> dict[str, int]:
    """Bytes by how their charge ended."""
    return {
        sample.labels["settlement"]: int(sample.value)
        for sample in front.metrics()
        if sample.name == "tco_upstream_settled_bytes_total"
    }


def used(front: Sluice) -> int:
    """The usage of all teams, and what no budget governs."""
    unbudgeted = front.metric("tco_log_bytes_total", team="", outcome="forwarded")
    return int(unbudgeted) + sum(team["currentUsage"] for team in front.teams().values())


def push(front: Sluice, strict: Loki, tenant: str, one: Push) -> Seen:
    """Push and see what changed."""
    before = used(front), strict.received_bytes(tenant), settled(front)
    reply = front.send(one, tenant)
    after = settled(front)
    changed = {name: after[name] - before[2].get(name, 0) for name in after}
    return Seen(
        reply.status,
        reply.text,
        strict.received_bytes(tenant) - before[1],
        used(front) - before[0],
        {name: size for name, size in changed.items() if size},
    )


def protobuf(*streams: Stream) -> Push:
    return shippers.promtail(list(streams))


def in_json(body: Any, path: str = shippers.PUSH_PATH) -> Push:
    return Push(json.dumps(body).encode(), {"Content-Type": shippers.JSON}, path)


def stream(labels: Mapping[str, str], *lines: str, ago_ns: int = 0, **metadata: str) -> Stream:
    """A stream of these lines, a nanosecond apart."""
    at = time.time_ns() - ago_ns
    return Stream(labels, [Entry(at + i, line, metadata) for i, line in enumerate(lines)])


def small(count: int = 3) -> list[Stream]:
    return [stream({"namespace": "shop", "app": f"small-{i}"}, f"line {i}") for i in range(count)]


def hot(lines: int = 1, phrase: str = "") -> Stream:
    """A stream of 10 kB and more; `phrase` is what a hostile sender has the answer quote."""
    labels = {"namespace": "pay", "app": f"hot-{lines}", "x": phrase}
    return stream(labels, *(f"{i}{'h' * 10_000}" for i in range(lines)))


SHOP = {"namespace": "shop"}
PAY = {"namespace": "pay"}
PARTLY = "total ignored: 1 out of 2"
ALL = "user 'fake', total ignored: 1 out of 1 for stream: {}"


def after_the_count() -> dict[str, tuple[str, int, str, Push]]:
    """Pushes of which Loki receives all: tenant, status, how the text begins, push."""
    blocked = protobuf(*small(1), stream(PAY, "paid"))
    long_value = stream(SHOP | {"a": "v\nuser 'a', total ignored: 1 out of 1" * 99}, "x")
    labels = {f"n{i}": '"' * 2000 for i in range(12)}
    long_named = stream(SHOP | labels, *(f"{i}{'h' * 10_000}" for i in range(10)))
    behind = stream(SHOP, "behind", ago_ns=5 * HOUR_NS)
    named = {f"n{i}": "x" for i in range(20)}
    entry, named_stream = "entry with timestamp ", "stream '{"

    def badly_named(labels: dict[str, str], ago_ns: int = 0) -> Stream:
        # Loki answers 500 and stores nothing, see all_lost(), unless it drops the entry before.
        return Stream(labels, [Entry(time.time_ns() - ago_ns, "x", {"---": "v"})])

    return {
        "a metadata name of an old entry": (
            *("old", 400, "entry for stream"),
            protobuf(*small(), badly_named(SHOP, 2 * HOUR_NS)),
        ),
        "a metadata name of a refused stream": (
            *("a", 400, named_stream),
            protobuf(*small(), badly_named({"n" * 2000: "x"})),
        ),
        "a metadata name where none is allowed": (
            *("no-metadata", 400, named_stream),
            protobuf(*small(), badly_named(SHOP)),
        ),
        "hot stream last": ("hot", 429, entry, protobuf(*small(), hot())),
        "hot stream last, unsharded": ("hot-unsharded", 429, entry, protobuf(*small(), hot())),
        "hostile label": ("hot", 429, entry, protobuf(*small(), hot(1, ALL))),
        # Ten lines of Loki's answer that name the stream twice: more than is read of it.
        "an answer that is cut": ("hot", 429, entry, protobuf(long_named)),
        "hot stream first, all quiet": ("hot", 204, "", protobuf(hot(), *small())),
        "too many streams": ("streams", 429, "maximum active stream", protobuf(*small(5))),
        "policy blocked, 260": ("policy-260", 260, "ingestion blocked", blocked),
        "policy blocked, 403": ("policy-403", 403, "ingestion blocked", blocked),
        "policy blocked, 429": ("policy-429", 429, "ingestion blocked", blocked),
        "policy blocked, 503": ("policy-503", 503, "ingestion blocked", blocked),
        "policy blocked, silent": ("policy-silent", 204, "", blocked),
        "label missing": ("required", 400, "1 errors like: ", protobuf(*small())),
        "metadata disallowed": (
            *("no-metadata", 400, named_stream),
            protobuf(*small(), stream(SHOP, "x", key="v")),
        ),
        "metadata too large": (
            *("metadata", 400, named_stream),
            protobuf(*small(), stream(SHOP, "x", key="v" * 2000)),
        ),
        "metadata too many": (
            *("metadata", 400, named_stream),
            protobuf(*small(), stream(SHOP, "x", a="1", b="2", c="3", d="4")),
        ),
        "too old": (
            *("old", 400, "entry for stream"),
            protobuf(*small(), stream(SHOP, "old", ago_ns=2 * HOUR_NS)),
        ),
        "too new": (
            *("old", 400, "entry for stream"),
            protobuf(*small(), stream(SHOP, "new", ago_ns=-2 * HOUR_NS)),
        ),
        "both": (
            *("old", 400, "1 errors like: "),
            protobuf(
                *small(),
                stream(SHOP, "new", ago_ns=-2 * HOUR_NS),
                stream(SHOP, "old", ago_ns=2 * HOUR_NS),
            ),
        ),
        "line too long": (
            *("lines", 400, "max entry size"),
            protobuf(stream(SHOP, "x" * 300, "short")),
        ),
        "too far behind": (
            *("behind", 400, entry),
            protobuf(stream(SHOP, "now"), *small(), behind),
        ),
        "label value too long": ("a", 400, named_stream, protobuf(*small(), long_value)),
        "label name too long": (
            *("a", 400, named_stream),
            protobuf(*small(), stream({"n" * 2000: "x"}, "x")),
        ),
        "too many labels": ("a", 400, "entry for stream", protobuf(*small(), stream(named, "x"))),
        "no labels": ("no-labels", 400, "error at least one", protobuf(*small(), stream({}, "x"))),
        "label twice": ("a", 400, named_stream, raw(b'{a="b",a="c"}')),
        "blocked policy and a bad stream": (
            *("policy-260", 400, named_stream),
            protobuf(*small(1), stream(PAY, "paid"), long_value),
        ),
        "older than the schema": (
            *("a", 500, "rpc error: code = Unknown desc = failed to create stream"),
            protobuf(*small(), stream(SHOP | {"app": "ancient"}, "x", ago_ns=time.time_ns() - 1)),
        ),
    }


def all_lost() -> dict[str, tuple[str, int, str, Push]]:
    """Pushes of which Loki counts all and stores nothing."""
    bad = {"empty": "", "dashes": "---", "no text": "\udcff"}
    named = {
        f"metadata name, {name}": (
            *("a", 500, "label name is empty" if name == "empty" else "normalization for label"),
            protobuf(*small(), Stream(SHOP, [Entry(time.time_ns(), "x", {bad[name]: "v"})])),
        )
        for name in bad
    }
    return {
        "one hot stream": ("hot-alone", 429, "entry with timestamp ", protobuf(hot())),
        "one hot stream, hostile": (
            *("hot-alone", 429, "entry with timestamp "),
            protobuf(hot(1, PARTLY)),
        ),
        "one hot stream of 30": ("hot-alone", 429, "entry with timestamp ", protobuf(hot(30))),
        "the tenant's rate": ("rate", 429, "ingestion rate limit exceeded", protobuf(hot())),
        "tenant blocked": ("blocked", 260, "ingestion blocked for user", protobuf(*small())),
        "tenant blocked, 429": ("blocked-429", 429, "ingestion blocked", protobuf(*small())),
        **named,
    }


def raw(labels: bytes, seconds: int | None = None, nanos: int = 0) -> Push:
    """A push of one entry as no library writes it."""
    message = shippers.message_class("PushRequest")()
    row = message.streams.add(labels=labels)
    entry = row.entries.add(line=b"x")
    entry.timestamp.seconds = int(time.time()) if seconds is None else seconds
    entry.timestamp.nanos = nanos
    body = bytes(cramjam.snappy.compress_raw(message.SerializeToString()))
    return Push(body, {"Content-Type": shippers.PROTOBUF})


def before_the_count() -> dict[str, tuple[str, int, Push]]:
    """Pushes of which Loki receives nothing: tenant, status, push."""
    now = str(time.time_ns())
    good = {"stream": PAY, "values": [[now, "x" * 1000]]}
    labels = {
        f"label {name!r}": ("a", 400, in_json({"streams": [good, bad]}))
        for name in ("a:b", "a.b", "1a", "a-b", "")
        for bad in [{"stream": {**SHOP, name: "x"}, "values": [[now, "y" * 1000]]}]
    }
    times = {
        f"timestamp {at!r}": ("a", 400, in_json({"streams": [good, bad]}))
        for at in ("1795000000000000000.5", "1e18", "0x10", "+1", "", "2026-01-01T00:00:00Z")
        for bad in [{"stream": SHOP, "values": [[at, "y" * 1000]]}]
    }
    legacy = {"labels": '{namespace="shop"}', "entries": [{"ts": "yesterday", "line": "x"}]}
    large = {"streams": [{"stream": SHOP, "values": [[now, "x" * 2_000_000]]}]}
    # Not to be compressed.
    noise = "".join(f"{i * 2654435761 % 2**32:08x}" for i in range(250_000))
    return {
        **labels,
        **times,
        "bad label, protobuf": ("a", 400, raw(b'{namespace="shop",a:b="c"}')),
        "no label, protobuf": ("a", 400, raw(b"{")),
        "nanos": ("a", 400, raw(b'{namespace="shop"}', nanos=2 * 10**9)),
        "negative nanos": ("a", 400, raw(b'{namespace="shop"}', nanos=-1)),
        "year 0": ("a", 400, raw(b'{namespace="shop"}', -62_135_596_801)),
        "legacy timestamp": ("a", 400, in_json({"streams": [legacy]}, shippers.LEGACY_PATH)),
        "2 MB": ("a", 400, in_json(large)),
        "2 MB, protobuf": ("a", 413, protobuf(stream(SHOP, noise))),
        "two tenants": ("a|b", 400, protobuf(*small())),
        "a bad tenant": ("a/b", 400, protobuf(*small())),
    }


# Made again by each test: their timestamps are of now.
@pytest.mark.parametrize("name", after_the_count())
def test_what_loki_received_is_usage_though_it_stored_a_part(
    strict: Loki, front: Sluice, name: str
) -> None:
    tenant, status, beginning, one = after_the_count()[name]
    seen = push(front, strict, tenant, one)
    assert seen.status == status, seen
    assert seen.text.startswith(beginning)
    assert seen.usage == seen.received > 0
    wanted = "stored" if status == 204 else "in_part"
    assert seen.settled == {wanted: seen.received}


@pytest.mark.parametrize("name", all_lost())
def test_what_loki_counted_and_lost_is_refunded_and_shown(
    strict: Loki, front: Sluice, name: str
) -> None:
    tenant, status, beginning, one = all_lost()[name]
    seen = push(front, strict, tenant, one)
    assert (seen.status, seen.usage) == (status, 0), seen
    assert seen.text.startswith(beginning)
    assert seen.received == one.billed > 0
    assert seen.settled == {"not_stored": seen.received}


@pytest.mark.parametrize("name", before_the_count())
def test_what_loki_could_not_read_costs_nothing(strict: Loki, front: Sluice, name: str) -> None:
    tenant, status, one = before_the_count()[name]
    seen = push(front, strict, tenant, one)
    assert (seen.status, seen.usage, seen.received) == (status, 0, 0), seen
    # Sluice may have refused it first.
    assert set(seen.settled) <= {"not_received"}


def test_a_hot_stream_does_not_let_the_rest_of_its_pushes_past_the_budget(
    strict: Loki, front: Sluice
) -> None:
    tenant = "hot-unsharded"
    rest = small(10)
    one = protobuf(*rest, hot(2))
    before = len(strict.query('{namespace="shop"}', tenant))
    # As a shipper does: 429, so it comes again.
    seen = [push(front, strict, tenant, one) for _ in range(3)]
    assert [each.status for each in seen] == [429] * 3
    assert sum(each.usage for each in seen) == sum(each.received for each in seen) == 3 * one.billed
    # What came again was stored once.
    assert len(strict.query('{namespace="shop"}', tenant)) - before == len(rest)


def test_a_stream_that_was_stored_in_part_is_usage(strict: Loki, front: Sluice) -> None:
    lines: Sequence[str] = [f"{i:03}" + "x" * 997 for i in range(10)]
    seen = push(front, strict, "hot-partly", protobuf(stream(SHOP, *lines)))
    assert seen.status == 429
    assert f"out of {len(lines)} for stream: " in seen.text
    assert seen.usage == seen.received == 10_000
    assert 0 < len(strict.query('{namespace="shop"}', "hot-partly")) < len(lines)


def test_what_loki_counted_is_shown_beside_what_was_charged(strict: Loki) -> None:
    settled = metrics.SettledBytes(Settlement)
    books = reconcile.Reconciliation(
        settled.sums, url=f"{strict.url}/metrics", tenants=["hot", "rate"]
    )
    sender = upstream.Upstream(strict.url)
    front = Front([budget(team, 10**12) for team in TEAMS], sender, settled=settled)
    books.poll()
    pushes = [
        ("hot", protobuf(*small(), stream({"namespace": "pay", "app": "quiet"}, "x" * 100)), 204),
        ("hot", protobuf(*small(), hot()), 429),
        ("rate", protobuf(hot()), 429),
    ]
    with contextlib.closing(sender):
        for tenant, one, status in pushes:
            assert front.send(one, headers={"X-Scope-OrgID": tenant}).status_code == status
    # What another sender pushes.
    theirs = protobuf(stream({"namespace": "other"}, "x" * 50))
    assert strict.send(theirs, "hot").status == 204
    books.poll()
    seen = books.as_json()
    good, partly, lost = (one.billed for _, one, _ in pushes)
    assert seen["error"] is None
    assert seen["receivedBytes"] == good + partly + lost + theirs.billed
    assert seen["chargedBytes"] == good + partly
    assert seen["differenceBytes"] == lost + theirs.billed
    assert seen["settledBytes"] == {
        **dict.fromkeys(Settlement, 0),
        **{"stored": good, "in_part": partly, "not_stored": lost},
    }
    assert f"{lost} bytes were received and not stored, and refunded" in seen["words"]


def test_health_and_metrics_of_a_running_sluice_have_the_comparison(
    strict: Loki, front: Sluice
) -> None:
    def shown() -> Any:
        return front.get("/api/health").json["reconciliation"].get("since")

    wait_until(shown, "the page was read")
    part = front.get("/api/health").json["reconciliation"]
    assert (part["error"], part["tenants"], part["receivedBytes"]) == (None, ["seen"], 0)
    assert front.metric("tco_reconciliation_checked_timestamp_seconds") > 1.7e9


def test_a_label_that_loki_cannot_read_spends_no_neighbours_budget(
    strict: Loki, front: Sluice, tmp_path: Path
) -> None:
    now = str(time.time_ns())
    bad = in_json(
        {
            "streams": [
                {"stream": PAY, "values": [[now, "x" * 1000]]},
                {"stream": {**SHOP, "a:b": "c"}, "values": [[now, "y"]]},
            ]
        }
    )
    tight = write_budgets(tmp_path / "budgets.yaml", [budget(team, 5_000) for team in TEAMS])
    with running(small_front := Sluice(tmp_path / "tight", tight, strict.url)):
        for _ in range(10):
            seen = push(small_front, strict, "neighbours", bad)
            assert (seen.status, seen.usage, seen.received) == (400, 0, 0)
        good = push(small_front, strict, "neighbours", protobuf(stream(PAY, "x" * 4_000)))
    assert (good.status, good.usage, good.received) == (204, 4_000, 4_000)
