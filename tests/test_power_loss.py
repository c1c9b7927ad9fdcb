"""The ledger after a power loss, which keeps any pages of its files, and after a kill in mid-store.

What a start finds is never less than the last snapshot, never more than what was counted, and all
of it where the file is whole.
"""

import os
import random
import shutil
import signal
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import shippers
from harness import budget
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ledger import DAY, NOON, make_budget, reopened, reserve, room, spend

from sluice import _core, columns, ledger, ledger_file, row_seal
from sluice.columns import COLUMNS, DAY_AT, KEY, KINDS

PAGE = ledger_file.PAGE
ROW_BYTES = COLUMNS * 8
MAP, SNAPSHOT = "ledger.map", "ledger.snapshot"


def damage(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as raw:
        raw.seek(at)
        raw.write(data)


def damage_row(directory: Path, row: int, column: int, data: bytes) -> None:
    damage(directory / MAP, PAGE + row * ROW_BYTES + column * 8, data)


def used(book: ledger.Ledger, key: str = "shop/shop") -> int:
    return book.recorded(key)["d/2026-11-22"]


def kept_by(directory: Path, *sizes: int, saved: int = 1) -> ledger.Ledger:
    """A ledger that counted `sizes`, and has a snapshot of the first `saved` of them."""
    book = reopened(directory, make_budget(daily=10**6), make_budget("pay", 10**6))
    for number, size in enumerate(sizes):
        assert spend(book, size, NOON)
        assert spend(book, size, NOON, row=2)
        if number + 1 == saved:
            book.save()
    return book


def again(directory: Path) -> ledger.Ledger:
    return reopened(directory, make_budget(daily=10**6), make_budget("pay", 10**6))


def test_zeroed_rows_are_taken_from_the_snapshot_and_said(tmp_path):
    book = reopened(tmp_path, make_budget(daily=100_000))
    assert spend(book, 79_000, NOON)
    book.save()
    damage(tmp_path / MAP, PAGE, bytes(64 * ROW_BYTES))
    found = reopened(tmp_path, make_budget(daily=100_000))
    assert used(found) == 79_000
    assert room(found, NOON) == 21_000
    assert found.origin == "file"
    assert "2 were taken from the snapshot, 0 begin at zero" in found.complaint
    assert "shop/shop" in found.complaint
    assert found.repaired == {"snapshot": 2, "zero": 0}
    # It is whole from then on.
    assert reopened(tmp_path, make_budget()).complaint == ""


@pytest.mark.parametrize(
    ("column", "data"),
    [
        (0, b"\x7f" * ROW_BYTES),
        (DAY_AT + KEY, (1).to_bytes(8, "little")),
        (DAY_AT + 2, bytes(8)),
        (DAY_AT + 4 * (3 + 10) + KEY, b"\x01"),
        (COLUMNS + row_seal.OWNER, bytes(8)),
        (COLUMNS + row_seal.CHANGED, b"\xff" * 8),
        (0, (2**63 - 1).to_bytes(8, "little")),
        (84, b"\x01"),
    ],
    ids=["0x7f", "day's key", "day", "month's key", "owner", "clock", "huge", "spare"],
)
def test_a_damaged_row_is_taken_from_the_snapshot_and_others_from_the_file(tmp_path, column, data):
    kept_by(tmp_path, 300, 200)
    damage_row(tmp_path, 1, column, data)
    found = again(tmp_path)
    assert (used(found), used(found, "pay/pay")) == (300, 500)
    assert found.repaired == {"snapshot": 1, "zero": 0}
    assert found.recorded("shop/shop") == {"d/2026-11-22": 300, "m/2026-11": 300}


def test_an_older_row_is_taken_from_the_snapshot(tmp_path):
    book = kept_by(tmp_path, 300, saved=0)
    shutil.copy(tmp_path / MAP, tmp_path / "older")
    # The windows turn, so that the old day's cell makes room, and the key of a budget is new.
    for day in range(6):
        assert spend(book, 10, NOON + day * DAY)
    book.add("new/new", {"d/2026-11-22": [7, *[0] * 10]})
    book.save()
    true = book.record(book.keys())
    shutil.copy(tmp_path / "older", tmp_path / MAP)
    found = again(tmp_path)
    assert found.record(found.keys()) == true
    assert "older table of keys than the snapshot" in found.complaint
    assert again(tmp_path).complaint == ""


def test_a_row_that_no_copy_is_whole_of_begins_at_zero_and_is_named(tmp_path):
    kept_by(tmp_path, 300, saved=0)
    damage_row(tmp_path, 1, DAY_AT, b"\x01")
    found = again(tmp_path)
    assert found.recorded("shop/shop") == {}
    assert used(found, "pay/pay") == 300
    assert found.repaired == {"snapshot": 0, "zero": 1}
    assert "1 begin at zero (shop/shop)" in found.complaint
    assert spend(found, 5, NOON)
    assert used(again(tmp_path)) == 5


def test_rows_that_changed_places_are_not_each_others(tmp_path):
    kept_by(tmp_path, 300)
    data = (tmp_path / MAP).read_bytes()[PAGE : PAGE + 3 * ROW_BYTES]
    damage_row(tmp_path, 1, 0, data[2 * ROW_BYTES :])
    damage_row(tmp_path, 2, 0, data[ROW_BYTES : 2 * ROW_BYTES])
    assert again(tmp_path).repaired == {"snapshot": 2, "zero": 0}


def test_a_whole_file_is_believed_before_an_older_snapshot(tmp_path):
    kept_by(tmp_path, 300, 200)
    found = again(tmp_path)
    assert (used(found), found.complaint) == (500, "")
    (tmp_path / SNAPSHOT).write_bytes(b"torn")
    assert (used(again(tmp_path)), again(tmp_path).complaint) == (500, "")


class Machine:
    """A ledger with two snapshots' worth of history, and the pages of its file at each moment."""

    def __init__(self, directory: Path) -> None:
        book = reopened(directory, *(make_budget(f"t{i}", 10**6) for i in range(40)))
        self.pages = [self._read(directory)]
        for step in range(3):
            for row in range(1, 41):
                assert spend(book, 10 + row, NOON, row)
            if step == 1:
                book.save()
                self.saved = book.record(book.keys())
            self.pages.append(self._read(directory))
        self.true = book.record(book.keys())
        self.snapshot = (directory / SNAPSHOT).read_bytes()
        self.size = (directory / MAP).stat().st_size
        zero = dict.fromkeys(self.pages[-1], bytes(PAGE))
        self.pages.append(zero)

    def _read(self, directory: Path) -> dict[int, bytes]:
        with (directory / MAP).open("rb") as file:
            # All that is not a hole: the header, 41 rows, both tables' first page.
            tables = PAGE + ledger_file.ROWS * ROW_BYTES
            found = {}
            for at in (*range(0, 10 * PAGE, PAGE), tables, tables + ledger_file.TABLE_ROOM):
                file.seek(at)
                found[at] = file.read(PAGE)
            return found

    def put(self, directory: Path, moments: list[int]) -> None:
        """Have each page of the file be as it was at one of the moments."""
        (directory / SNAPSHOT).write_bytes(self.snapshot)
        with (directory / MAP).open("wb") as file:
            file.truncate(self.size)
            for (at, _), moment in zip(self.pages[0].items(), moments, strict=True):
                file.seek(at)
                file.write(self.pages[moment][at])


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


WHOLE = 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(moments=st.lists(st.sampled_from([0, 1, 2, WHOLE, 4]), min_size=12, max_size=12))
def test_whatever_pages_a_power_loss_keeps_usage_is_at_least_the_snapshots(
    machine, tmp_path_factory, moments
):
    """Of each counter: snapshot <= found <= what was counted; equal where the file is whole."""
    directory = tmp_path_factory.mktemp("found")
    machine.put(directory, moments)
    budgets = [make_budget(f"t{i}", 10**6) for i in range(40)]
    book = reopened(directory, *budgets)
    found = book.record(book.keys())
    for name, teams in machine.saved.items():
        for key, values in teams.items():
            counted = found[name][key]
            assert all(a <= b <= c for a, b, c in zip(
                values, counted, machine.true[name][key], strict=True))  # fmt: skip
    if set(moments) == {WHOLE}:
        assert found == machine.true
        assert book.complaint == ""
    # And so the next start finds it.
    del book
    assert reopened(directory, *budgets).complaint == ""
    shutil.rmtree(directory)


def test_a_power_loss_that_keeps_the_last_pages_costs_nothing(machine, tmp_path):
    machine.put(tmp_path, [WHOLE] * 12)
    book = reopened(tmp_path, *(make_budget(f"t{i}", 10**6) for i in range(40)))
    assert (book.record(book.keys()), book.complaint) == (machine.true, "")


def test_a_node_that_lost_power_goes_on_where_the_snapshot_was_and_says_so(sluice, upstream):
    limit = 100_000
    server = sluice([budget("pay", limit, throttle={"sampleRate": 1})], upstream.url)

    def push(size: int) -> None:
        entry = shippers.Entry(1, "x" * size)
        body = shippers.promtail([shippers.Stream({"namespace": "pay"}, [entry])])
        assert server.send(body).status == 204

    push(99_200)
    assert server.stop() == 0
    damage(server.state_dir / MAP, PAGE, bytes(64 * ROW_BYTES))
    server.start()
    assert server.teams()["pay"]["currentUsage"] == 99_200
    push(801)
    assert server.teams()["pay"]["counts"]["dropped"]["bytes"] == 801
    health = server.get("/api/health").json
    assert health["status"] == "degraded"
    assert "taken from the snapshot" in health["complaints"]["ledger"]
    assert health["ledger"]["origin"] == "file"
    assert server.metric("tco_ledger_repaired_rows", source="snapshot") == 2
    assert "not all of the ledger's file could be used" in server.log.read_text()


# a kill between two stores


@given(st.integers(0, 2**COLUMNS - 1))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_that_a_kill_left_half_changed_is_as_before_that_change(tmp_path_factory, mask):
    """Whatever columns of a change had been stored: it is whole, or never was."""
    directory = tmp_path_factory.mktemp("half")
    book = kept_by(directory, 300, 200)
    rows = book._file.rows
    before = rows[1].copy()
    assert spend(book, 90, NOON)
    journal, after = book._file.journal, rows[1].copy()
    assert (journal[row_seal.IMAGE :] == before).all()
    stored = np.array([mask >> i & 1 for i in range(COLUMNS)], bool)
    rows[1] = np.where(stored, after, before)
    journal[row_seal.CHANGING] = 2
    found = again(directory)
    assert used(found) in ((500, 590) if (rows[1] == after).all() else (500,))
    assert found.complaint == ""
    assert used(found, "pay/pay") == 500
    shutil.rmtree(directory)


def test_a_process_killed_while_it_books_leaves_whole_rows(tmp_path):
    rng = random.Random(4)
    book = again(tmp_path)
    push = reserve(book, 1, 1, NOON)
    n = 2000
    at, totals = np.ones(n, np.int32), np.ones((n, columns.TOTALS), np.int64)
    amount, era, file = np.ones(n, np.int64), push.share.era, book._file
    undone = 0
    for _ in range(60):
        child = os.fork()
        if not child:
            while True:
                _core.book(
                    file.rows, at, totals, amount, KINDS, era.key, era.cell, file.weight,
                    file.journal,
                )  # fmt: skip
        time.sleep(rng.uniform(0.001, 0.004))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        undone += file.undone() is not None
        found = again(tmp_path)
        assert found.complaint == ""
        counted = found.usage(["shop/shop"], NOON)["shop/shop"]
        assert set(counted.counts) == {found._file.rows[1, 0]} == {counted.day, counted.month}
    # Or it was not what this is a test of.
    assert undone > 10


# files from before there were seals


def as_version_1(directory: Path, *, zeroed: bool = False) -> None:
    """Turn the files of a ledger into those of the version before."""
    header = struct.Struct("<8sIIIQ")
    data = (directory / SNAPSHOT).read_bytes()[:-4]
    magic, _, rows, width, size = header.unpack(data[: header.size])
    counted = np.frombuffer(data, np.int64, rows * width, header.size + 8 + size).copy()
    counted.reshape(rows, width)[:, -3:] = 0
    table = data[header.size + 8 : header.size + 8 + size]
    body = header.pack(magic, 1, rows, width, size) + table + counted.tobytes()
    (directory / SNAPSHOT).write_bytes(body + struct.pack("<I", zlib.crc32(body)))
    head = header.pack(magic, 1, ledger_file.ROWS, width, ledger_file.TABLE_ROOM)
    damage(directory / MAP, 0, head + struct.pack("<I", zlib.crc32(head)))
    for row in range(3):
        damage_row(directory, row, COLUMNS - 3, bytes(24))
        if zeroed:
            damage_row(directory, row, 0, bytes(ROW_BYTES))


def test_files_of_the_version_before_are_read_and_sealed(tmp_path):
    kept_by(tmp_path, 300, 200)
    as_version_1(tmp_path)
    found = again(tmp_path)
    assert (used(found), used(found, "pay/pay"), found.complaint) == (500, 500, "")
    assert spend(found, 50, NOON)
    damage_row(tmp_path, 2, DAY_AT, b"\x01")
    later = again(tmp_path)
    assert (used(later), used(later, "pay/pay")) == (550, 300)


def test_zeroed_rows_of_the_version_before_are_taken_from_its_snapshot(tmp_path):
    kept_by(tmp_path, 300, 200)
    as_version_1(tmp_path, zeroed=True)
    found = again(tmp_path)
    assert (used(found), used(found, "pay/pay")) == (300, 300)
    assert found.repaired == {"snapshot": 2, "zero": 0}
