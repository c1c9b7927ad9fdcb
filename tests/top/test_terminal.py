"""`sluice top` before a real process and on a real terminal: what it shows there, how it ends."""

import re
import signal

import pytest
from harness import budget, wait_until
from shippers import Entry, Stream, promtail
from top.harness import DEADLINE_S, LEAVES_SCREEN, NOWHERE, complaint, team, top, top_process

TOKEN = "0123456789abcdef-0123456789abcdef"


# from a real process


def test_top_shows_a_real_process(sluice, upstream, terminal):
    teams = [budget("shop", 1000, monthlyLimit=30_000), budget("pay", "10Gi"), budget("idle", 0)]
    server = sluice(teams, upstream.url)
    entries = [Entry(1, "x" * 800), Entry(2, "y" * 500)]
    assert server.send(promtail([Stream({"namespace": "shop"}, entries)])).status == 204
    done = top_process(server.url, "--once")
    assert (done.returncode, done.stderr) == (0, "")
    head, first, *rest = done.stdout.splitlines()
    assert head.split()[:3] == ["team", "namespace", "action"]
    assert first.split()[:3] == ["shop", "shop", "drop"]
    assert re.search(r" 80\.0 +800 B +1\.00 kB +2\.6 ", first)
    assert first.rstrip().endswith("500 B")
    assert len(rest) == 2
    live = terminal(server.url, "--interval", "0.2")
    live.shows("3 teams: 1 allow, 2 drop")
    server.send(promtail([Stream({"namespace": "pay"}, [Entry(3, "z" * 1_234_567)])]))
    live.shows("1.23 MB")
    assert live.end() == 0
    assert LEAVES_SCREEN in live.text


def test_top_shows_itself_to_a_process_that_asks_for_a_token(sluice, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    server = sluice([budget("shop", 1000)], NOWHERE, args=["--auth", f"bearer:{file}"])
    assert "shop" in top(server.url, "--token-file", str(file)).stdout
    assert "shop" in top_process(server.url, SLUICE_TOKEN_FILE=str(file)).stdout
    done = top_process(server.url)
    assert done.returncode == 1
    assert "answered 401" in done.stderr
    assert "Give --token-file FILE" in done.stderr
    other = tmp_path / "other"
    other.write_text("another-token-than-that")
    said = complaint(server.url, "--token-file", str(other))
    assert f"The token in {other} is not the one of its --auth" in said


# how it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_well_and_leaves_the_terminal_as_it_was(fake, terminal, number):
    fake.has(team("shop"))
    live = terminal(fake.url)
    live.shows("1 team: 1 throttle")
    assert live.end(number) == 0
    assert LEAVES_SCREEN in live.text
    assert "Traceback" not in live.text


def test_it_ends_at_once_while_the_api_hangs(fake, terminal):
    fake.hang()
    live = terminal(fake.url)
    wait_until(lambda: fake.seen, "it asks", DEADLINE_S)
    live.shows("asking ...")
    assert live.end() == 0


@pytest.fixture
def live(fake, terminal):
    """It shows the one team that there is, and asks ten times a second."""
    fake.has(team("shop"))
    shown = terminal(fake.url, "--interval", "0.1")
    shown.shows("1 team: 1 throttle")
    return shown


def test_what_is_wrong_is_shown_and_asked_for_again(fake, live):
    fake.reply = (500, '{"error": "internal error: KeyError", "status": 500}')
    live.shows("answered 500: internal error: KeyError")
    fake.has(team("shop"), team("pay"))
    live.shows("2 teams: 2 throttle")
    assert live.end() == 0


def test_a_token_that_holds_no_more_ends_it_with_what_to_do(fake, live):
    fake.reply = (401, '{"error": "the token is wrong", "status": 401}')
    assert live.wait() == 1
    after = live.text.rpartition(LEAVES_SCREEN)[2]
    assert "answered 401: the token is wrong. Give --token-file" in after
