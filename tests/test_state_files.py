"""State that cannot be written is said: in health, a metric, the log; and once when it is over."""

import errno
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Sluice, budget, running, wait_until, write_budgets
from runs import SHOP, small
from test_ledger import NOON, make_budget, reopened, room, spend

from sluice import durable, ledger_file, port
from sluice.agent import saved, serve
from sluice.notify import change, told
from sluice.policy import Action
from sluice.state_files import SILENCE_S, StateFiles

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
NO_SPACE = "No space left on device"


def write(files: StateFiles, path: Path, error: OSError | None = None) -> None:
    with files.writing(path):
        if error is not None:
            raise error


def test_a_file_that_cannot_be_written_is_said_once_and_once_when_it_can(tmp_path, caplog):
    now = [0.0]
    files, path = StateFiles(lambda: now[0]), tmp_path / "a.json"
    with caplog.at_level(logging.INFO):
        write(files, path)
        assert (files.complaint(), files.all(), caplog.text) == ("", {"a.json": False}, "")
        for _ in range(3):
            write(files, path, FULL)
        write(files, tmp_path / "b.json", FULL)
        assert files.complaint() == f"cannot be written: a.json: {NO_SPACE}; b.json: {NO_SPACE}"
        assert files.all() == {"a.json": True, "b.json": True}
        write(files, path)
        assert files.complaint() == f"cannot be written: b.json: {NO_SPACE}"
        lines = [one.getMessage() for one in caplog.records]
        assert lines == [
            f"{path} cannot be written: {NO_SPACE}; it is tried again",
            f"{tmp_path}/b.json cannot be written: {NO_SPACE}; it is tried again",
            f"{path} is written again",
        ]
        # What a full disk takes now and then is no end of it.
        caplog.clear()
        write(files, path, FULL)
        write(files, path)
        assert not caplog.records
        now[0] = SILENCE_S
        write(files, path, FULL)
        write(files, path)
        assert len(caplog.records) == 2


def test_what_is_no_failure_of_the_disk_goes_on(tmp_path):
    with pytest.raises(ZeroDivisionError), StateFiles().writing(tmp_path):
        _ = 1 / 0


def test_what_was_reported_is_among_them(tmp_path):
    files = StateFiles()
    reported = saved.Reported(tmp_path / "gone" / "report.json", files)
    reported.send({"d/2026-11-22": {"shop/shop": [1]}}, 1)
    assert files.complaint() == "cannot be written: report.json: No such file or directory"
    (tmp_path / "gone").mkdir()
    reported.acknowledge("uid", {"d/2026-11-22": {"shop/shop": [1]}}, "pod", 1)
    assert files.complaint() == ""


def test_what_sinks_were_told_is_among_them_and_logged_once(tmp_path, caplog):
    files = StateFiles()
    delivery = told.Told(told.FileStore(tmp_path / "gone" / "notified.json", NOON, files))
    delivery.load(["slack"])
    for _ in range(3):
        delivery.record("slack", {"shop/shop": change.Said(Action.DROP, "d/2026-11-22", NOON)})
        assert not delivery.flush()
    assert files.complaint() == "cannot be written: notified.json: No such file or directory"
    assert len(caplog.records) == 1
    (tmp_path / "gone").mkdir()
    assert delivery.flush()
    assert files.complaint() == ""


def test_a_file_that_cannot_be_replaced_stays_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    durable.replace(path, b"old")

    def fail() -> None:
        with durable.replacing(path) as file:
            file.write(b"new")
            raise FULL

    with pytest.raises(OSError, match=NO_SPACE):
        fail()
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


# the ledger's file without a name


@pytest.mark.parametrize("how", ["directory", "map", "replaced"])
def test_a_ledger_whose_file_is_gone_is_made_again_with_all_that_was_counted(tmp_path, how):
    folder = tmp_path / "state"
    folder.mkdir()
    book = reopened(folder, make_budget())
    assert spend(book, 300, NOON)
    book.save()
    assert not book.is_gone
    if how == "directory":
        shutil.rmtree(folder)
    elif how == "map":
        (folder / "ledger.map").unlink()
    else:
        shutil.copy(folder / "ledger.map", folder / "copy")
        (folder / "copy").rename(folder / "ledger.map")
    assert book.is_gone
    assert spend(book, 200, NOON)
    book.save()
    assert not book.is_gone
    # From then on a kill loses nothing.
    assert spend(book, 100, NOON)
    book.load(book.rules.table)
    again = reopened(folder, make_budget())
    assert (again.origin, again.complaint) == ("file", "")
    assert room(again, NOON) == 400
    assert (folder / "ledger.bad").exists() == (how == "replaced")


