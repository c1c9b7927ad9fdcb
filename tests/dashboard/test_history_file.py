"""The file of a history: killed writers, slow readers, damage, a full disk."""

import itertools
import logging
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dashboard.histories import DAY_S, HOUR_S, KEY, MINUTE_S, NOON, query, row, sizes, team

from sluice import budget, errors
from sluice.dashboard import history
from sluice.records import Event

KILLED = """
import itertools, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from dashboard import histories as t
past = t.history.History(Path(sys.argv[1]))
for i in itertools.count(1):
    now = t.NOON + i * t.MINUTE_S
    rows = [t.row(t.team(f"team-{n}"), now, i * n) for n in range(50)]
    past.record(rows, now, sizes=t.sizes({(t.KEY, "n", "a"): i}))
    print(i, flush=True)
"""


@pytest.mark.parametrize("minutes", [1, 40])
def test_a_process_killed_in_the_middle_loses_at_most_a_minute(
    tmp_path: Path, minutes: int
) -> None:
    path = tmp_path / "history.db"
    tests = Path(__file__).parent.parent
    command = [sys.executable, "-c", KILLED, str(path), str(tests), str(tests.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in itertools.islice(process.stdout, minutes):
            last = int(line)
        process.send_signal(signal.SIGKILL)
        last = max([last, *map(int, process.stdout)])
    past = history.History(path)
    points = past.history("default/team-7", NOON, NOON + (last + 2) * MINUTE_S, 60)
    assert len(points) in (last, last + 1)
    assert all(one.forwarded == 7 for one in points)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    now = NOON + (last + 2) * MINUTE_S
    past.record([row(team("team-7"), now, 7 * (last + 2))], now)
    assert sum(one.forwarded for one in past.history("default/team-7", NOON, now, 60)) == 7 * (
        last + 2
    )
    past.close()


def test_readers_see_whole_minutes_while_they_are_written(past: history.History) -> None:
    teams = [team(f"team-{i}") for i in range(20)]
    is_over = threading.Event()
    found: list[int] = []
    failed: list[BaseException] = []

    def read(own: budget.Budget) -> None:
        try:
            seen = 0
            while not is_over.is_set():
                points = past.history(own.key, NOON, NOON + DAY_S // 2, 60)
                total = sum(one.forwarded for one in points)
                assert total == (points[-1].day_usage if points else 0)
                assert total >= seen
                seen = total
            found.append(seen)
        except BaseException as error:
            failed.append(error)
            raise

    past.record([row(own, NOON, 0) for own in teams], NOON)
    readers = [threading.Thread(target=read, args=(teams[i],)) for i in range(4)]
    for reader in readers:
        reader.start()
    for i in range(1, 200):
        now = NOON + i * MINUTE_S
        past.record([row(own, now, i * 10) for own in teams], now)
        past.note(Event(now, teams[0].key, "Normal", "R", "x"))
    is_over.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert len(found) == 4
    past.close()


def test_whoever_reads_for_long_is_not_waited_for(past: history.History, tmp_path: Path) -> None:
    past.record([row(team(), NOON, 1)], NOON)
    slow = sqlite3.connect(tmp_path / "history.db")
    slow.execute("BEGIN")
    assert slow.execute("SELECT count(*) FROM usage").fetchone() == (1,)
    past.record([row(team(), NOON + 60, 2)], NOON + 60)
    assert len(past.history(KEY, NOON - 60, NOON + 60, 60)) == 2
    assert slow.execute("SELECT count(*) FROM usage").fetchone() == (1,)
    slow.close()
    past.close()


def spoil(path: Path, how: str) -> None:
    """Make a history of two hours, and then something else of it."""
    past = history.History(path)
    for i in range(120):
        rows = [row(team(f"team-{n}"), NOON + i * MINUTE_S, i) for n in range(20)]
        past.record([row(team(), NOON + i * MINUTE_S, i), *rows], NOON + i * MINUTE_S)
    past.close()
    content = bytearray(path.read_bytes())
    if how == "text":
        path.write_text("this is no database\n" * 1000)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 3])
    elif how == "holes":
        content[4096:-4096] = random.Random(1).randbytes(len(content) - 8192)
        path.write_bytes(content)
    else:
        db = sqlite3.connect(path)
        if how == "newer":
            db.execute("PRAGMA user_version = 99")
        else:
            path.unlink()
            db.close()
            db = sqlite3.connect(path)
            db.execute("CREATE TABLE precious (x)")
        db.commit()
        db.close()


@pytest.mark.parametrize("how", ["text", "cut", "holes", "newer", "foreign"])
def test_a_file_that_cannot_be_trusted_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path = tmp_path / "history.db"
    spoil(path, how)
    before = path.read_bytes()
    past = history.History(path)
    now = NOON + 3 * HOUR_S
    if how in ("text", "holes"):
        with pytest.raises(errors.Unavailable, match=str(path)):
            past.history(KEY, NOON, now, 60)
    with caplog.at_level(logging.WARNING):
        past.record([row(team(), now, 5)], now)
    assert [one.forwarded for one in past.history(KEY, NOON, now, 60)] == [5]
    assert (tmp_path / f"history.db.damaged-{now}").read_bytes()[:4096] == before[:4096]
    assert [one.message for one in caplog.records if "damaged" in one.message] == [
        one.message for one in caplog.records
    ]
    assert len(caplog.records) == 1
    past.close()


def test_no_more_than_a_few_damaged_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for i in range(6):
        path.write_text("no database" * 100)
        past = history.History(path)
        past.record([row(team(), NOON + i * MINUTE_S, 5)], NOON + i * MINUTE_S)
        past.close()
    kept = sorted(one.name for one in tmp_path.glob("*damaged*"))
    assert kept == [f"history.db.damaged-{NOON + i * MINUTE_S}" for i in (3, 4, 5)]


def test_a_file_that_somebody_removes_is_begun_anew(past: history.History, tmp_path: Path) -> None:
    past.record([row(team(), NOON, 5)], NOON)
    (tmp_path / "history.db").unlink()
    assert past.history(KEY, NOON - 60, NOON + 60, 60) == []
    past.record([row(team(), NOON + 60, 7)], NOON + 60)
    assert [one.forwarded for one in past.history(KEY, NOON - 60, NOON + 60, 60)] == [7]
    past.close()


def test_without_a_place_to_write_it_is_said_once_and_life_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    past = history.History(folder / "history.db")
    with caplog.at_level(logging.INFO):
        for i in range(3):
            past.record([row(team(), NOON, 5)], NOON, sizes=sizes({(KEY, "n", "a"): i}))
            past.note(Event(NOON, KEY, "Normal", "R", "x"))
        assert len(caplog.records) == 1
        assert str(folder / "history.db") in caplog.text
        assert past.history(KEY, NOON - 60, NOON, 60) == []
        assert past.top(KEY, NOON - 60, 5) == ([], [])
        folder.mkdir()
        past.record([row(team(), NOON, 5)], NOON, sizes=sizes({(KEY, "n", "a"): 7}))
    assert "is written again" in caplog.records[1].message
    assert past.history(KEY, NOON - 60, NOON, 60)[0].forwarded == 5
    # What could not be written is in what comes after.
    assert past.top(KEY, NOON - HOUR_S, 5)[0][0].size == 7
    past.close()


FULL_DISK = """
import logging, resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from dashboard import histories as t
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
past = t.history.History(Path(sys.argv[1]))
def record(minutes):
    for i in minutes:
        now = t.NOON + i * t.MINUTE_S
        past.record([t.row(t.team(f"team-{n}"), now, i) for n in range(100)], now)
record(range(1, 5))
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
record(range(5, 55))
print(len(past.history("default/team-1", t.NOON, t.NOON + t.DAY_S // 4, 60)) < 54, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
record([55, 56])
print(sum(p.forwarded for p in past.history("default/team-1", t.NOON, t.NOON + t.DAY_S // 4, 60)))
past.close()
"""


def test_a_full_disk_is_said_once_and_costs_points_but_no_bytes(tmp_path: Path) -> None:
    """While it is full, what a checkpoint frees lets a minute pass now and then."""
    tests = Path(__file__).parent.parent
    path = str(tmp_path / "history.db")
    command = [sys.executable, "-c", FULL_DISK, path, str(tests), str(tests.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    full, again, is_short, size = done.stdout.splitlines()
    assert f"{path} cannot be written" in full
    assert (is_short, size) == ("True", "56")
    assert "is written again" in again
    assert done.stderr == ""
