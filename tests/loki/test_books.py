"""Sluice's books are Loki's own, to the byte: below the band, in it and past the limit."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import shippers
from harness import Sluice, budget
from loki.harness import Loki

pytestmark = pytest.mark.loki

LIMIT = 600_000
# What is pushed at the team, as a share of its limit: half of the band's share is sampled out.
PHASES = {"below": 0.6, "band": 0.95, "past": 2.5}
EVERYTHING = '{namespace=~".+"}'


@pytest.fixture
def front(loki: Loki, sluice: Callable[..., Sluice]) -> Sluice:
    """Sluice before the real Loki, with a budget for each phase and one namespace without."""
    budgets = [budget(phase, LIMIT) for phase in PHASES]
    return sluice([*budgets, budget("generous", 10**12)], loki.url)


def pushes(
    seed: int, namespaces: Sequence[str], names: Sequence[str] = tuple(shippers.SHIPPERS)
) -> Iterator[shippers.Push]:
    """Endless pushes of these shippers in turn, each with entries of its own."""
    for i in itertools.count():
        streams = shippers.make_streams(seed * 1000 + i, namespaces)
        yield shippers.SHIPPERS[names[i % len(names)]](streams)


def send_bytes(front: Sluice, tenant: str, wanted: int, more: Iterator[shippers.Push]) -> list[Any]:
    """Push until so many bytes were sent; returns the pushes."""
    sent: list[shippers.Push] = []
    while sum(push.billed for push in sent) < wanted:
        push = next(more)
        reply = front.send(push, tenant)
        assert reply.status == 204, reply
        sent.append(push)
    return sent


def identity(labels: Any, ts_ns: int, line: str) -> tuple[str, str, int, str]:
    return (labels["pod"], labels["namespace"], ts_ns, line)


def assert_books_balance(front: Sluice, team: str, sent: Sequence[shippers.Push]) -> Any:
    """What came in is what went out, was sampled or was dropped; on both of Sluice's doors."""
    row = front.teams()[team]
    counts = row["counts"]
    assert counts["received"]["bytes"] == sum(push.billed for push in sent)
    assert counts["received"]["entries"] == sum(push.entries for push in sent)
    assert counts["refused"] == {"entries": 0, "bytes": 0}
    for unit in ("entries", "bytes"):
        parts = ("forwarded", "sampled", "dropped", "refused")
        assert counts["received"][unit] == sum(counts[part][unit] for part in parts)
        for part in parts:
            exported = front.metric(f"tco_log_{unit}_total", team=team, outcome=part)
            assert exported == counts[part][unit], part
    assert row["currentUsage"] == row["monthlyUsage"] == counts["forwarded"]["bytes"]
    return counts


@pytest.mark.parametrize("phase", PHASES)
def test_sluice_counts_what_loki_bills_and_stores(loki: Loki, front: Sluice, phase: str) -> None:
    tenant = f"books-{phase}"
    sent = send_bytes(front, tenant, int(LIMIT * PHASES[phase]), pushes(11, [phase]))

    counts = assert_books_balance(front, phase, sent)
    assert loki.received_bytes(tenant) == counts["forwarded"]["bytes"]
    assert loki.received_lines(tenant) == counts["forwarded"]["entries"]

    found = loki.query(EVERYTHING, tenant)
    assert len(found) == counts["forwarded"]["entries"]
    assert sum(line.billed for line in found) == counts["forwarded"]["bytes"]
    there = {identity(line.labels, line.ts_ns, line.line) for line in found}
    came = {
        identity(stream.labels, entry.ts_ns, entry.line)
        for push in sent
        for stream in push.streams
        for entry in stream.entries
    }
    assert there <= came
    assert len(there) == len(found)

    # Each phase is what its name says, or the above shows nothing.
    sampled, dropped = counts["sampled"]["entries"], counts["dropped"]["entries"]
    assert bool(sampled) == (phase != "below")
    assert bool(dropped) == (phase == "past")
    assert counts["forwarded"]["bytes"] <= LIMIT
    if phase == "below":
        assert there == came


@pytest.mark.parametrize("name", shippers.SHIPPERS)
def test_the_books_hold_for_each_shipper_alone(
    loki: Loki, sluice: Callable[..., Sluice], name: str
) -> None:
    limit = 300_000
    front = sluice([budget("alone", limit)], loki.url)
    tenant = f"alone-{name}"
    sent = send_bytes(front, tenant, 2 * limit, pushes(12, ["alone"], [name]))

    counts = assert_books_balance(front, "alone", sent)
    assert counts["sampled"]["entries"]
    assert counts["dropped"]["entries"]
    assert loki.received_bytes(tenant) == counts["forwarded"]["bytes"] <= limit
    found = loki.query(EVERYTHING, tenant)
    assert sum(line.billed for line in found) == counts["forwarded"]["bytes"]
    assert len(found) == counts["forwarded"]["entries"]


def test_in_a_mixed_push_only_the_guilty_team_loses_lines(loki: Loki, front: Sluice) -> None:
    tenant = "books-mixed"
    namespaces = ["past", "generous", "unbudgeted"]
    sent = send_bytes(front, tenant, 6 * LIMIT, pushes(13, namespaces))
    came = {
        name: [s for push in sent for s in push.streams if s.labels["namespace"] == name]
        for name in namespaces
    }

    teams = front.teams()
    past, generous = teams["past"]["counts"], teams["generous"]["counts"]
    assert past["dropped"]["bytes"]
    assert generous["forwarded"]["bytes"] == shippers.billed(came["generous"])
    unbudgeted = int(front.metric("tco_log_bytes_total", team="", outcome="forwarded"))
    assert unbudgeted == shippers.billed(came["unbudgeted"])
    forwarded = past["forwarded"]["bytes"] + generous["forwarded"]["bytes"] + unbudgeted
    assert loki.received_bytes(tenant) == forwarded

    for name, bytes_forwarded in (
        ("past", past["forwarded"]["bytes"]),
        ("generous", generous["forwarded"]["bytes"]),
        ("unbudgeted", unbudgeted),
    ):
        found = loki.query(f'{{namespace="{name}"}}', tenant)
        assert sum(line.billed for line in found) == bytes_forwarded


def test_a_dry_run_forwards_all_and_its_books_still_hold(
    loki: Loki, sluice: Callable[..., Sluice]
) -> None:
    front = sluice([budget("dry", 100_000, enforcement="DryRun")], loki.url)
    sent = send_bytes(front, "books-dry", 300_000, pushes(14, ["dry"]))
    counts = assert_books_balance(front, "dry", sent)
    assert counts["forwarded"] == counts["received"]
    assert loki.received_bytes("books-dry") == counts["forwarded"]["bytes"]


@pytest.mark.parametrize("label", ["__pattern__", "__aggregated_metric__"])
def test_a_label_of_lokis_own_is_no_way_past_a_budget(
    loki: Loki, sluice: Callable[..., Sluice], label: str
) -> None:
    """Loki stores such streams of anybody, so a spent team may not send them."""
    tenant = f"own-{label}"
    front = sluice([budget("shop", 1000)], loki.url)
    for _ in range(30):
        entry = shippers.Entry(time.time_ns(), "x" * 100)
        stream = shippers.Stream({"namespace": "shop", label: "x"}, [entry])
        assert front.send(shippers.promtail([stream]), tenant).status == 204
    received = front.teams()["shop"]["counts"]["forwarded"]["bytes"]
    assert 800 <= received <= 1000
    assert loki.received_bytes(tenant) == received
    assert front.metric("tco_loki_stream_bytes_total") == 3000
