"""What Sluice refuses by itself, the real Loki refuses whole; what Loki takes, goes on."""

from collections.abc import Callable

import pytest
from harness import Sluice, budget
from loki.harness import Loki
from refusals import REFUSED, TAKEN

pytestmark = pytest.mark.loki


def test_loki_has_received_nothing_of_what_sluice_refuses(
    loki: Loki, sluice: Callable[..., Sluice]
) -> None:
    front = sluice([budget("shop", 10**6), budget("mail", 10**6)], loki.url)
    wrong = []
    for case in REFUSED:
        direct, through = loki.send(case.push, "whole"), front.send(case.push, "whole-through")
        # Sluice's own refusals are JSON.
        if (direct.status, through.status) != (400, 400) or '"error"' not in through.text:
            wrong.append((case.name, direct.status, direct.text[:200], through.text[:200]))
    assert not wrong
    for tenant in ("whole", "whole-through"):
        assert loki.received_lines(tenant) == loki.received_bytes(tenant) == 0
    for team in front.teams().values():
        assert not any(team["counts"]["received"].values())


def test_what_loki_takes_or_judges_by_the_stream_goes_on(
    loki: Loki, sluice: Callable[..., Sluice]
) -> None:
    front = sluice([budget("shop", 10**6), budget("mail", 10**6)], loki.url)
    wrong = []
    for case in TAKEN:
        direct, through = loki.send(case.push, "taken"), front.send(case.push, "taken-through")
        if direct.status != through.status or '"error"' in through.text:
            wrong.append((case.name, direct.status, direct.text[:200], through.text[:200]))
    assert not wrong
    assert loki.received_lines("taken") == 3 * len(TAKEN)
    assert loki.received_bytes("taken") == loki.received_bytes("taken-through")
