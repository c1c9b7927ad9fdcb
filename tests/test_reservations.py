"""What the core has charged is registered or given back, whatever fails in between; and thresholds
that the core reads while they are replaced."""

import dataclasses

import numpy as np
import pytest
import twins
from judging import DAY, NOON, judged, make, nothing_counted, one_stream, pack, row_of
from twins import Rule

from sluice import Budget, Gate, ledger, table
from sluice.wire import loki

FAILURES = [MemoryError, KeyboardInterrupt]
USED_MAX = 2**62


class Failing(ledger.Ledger):
    """A ledger that cannot register while `failure` is set."""

    failure: type[BaseException] | None = None

    def register(self, share: ledger.Share) -> None:
        if self.failure:
            raise self.failure
        super().register(share)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_push_that_cannot_be_registered_gives_its_bytes_back(failure):
    gate = Gate([make("shop", 100), make("mail", 100)], book := Failing())
    streams = [one_stream("shop", ["x" * 60]), one_stream("mail", ["y" * 100, "z"])]
    push = pack(streams, loki.Dialect.PROTOBUF)
    book.failure = failure
    for _ in range(3):
        with pytest.raises(failure):
            judged(gate, push)
    assert nothing_counted(gate)
    book.failure = None
    judged(gate, push).commit()
    assert (row_of(gate, "shop").usage.day, row_of(gate, "mail").usage.day) == (60, 100)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_batch_that_cannot_be_registered_gives_its_bytes_back(failure):
    gate = Gate([make("shop", 100), make("mail", 100)], book := Failing())
    teams = gate.resolve(["shop", "mail", "shop"])
    book.failure = failure
    for _ in range(3):
        with pytest.raises(failure):
            gate.evaluate(teams, [60, 100, 1], now=NOON)
    assert nothing_counted(gate)
    book.failure = None
    assert gate.evaluate(teams, [60, 100, 41], now=NOON).tolist() == [0, 1, 2]


@pytest.mark.parametrize("end", ["commit", "refund"])
def test_an_end_that_cannot_be_booked_leaves_the_judgement_to_be_ended(end):
    gate = Gate([make("shop", 100)])
    judgement = judged(gate, pack([one_stream("shop", ["x" * 60])], loki.Dialect.JSON))
    tally, judgement.tally = judgement.tally, np.zeros((1, 2), np.int64)
    with pytest.raises(ValueError, match="broadcast"):
        getattr(judgement, end)()
    judgement.tally = tally
    judgement.refund()
    assert not gate.ledger.used.any()


def test_a_late_registration_that_fails_changes_nothing():
    """Thresholds of the new day cannot be set: neither day may find a byte of the push."""
    budgets = table.Table([Budget("shop", "shop", 100)])
    fails = False

    def room(own: Budget, kind: int, number: int) -> tuple[int, int]:
        if fails:
            raise MemoryError
        return ledger.alone(own, kind, number)

    book = ledger.Ledger(room=room)
    book.load(budgets)
    then = book.rules_at(NOON)
    row = then.row_of[:1]
    share = ledger.Share(row, np.array([60]), then.era)
    book.rules_at(NOON + DAY)
    # what the core has charged by the rules of the day before
    book.used[row] += 60
    fails = True
    with pytest.raises(MemoryError):
        book.register(share)
    fails = False
    book.used[row] -= 60
    for day in (NOON + DAY, NOON):
        book.rules_at(day)
        book.redraw(["shop/shop"])
        hard = int(book.rules_at(day).rule[row[0], 1]) - int(book.used[row[0]])
        assert hard == 100


# -- thresholds that are replaced -----------------------------------------------------------------


class Recorded(np.ndarray):
    """Thresholds that remember how they looked after each store."""

    seen: list[Rule]

    def __array_finalize__(self, other: object) -> None:
        self.seen = getattr(other, "seen", [])

    def __setitem__(self, at: object, value: object) -> None:
        super().__setitem__(at, value)
        soft, hard, keep, dry = (int(word) for word in self)
        self.seen.append(Rule(soft, hard, keep % 2**64, dry))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((80, 100), (40, 50)),
        ((80, 100), (85, 95)),
        ((40, 50), (80, 100)),
        ((80, 100), (8, 10)),
        ((8, 10), (80, 100)),
        ((85, 95), (80, 100)),
        ((80, 100), (-1, -1)),
        ((-1, -1), (80, 100)),
        ((80, 100), (USED_MAX, USED_MAX)),
        ((80, 100), (80, 90)),
        ((80, 100), (70, 100)),
    ],
)
def test_who_reads_thresholds_while_they_change_is_not_laxer_than_both(before, after):
    """In between, nothing passes the smaller limit, and no entry is let through that neither the
    old thresholds nor the new ones let through."""
    rooms = [before]
    book = ledger.Ledger(room=lambda own, kind, number: rooms[-1])
    book.load(table.Table([Budget("shop", "shop", 1)]))
    rules = book.rules_at(NOON)
    recorded = rules.rule.view(Recorded)
    recorded.seen = []
    book.rules = dataclasses.replace(rules, rule=recorded)
    rooms.append(after)
    book.redraw(["shop/shop"])
    assert recorded.seen[-1][:2] == after
    between = [rule for rule in recorded.seen if rule[:2] not in (before, after)]
    sizes = sorted({n + d for n in (*before, *after, 1) for d in (-1, 0, 1) if n + d > 0})
    for core in twins.CORES.values():
        for entries in [[n] for n in sizes] + [[n, 0] for n in sizes] + [[1] * 101]:
            old, new, *seen = (
                twins.evaluate(core, [0] * len(entries), entries, [rule], [0])
                for rule in (Rule(*before), Rule(*after), *between)
            )
            for got in seen:
                assert got.action[0] >= min(old.action[0], new.action[0])
                assert got.used[0] <= max(0, min(before[1], after[1]))
