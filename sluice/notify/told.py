"""Told: what each sink was last told of each team, kept where a restart finds it.

Recorded after the sink accepted: a crash between the two repeats one message, and loses none. As it
is written, in a file and in status.notified: at most two items a sink, {rule, window, at}, where
`rule` is throttle, drop or forecast, an @ and the sink's id; of a dry run dry-throttle or dry-drop.
"""

import datetime
import json
import logging
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sluice import errors, jsonfile, window
from sluice.columns import DAY
from sluice.notify.change import FORECAST, NOTHING, Said
from sluice.policy import Action
from sluice.state_files import StateFiles

log = logging.getLogger("sluice.notify")

# What was said longer ago concerns no window that is open: a month and more.
KEEP_S = 40 * 86_400.0
LEVELS = {action.word: action for action in (Action.THROTTLE, Action.DROP)}
RULE = re.compile(r"((?:dry-)?(?:throttle|drop)|forecast)@([a-z0-9-]{1,50})")
DRY = "dry-"

# By the sink's id.
Sayings = Mapping[str, Said]


class Store(Protocol):
    """Where it is kept. save() may raise OSError or SluiceError: it is tried again later."""

    def load(self) -> Mapping[str, Sayings]:
        """All that is kept, by the key of the team."""

    def save(self, sayings: Mapping[str, Sayings]) -> None:
        """Keep these teams' from now on, instead of what was kept of them; {}: nothing.

        Threads: one at a time.
        """


class Told:
    """What each sink was told, in memory and in a store.

    Threads: any number.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._said: dict[str, dict[str, Said]] = {}
        self._unsaved: set[str] = set()
        # Why the store failed, as it was logged last; "" if it did not.
        self._complaint = ""

    def load(self, sinks: Iterable[str]) -> None:
        """Begin with what the store has of these sinks, by their ids; forget what was here."""
        ids = set(sinks)
        found = {
            key: {sink: said for sink, said in sayings.items() if sink in ids}
            for key, sayings in self._store.load().items()
        }
        with self._lock:
            self._said, self._unsaved = found, set()

    def of(self, sink: str, key: str) -> Said:
        """What a sink was told of a team."""
        with self._lock:
            return self._said.get(key, {}).get(sink, NOTHING)

    def levels(self, key: str) -> list[tuple[Action, str]]:
        """The levels that were told of a team, each with its window."""
        with self._lock:
            return [(said.level, said.window) for said in self._said.get(key, {}).values()]

    def record(self, sink: str, sayings: Mapping[str, Said]) -> None:
        """A sink was told this of these teams; flush() keeps it."""
        with self._lock:
            for key, said in sayings.items():
                self._said.setdefault(key, {})[sink] = said
            self._unsaved.update(sayings)

    def flush(self) -> bool:
        """Have the store keep what was recorded; False if it could not."""
        with self._saving:
            with self._lock:
                changed = {key: dict(self._said[key]) for key in self._unsaved}
                self._unsaved = set()
            if not changed:
                return True
            try:
                self._store.save(changed)
            except (OSError, errors.SluiceError) as error:
                # Once: each sink comes back with it every few seconds.
                if str(error) != self._complaint:
                    log.error("what was told of %d teams cannot be kept: %s", len(changed), error)
                self._complaint = str(error)
                with self._lock:
                    self._unsaved.update(changed)
                return False
            if self._complaint:
                log.info("what was told is kept again")
            self._complaint = ""
            return True


class FileStore:
    """Keeps it in a file, replaced whole; one that is torn or foreign is set aside.

    Args:
        now: epoch seconds; what was said KEEP_S before is left out.
        state: where it is said that the file cannot be written.

    Raises:
        SluiceError: the file is there and cannot be read.
    """

    def __init__(self, path: Path, now: float, state: StateFiles | None = None) -> None:
        self._path, self._state = path, state or StateFiles()
        self._kept: dict[str, Sayings] = {
            key: recent
            for key, sayings in self._read().items()
            if (recent := _recent(sayings, now - KEEP_S))
        }

    def load(self) -> Mapping[str, Sayings]:
        """See Store."""
        return dict(self._kept)

    def save(self, sayings: Mapping[str, Sayings]) -> None:
        """See Store; OSError if the file cannot be written."""
        self._kept |= sayings
        teams = {key: items for key, said in self._kept.items() if (items := as_status(said))}
        try:
            jsonfile.write(self._path, {"teams": teams})
        except OSError as error:
            # Told logs it, as that of every store.
            self._state.failed(self._path, error.strerror or str(error), quiet=True)
            raise
        self._state.written(self._path)

    def _read(self) -> dict[str, Sayings]:
        try:
            teams = json.loads(self._path.read_bytes())["teams"]
            return {str(key): from_status(items) for key, items in teams.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise errors.SluiceError(f"{self._path} cannot be read: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            aside = self._path.with_suffix(".bad")
            self._path.replace(aside)
            log.error(
                "%s is not what Sluice wrote (%r) and is now %s; what holds is told once more",
                self._path,
                error,
                aside,
            )
            return {}


def _recent(sayings: Sayings, after: float) -> dict[str, Said]:
    return {sink: said for sink, said in sayings.items() if max(said.at, said.forecast_at) > after}


def as_status(sayings: Sayings) -> list[dict[str, str]]:
    """What a team's sinks were told, as status.notified has it: sorted, no two alike in rule."""
    items = []
    for sink, said in sayings.items():
        if said.level:
            rule = DRY * said.dry_run + said.level.word
            items.append((f"{rule}@{sink}", said.window, said.at))
        if said.forecast:
            items.append((f"{FORECAST}@{sink}", said.forecast, said.forecast_at))
    return [
        {"rule": rule, "window": where, "at": window.iso(at)} for rule, where, at in sorted(items)
    ]


def from_status(items: object) -> dict[str, Said]:
    """Read back what as_status() wrote; what is something else is left out."""
    found: dict[str, Said] = {}
    for item in items if isinstance(items, list) else []:
        read = _item(item)
        if read is None:
            continue
        rule, sink, where, at = read
        said = found.get(sink, NOTHING)
        if rule == FORECAST:
            said = replace(said, forecast=where, forecast_at=at)
        elif at >= said.at:
            level, is_dry = LEVELS[rule.removeprefix(DRY)], rule.startswith(DRY)
            said = replace(said, level=level, window=where, at=at, dry_run=is_dry)
        found[sink] = said
    return found


def _item(item: Any) -> tuple[str, str, str, float] | None:
    """Rule, sink, window and time of an item, or None."""
    try:
        match = RULE.fullmatch(item["rule"])
        kind, _ = window.parse_key(item["window"])
        at = datetime.datetime.fromisoformat(item["at"])
    except (TypeError, LookupError, ValueError, AttributeError):
        return None
    if match is None or at.tzinfo is None or (match[1] == FORECAST and kind != DAY):
        return None
    return match[1], match[2], item["window"], at.timestamp()
