"""The ledger: windows that turn, clocks that jump, refunds that come late, and a plain model."""

import contextlib
import datetime as dt
import errno
import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import _core, columns, errors, ledger, ledger_file, table, window
from sluice.budget import Budget

DAY = 86_400
NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC).timestamp()


def make_budget(
    name: str = "shop", daily: int = 1000, monthly: int | None = None, **spec
) -> Budget:
    limits = {"dailyLimit": daily} | ({} if monthly is None else {"monthlyLimit": monthly})
    return Budget.from_manifest(
        {
            "apiVersion": "tco.io/v1",
            "kind": "TeamBudget",
            "metadata": {"name": name, "namespace": name},
            "spec": limits | spec,
        }
    )


@dataclass
class Push:
    """A push of one team between its verdict and its end."""

    share: ledger.Share
    size: int
    windows: tuple[str, str]


def reserve(book: ledger.Ledger, row: int, size: int, now: float) -> Push | None:
    """Let the core judge one entry; not yet registered. None if it was dropped."""
    return charge(book, book.rules_at(now), row, size)


def charge(book: ledger.Ledger, rules: ledger.Rules, row: int, size: int) -> Push | None:
    action = np.zeros(1, np.uint8)
    tally = np.zeros((len(rules.rule), 8), np.int64)
    _core.evaluate(
        np.array([row], np.int32), np.array([size]), rules.rule, rules.used, action, tally
    )
    if action[0] == 2:
        return None
    share = ledger.Share(np.array([row], np.int32), np.array([size]), rules.era)
    day, month = (int(rules.era.key[kind, row]) for kind in (0, 1))
    return Push(share, size, (window.day_key(day), window.month_key(month)))


def totals_of(push: Push) -> np.ndarray:
    totals = np.zeros((1, columns.TOTALS), np.int64)
    totals[0, columns.RECEIVED : columns.RECEIVED + 2] = (1, push.size)
    return totals


def spend(book: ledger.Ledger, size: int, now: float, row: int = 1) -> bool:
    """Judge, register and commit one entry; whether it passed."""
    push = reserve(book, row, size, now)
    if push is None:
        return False
    book.register(push.share)
    book.commit(push.share, totals_of(push))
    return True


def room(book: ledger.Ledger, now: float, row: int = 1) -> int:
    """The largest entry that would pass now."""
    rules = book.rules_at(now)
    return int(rules.rule[row, 1] - rules.used[row])


def loaded(*budgets: Budget, rows: ledger_file.FileRows | None = None) -> ledger.Ledger:
    book = ledger.Ledger(rows)
    book.load(table.Table(budgets))
    return book


def test_nothing_is_judged_before_budgets_are_loaded():
    with pytest.raises(errors.Unavailable, match="no budgets"):
        ledger.Ledger().rules_at(NOON)


def test_a_new_day_begins_with_the_whole_limit_and_the_month_goes_on():
    book = loaded(make_budget(daily=1000, monthly=1500))
    assert spend(book, 900, NOON)
    assert room(book, NOON) == 100
    assert room(book, NOON + DAY) == 600
    assert book.recorded("shop/shop") == {
        "d/2026-11-22": 900,
        "d/2026-11-23": 0,
        "m/2026-11": 900,
    }


@pytest.mark.parametrize("jump", [DAY, -DAY, 365 * DAY, -365 * DAY])
def test_a_clock_that_jumps_and_returns_finds_what_it_left(jump):
    book = loaded(make_budget(daily=1000, monthly=5000))
    assert spend(book, 700, NOON)
    assert room(book, NOON + jump) == 1000
    assert spend(book, 400, NOON + jump)
    assert room(book, NOON) == 300
    assert room(book, NOON + jump) == 600


