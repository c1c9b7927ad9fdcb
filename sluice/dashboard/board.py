"""The board: what all open pages show, read once a second for all of them.

    rows, forecasts ─► Snapshot ─► what differs from the one before ─► every listener

Rule 1: a tick is read, compared and encoded once, by one thread, however many listen; a listener
waits on a condition and gets the same bytes as the others. Nobody listens: nothing is done.
Rule 2: a listener that lags behind the last few ticks gets everything anew; nothing is queued for
it, so that a slow browser costs no memory.
"""

import collections
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from sluice import errors, source
from sluice.dashboard import views
from sluice.dashboard.snapshot import Change, Snapshot

log = logging.getLogger("sluice.dashboard")

TICK_S = 1.0
# Ticks that a listener may lag behind, or be away for while it connects anew.
KEPT = 8
# A client that has vanished is noticed when it is written to, and proxies close what is silent.
HEARTBEAT_S = 10.0
HEARTBEAT = b": still here\n\n"
LISTENERS_MAX = 64
# Then a browser connects anew, and is asked again who it is: tokens change.
LASTS_S = 600.0
NUMBER = re.compile("[0-9]{1,18}")
# How long a browser waits before it connects anew.
RETRY_MS = 2000


class TooManyListeners(errors.Unavailable):
    """All places of those who listen are taken."""