def test_a_ledger_that_cannot_be_made_again_goes_on_counting(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    book = reopened(folder, make_budget())
    assert spend(book, 300, NOON)
    shutil.rmtree(folder)
    folder.write_text("in its place")
    for _ in range(2):
        with pytest.raises(FileExistsError):
            book.save()
        assert spend(book, 100, NOON)
    folder.unlink()
    book.save()
    assert room(reopened(folder, make_budget()), NOON) == 500


def test_the_lock_is_taken_again_where_its_file_was_removed(tmp_path):
    folder = tmp_path / "state"
    lock = serve.locked(folder)
    assert serve.kept(folder, lock) == lock
    shutil.rmtree(folder)
    lock = serve.kept(folder, lock)
    with pytest.raises(port.CannotStart, match="another process has it"):
        serve.locked(folder, wait=0)
    (folder / "lock").unlink()
    other = serve.locked(folder)
    with pytest.raises(port.CannotStart, match="another process has it"):
        serve.kept(folder, lock)
    os.close(other)
    os.close(serve.kept(folder, lock))


def test_a_snapshot_that_finds_no_room_leaves_the_one_before(tmp_path):
    book = reopened(tmp_path, make_budget())
    assert spend(book, 300, NOON)
    book.save()
    before = (tmp_path / "ledger.snapshot").read_bytes()
    (tmp_path / "ledger.new").mkdir()
    assert spend(book, 300, NOON)
    with pytest.raises(IsADirectoryError):
        book.save()
    assert (tmp_path / "ledger.snapshot").read_bytes() == before
    (tmp_path / "ledger.new").rmdir()
    book.save()
    assert (tmp_path / "ledger.snapshot").read_bytes() != before


# a whole process


def health(server: Sluice) -> dict[str, object]:
    return server.get("/api/health").json


def state(server: Sluice) -> str:
    """What health says of the state files."""
    return health(server)["complaints"].get("state", "")


def test_a_state_directory_that_is_removed_is_said_and_made_again(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    assert server.send(small(0)).status == 204
    assert health(server)["status"] == "ok"
    shutil.rmtree(server.state_dir)
    wait_until(lambda: "ledger.map: it was removed" in state(server), "it is said")
    assert health(server)["status"] == "degraded"
    assert server.metric("tco_state_write_failing", file="ledger.map") == 1
    assert server.send(small(1)).status == 204
    # History tries again once a minute.
    wait_until(lambda: "ledger" not in state(server), "it is made again", 30)
    assert server.metric("tco_state_write_failing", file="ledger.map") == 0
    assert server.send(small(2)).status == 204
    used = server.teams()["shop"]["currentUsage"]
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    server.process = None
    server.start()
    assert health(server)["ledger"]["origin"] == "file"
    assert server.teams()["shop"]["currentUsage"] == used
    said = server.log.read_text()
    assert said.count("ledger.map cannot be written: it was removed") == 1
    assert said.count("ledger.map is written again") == 1
    assert "Traceback" not in said


def test_a_ledger_that_cannot_be_written_is_not_said_to_be(sluice, upstream):
    server = sluice([SHOP], upstream.url)
    assert server.send(small(0)).status == 204
    shutil.rmtree(server.state_dir)
    server.state_dir.write_text("in its place")
    assert server.send(small(1)).status == 204
    assert server.stop() == 0
    said = server.log.read_text()
    assert "stopped; the ledger is lost, its file is gone" in said
    assert "stopped; the ledger is written" not in said
    assert "Traceback" not in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Add to a file until there is no room; what is given free later is room again."""
    try:
        with path.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1024))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def test_a_full_disk_is_said_and_so_is_its_end(tmp_path, upstream, small_disk):
    budgets = write_budgets(tmp_path / "budgets.yaml", [budget("shop", "1Gi")])
    server = Sluice(tmp_path / "sluice", budgets, upstream.url, state_dir=small_disk / "state")
    with running(server):
        wait_until(lambda: (server.state_dir / "history.db").exists(), "all files are there")
        blocker = small_disk / "blocker"

        def is_said() -> bool:
            # History's journal and the snapshot before give room free while this goes on.
            fill(blocker)
            return f"ledger.snapshot: {NO_SPACE}" in state(server)

        fill(blocker)
        assert server.send(small(0)).status == 204
        wait_until(is_said, "it is said", 30)
        assert health(server)["status"] == "degraded"
        assert server.metric("tco_state_write_failing", file="ledger.snapshot") == 1
        assert server.send(small(1)).status == 204
        blocker.unlink()
        wait_until(lambda: "ledger.snapshot" not in state(server), "it is over", 30)
        said = server.log.read_text()
        assert said.count("ledger.snapshot cannot be written") == 1
        assert said.count("ledger.snapshot is written again") == 1
        assert "Traceback" not in said


def test_a_disk_too_small_for_anything_but_the_ledger_is_said(tmp_path, upstream, small_disk):
    # No pages beyond the ledger's: 64 KiB.
    subprocess.run(["mount", "-o", "remount,size=64k", str(small_disk)], check=True)
    budgets = write_budgets(tmp_path / "budgets.yaml", [budget("shop", "1Gi")])
    server = Sluice(tmp_path / "sluice", budgets, upstream.url, state_dir=small_disk / "state")
    with running(server):
        wait_until(lambda: "history.db" in state(server), "it is said", 30)
        assert health(server)["status"] == "degraded"
        assert server.send(small(0)).status == 204
        used = server.teams()["shop"]["currentUsage"]
        assert "Traceback" not in server.log.read_text()
        assert server.stop() == 0
        server.start()
        assert server.teams()["shop"]["currentUsage"] == used


def test_a_start_without_room_for_a_row_leaves_no_half_made_file(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise FULL

    with monkeypatch.context() as broken:
        broken.setattr(ledger_file.os, "posix_fallocate", full)
        with pytest.raises(OSError, match=NO_SPACE):
            reopened(tmp_path, make_budget())
    assert not (tmp_path / "ledger.map").exists()
    assert reopened(tmp_path, make_budget()).complaint == ""