def test_a_time_zone_edited_and_edited_back_changes_no_usage():
    late = NOON + 11 * 3600  # 23:00 UTC, the next morning in Tokyo
    utc, tokyo = make_budget(timeZone="UTC"), make_budget(timeZone="Asia/Tokyo")
    book = loaded(utc)
    assert spend(book, 700, late)
    book.load(table.Table([tokyo]))
    assert room(book, late) == 1000
    assert spend(book, 100, late)
    book.load(table.Table([utc]))
    assert room(book, late) == 300
    book.load(table.Table([tokyo]))
    assert room(book, late) == 900


def test_the_largest_limit_admits_on_its_second_day_too():
    book = loaded(make_budget(daily=2**63 - 1))
    assert spend(book, 2**60, NOON)
    assert spend(book, 2**60, NOON + DAY)
    assert room(book, NOON + DAY) == 2**62 - 2 * 2**60


def test_a_deleted_budget_that_comes_back_goes_on_and_a_renamed_one_begins():
    book = loaded(make_budget())
    assert spend(book, 700, NOON)
    book.load(table.Table([make_budget("other")]))
    assert room(book, NOON, row=2) == 1000
    book.load(table.Table([make_budget()]))
    assert room(book, NOON) == 300


def test_a_limit_lowered_below_usage_drops_until_the_window_ends():
    book = loaded(make_budget(daily=1000))
    assert spend(book, 700, NOON)
    book.load(table.Table([make_budget(daily=500)]))
    assert not spend(book, 1, NOON)
    assert spend(book, 1, NOON + DAY)


def test_a_refund_in_its_own_windows_gives_the_bytes_back():
    book = loaded(make_budget())
    push = reserve(book, 1, 900, NOON)
    book.register(push.share)
    assert room(book, NOON) == 100
    book.refund(push.share, totals_of(push))
    assert room(book, NOON) == 1000
    assert book.used[1] == 0


def test_a_refund_after_midnight_frees_the_month_and_leaves_the_new_day_alone():
    book = loaded(make_budget(daily=1000, monthly=2000))
    push = reserve(book, 1, 900, NOON)
    book.register(push.share)
    assert room(book, NOON + DAY) == 1000
    assert spend(book, 300, NOON + DAY)
    book.refund(push.share, totals_of(push))
    assert room(book, NOON + DAY) == 700
    # Back in the day that ended, its bytes are free again.
    assert room(book, NOON) == 1000
    assert book.recorded("shop/shop")["m/2026-11"] == 300


def test_a_commit_after_midnight_is_booked_in_the_day_of_its_arrival():
    book = loaded(make_budget(daily=1000, monthly=2000))
    push = reserve(book, 1, 900, NOON)
    book.register(push.share)
    assert room(book, NOON + DAY) == 1000
    book.commit(push.share, totals_of(push))
    assert room(book, NOON + DAY) == 1000
    assert book.recorded("shop/shop") == {
        "d/2026-11-22": 900,
        "d/2026-11-23": 0,
        "m/2026-11": 900,
    }


