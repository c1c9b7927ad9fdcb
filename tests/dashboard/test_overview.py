"""The overview as it is sent: in pieces, packed, its rows kept where they say the same."""

import array
import dataclasses
import datetime
import gzip
import random
import re
import time
import zlib

import pytest
from dashboard.harness import Teams, origin_of, row, site

from sluice import forecast
from sluice.dashboard import assets, board, snapshot, views

HTML = {"Accept": "text/html,*/*;q=0.8"}
MARK = re.compile('data-mark="[^"]*"')


def test_a_thousand_teams_are_on_one_page_packed_for_the_way():
    now = time.time()
    teams = Teams([row(f"team-{i:04}", now=now, day=i) for i in range(1000)])
    reply = (
        site(origin_of(teams, now))
        .test_client()
        .get("/", headers={**HTML, "Accept-Encoding": "gzip"})
    )
    assert len(reply.data) < 200_000
    text = gzip.decompress(reply.data).decode()
    assert text.count("<tr data-key") == 1001


def test_a_browser_gets_the_head_of_the_overview_before_its_rows_are_made():
    now = time.time()
    made = site(origin_of(Teams([row("shop", now=now)]), now))
    asked = {**HTML, "Accept-Encoding": "gzip"}
    reply = made.test_client().get("/", headers=asked, buffered=False)
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | assets.GZIP_HEADER)
    pieces = [unpacking.decompress(piece).decode() for piece in reply.iter_encoded()]
    head, rest = pieces[0], "".join(pieces[1:])
    assert head.rstrip().endswith("<tbody>")
    assert "default/shop" in rest
    assert rest.rstrip().endswith("</html>")
    assert unpacking.eof


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-26T03:00:00Z",
        "2026-11-26T07:32:00Z",
        "2026-11-26T12:00:31Z",
        "2026-11-26T17:45:59.5Z",
        "2026-12-31T23:40:00Z",
        "2028-02-29T12:00:00Z",
    ],
)
def test_a_page_whose_rows_were_kept_is_the_page_that_is_made_again(monkeypatch, moment):
    """For any order of changes, from any time of day: kept rows and new ones are the same bytes."""
    monkeypatch.setattr(board, "TICK_S", 0.0)
    now = datetime.datetime.fromisoformat(moment).timestamp()
    dice = random.Random(7)
    teams = Teams([row(f"team-{i}", now=now, day=i * 9000) for i in range(120)])
    origin, clock = origin_of(teams, now), [now]
    kept = site(origin, clock=lambda: clock[0]).test_client()
    for _ in range(12):
        for i in dice.sample(range(130), 20):
            change = row(
                f"team-{i}",
                now=now,
                day=dice.randrange(2_000_000),
                month_limit=dice.choice([None, 10**7]),
                dry_run=dice.random() < 0.2,
            )
            if dice.random() < 0.2:
                teams.now.pop(change.budget.key, None)
            else:
                teams.put(change)
        if dice.random() < 0.5:
            origin.outlooks.observe(teams.rows(clock[0]))
        fresh = site(origin, clock=lambda: clock[0]).test_client()
        pages = [client.get("/", headers=HTML).text for client in (kept, fresh)]
        assert len({MARK.sub("", page) for page in pages}) == 1
        clock[0] += dice.choice([1, 25, 70])


def test_a_countdown_is_written_again_when_the_time_left_crosses_a_minute():
    """Not when the clock does: the limit is spent 90.5 s after a full minute."""
    noon = 1_795_608_000.0
    shop = row("shop", now=noon, day=500_000)
    curve = array.array("d"), array.array("d")
    outlook = forecast.Outlook(1.0, 1.0, "steady", noon + 90.5, None, *curve)
    shots = [snapshot.Snapshot(None, {}, noon, "")]
    for second in (0.0, 30.0, 31.0, 59.0, 61.0, 90.0, 91.0):
        at = dataclasses.replace(shop, now=noon + second)
        team = views.Team(at, outlook, None)
        shots.append(snapshot.Snapshot(shots[-1], {"default/shop": team}, at.now, ""))
        assert shots[-1].line("default/shop") == views.line(team)
