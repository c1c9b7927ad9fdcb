"""Rows to judge, a server that sinks talk to, and a store that can fail."""

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import wait_until

from sluice import columns, window
from sluice.budget import RULES, Budget
from sluice.forecast import Outlook
from sluice.ledger import Usage
from sluice.notify.change import Change
from sluice.notify.rules import Condition, Conditions, Judge
from sluice.notify.sink import SinkFailed
from sluice.notify.told import Sayings
from sluice.notify.worker import Pace
from sluice.usage import Row

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z
MIDNIGHT = NOON + 12 * 3600
DAY, NEXT_DAY, MONTH = "d/2026-11-23", "d/2026-11-24", "m/2026-11"
KEY = "default/backend"

# Bytes of a limit of 1000 at which entries of a byte are allowed, throttled, dropped.
FREE, BAND, SPENT = 100, 900, 1000

# Everything at once.
FAST = Pace(first_s=0.01, most_s=0.02, errand_s=0.3)


def row(
    day: int = FREE, now: float = NOON, *, month: int = 0, name: str = "backend", **spec: Any
) -> Row:
    """A team's row; its limit is 1000 bytes a day, its entries have a byte each."""
    own = Budget(name=name, namespace="default", **{"daily_limit": 1000, **spec})
    today = [0] * columns.COUNTS
    today[columns.RECEIVED : columns.RECEIVED + 2] = [1, 1]
    counted = Usage(day=day, month=month, counts=today, today=today)
    return Row(own, counted, window.open_windows(own.time_zone, now), now)


def outlook(day: float | None = None, month: float | None = None) -> Outlook:
    # Whatever else an Outlook may have is not looked at here.
    blank = {field.name: 0.0 for field in dataclasses.fields(Outlook)}
    return Outlook(**{**blank, "trend": "steady", "day": day, "month": month})


def condition(
    day: int = FREE,
    now: float = NOON,
    *,
    expected: float | None = None,
    rules: tuple[str, ...] = RULES,
    **more: Any,
) -> Condition:
    """What holds for a team that has just been seen; its forecast holds at once."""
    judge = Judge(rules, raise_s=0)
    found = judge.judge([row(day, now, **more)], lambda key: outlook(expected), now)
    return next(iter(found.values()))


class Listener:
    """An HTTP server that hears what it is sent and answers as `answer` says.

    200 and the like: that status. "hang": nothing, until the end. "drip": a byte at a time.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.answer: int | str = 200
        self.headers: Mapping[str, str] = {}
        self.attempts = 0
        self.over = threading.Event()
        listener = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                listener.attempts += 1
                if listener.answer == "hang":
                    listener.over.wait()
                    return
                if listener.answer == "drip":
                    self.drip()
                    return
                assert isinstance(listener.answer, int)
                if listener.answer < 300:
                    listener.heard.append((self.path, body))
                self.send_response(listener.answer)
                for name, value in listener.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                """A page that anybody gets: what a POST becomes that was sent to another place."""
                listener.attempts += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def drip(self) -> None:
                with contextlib.suppress(OSError):
                    for byte in b"HTTP/1.0 200 OK\r\n" + b"X-More: y\r\n" * 10_000:
                        self.wfile.write(bytes([byte]))
                        if listener.over.wait(0.05):
                            return

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def bodies(self) -> list[Any]:
        return [body for _, body in self.heard]

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()


class Pad:
    """A sink that notes what it is told, or fails as long as `error` is set."""

    rules: tuple[str, ...] | None = None

    def __init__(self, sink: str = "pad-00000001") -> None:
        self.id = self.label = sink
        self.told: list[tuple[str, str]] = []
        self.error: SinkFailed | None = None
        self.attempts = 0

    def send(self, changes: Sequence[Change]) -> None:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        self.told += [(change.key, change.rule) for change in changes]

    def waits_for(self, count: int) -> list[tuple[str, str]]:
        wait_until(lambda: len(self.told) >= count, f"{count} changes, of which {self.told}")
        return self.told


class Memory:
    """A store that outlives notifiers, and fails as long as `error` is set."""

    def __init__(self) -> None:
        self.kept: dict[str, Sayings] = {}
        self.error: OSError | None = None

    def load(self) -> Mapping[str, Sayings]:
        return self.kept

    def save(self, sayings: Mapping[str, Sayings]) -> None:
        if self.error is not None:
            raise self.error
        self.kept |= sayings


class World:
    """Teams as a notifier sees them: rows by key, and what is expected of them."""

    def __init__(self) -> None:
        self.now = NOON
        self.day: dict[str, int] = {"backend": FREE}
        self.outlooks: dict[str, Outlook] = {}

    def rows(self, now: float) -> list[Row]:
        return [row(day, now, name=name) for name, day in self.day.items()]

    def conditions(self) -> Conditions:
        return Judge().judge(self.rows(self.now), self.outlooks.get, self.now)
