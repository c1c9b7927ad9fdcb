"""A kind of object as a stream of changes that outlives every failure of the API server.

List, then watch from the list's version on, for ever; a watch that ends is renewed from where it
stood, and one whose version has become too old is begun again with a list, of which the handler
gets the differences: a deletion that nobody saw is one of them.

This is a loop of our own over client.py and not the package's SharedInformer. That one, measured
on 37.0.2, asks a dead API server 1661 times a second, asks as fast when it is refused with 401,
waits for ever on a connection whose other end has vanished, loses the version over lists of
dicts, and has no word for "complete" or for "alive". Curing that from outside takes an adapter
that is told of calls but not of their ends, around a cache that holds what our handlers hold
already; the loop itself is shorter.

Rule 1: nothing ends the loop but stop(). What it does not understand it logs and counts, and
lists again.
Rule 2: a try that led nowhere is followed by a pause that doubles, from 1 s up to 30 s; a watch
has led somewhere once it has lived for a few seconds.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sluice.kube import client

log = logging.getLogger(__name__)

Handler = Callable[[str, Any], None]

# How long stop() waits for the thread, which may be about to connect and then ends by itself.
STOP_S = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an informer asks, seconds.

    An agent counts as cut off after 180 s without contact. So a watch on which nothing happens
    ends well before that, and proves by its end that the API server was there.
    """

    renew_min_s: int = 100
    renew_max_s: int = 160
    slack_s: float = 15.0  # silence after a watch should have ended: the connection is dead
    steady_s: float = 5.0  # a watch that lived for so long was a success
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0


