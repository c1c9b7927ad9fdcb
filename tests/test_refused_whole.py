"""What Loki's parsers refuse, the gate refuses: it names stream and entry, and charges nobody."""

import json

import pytest
import shippers
from judging import NOON, counts_of, judged, make, nothing_counted
from refusals import REFUSED, TAKEN, Case
from shippers import Push

from sluice import Gate, errors
from sluice.wire import loki


def budgets() -> Gate:
    return Gate([make("shop", 1000), make("mail", 1000)])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_a_push_that_loki_refuses_whole_is_refused_and_charges_nobody(case: Case) -> None:
    gate = budgets()
    place = (
        "stream 1, entry 1, byte " if case.is_time else "stream 1: Loki cannot parse the labels "
    )
    with pytest.raises(errors.BadPush, match=f"^{place}") as refusal:
        judged(gate, case.push)
    assert ("timestamp" in refusal.value.message) == case.is_time
    assert len(refusal.value.message) < 400
    assert nothing_counted(gate)
    assert counts_of(gate, "mail/mail")["received"]["entries"] == 0


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_a_push_that_loki_takes_or_judges_by_the_stream_goes_on(case: Case) -> None:
    gate = budgets()
    judgement = judged(gate, case.push)
    assert judgement.body is case.push.body
    judgement.commit()
    assert counts_of(gate, "mail/mail")["forwarded"] == {"entries": 1, "bytes": 10}


@pytest.mark.parametrize(
    ("time", "shown"),
    [("1e18", 'timestamp "1e18"'), ("", 'timestamp ""'), ("x" * 500, "x" * 100 + '"')],
)
def test_a_refusal_shows_what_was_sent(time: str, shown: str) -> None:
    body = {"streams": [{"stream": {}, "values": [[time, "x"]]}]}
    push = Push(json.dumps(body).encode(), {"Content-Type": shippers.JSON}, "/loki/api/v1/push")
    with pytest.raises(errors.BadPush) as refusal:
        judged(budgets(), push)
    assert shown in refusal.value.message
    assert "x" * 101 not in refusal.value.message


def test_a_label_string_that_was_refused_is_refused_again() -> None:
    gate = budgets()
    (case,) = (case for case in REFUSED if case.name == "v1 label 'a:b'")
    for _ in range(3):
        with pytest.raises(errors.BadPush, match="a:b"):
            gate.push(case.push.body, "", now=NOON, dialect=loki.Dialect.JSON)
    assert nothing_counted(gate)
