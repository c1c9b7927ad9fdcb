"""The gate: of pushes in every dialect and encoding, what goes on, and how a judgement ends."""

import concurrent.futures
import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import shippers
from hypothesis import given
from hypothesis import strategies as st
from judging import (
    CODERS,
    LOKI_TAKES,
    MIB,
    NOON,
    OUTCOMES,
    PLAIN,
    counts_of,
    forwarded,
    judged,
    labelled,
    lines_of,
    make,
    nothing_counted,
    one_stream,
    pack,
    row_of,
    spent,
)
from shippers import Entry, Push, Stream

from sluice import Action, Gate, columns, errors
from sluice.wire import loki

NS = 1_700_000_000 * 10**9

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


def empty_entries(dialect: loki.Dialect, n: int) -> Push:
    """A push of entries that Loki bills nothing for; each second one has a `detected_level`."""
    held = [Entry(NS + i, "", {"detected_level": "info"} if i % 2 else {}) for i in range(n)]
    return pack([Stream({"namespace": "shop"}, held)], dialect)


@pytest.mark.parametrize("dialect", loki.Dialect)
@pytest.mark.parametrize("limit", [0, 100])
def test_entries_without_bytes_are_dropped_once_the_limit_is_spent(dialect, limit):
    gate = Gate([make("shop", limit)])
    if limit:
        spent(gate, "shop", limit)
    judgement = judged(gate, empty_entries(dialect, 1200))
    assert judgement.body is None
    judgement.commit()
    assert counts_of(gate, "shop/shop")["dropped"] == {"entries": 1200, "bytes": 0}


@pytest.mark.parametrize("dialect", loki.Dialect)
def test_entries_without_bytes_are_sampled_in_the_band_and_charged_nothing(dialect):
    gate = Gate([make("shop", 100, throttle={"sampleRate": 0.5})])
    spent(gate, "shop", 80)
    judgement = judged(gate, empty_entries(dialect, 1200))
    judgement.commit()
    counts = counts_of(gate, "shop/shop")
    assert 450 < counts["sampled"]["entries"] < 750
    assert counts["sampled"]["entries"] + counts["forwarded"]["entries"] == 1200 + 1
    assert row_of(gate, "shop").usage.day == 80


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
        assert gate.memory.taken == 0
