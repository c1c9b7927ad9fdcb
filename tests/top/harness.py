"""What the tests of `sluice top` share: how it is run, and an API that answers what it is told."""

import http.server
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from typing import Any, NamedTuple

from click.testing import CliRunner
from harness import Subcommand, wait_until

from sluice.commands import main

NOWHERE = "http://127.0.0.1:9"
# What a terminal takes for an order and not for a letter, but for colours.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
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


def command(url: str, *args: str) -> list[str]:
    return [sys.executable, *Subcommand.program(), "top", "--url", url, *args]


class Done(NamedTuple):
    """What a command wrote, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def top_process(url: str, *args: str, **env: str) -> Done:
    """`sluice top` into a file, until it ends."""
    done = subprocess.run(
        command(url, *args),
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
    kept = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        done = CliRunner().invoke(main, ["top", "--url", url, *args])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert isinstance(done.exception, SystemExit | None), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def complaint(url: str, *args: str) -> str:
    """The one sentence of a `sluice top` that has nothing to show."""
    done = top(url, *args)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sluice top: ")
    assert not CONTROL.search(line)
    return line


class Terminal:
    """`sluice top` on a terminal of its own."""

    def __init__(self, url: str, *args: str, width: int = 80, height: int = 24, **env: str) -> None:
        self.master, slave = pty.openpty()
        size = {"COLUMNS": str(width), "LINES": str(height)}
        self.process = subprocess.Popen(
            command(url, *args),
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


class Fake(http.server.ThreadingHTTPServer):
    """An API that answers what it is told to: (status, body), or a function of the handler."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str | None]] = []
        self.over = threading.Event()
        self.reply: Any = None
        self.has()

    def has(self, *teams: dict[str, Any]) -> None:
        """Answer with these teams from now on."""
        self.reply = (200, json.dumps(answer(*teams)))

    def hang(self) -> None:
        """Take what is asked from now on, and answer nothing."""
        self.reply = lambda _: self.over.wait()

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