class Board:
    """Snapshots for whoever looks, and news for whoever listens.

    Args:
        origin: where rows, forecasts and costs come from.
        clock: epoch seconds, for the rows; a step of it changes nothing in the pace.
        currency: shown with costs.
        problems: how many there are with budgets.

    Threads: any number.
    """

    def __init__(
        self,
        origin: source.Source,
        clock: Callable[[], float] = time.time,
        currency: str = "",
        *,
        problems: Callable[[], int] = lambda: 0,
        listeners_max: int = LISTENERS_MAX,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self.currency = currency
        self._source, self._clock, self._problems = origin, clock, problems
        self._listeners_max, self._heartbeat_s = listeners_max, heartbeat_s
        # Other boards' numbers mean nothing here: a page may outlive the process that made it.
        self._name = secrets.token_hex(4)
        self._making = threading.Lock()
        self._news = threading.Condition()
        self._last: Snapshot | None = None
        self._changes: collections.deque[Change] = collections.deque(maxlen=KEPT)
        self._listeners = 0
        self._stopping = False
        self._ticking: threading.Thread | None = None
        self._resize: Callable[[int], object] = lambda _: None

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return self._listeners

    def snapshot(self) -> Snapshot:
        """The teams as they are now, or were at most a second ago.

        Raises:
            SluiceError: they cannot be told now.
        """
        with self._making:
            last = self._last
            if last is not None and time.monotonic() - last.taken < TICK_S:
                return last
            made = self._read(last)
            change = None
            if last is not None and self._listeners:
                change = Change(made.number, last.lines, made.lines)
            with self._news:
                self._last = made
                if change is None:
                    # Nobody asks for them, and the next one will not follow on the last.
                    self._changes.clear()
                else:
                    self._changes.append(change)
                self._news.notify_all()
            return made

    def tell(self, resize: Callable[[int], object]) -> None:
        """Have whoever lends listeners their threads told how many there are, until stop()."""
        self._resize = resize

    def mark(self, shown: Snapshot) -> str:
        """The name of a snapshot, for listen(): what came after it is news."""
        return self.mark_of(shown.number)

    def mark_of(self, number: int) -> str:
        """The name of the snapshot with this number."""
        return f"{self._name}-{number}"

    def listen(self, mark: str = "", key: str | None = None) -> "Listener":
        """News as server-sent events, of all teams or of one.

        Args:
            mark: what the page shows already; without it the first event is everything.
            key: of the one team.

        Raises:
            TooManyListeners: nobody was added.
        """
        name, _, number = mark.partition("-")
        seen = int(number) if name == self._name and NUMBER.fullmatch(number) else None
        with self._news:
            if self._listeners >= self._listeners_max:
                raise TooManyListeners(
                    f"{self._listeners} pages are live, at most {self._listeners_max} can be;"
                    " reload later"
                )
            self._listeners += 1
            self._resize(self._listeners)
            if self._ticking is None and not self._stopping:
                self._ticking = threading.Thread(target=self._tick, name="board", daemon=True)
                self._ticking.start()
            self._news.notify_all()
        return Listener(self, seen, key)

    def stop(self) -> None:
        """End all listeners, and the thread; both are on their way when this returns."""
        with self._news:
            self._stopping = True
            self._resize = lambda _: None
            self._news.notify_all()

    def leave(self) -> None:
        """One listener less."""
        with self._news:
            self._listeners -= 1
            self._resize(self._listeners)

    def wait(self, seen: int | None) -> tuple[Snapshot | None, list[Change]] | None:
        """Wait for a snapshot later than the one with this number; None: the board has stopped.

        Returns it, with the kept changes since then, oldest first. There is none if none came in
        the time of a heartbeat.
        """
        with self._news:
            found = self._news.wait_for(
                lambda: self._stopping or self._has_news(seen), self._heartbeat_s
            )
            if self._stopping:
                return None
            since = -1 if seen is None else seen
            changes = [one for one in self._changes if one.number > since]
            return (self._last if found else None), changes

    def _has_news(self, seen: int | None) -> bool:
        return self._last is not None and (seen is None or self._last.number > seen)

    def _read(self, before: Snapshot | None) -> Snapshot:
        now = self._clock()
        outlooks = self._source.outlooks
        teams = {}
        for row in self._source.rows(now):
            key = row.budget.key
            outlook = outlooks.of(key) if outlooks is not None else None
            teams[key] = views.Team(row, outlook, self._source.cost_of(row.budget))
        made = Snapshot(before, teams, now, self.currency)
        made.totals["problems"] = views.problems(self._problems())
        return made

    def _tick(self) -> None:
        """The thread: a snapshot a second while anybody listens."""
        while True:
            with self._news:
                self._news.wait_for(lambda: self._stopping or self._listeners)
                if self._stopping:
                    return
            pause_s = TICK_S
            try:
                pause_s -= time.monotonic() - self.snapshot().taken
            except errors.SluiceError as error:
                log.info("nothing new for the pages: %s", error)
            except Exception:
                log.exception("the pages' next second failed")
            with self._news:
                self._news.wait_for(lambda: self._stopping, max(0.0, pause_s))


class Listener:
    """One reader's events, as bytes. close() gives its place back, and may be called twice.

    Threads: one at a time.
    """

    def __init__(self, board: Board, seen: int | None, key: str | None) -> None:
        self._board, self._seen, self._key = board, seen, key
        self._is_open = True
        self._until = time.monotonic() + LASTS_S
        self._first = f"retry: {RETRY_MS}\n\n".encode()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """The next events, or a heartbeat; waits for it."""
        if self._first:
            first, self._first = self._first, b""
            return first
        is_over = time.monotonic() > self._until
        found = self._board.wait(self._seen) if self._is_open and not is_over else None
        if found is None:
            self.close()
            raise StopIteration
        shown, changes = found
        if shown is None:
            return HEARTBEAT
        seen, self._seen = self._seen, shown.number
        if self._key is not None:
            return self._event(shown.number, shown.detail(self._key))
        if seen is None or not changes or changes[0].number > seen + 1:
            return self._event(shown.number, shown.everything())
        # Each with a number of its own: a connection may be cut between two.
        return b"".join(self._event(one.number, shown.delta(one)) for one in changes)

    def _event(self, number: int, text: bytes) -> bytes:
        return b"id: %b\ndata: %b\n\n" % (self._board.mark_of(number).encode(), text)

    def close(self) -> None:
        """Listen no more."""
        if self._is_open:
            self._is_open = False
            self._board.leave()
