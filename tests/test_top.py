"""`sluice top`: what stands in the terminal, and what happens when the API is no help."""

import http.server
import json
import os
import pty
import re
import select
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import rich.console
import trustme
from click.testing import CliRunner
from harness import Sluice, budget, free_port, wait_until
from past import HUGE
from shippers import Entry, Stream, promtail

from sluice import overview, policy
from sluice.__main__ import main

TOKEN = "0123456789abcdef-0123456789abcdef"
NOWHERE = "http://127.0.0.1:9"
# What a terminal takes for an order and not for a letter, but for colours.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LEAVES_SCREEN = "\x1b[?1049l"
DEADLINE_S = 30


def team(name: str, **more: Any) -> dict[str, Any]:
    """A TEAM of the API."""
    none = {"entries": 0, "bytes": 0}
    return {
        "name": name,
        "namespace": "default",
        "dailyLimit": 1000,
        "monthlyLimit": 30_000,
        "currentUsage": 812,
        "monthlyUsage": 9000,
        "percent": 81.2,
        "action": "throttle",
        "counts": {"sampled": none, "dropped": none},
        **more,
    }


def answer(*teams: dict[str, Any]) -> dict[str, Any]:
    return {"time": "2026-11-23T12:00:00Z", "teams": list(teams)}


def environment(**more: str) -> dict[str, str]:
    theirs = {n: v for n, v in os.environ.items() if not n.startswith(("SLUICE_", "COLUMNS"))}
    return {**theirs, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **more}


def command(*args: str) -> list[str]:
    return [sys.executable, *Sluice.program(None), "top", *args]  # type: ignore[arg-type]


class Done(NamedTuple):
    """What a command wrote, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def top_process(url: str, *args: str, **env: str) -> Done:
    """`sluice top` into a file, until it ends."""
    done = subprocess.run(
        command("--url", url, *args),
        env=environment(**env),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def top(url: str, *args: str) -> Done:
    """The same without a process of its own: half a second less each."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        done = CliRunner().invoke(main, ["top", "--url", url, *args])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert isinstance(done.exception, SystemExit | None), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


