"""Which of a process's state files cannot be written now, and why: for log, health and metric.

Pushes go on without any of them, so a full disk or a directory that is gone shows nowhere else. A
file that cannot be written is tried again by its own writer; here it is only said, in the log once
when it begins and once when it is over.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("sluice")

# A disk that is full may take a little now and then, which is not worth two lines each time.
SILENCE_S = 600.0


@dataclass(slots=True)
class _File:
    """What is known of one file: why the last write failed, "" if it did not."""

    reason: str = ""
    logged_at: float = -math.inf
    is_logged: bool = False


class StateFiles:
    """State files by name, as far as somebody has tried to write them.

    Threads: any number.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._files: dict[str, _File] = {}

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Note how writing a file went, in a with block; an OSError does not leave it."""
        try:
            yield
        except OSError as error:
            self.failed(path, error.strerror or str(error))
        else:
            self.written(path)

    def failed(self, path: Path, reason: str, *, quiet: bool = False) -> None:
        """A file could not be written.

        Args:
            quiet: the caller logs it.
        """
        with self._lock:
            file = self._files.setdefault(path.name, _File())
            is_new = not file.reason
            file.reason = reason
            now = self._monotonic()
            if quiet or not is_new or now - file.logged_at < SILENCE_S:
                return
            file.logged_at, file.is_logged = now, True
        log.error("%s cannot be written: %s; it is tried again", path, reason)

    def written(self, path: Path) -> None:
        """A file was written."""
        with self._lock:
            file = self._files.setdefault(path.name, _File())
            file.reason = ""
            is_logged, file.is_logged = file.is_logged, False
        if is_logged:
            log.info("%s is written again", path)

    def reason(self, name: str) -> str:
        """Why a file cannot be written, "" if it can."""
        with self._lock:
            file = self._files.get(name)
            return "" if file is None else file.reason

    def all(self) -> dict[str, bool]:
        """Whether each file that was tried fails, by name."""
        with self._lock:
            return {name: bool(file.reason) for name, file in self._files.items()}

    def complaint(self) -> str:
        """What cannot be written and why, "" if all can."""
        with self._lock:
            failing = {name: file.reason for name, file in self._files.items() if file.reason}
        if not failing:
            return ""
        return "cannot be written: " + "; ".join(f"{name}: {why}" for name, why in failing.items())