def test_a_thread_that_still_judges_by_yesterdays_rules_charges_yesterday():
    book = loaded(make_budget(daily=1000, monthly=2000))
    yesterday = book.rules_at(NOON)
    assert room(book, NOON + DAY) == 1000
    push = charge(book, yesterday, 1, 900)
    # Until it is registered, today looks fuller than it is, never emptier.
    assert room(book, NOON + DAY) == 100
    book.register(push.share)
    assert room(book, NOON + DAY) == 1000
    book.commit(push.share, totals_of(push))
    assert book.recorded("shop/shop")["d/2026-11-22"] == 900
    assert room(book, NOON) == 100


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_any_order_of_pushes_jumps_reloads_and_late_ends_agrees_with_a_plain_model(seed, steps):
    """No usage is lost, none given away, and no window is passed, whatever comes when."""
    rng = random.Random(seed)
    daily, monthly = 1000, 2500
    budgets = [make_budget(daily=daily, monthly=monthly, timeZone=z) for z in ZONES]
    book = loaded(budgets[0])
    committed: dict[str, int] = {}
    judged: list[Push] = []
    waiting: list[Push] = []
    now = NOON
    for _ in range(steps):
        step = rng.randrange(8)
        if step == 0:
            now = NOON + rng.choice([0, 3600 * 11, 3600 * 13, DAY, 9 * DAY])
        elif step == 1:
            book.load(table.Table([rng.choice(budgets)]))
        elif step in (2, 3, 4):
            stale = book.rules if rng.random() < 0.3 and book.rules.era.start < 1e11 else None
            rules = stale or book.rules_at(now)
            push = charge(book, rules, 1, rng.choice([1, 7, 300, 900]))
            if push is not None:
                judged.append(push)
        elif step == 5 and judged:
            waiting.append(judged.pop(rng.randrange(len(judged))))
            book.register(waiting[-1].share)
        elif waiting:
            push = waiting.pop(rng.randrange(len(waiting)))
            end(book, push, committed, rng.random() < 0.5)
        held = judged + waiting
        for key, limit in limits_of(held, committed, daily, monthly):
            inside = sum(push.size for push in held if key in push.windows)
            assert committed.get(key, 0) + inside <= limit
    for push in judged:
        book.register(push.share)
    for push in judged + waiting:
        end(book, push, committed, rng.random() < 0.5)
    for moment in (NOON, NOON + DAY, now):
        rules = book.rules_at(moment)
        day, month = (int(rules.era.key[kind, 1]) for kind in (0, 1))
        left_today = daily - committed.get(window.day_key(day), 0)
        left_this_month = monthly - committed.get(window.month_key(month), 0)
        assert room(book, moment) == min(left_today, left_this_month)


ZONES = ("UTC", "Asia/Tokyo", "America/New_York")


def end(book: ledger.Ledger, push: Push, committed: dict[str, int], taken: bool) -> None:
    if not taken:
        book.refund(push.share, totals_of(push))
        return
    book.commit(push.share, totals_of(push))
    for key in push.windows:
        committed[key] = committed.get(key, 0) + push.size


def limits_of(held, committed, daily, monthly):
    keys = {key for push in held for key in push.windows} | set(committed)
    return [(key, daily if key.startswith("d/") else monthly) for key in keys]


# the file


def reopened(directory, *budgets: Budget) -> ledger.Ledger:
    """A ledger as the next process finds it: nothing of the last one was closed or flushed."""
    return loaded(*budgets, rows=ledger_file.FileRows(directory, columns.COLUMNS))


def test_a_process_that_is_gone_leaves_what_was_committed_and_not_what_was_reserved(tmp_path):
    book = reopened(tmp_path, make_budget())
    assert book.origin == "new"
    assert spend(book, 300, NOON)
    push = reserve(book, 1, 400, NOON)
    book.register(push.share)
    again = reopened(tmp_path, make_budget())
    assert again.origin == "file"
    assert room(again, NOON) == 700
    assert again.recorded("shop/shop") == {"d/2026-11-22": 300, "m/2026-11": 300}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"not a ledger" + data[12:],
        lambda data: data[: 2**22] + bytes(len(data) - 2**22),
        lambda data: b"",
    ],
    ids=["cut", "foreign", "tables lost", "empty"],
)
def test_a_torn_file_is_set_aside_and_usage_comes_from_the_snapshot(tmp_path, damage):
    book = reopened(tmp_path, make_budget())
    assert spend(book, 300, NOON)
    book.close()
    file = tmp_path / "ledger.map"
    file.write_bytes(damage(file.read_bytes()))
    again = reopened(tmp_path, make_budget())
    assert again.origin == "snapshot"
    assert "ledger.map" in again.complaint
    assert (tmp_path / "ledger.bad").exists()
    assert room(again, NOON) == 700


def test_without_file_and_snapshot_usage_begins_at_zero_and_says_so(tmp_path):
    book = reopened(tmp_path, make_budget())
    assert spend(book, 300, NOON)
    book.close()
    for name in ("ledger.map", "ledger.snapshot"):
        (tmp_path / name).write_bytes(b"x" * 100)
    again = reopened(tmp_path, make_budget())
    assert again.origin == "zero"
    assert "ledger.snapshot" in again.complaint
    assert room(again, NOON) == 1000


