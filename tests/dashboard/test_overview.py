"""The overview as it is sent: in pieces, packed, its rows kept where they say the same."""

import gzip
import math
import random
import re
import time
import zlib

from dashboard.harness import Teams, origin_of, row, site

from sluice.dashboard import assets, board

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


def test_a_page_whose_rows_were_kept_is_the_page_that_is_made_anew(monkeypatch):
    """For any order of changes: kept rows and fresh ones are the same bytes."""
    monkeypatch.setattr(board, "TICK_S", 0.0)
    now = math.floor(time.time() / 60) * 60.0
    dice = random.Random(7)
    teams = Teams([row(f"team-{i}", now=now, day=i * 9000) for i in range(120)])
    origin, moment = origin_of(teams, now), [now]
    kept = site(origin, clock=lambda: moment[0]).test_client()
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
            origin.outlooks.observe(teams.rows(moment[0]))
        fresh = site(origin, clock=lambda: moment[0]).test_client()
        pages = [client.get("/", headers=HTML).text for client in (kept, fresh)]
        assert len({MARK.sub("", page) for page in pages}) == 1
        moment[0] += dice.choice([1, 25, 70])
