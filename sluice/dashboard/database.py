"""An SQLite file that must never stand in the way: of those who push, and of whoever comes next.

Rule 1: writing waits for no reader and reading for no writer (WAL); what was committed outlasts
a killed process.
Rule 2: what cannot be written is given up, and said (state_files.py); the next write tries again.
Rule 3: a file that cannot be trusted is set aside under another name, and a new one begun.
"""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from sluice import errors
from sluice.state_files import StateFiles

log = logging.getLogger("sluice.dashboard")

# "Slui": tells our files from other people's.
APPLICATION_ID = 0x536C7569
# How long to wait for somebody who looks into the file with a tool of their own.
BUSY_S = 5.0
# What a checkpoint leaves of the log of writes.
LOG_BYTES = 16 * 2**20
# Of its pages in memory: a minute's rows stand together.
CACHE_KIB = 512
# Damaged files that are kept: a bad disk must not fill up with them.
DAMAGED_KEPT = 3
# Source: https://www.sqlite.org/rescode.html, "Primary Result Codes versus Extended".
PRIMARY_CODE = 0xFF
NOT_TRUSTED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Damaged(Exception):
    """The file is another program's or another version's, or a reader found it broken."""


class Database:
    """The file at `path`, opened by the first write.

    Args:
        schema: statements that make the tables.
        version: of the schema; a file of another one is not understood.
        state: where it is said what cannot be written.

    Threads: any number; they write one after the other.
    """

    def __init__(self, path: Path, schema: str, version: int, state: StateFiles) -> None:
        self._path, self._schema, self._version = path.absolute(), schema, version
        self._lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._state = state
        # What a reader found in the file of this generation: each one set aside begins another.
        self._damage = ""
        self._generation = 0

    def write(self, change: Callable[[sqlite3.Connection], None], now: float) -> bool:
        """Make a change in one transaction; says whether it was made, and logs why it was not.

        Args:
            change: what to do; done again in a new file if the old one is set aside.
            now: epoch seconds; names a file that is set aside.
        """
        with self._lock:
            try:
                try:
                    self._transact(change)
                except (sqlite3.DatabaseError, Damaged) as error:
                    if not is_damage(error):
                        raise
                    self._set_aside(error, now)
                    self._transact(change)
            except (sqlite3.Error, OSError, Damaged) as error:
                self._disconnect()
                self._state.failed(self._path, str(error))
                return False
            self._state.written(self._path)
            return True

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """A view of one moment; None while there is no file.

        Raises:
            Unavailable: the file cannot be read.
        """
        if not self._path.exists():
            yield None
            return
        generation = self._generation
        try:
            # Opened each time, in half a millisecond: threads come and go, and so do files.
            with contextlib.closing(self._connect("rw")) as db:
                db.execute("PRAGMA query_only = ON")
                db.execute("BEGIN")
                yield db
        except sqlite3.Error as error:
            if is_damage(error) and generation == self._generation:
                self._damage = str(error)
            raise errors.Unavailable(f"{self._path} cannot be read: {error}") from error

    def close(self) -> None:
        """Write everything into the file itself and close it."""
        with self._lock:
            if self._writer is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._disconnect()

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._path.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _transact(self, change: Callable[[sqlite3.Connection], None]) -> None:
        if self._damage:
            raise Damaged(self._damage)
        # Somebody has removed it: what is written to a file without a name, nobody will read.
        if not self._path.exists():
            self._disconnect()
        if self._writer is None:
            self._writer = self._opened()
        with transaction(self._writer) as db:
            change(db)

    def _opened(self) -> sqlite3.Connection:
        db = self._connect("rwc")
        try:
            self._check(db)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        except BaseException:
            db.close()
            raise
        return db

    def _check(self, db: sqlite3.Connection) -> None:
        """Make the tables of an empty file; refuse one that is not ours."""
        found = tuple(db.execute(f"PRAGMA {name}").fetchone()[0] for name in
                      ("application_id", "user_version"))  # fmt: skip
        if found == (APPLICATION_ID, self._version):
            return
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if any(found) or tables:
            raise Damaged(
                f"application and version {found[0]:#x} {found[1]}, with {tables} tables and"
                f" indexes, where {APPLICATION_ID:#x} {self._version} is expected"
            )
        with transaction(db):
            for statement in filter(str.strip, self._schema.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {self._version}")

    def _set_aside(self, error: Exception, now: float) -> None:
        self._disconnect()
        aside = self._path.with_name(f"{self._path.name}.damaged-{int(now)}")
        # Its log of writes goes with it: a new file would take it for its own.
        for end in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + end).replace(f"{aside}{end}")
        self._damage, self._generation = "", self._generation + 1
        log.warning("%s was damaged (%s): begun anew, kept as %s", self._path, error, aside.name)
        others = [p for p in self._path.parent.glob(f"{self._path.name}.damaged-*") if p != aside]
        whole = sorted(p for p in others if p.suffix[-4:] not in ("-wal", "-shm"))
        for old in whole[: max(0, len(whole) + 1 - DAMAGED_KEPT)]:
            for end in ("-wal", "-shm", ""):
                old.with_name(old.name + end).unlink(missing_ok=True)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All that is done inside, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        # A full disk may have ended it already.
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


def is_damage(error: Exception) -> bool:
    """Whether an error means that the file is broken, and not that the disk is full or so."""
    if isinstance(error, Damaged):
        return True
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & PRIMARY_CODE in NOT_TRUSTED