class Terminal:
    """`sluice top` on a terminal of its own."""

    def __init__(self, *args: str, width: int = 80, height: int = 24, **env: str) -> None:
        self.master, slave = pty.openpty()
        size = {"COLUMNS": str(width), "LINES": str(height)}
        self.process = subprocess.Popen(
            command(*args),
            env=environment(**size, **env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read(self) -> str:
        """All that was written so far."""
        while select.select([self.master], [], [], 0)[0]:
            try:
                piece = os.read(self.master, 2**16)
            except OSError:
                # Nobody is at the other end any more.
                break
            self.text += piece.decode(errors="replace")
        return self.text

    def shows(self, words: str) -> None:
        wait_until(lambda: words in self.read(), f"{words!r} is shown", DEADLINE_S)

    def end(self, number: int = signal.SIGINT) -> int:
        """Signal it and read to its end; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        wait_until(lambda: self.read() and self.process.poll() is not None, "it ends", DEADLINE_S)
        self.read()
        return self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*args: str, **more: Any) -> Terminal:
        made.append(Terminal(*args, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Fake(http.server.ThreadingHTTPServer):
    """An API that answers what it is told to: (status, body), or a function of the handler."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Any = (200, json.dumps(answer()))
        self.seen: list[tuple[str, str | None]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A client that has left is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        if callable(self.server.reply):
            self.server.reply(self)
            return
        status, body = self.server.reply
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body if isinstance(body, bytes) else body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def drawn(width: int, height: int, *teams: dict[str, Any], **more: Any) -> list[str]:
    """The lines of an overview in a terminal of this size."""
    console = rich.console.Console(
        width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    lines = overview.read(answer(*teams))
    shown = overview.Overview("http://a", "now", lines, more.get("most"), "Ctrl-C ends it")
    with console.capture() as captured:
        console.print(shown, end="")
    return captured.get().splitlines()


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
    live = terminal("--url", server.url, "--interval", "0.2")
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
    done = top(server.url, "--token-file", str(other))
    assert done.returncode == 1
    assert f"The token in {other} is not the one of its --auth" in done.stderr


# how it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_well_and_leaves_the_terminal_as_it_was(fake, terminal, number):
    fake.reply = (200, json.dumps(answer(team("shop"))))
    live = terminal("--url", fake.url)
    live.shows("1 team: 1 throttle")
    assert live.end(number) == 0
    assert LEAVES_SCREEN in live.text
    assert "Traceback" not in live.text


def test_it_ends_at_once_while_the_api_hangs(fake, terminal):
    fake.reply = lambda _: fake.over.wait()
    live = terminal("--url", fake.url)
    wait_until(lambda: fake.seen, "it asks", DEADLINE_S)
    live.shows("asking ...")
    assert live.end() == 0


def test_what_is_wrong_is_shown_and_asked_for_again(fake, terminal):
    fake.reply = (200, json.dumps(answer(team("shop"))))
    live = terminal("--url", fake.url, "--interval", "0.1")
    live.shows("1 team: 1 throttle")
    fake.reply = (500, '{"error": "internal error: KeyError", "status": 500}')
    live.shows("answered 500: internal error: KeyError")
    fake.reply = (200, json.dumps(answer(team("shop"), team("pay"))))
    live.shows("2 teams: 2 throttle")
    assert live.end() == 0


def test_a_token_that_holds_no_more_ends_it_with_what_to_do(fake, terminal):
    fake.reply = (200, json.dumps(answer(team("shop"))))
    live = terminal("--url", fake.url, "--interval", "0.1")
    live.shows("1 team")
    fake.reply = (401, '{"error": "the token is wrong", "status": 401}')
    assert live.wait() == 1
    after = live.text.rpartition(LEAVES_SCREEN)[2]
    assert "answered 401: the token is wrong. Give --token-file" in after


# an API that is no help


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((500, '{"error": "internal error: KeyError", "status": 500}'), "answered 500: internal"),
        ((503, "no"), "answered 503: Service Unavailable"),
        ((404, "<html>"), "answered 404: Not Found"),
        ((302, ""), "answered 302: Found"),
        ((403, '{"error": "\\u001b[2Jno"}'), "answered 403: ?[2Jno. Give --token-file"),
        ((200, ""), "is no JSON: is it Sluice?"),
        ((200, "<html>"), "is no JSON: is it Sluice?"),
        ((200, b"\xff\xfe\x00"), "is no JSON"),
        ((200, "[" * 100_000), "is no JSON"),
        ((200, "9" * 5000), "is no JSON"),
        ((200, "[]"), "is no list of teams"),
        ((200, "null"), "is no JSON"),
        ((200, "{}"), "is no list of teams (KeyError('time'))"),
        ((200, '{"time": 5, "teams": []}'), "is no list of teams"),
        ((200, '{"time": "2026-11-23T12:00:00Z", "teams": [5]}'), "is no list of teams"),
        ((200, json.dumps(answer(team(5)))), "5 is not a string"),  # type: ignore[arg-type]
        ((200, json.dumps(answer(team("a", currentUsage=1.5)))), "1.5 is not a number of bytes"),
        ((200, json.dumps(answer(team("a", currentUsage=-1)))), "-1 is not a number of bytes"),
        ((200, json.dumps(answer(team("a", percent="\x1b[2J")))), "is no list of teams"),
        ((200, json.dumps(answer(team("a", forecast=5)))), "is no list of teams"),
        ((200, json.dumps(answer(team("a", forecast={"trend": "up"})))), "is no list of teams"),
    ],
)
def test_an_answer_that_is_none_is_one_sentence_and_exit_code_1(fake, reply, words):
    fake.reply = reply
    done = top(fake.url, "--once")
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"sluice top: {fake.url} answered ")
    assert words in line
    assert not CONTROL.search(line)


def garbage(handler: Handler) -> None:
    handler.wfile.write(b"\x1b[2J220 mail.example ESMTP\r\n")


def nothing(handler: Handler) -> None:
    handler.connection.close()


@pytest.mark.parametrize(
    ("reply", "words"),
    [(garbage, "mail.example"), (nothing, "Remote end closed connection without response")],
)
def test_what_is_no_http_is_one_sentence_and_exit_code_1(fake, reply, words):
    fake.reply = reply
    done = top(fake.url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert words in line
    assert not CONTROL.search(line)


def test_nobody_there_is_one_sentence_and_exit_code_1():
    done = top(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(": Connection refused")
    done = top("http://no.such.host.invalid")
    assert done.returncode == 1
    assert "sluice top: http://no.such.host.invalid: " in done.stderr


def test_an_api_that_hangs_is_given_up(fake):
    fake.reply = lambda _: fake.over.wait()
    done = top(fake.url)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("no answer in 5 s")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--url", "ftp://a"], "is not a URL"),
        (["--url", "http://a:99999"], "is not a URL"),
        (["--sort", "size"], "is not one of"),
        (["--interval", "0"], "not in the range"),
        (["--limit", "0"], "not in the range"),
        (["--ca", "/nowhere"], "does not exist"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(args, words):
    done = top(NOWHERE, *args)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


def test_a_token_file_that_is_not_there_is_named(tmp_path):
    done = top(NOWHERE, "--token-file", str(tmp_path / "none"))
    assert done.returncode == 1
    assert f"token file {tmp_path / 'none'}: No such file" in done.stderr


# how it asks


def test_it_asks_below_the_path_of_the_url_and_shows_no_password(fake):
    url = fake.url.replace("http://", "http://ada:secret@")
    assert top(f"{url}/sluice/", "--once").returncode == 0
    assert fake.seen == [("/sluice/api/teams", None)]
    fake.reply = (500, "")
    said = top(f"{url}/sluice", "--once").stderr
    assert "secret" not in said
    assert "/sluice answered 500" in said


def test_certificates_are_checked_and_those_of_ca_trusted(fake, tmp_path: Path):
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    fake.socket = tls.wrap_socket(fake.socket, server_side=True)
    fake.reply = (200, json.dumps(answer(team("shop"))))
    url = fake.url.replace("http:", "https:")
    done = top(url)
    assert done.returncode == 1
    assert "--ca FILE says which certificates to trust" in done.stderr
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    assert "shop" in top(url, "--ca", str(file)).stdout
    file.write_text("no certificate")
    done = top(url, "--ca", str(file))
    assert done.returncode == 2
    assert str(file) in done.stderr


# what is shown


def test_teams_are_in_the_order_that_was_asked_for(fake):
    forecast = {"trend": "rising", "dayExhausted": None, "monthExhausted": None}
    fake.reply = (200, json.dumps(answer(
        team("a", percent=5.0, currentUsage=7, forecast={**forecast, "bytesPerSecond": 10}),
        team("b", percent=90.0, currentUsage=5, forecast={**forecast, "bytesPerSecond": 0}),
        team("c", percent=50.0, currentUsage=9, namespace="eu"),
    )))  # fmt: skip

    def names(*args: str) -> str:
        return "".join(line.split()[0] for line in top(fake.url, *args).stdout.splitlines()[1:])

    assert names() == "bca"
    assert names("--sort", "usage") == "cab"
    assert names("--sort", "name") == "abc"
    assert names("--sort", "rate") == "abc"
    assert names("--limit", "2") == "bc"
    assert names("--namespace", "eu") == "c"
    assert names("--namespace", "asia") == ""


def test_a_line_says_all_that_is_known_of_a_team(fake):
    expected = {
        "bytesPerSecond": 12_345,
        "usualBytesPerSecond": 9,
        "trend": "rising",
        "dayExhausted": "2026-11-23T14:10:30Z",
        "monthExhausted": "2026-11-28T00:00:00Z",
    }
    counts = {"sampled": {"entries": 1, "bytes": 5000}, "dropped": {"entries": 1, "bytes": 7}}
    fake.reply = (200, json.dumps(answer(team("shop", forecast=expected, counts=counts))))
    line = " ".join(top(fake.url).stdout.splitlines()[1].split())
    assert line == (
        "shop default throttle ████▊ 81.2 812 B 1.00 kB 30.0 12.3 kB/s ↑ 2 h 10 min 5.00 kB 7 B"
    )


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (("2026-11-23T12:00:00Z", None), "spent"),
        (("2026-11-23T11:00:00Z", None), "spent"),
        (("2026-11-23T12:00:30Z", None), "< 1 min"),
        ((None, "2026-11-25T13:00:00Z"), "2 d 1 h"),
        (("2026-11-23T15:00:00Z", "2026-11-23T13:00:00Z"), "1 h"),
        ((None, None), "-"),
    ],
)
def test_the_time_left_is_that_of_the_limit_that_is_spent_first(expected, words):
    day, month = expected
    found = {"bytesPerSecond": 1, "trend": "steady", "dayExhausted": day, "monthExhausted": month}
    (line,) = overview.read(answer(team("a", forecast=found)))
    assert line.left == words


def test_numbers_that_no_double_can_hold_are_counted_whole(fake):
    teams = [
        team("a", currentUsage=HUGE, dailyLimit=HUGE, monthlyLimit=HUGE, monthlyUsage=HUGE - 1),
        team("b", currentUsage=2 * HUGE, dailyLimit=0, monthlyLimit=None),
    ]
    lines = overview.read(answer(*teams))
    assert [line.day for line in lines] == [1000, 1000]
    assert lines[0].month == 999
    fake.reply = (200, json.dumps(answer(*teams)))
    shown = top(fake.url).stdout
    assert re.search(r"a .* 100\.0  9\.22 EB  9\.22 EB     99\.9 ", shown)
    assert re.search(r"b .* 100\.0  18\.4 EB      0 B        - ", shown)


HOSTILE = "\x1b[2J\x07[red]b[/] [/bold]\u202e\u2028\x9b31m:skull: 名"


def test_hostile_names_are_neither_markup_nor_orders_to_the_terminal(fake, terminal):
    fake.reply = (200, json.dumps(answer(team(HOSTILE, namespace=HOSTILE, action=HOSTILE))))
    shown = top(fake.url).stdout
    assert "?[2J?[red]b[/] [/bold]???31m:skull: 名" in shown
    assert not CONTROL.search(shown)
    live = terminal("--url", fake.url, width=120)
    live.shows("?[2J?[red]b[/]")
    assert live.end() == 0
    assert "\x07" not in live.text
    assert "\u202e" not in live.text
    assert "Traceback" not in live.text


def test_a_name_with_half_a_surrogate_ends_nothing(fake):
    # As JSON may have it.
    fake.reply = (200, json.dumps(answer(team("\ud800"))))
    done = top_process(fake.url)
    assert (done.returncode, done.stdout.splitlines()[1][:2]) == (0, "? ")


def test_a_terminal_without_other_letters_gets_ascii(fake):
    fake.reply = (200, json.dumps(answer(team("caf\u00e9"))))
    done = top_process(fake.url, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stdout.splitlines()[1].split()[:4] == ["caf?", "default", "throttle", "#####"]


def test_a_file_gets_no_colours_and_a_terminal_none_if_none_are_wanted(fake, terminal):
    fake.reply = (200, json.dumps(answer(team("shop"))))
    assert "\x1b" not in top(fake.url).stdout
    for env, has_colours in (({}, True), ({"NO_COLOR": "1"}, False)):
        once = terminal("--url", fake.url, "--once", **env)
        assert once.wait() == 0
        assert ("\x1b[33m" in once.text) == has_colours
    dumb = terminal("--url", fake.url, TERM="dumb")
    assert dumb.wait() == 0
    assert "shop" in dumb.text


# how it fits


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 79, 80, 100, 120, 160, 300])
@pytest.mark.parametrize("height", [1, 4, 6, 24])
def test_it_never_exceeds_the_terminal(width, height):
    teams = [team(f"team-{i}-" + "x" * (i * 7)) for i in range(9)]
    shown = drawn(width, height, *teams)
    assert len(shown) <= max(height, overview.FRAME)
    assert max(map(len, shown)) <= width


def test_a_thousand_teams_on_80_by_24_show_the_first_and_how_many_more():
    teams = [
        team(f"team-{i:04}", percent=i / 10, action="drop" if i > 990 else "allow")
        for i in range(1000)
    ]
    shown = drawn(80, 24, *teams)
    assert len(shown) == 24
    assert shown[1].rstrip() == "1,000 teams: 991 allow, 9 drop"
    head = shown[2].split()
    assert head == ["team", "action", "today", "day", "%", "used", "limit", "month", "%",
                    "spent", "in"]  # fmt: skip
    assert [line.split()[0] for line in shown[3:22]] == [f"team-{i:04}" for i in range(19)]
    assert shown[23].rstrip() == "981 more teams; Ctrl-C ends it"
    assert len(drawn(80, 24, *teams, most=3)) == 3 + overview.FRAME


def test_a_thousand_teams_are_drawn_in_a_real_terminal(fake, terminal):
    teams = [team(f"team-{i:04}", percent=i / 10) for i in range(1000)]
    fake.reply = (200, json.dumps(answer(*teams)))
    live = terminal("--url", fake.url, "--interval", "0.5")
    live.shows("team-0981")
    live.shows("981 more teams; Ctrl-C ends it")
    assert live.end() == 0
    assert "team-0980" not in live.text
    assert len(top(fake.url).stdout.splitlines()) == 1001


def test_names_that_several_have_are_told_apart_where_there_is_no_room_for_namespaces():
    teams = [team("shop", namespace="eu"), team("shop", namespace="us"), team("pay")]
    narrow, wide = drawn(80, 24, *teams), drawn(160, 24, *teams)
    assert [line.split()[0] for line in narrow[3:6]] == ["eu/shop", "us/shop", "pay"]
    assert [line.split()[:2] for line in wide[3:6]] == [
        ["shop", "eu"], ["shop", "us"], ["pay", "default"],
    ]  # fmt: skip


def test_long_names_get_the_room_that_is_left():
    name = "a-name-of-twenty-seven-char"
    assert name[:12] in drawn(80, 24, team(name))[3]
    assert drawn(200, 24, team(name))[3].startswith(f"{name} ")


def test_every_action_has_a_colour():
    assert set(overview.COLOURS) == {action.word for action in policy.Action}
