"""Many threads on the same counters: no byte lost, none above the limit, nobody kept waiting."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, Event, Thread

import handmade
import numpy as np
import pytest
import twins
from twins import ALLOW, DROP, KEPT, PROTOBUF, THROTTLE, Rule, no_rows

from sluice import _core

THREADS = 4
# Calls of a thread; each is short, so that threads meet often.
ROUNDS = 80


class Counters:
    """Counters that threads share, and what a watcher saw of them."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rule = twins.rule_table(rules)
        self.hard = self.rule[:, 1].copy()
        self.used = np.zeros(len(rules), np.int64)

    def watched(self, *works: Callable[[], None]) -> None:
        """Run these at once; meanwhile and afterwards no counter is beyond its bounds."""
        start = Barrier(len(works))

        def run(work: Callable[[], None]) -> None:
            start.wait()
            work()

        with ThreadPoolExecutor(len(works)) as pool:
            running = [pool.submit(run, work) for work in works]
            while not all(future.done() for future in running):
                seen = self.used.copy()
                assert (seen >= 0).all()
                assert (seen <= self.hard).all()
        for future in running:
            future.result()
        assert (self.used <= self.hard).all()


@dataclass
class Batches:
    """A thread that evaluates the same batch again and again, and may give some back."""

    counters: Counters
    team: np.ndarray
    size: np.ndarray
    refunding: bool = False
    tally: np.ndarray = field(init=False)
    given_back: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.tally = no_rows(8, len(self.counters.used))
        self.given_back = np.zeros(len(self.counters.used), np.int64)

    def __call__(self) -> None:
        everyone = np.arange(len(self.counters.used), dtype=np.int32)
        for i in range(ROUNDS):
            action = np.full(len(self.team), twins.UNTOUCHED, np.uint8)
            tally = no_rows(8, len(everyone))
            _core.evaluate(
                self.team, self.size, self.counters.rule, self.counters.used, action, tally
            )
            self.check(action, tally)
            self.tally += tally
            if self.refunding and i % 2:
                _core.add(self.counters.used, everyone, -tally[:, 3])
                self.given_back += tally[:, 3]

    def check(self, action: np.ndarray, tally: np.ndarray) -> None:
        """The tally is what the actions say, entry by entry."""
        entries, total = no_rows(3, len(tally)), no_rows(3, len(tally))
        np.add.at(entries, (self.team, action), 1)
        np.add.at(total, (self.team, action), self.size)
        assert (tally[:, :3] == entries).all()
        assert (tally[:, 3] == total[:, ALLOW] + total[:, THROTTLE]).all()
        assert (tally[:, 4] == total[:, DROP]).all()


def teams_in(layout: str, teams: int, n: int, seed: int) -> np.ndarray:
    """int32 [n]: the team of each entry, in runs or all mixed."""
    team = np.random.default_rng(seed).integers(0, teams, n, np.int32)
    match layout:
        case "grouped":
            return np.sort(team)
        case "short runs":
            return np.repeat(team, 3)[:n]
        case _:
            return team