@pytest.mark.parametrize("step", ["reserve", "write_names", "_lend"])
def test_a_restore_that_is_cut_off_is_done_again_by_the_next_start(tmp_path, monkeypatch, step):
    book = reopened(tmp_path, make_budget())
    assert spend(book, 300, NOON)
    book.close()
    (tmp_path / "ledger.map").write_bytes(b"torn")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken, contextlib.suppress(OSError):
        broken.setattr(ledger_file.FileRows, step, full)
        ledger_file.FileRows(tmp_path, columns.COLUMNS)
    assert room(reopened(tmp_path, make_budget()), NOON) == 700


def test_a_table_that_finds_no_room_leaves_the_one_before(tmp_path, monkeypatch):
    book = reopened(tmp_path, make_budget())
    assert spend(book, 300, NOON)
    rows = ledger_file.FileRows(tmp_path, columns.COLUMNS)
    place = rows._sequence % 2

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(ledger_file.os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space"):
            rows.write_names()
    rows.write_names()
    assert rows._sequence % 2 != place


def test_a_kill_in_the_middle_of_a_new_table_leaves_the_one_before(tmp_path):
    book = reopened(tmp_path, make_budget())
    assert spend(book, 300, NOON)
    rows = ledger_file.FileRows(tmp_path, columns.COLUMNS)
    # The next table goes to the older place: tear that one.
    at = rows._tables + (rows._sequence + 1) % 2 * ledger_file.TABLE_ROOM
    rows._mmap[at : at + 64] = b"\xff" * 64
    again = reopened(tmp_path, make_budget())
    assert again.origin == "file"
    assert room(again, NOON) == 700


def test_where_all_rows_had_an_owner_keys_long_without_a_budget_give_up_theirs(tmp_path):
    # A budget for each pull request uses up any number of rows.
    gone = [Budget(f"pr-{i}", "ci", 1000) for i in range(ledger_file.ROWS - 2)]
    kept, new = make_budget(), make_budget("new")
    book = reopened(tmp_path, kept, *gone)
    assert spend(book, 100, NOON)
    assert spend(book, 300, NOON, row=2)
    book.load(table.Table([kept]))
    assert room(book, NOON + 70 * DAY) == 1000
    # January is not yet two months behind November.
    with pytest.raises(errors.BadBudget, match="1 new budgets, room for 0 more keys"):
        book.load(table.Table([kept, new]))
    later = NOON + 100 * DAY
    assert spend(book, 200, later)
    book.load(table.Table([kept, new, gone[5]]))
    (row,) = (n for n in book.rules_at(later).row_of.tolist() if n not in (0, 1, 7))
    assert room(book, later, row) == 1000
    assert spend(book, 400, later, row)
    assert room(book, later, row=1) == 800
    assert book.recorded("ci/pr-0") == {}
    again = reopened(tmp_path, kept, new)
    assert again.recorded("new/new") == {"d/2027-03-02": 400, "m/2027-03": 400}
    assert again.recorded("shop/shop")["m/2026-11"] == 100
    # Whoever comes back was not forgotten meanwhile, if there was a budget for it.
    assert again.recorded("ci/pr-5")["m/2026-11"] == 0


def test_outcomes_are_counted_for_all_time_and_for_the_day():
    book = loaded(make_budget())
    assert spend(book, 300, NOON)
    assert spend(book, 200, NOON + DAY)
    usage = book.usage(["shop/shop"], NOON + DAY)["shop/shop"]
    assert (usage.day, usage.month) == (200, 500)
    assert usage.counts[columns.RECEIVED : columns.RECEIVED + 2] == [2, 500]
    assert usage.today[columns.RECEIVED : columns.RECEIVED + 2] == [1, 200]


def test_a_snapshot_is_written_only_when_something_was_booked(tmp_path):
    book = reopened(tmp_path, make_budget())
    book.save()
    assert not (tmp_path / "ledger.snapshot").exists()
    assert spend(book, 300, NOON)
    book.save()
    assert (tmp_path / "ledger.snapshot").exists()


# what others count leaves less room; what an earlier process counted is added


def test_what_others_used_leaves_so_much_less_room():
    elsewhere = {"d/2026-11-22": 300}

    def left(own, kind, number):
        soft, hard = ledger.alone(own, kind, number)
        used = elsewhere.get(window.day_key(number), 0) if kind == columns.DAY and number else 0
        return soft - used, hard - used

    book = ledger.Ledger(room=left)
    book.load(table.Table([make_budget(daily=1000)]))
    assert room(book, NOON) == 700
    assert spend(book, 200, NOON)
    elsewhere["d/2026-11-22"] = 600
    assert room(book, NOON) == 500, "not before it is told"
    book.redraw(["shop/shop", "nobody/knows"])
    assert room(book, NOON) == 200
    # Of the next day nobody has used anything.
    assert room(book, NOON + DAY) == 1000


def test_what_an_earlier_process_counted_is_added_to_its_windows():
    book = loaded(make_budget(daily=1000, monthly=5000))
    assert spend(book, 100, NOON)
    day = [500, *range(10)]
    book.add("shop/shop", {"d/2026-11-22": day, "m/2026-11": [4000]})
    assert book.recorded("shop/shop") == {"d/2026-11-22": 600, "m/2026-11": 4100}
    assert room(book, NOON) == 400
    used = book.usage(["shop/shop"], NOON)["shop/shop"]
    assert used.today == [1, 101, *range(2, 10)]
    assert used.counts == [1, 100] + [0] * 15, "those are this ledger's own"
    assert spend(book, 400, NOON)
    assert not spend(book, 1, NOON)
    assert room(book, NOON + DAY) == 500, "by the month: 4500 of 5000"


def test_what_is_added_before_the_first_push_counts_from_it_on():
    book = loaded(make_budget(daily=1000))
    book.add("shop/shop", {"d/2026-11-22": [600] + [0] * 10, "d/2026-11-21": [999] + [0] * 10})
    assert room(book, NOON) == 400
    assert room(book, NOON - DAY) == 1
    assert book.recorded("shop/shop")["d/2026-11-21"] == 999


def test_what_is_added_never_makes_the_open_window_go():
    book = loaded(make_budget(daily=1000))
    assert spend(book, 100, NOON)
    for day in range(1, 15):
        book.add("shop/shop", {f"d/2026-11-{day:02}": [1] + [0] * 10})
    assert book.recorded("shop/shop")["d/2026-11-22"] == 100
    assert room(book, NOON) == 900


def test_a_team_without_a_budget_can_be_added_to():
    book = loaded(make_budget(daily=1000))
    book.add("other/other", {"d/2026-11-22": [7] + [0] * 10})
    book.load(table.Table([make_budget("other", daily=1000)]))
    assert book.recorded("other/other")["d/2026-11-22"] == 7
    assert room(book, NOON, row=2) == 993


def test_what_is_no_window_is_refused_and_changes_nothing():
    book = loaded(make_budget(daily=1000))
    with pytest.raises(ValueError, match="not a day"):
        book.add("shop/shop", {"m/2026-11": [5], "d/nonsense": [1] + [0] * 10})
    assert book.recorded("shop/shop") == {}


def test_what_was_committed_is_read_for_all_at_once():
    book = loaded(make_budget(daily=1000), make_budget("pay", daily=1000))
    assert spend(book, 100, NOON, row=1)
    assert spend(book, 30, NOON, row=2)
    rules = book.rules_at(NOON)
    assert book.committed(rules.row_of[:-1], rules.era).tolist() == [[100, 30], [100, 30]]
    assert book.changes == 2