PACE = Pace()


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of an object: its version, its UID and what the handler got."""

    version: str
    uid: str
    obj: Any


class Informer:
    """Tells `handler` of every object of a kind, and then of every change.

    Args:
        plural: `teambudgets` or `nodelogusages`; with `name` only the object of that name.
        handler: called as `handler(kind, obj)` in the informer's thread, in the order of
            versions, `kind` being ADDED, MODIFIED or DELETED. An object that was deleted and made
            again is DELETED and ADDED. What it raises is logged and counted.
        transform: makes of an object what is kept and handed over, so that what nobody needs
            takes no memory. Must not raise.
        clock, rng, wait: time, for tests; `wait(seconds)` pauses.

    Threads: any may read the public attributes and call methods.
    """

    def __init__(
        self,
        api: client.Api,
        plural: str,
        handler: Handler,
        *,
        name: str | None = None,
        transform: Callable[[client.Object], Any] = lambda obj: obj,
        pace: Pace = PACE,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._api, self._plural, self._name = api, plural, name
        self._handler, self._transform = handler, transform
        self._pace, self._clock, self._rng = pace, clock, rng
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._thread = threading.Thread(target=self._run, name=f"informer {plural}", daemon=True)
        # The last watch, and when it was opened in this try, if it was.
        self._watch: client.Watch | None = None
        self._opened: float | None = None
        # Where the next watch begins; None: a list is needed.
        self._version: str | None = None
        self._kept: dict[str, Kept] = {}
        # Tries in a row that led nowhere, whether the last was Gone, and what was said of them.
        self._misses = 0
        self._was_gone = False
        self._said: set[tuple[type[Exception], int]] = set()

        # Set once the first list has been handed over completely.
        self.synced = threading.Event()
        # The clock at the last sign of life: a list, a watch opened, an event, an orderly end.
        self.last_contact: float | None = None
        # Every change up to this version has been handed over. It falls back only with the store,
        # when that was restored from a backup.
        self.revision = 0
        # While a new list is being handed over: what was handed over is of no one moment.
        self.is_listing = False
        # The API server does not know the kind: its CRD is deleted, or not there yet.
        self.is_missing = False
        # Lists after the first, watches opened, failed tries, exceptions of the handler.
        self.relists = 0
        self.watches = 0
        self.failures = 0
        self.handler_errors = 0

    def start(self) -> None:
        """Begin; returns at once. Once only."""
        self._thread.start()

    def stop(self) -> None:
        """End it, within a second or so whatever the connection does; no call of the handler
        begins after this."""
        self._stopping.set()
        watch = self._watch
        if watch is not None:
            watch.cut()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(STOP_S)

    def objects(self) -> list[Any]:
        """What is there now, as it was handed over."""
        return [kept.obj for kept in self._kept.copy().values()]

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._opened = None
            try:
                if self._version is None:
                    self._list()
                self._follow(self._version or "")
                pause_s = self._pause_after(None)
            except client.ApiError as error:
                self.is_missing = isinstance(error, client.NotFound)
                pause_s = self._pause_after(error)
            # The outermost loop of this thread: nobody would notice its end.
            except Exception as error:
                self._version = None
                pause_s = self._pause_after(error)
            if pause_s > 0:
                self._wait(pause_s)

    def _list(self) -> None:
        """Hand over how the objects of now differ from those known."""
        version: str | None = None
        fresh: dict[str, client.Object] = {}
        for page in self._api.pages(self._plural, self._name):
            self.last_contact, self.is_missing = self._clock(), False
            version = version or str(page["metadata"]["resourceVersion"])
            fresh.update((_key(raw), raw) for raw in page["items"])
        self.is_listing = True
        self._replace(fresh)
        if self._stopping.is_set():
            return
        self._version, self.revision = version, int(version or 0)
        self.is_listing = False
        self.relists += self.synced.is_set()
        self.synced.set()

    def _replace(self, fresh: dict[str, client.Object]) -> None:
        """Tell of what is gone, then of what is new, in the order of versions."""
        for key in self._kept.keys() - fresh.keys():
            self._drop(key)
        for raw in sorted(fresh.values(), key=_version_of):
            known = self._kept.get(_key(raw))
            if known is None or known.version != raw["metadata"]["resourceVersion"]:
                self._keep(raw)

    def _follow(self, version: str) -> None:
        """Watch until the API server ends it."""
        pace = self._pace
        seconds = pace.renew_min_s + (pace.renew_max_s - pace.renew_min_s) * self._rng()
        with self._api.watch(
            self._plural, version, name=self._name, seconds=round(seconds), slack_s=pace.slack_s
        ) as watch:
            # In this order: stop() does both in the other.
            self._watch = watch
            if self._stopping.is_set():
                return
            self._opened = self._clock()
            self.watches += 1
            self._heard()
            for event in watch:
                self._heard()
                self._take(event["type"], event["object"])
            self._heard()

    def _heard(self) -> None:
        """Note a sign of life."""
        self.is_missing = False
        self.last_contact = self._clock()
        if self._said:
            log.info("watch of %s: in touch again after %d tries", self._plural, self._misses)
            self._said.clear()

    def _take(self, kind: str, raw: client.Object) -> None:
        """Work on an event."""
        if kind == "DELETED":
            self._drop(_key(raw), raw)
        elif kind != "BOOKMARK":
            self._keep(raw)
        if not self._stopping.is_set():
            self._version = str(raw["metadata"]["resourceVersion"])
            self.revision = int(self._version)

    def _keep(self, raw: client.Object) -> None:
        """Keep an object, and tell of it."""
        key, meta = _key(raw), raw["metadata"]
        known = self._kept.get(key)
        if known is not None and known.uid != meta["uid"]:
            self._drop(key)
            known = None
        kept = Kept(str(meta["resourceVersion"]), str(meta["uid"]), self._transform(raw))
        self._kept[key] = kept
        self._tell("ADDED" if known is None else "MODIFIED", kept.obj)

    def _drop(self, key: str, last: client.Object | None = None) -> None:
        """Forget an object, and tell of it as it was at last."""
        known = self._kept.pop(key, None)
        if known is not None:
            self._tell("DELETED", known.obj if last is None else self._transform(last))

    def _tell(self, kind: str, obj: Any) -> None:
        if self._stopping.is_set():
            return
        try:
            self._handler(kind, obj)
        # Theirs, not ours: the other objects are not to suffer for it.
        except Exception:
            self.handler_errors += 1
            log.exception("handler of %s failed at %s", self._plural, kind)

    def _pause_after(self, error: Exception | None) -> float:
        """How long to wait after a try, in seconds; takes note of its outcome."""
        if self._stopping.is_set():
            return 0.0
        was_gone, self._was_gone = self._was_gone, isinstance(error, client.Gone)
        is_steady = self._opened is not None and self._clock() - self._opened >= self._pace.steady_s
        self._misses = 0 if is_steady else self._misses
        if is_steady and error is None:
            return 0.0
        self._misses += 1
        if self._was_gone:
            self._version = None
            # At once, for changes are being missed; but not at once for ever.
            if not was_gone:
                return 0.0
        elif error is not None:
            self.failures += 1
            self._complain(error)
        wish_s = error.retry_after_s if isinstance(error, client.ApiError) else 0.0
        return max(self._backoff_s(), min(wish_s, self._pace.backoff_max_s))

    def _backoff_s(self) -> float:
        """The pause of this many misses: half of it sure, half by chance."""
        # Beyond 2^20 the cap holds anyhow.
        doubled = self._pace.backoff_s * 2.0 ** min(self._misses - 1, 20)
        return min(self._pace.backoff_max_s, doubled) * (1 + self._rng()) / 2

    def _complain(self, error: Exception) -> None:
        """Say what is wrong, once until it is well again."""
        kind = (type(error), getattr(error, "status", 0))
        if kind not in self._said:
            self._said.add(kind)
            # As text: a record that somebody keeps would keep the connection of the exception. A
            # defect of ours comes with the place where it is.
            trace = None if isinstance(error, client.ApiError) else error
            log.warning("%s: %s; trying again", self._plural, str(error), exc_info=trace)


def _key(raw: client.Object) -> str:
    meta = raw["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


def _version_of(raw: client.Object) -> int:
    return int(raw["metadata"]["resourceVersion"])