@pytest.mark.parametrize("layout", ["grouped", "short runs", "mixed"])
def test_threads_admit_each_limit_to_the_byte(layout: str) -> None:
    # entries of one byte: whatever the order, each threshold is met exactly
    n, teams = 6000, 3
    limits = [n * ROUNDS * THREADS // 3 // part for part in (1, 2, 3)]
    counters = Counters([Rule(limit * 8 // 10, limit) for limit in limits])
    works = [
        Batches(counters, teams_in(layout, teams, n, seed), np.ones(n, np.int64))
        for seed in range(THREADS)
    ]
    counters.watched(*works)
    tally = sum(work.tally for work in works)
    demand = sum(np.bincount(work.team, minlength=teams) for work in works) * ROUNDS
    admitted = np.minimum(limits, demand)
    assert counters.used.tolist() == admitted.tolist()
    assert tally[:, 3].tolist() == admitted.tolist()
    assert tally[:, 4].tolist() == (demand - admitted).tolist()
    allowed = np.minimum(counters.rule[:, 0], demand)
    assert tally[:, ALLOW].tolist() == allowed.tolist()
    assert tally[:, THROTTLE].tolist() == (admitted - allowed).tolist()


@pytest.mark.parametrize("layout", ["grouped", "short runs", "mixed"])
def test_threads_that_refund_lose_no_byte(layout: str) -> None:
    n, teams = 5000, 4
    rng = np.random.default_rng(5)
    counters = Counters([Rule(n * ROUNDS, n * ROUNDS * (i + 1)) for i in range(teams)])
    works = [
        Batches(counters, teams_in(layout, teams, n, seed), rng.integers(0, 50, n), seed % 2 == 0)
        for seed in range(THREADS)
    ]
    counters.watched(*works)
    charged = sum(work.tally[:, 3] - work.given_back for work in works)
    assert counters.used.tolist() == charged.tolist()
    assert any(work.tally[:, DROP].any() for work in works)


def test_mixed_batches_that_lose_their_races_are_still_exact() -> None:
    # A chunk is judged on copies of the counters. Somebody who changes each counter all the
    # time makes most swaps fail, and the other batch the rest.
    n, teams = 20_000, 5
    counters = Counters([Rule(n * 120, n * 180)] * teams)
    everyone = np.arange(teams, dtype=np.int32)
    one = np.ones(teams, np.int64)
    is_over = Event()

    def disturb() -> None:
        while not is_over.is_set():
            _core.add(counters.used, everyone, one)
            _core.add(counters.used, everyone, -one)

    rng = np.random.default_rng(8)
    works = [
        Batches(counters, teams_in("mixed", teams, n, seed), rng.integers(0, 40, n), True)
        for seed in range(2)
    ]
    # one byte of each counter is the disturber's own
    counters.hard += 1
    disturber = Thread(target=disturb)
    disturber.start()
    try:
        counters.watched(*works)
    finally:
        is_over.set()
        disturber.join()
    charged = sum(work.tally[:, 3] - work.given_back for work in works)
    assert counters.used.tolist() == charged.tolist()


def test_refunds_and_charges_of_one_counter_lose_nothing() -> None:
    # runs of nine are charged one swap each, so both threads hit the counter all the time
    runs = 300_000
    team = np.repeat(np.arange(runs, dtype=np.int32) % 2, 9)
    size, action, tally = np.full(len(team), 3), np.zeros(len(team), np.uint8), no_rows(8, 2)
    rule, used = twins.rule_table([Rule(2**62, 2**62)] * 2), np.zeros(2, np.int64)
    place, amount = np.zeros(20_000, np.int32), np.tile(np.array([2, -1]), 10_000)
    added = 0
    for _ in range(3):
        charging = Thread(target=_core.evaluate, args=(team, size, rule, used, action, tally))
        charging.start()
        while charging.is_alive():
            _core.add(used, place, amount)
            added += 10_000
        charging.join()
    assert tally[:, 3].tolist() == [3 * runs // 2 * 9 * 3] * 2
    assert used.tolist() == [tally[0, 3] + added, tally[1, 3]]


# -- judge --------------------------------------------------------------------------------------


def unit_push(streams: int, entries: int) -> bytes:
    """A push whose entries have one byte each, and are all different to the hash."""
    return handmade.push(
        *[
            handmade.stream(
                b"%d" % s,
                *[handmade.entry(b"x", time=handmade.timestamp(1, i)) for i in range(entries)],
            )
            for s in range(streams)
        ]
    )


class Pushes:
    """A thread that judges the same push again and again, and may give some back."""

    def __init__(
        self, counters: Counters, body: bytes, slot: list[int], refunding: bool = False
    ) -> None:
        self.counters, self.body, self.refunding = counters, body, refunding
        self.rows = twins.scan(_core, body)
        self.slot = np.array(slot, np.int32)
        self.team = (np.arange(len(self.rows.stream)) // 2 % len(slot)).astype(np.int32)
        self.tally = no_rows(12, len(slot))
        self.given_back = np.zeros(len(slot), np.int64)

    def __call__(self) -> None:
        entries = np.repeat(self.team, self.rows.stream[:, twins.COUNT])
        for i in range(ROUNDS):
            outcome = np.zeros(len(entries), np.uint8)
            tally = no_rows(12, len(self.slot))
            _core.judge(
                self.body, PROTOBUF, *self.rows, self.team, self.slot, self.counters.rule,
                self.counters.used, outcome, tally,
            )  # fmt: skip
            counts = no_rows(3, len(tally))
            np.add.at(counts, (entries, outcome), 1)
            assert (tally[:, 3:9:2] == counts).all()
            # of one byte each
            assert (tally[:, 4:9:2] == counts).all()
            self.tally += tally
            if self.refunding and i % 2:
                _core.add(self.counters.used, self.slot, -tally[:, 4])
                self.given_back += tally[:, 4]

    @property
    def charged(self) -> np.ndarray:
        """int64 [t]: what of the counters is this thread's."""
        own = np.zeros(len(self.counters.used), np.int64)
        own[self.slot] = self.tally[:, 4] - self.given_back
        return own


def test_pushes_fill_each_limit_to_the_byte() -> None:
    body = unit_push(8, 700)
    wanted = ROUNDS * THREADS * 700 * 4
    counters = Counters([Rule(wanted // 2, wanted * 3 // 4), Rule(wanted // 3, wanted // 3)])
    works = [Pushes(counters, body, [0, 1] if i % 2 else [1, 0]) for i in range(THREADS)]
    counters.watched(*works)
    assert counters.used.tolist() == counters.hard.tolist()
    assert sum(work.charged for work in works).tolist() == counters.hard.tolist()
    assert sum(work.tally[:, :3].sum() for work in works) == wanted * 2


@pytest.mark.parametrize("keep", [2**63, twins.KEEP_ALL])
def test_pushes_batches_and_refunds_mix(keep: int) -> None:
    body = unit_push(8, 600)
    wanted = ROUNDS * 600
    rules = [Rule(wanted, wanted * 3, keep), Rule(0, wanted * 2, keep), Rule(0, 0, keep)]
    # the last one is not the batches', so that they cannot use it up before any push comes
    counters = Counters([*rules, Rule(0, wanted * 2, keep)])
    pushes = [Pushes(counters, body, [1, 2, 0, 3], i == 0) for i in range(2)]
    team = teams_in("mixed", 3, 3000, 1)
    batches = [Batches(counters, team, np.full(3000, 3), i == 0) for i in range(2)]
    counters.watched(*pushes, *batches)
    charged = sum(work.charged for work in pushes)
    charged += sum(work.tally[:, 3] - work.given_back for work in batches)
    assert counters.used.tolist() == charged.tolist()
    assert counters.used[2] == 0
    sampled = sum(work.tally[:, 6].sum() for work in pushes)
    assert (sampled > 0) == (keep == 2**63)


# -- nobody is kept waiting ---------------------------------------------------------------------


def is_seen_halfway(
    call: Callable[[], object], cell: np.ndarray, *, before: int, last: int = -1
) -> bool:
    """Whether this thread sees `call`, in another one, halfway through filling `cell`.

    If the call held the GIL, it would not have begun or would have ended whenever this thread
    runs. A busy machine may hide it from us, hence several looks.
    """
    for _ in range(50):
        cell[:] = before
        other = Thread(target=call)
        other.start()
        is_seen = False
        while other.is_alive():
            # in this order: what has begun here may have ended there
            is_seen = is_seen or bool(cell[0] != before and cell[last] == before)
        other.join()
        if is_seen:
            return True
    return False


def test_other_threads_run_during_evaluate() -> None:
    n = 3_000_000
    team = teams_in("mixed", 4, n, 1)
    size, action = np.ones(n, np.int64), np.zeros(n, np.uint8)
    rule, used, tally = twins.rule_table([Rule(-1, n)] * 4), np.zeros(4, np.int64), no_rows(8, 4)

    def evaluate() -> None:
        _core.evaluate(team, size, rule, used, action, tally)

    assert is_seen_halfway(evaluate, action, before=twins.UNTOUCHED)


def test_other_threads_run_while_a_push_is_read_judged_and_split() -> None:
    entries = 400_000
    own = handmade.sized(2, handmade.entry(b"line" * 5, time=handmade.timestamp(1, 2)))
    body = twins.exact(handmade.push(handmade.sized(1, b"labels") + own * entries))
    stream, entry = no_rows(8, 1), no_rows(3, entries)

    def scan() -> None:
        assert _core.scan_push(body, stream, entry) == (1, entries)

    assert is_seen_halfway(scan, entry[:, twins.ENTRY_SIZE], before=0)

    outcome, one = np.zeros(entries, np.uint8), np.zeros(1, np.int32)
    rule, used = twins.rule_table([Rule(-1, 2**62, 0)]), np.zeros(1, np.int64)

    def judge() -> None:
        _core.judge(body, PROTOBUF, stream, entry, one, one, rule, used, outcome, no_rows(12, 1))

    assert is_seen_halfway(judge, outcome, before=KEPT)

    outcome[::2] = KEPT
    out = np.zeros(len(body), np.uint8)
    size = _core.split(body, PROTOBUF, stream, entry, outcome, out)

    def split() -> None:
        _core.split(body, PROTOBUF, stream, entry, outcome, out)

    assert is_seen_halfway(split, out, before=0, last=size - 1)
