"""What each sink has yet to be told, and how what it was told is kept."""

import json
import logging
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from notify.fakes import (
    BAND,
    DAY,
    FREE,
    KEY,
    MIDNIGHT,
    MONTH,
    NEXT_DAY,
    NOON,
    SPENT,
    Memory,
    condition,
    row,
)

from sluice.budget import RULES
from sluice.errors import SluiceError
from sluice.notify.change import NOTHING, Said, difference
from sluice.notify.rules import HOLD_S, Condition, Judge
from sluice.notify.told import KEEP_S, FileStore, Told, as_status, from_status
from sluice.policy import Action

ALLOW, THROTTLE, DROP = Action
YESTERDAY = "d/2026-11-22"
USED = {ALLOW: FREE, THROTTLE: BAND, DROP: SPENT}
NO_RECOVERY, ONLY_DROP, QUIET = ("throttle", "drop"), ("drop",), ("drop", "recovery")
BAND_ONLY, BAND_BACK = ("throttle",), ("throttle", "recovery")

# told last: level, window | what holds | rules | what is said | told then: level, window
TABLE = [
    (ALLOW, "", ALLOW, RULES, "", ALLOW, ""),
    (ALLOW, "", THROTTLE, RULES, "throttle", THROTTLE, DAY),
    (ALLOW, "", DROP, RULES, "drop", DROP, DAY),
    (THROTTLE, DAY, THROTTLE, RULES, "", THROTTLE, DAY),
    (THROTTLE, DAY, DROP, RULES, "drop", DROP, DAY),
    (DROP, DAY, DROP, RULES, "", DROP, DAY),
    (DROP, DAY, THROTTLE, RULES, "recovery", THROTTLE, DAY),
    (DROP, DAY, ALLOW, RULES, "recovery", ALLOW, ""),
    (THROTTLE, DAY, ALLOW, RULES, "recovery", ALLOW, ""),
    # of a window that has closed
    (DROP, YESTERDAY, ALLOW, RULES, "recovery", ALLOW, ""),
    (DROP, YESTERDAY, THROTTLE, RULES, "throttle", THROTTLE, DAY),
    (DROP, YESTERDAY, DROP, RULES, "drop", DROP, DAY),
    (THROTTLE, YESTERDAY, DROP, RULES, "drop", DROP, DAY),
    (DROP, YESTERDAY, THROTTLE, QUIET, "recovery", THROTTLE, DAY),
    (DROP, YESTERDAY, THROTTLE, ONLY_DROP, "", THROTTLE, DAY),
    (DROP, YESTERDAY, DROP, (), "", DROP, YESTERDAY),
    # of the month, which is open still
    (DROP, MONTH, DROP, RULES, "", DROP, MONTH),
    # what nobody wants
    (ALLOW, "", THROTTLE, ONLY_DROP, "", ALLOW, ""),
    (ALLOW, "", DROP, ONLY_DROP, "drop", DROP, DAY),
    (DROP, DAY, ALLOW, ONLY_DROP, "", ALLOW, ""),
    (DROP, DAY, THROTTLE, ONLY_DROP, "", THROTTLE, DAY),
    (THROTTLE, DAY, DROP, ONLY_DROP, "drop", DROP, DAY),
    (DROP, DAY, THROTTLE, NO_RECOVERY, "", THROTTLE, DAY),
    (THROTTLE, DAY, ALLOW, NO_RECOVERY, "", ALLOW, ""),
    (ALLOW, "", THROTTLE, QUIET, "", ALLOW, ""),
    (DROP, DAY, THROTTLE, QUIET, "recovery", THROTTLE, DAY),
    (DROP, DAY, ALLOW, QUIET, "recovery", ALLOW, ""),
    (ALLOW, "", DROP, BAND_ONLY, "", ALLOW, ""),
    (THROTTLE, DAY, DROP, BAND_BACK, "", THROTTLE, DAY),
    (THROTTLE, DAY, ALLOW, BAND_BACK, "recovery", ALLOW, ""),
    (ALLOW, "", DROP, (), "", ALLOW, ""),
]


@pytest.mark.parametrize(("last", "where", "level", "rules", "rule", "then", "window"), TABLE)
def test_what_is_said_follows_from_what_was_told_and_what_holds(
    last: Action,
    where: str,
    level: Action,
    rules: tuple[str, ...],
    rule: str,
    then: Action,
    window: str,
) -> None:
    changes, after = difference(Said(last, where, 1.0), condition(USED[level]), rules, NOON)
    assert [change.rule for change in changes] == ([rule] if rule else [])
    assert (after.level, after.window) == (then, window)
    assert after.at == (NOON if (then, window) != (last, where) else 1.0)


@pytest.mark.parametrize(
    ("told", "level", "rules", "rule"),
    [
        (DROP, DROP, RULES, "drop"),
        (THROTTLE, THROTTLE, RULES, "throttle"),
        # It is no recovery: lines are lost from now on.
        (DROP, THROTTLE, RULES, "throttle"),
        (DROP, ALLOW, RULES, "recovery"),
        (DROP, DROP, BAND_BACK, ""),
    ],
)
def test_a_dry_run_that_is_enforced_now_is_news(
    told: Action, level: Action, rules: tuple[str, ...], rule: str
) -> None:
    dry, enforced = condition(USED[told], dry_run=True), condition(USED[level])
    _, said = difference(NOTHING, dry, RULES, NOON)
    assert difference(said, dry, RULES, NOON) == ([], said)
    # Also after a restart.
    (said,) = from_status(as_status({SINK: said})).values()
    changes, after = difference(said, enforced, rules, NOON)
    assert [change.rule for change in changes] == ([rule] if rule else [])
    assert difference(after, enforced, rules, NOON) == ([], after)


def test_that_a_budget_is_a_dry_run_now_is_no_news() -> None:
    _, said = difference(NOTHING, condition(SPENT), RULES, NOON)
    dry = condition(SPENT, dry_run=True)
    assert difference(said, dry, RULES, NOON) == ([], said)


def forecast(said: Said, holding: Condition, rules: tuple[str, ...] = RULES) -> tuple[bool, Said]:
    changes, after = difference(said, holding, rules, NOON)
    return "forecast" in [change.rule for change in changes], after


def test_a_forecast_is_told_once_a_day() -> None:
    expected = condition(expected=NOON + 900)
    told, said = forecast(NOTHING, expected)
    assert told
    assert (said.forecast, said.forecast_at) == (DAY, NOON)
    assert forecast(said, expected) == (False, said)
    # gone, and back
    assert forecast(said, condition()) == (False, said)
    assert forecast(said, expected) == (False, said)
    # the next day
    told, said = forecast(said, condition(now=MIDNIGHT, expected=MIDNIGHT + 900))
    assert told
    assert said.forecast == NEXT_DAY


def test_after_the_limit_was_reached_a_forecast_is_news_again() -> None:
    expected = condition(expected=NOON + 900)
    _, said = forecast(NOTHING, expected)
    _, said = forecast(said, condition(SPENT))
    assert said.forecast == ""
    assert forecast(said, expected)[0]


def test_a_forecast_that_nobody_wants_is_not_told() -> None:
    assert forecast(NOTHING, condition(expected=NOON + 900), ("drop",)) == (False, NOTHING)


def test_level_and_forecast_are_two_changes() -> None:
    changes, said = difference(NOTHING, condition(BAND, expected=NOON + 9), RULES, NOON)
    assert [change.rule for change in changes] == ["throttle", "forecast"]
    assert said == Said(THROTTLE, DAY, NOON, DAY, NOON)


LEVELS = st.lists(st.sampled_from(list(Action)))
WANTED = st.sets(st.sampled_from(RULES)).map(lambda some: tuple(r for r in RULES if r in some))


@hypothesis.given(LEVELS)
def test_whoever_wants_all_is_told_each_change_once_and_last_what_holds(
    levels: list[Action],
) -> None:
    """A change is told if and only if the level is another one; then what was told last holds."""
    said, before = NOTHING, ALLOW
    for level in levels:
        changes, said = difference(said, condition(USED[level]), RULES, NOON)
        assert len(changes) == (level is not before)
        assert said.level is level
        assert difference(said, condition(USED[level]), RULES, NOON) == ([], said)
        before = level


# What is used from a look on, after how long it comes, and whether the process is new to it.
LOOKS = st.lists(
    st.tuples(
        st.sampled_from([FREE, BAND, SPENT]), st.sampled_from([1, 30, 61, 40_000]), st.booleans()
    )
)


@hypothesis.given(LOOKS)
@hypothesis.example(
    [(1000, 1, False), (100, 1, False), (900, 61, False), (100, 1, False), (100, 61, False)]
)
def test_over_time_and_restarts_each_held_change_is_told_once(
    looks: list[tuple[int, int, bool]],
) -> None:
    """A message is sent if and only if what holds differs from what was told and still counts."""
    said, now, sent = NOTHING, NOON, [("", "", ALLOW)]
    judge = Judge()
    for used, after, is_restart in looks:
        now += after
        if is_restart:
            judge = Judge(before=lambda key: [(said.level, said.window)])  # noqa: B023
        holding = judge.judge([row(used, now)], lambda key: None, now).get(KEY)
        if holding is None:
            # Just begun, and less than was told before: whether it lasts is not known.
            assert is_restart or after < HOLD_S
            continue
        counts = said.level if said.window in holding.open else ALLOW
        changes, then = difference(said, holding, RULES, now)
        assert bool(changes) == (holding.level != counts or said.level > holding.level)
        assert then.level is holding.level
        for change in changes:
            # From drop to throttle, and on to allow, are two recoveries.
            assert (change.rule, change.window, then.level) != sent[-1]
            sent.append((change.rule, change.window, then.level))
        said = then


@hypothesis.given(LEVELS, WANTED)
def test_nobody_is_told_what_he_did_not_want(levels: list[Action], wanted: tuple[str, ...]) -> None:
    """Only wanted rules are told; a rise is told as what it is, a recovery after a rise only."""
    said, told = NOTHING, False
    for level in levels:
        changes, said = difference(said, condition(USED[level]), wanted, NOON)
        for change in changes:
            assert change.rule in wanted
            if change.rule == "recovery":
                assert told
                assert level < change.before
            else:
                assert change.rule == level.word
                assert level > change.before
                told = True
        assert difference(said, condition(USED[level]), wanted, NOON) == ([], said)


SINK, OTHER, DRY = "slack-1a2b3c4d", "json-00000000", "json-00000001"


def test_what_was_told_is_written_as_the_status_has_it_and_read_back() -> None:
    said = {
        SINK: Said(DROP, DAY, NOON, DAY, NOON + 1),
        OTHER: Said(THROTTLE, MONTH, NOON),
        DRY: Said(DROP, DAY, NOON, dry_run=True),
        "pad": NOTHING,
    }
    items = as_status(said)
    assert items == [
        {"rule": f"drop@{SINK}", "window": DAY, "at": "2026-11-23T12:00:00Z"},
        {"rule": f"dry-drop@{DRY}", "window": DAY, "at": "2026-11-23T12:00:00Z"},
        {"rule": f"forecast@{SINK}", "window": DAY, "at": "2026-11-23T12:00:01Z"},
        {"rule": f"throttle@{OTHER}", "window": MONTH, "at": "2026-11-23T12:00:00Z"},
    ]
    assert from_status(items) == {sink: said[sink] for sink in (SINK, OTHER, DRY)}


def test_thirty_sinks_have_room_in_the_status() -> None:
    said = {
        f"{'x' * 41}-{i:08x}": Said(THROTTLE, DAY, NOON, DAY, NOON, dry_run=True) for i in range(30)
    }
    items = as_status(said)
    assert len(items) == 60
    assert max(len(item["rule"]) for item in items) <= 63
    assert len({(item["rule"], item["window"]) for item in items}) == 60
    assert from_status(items) == said


GOOD = {"rule": f"drop@{SINK}", "window": DAY, "at": "2026-11-23T12:00:00Z"}


@pytest.mark.parametrize(
    "junk",
    [
        None,
        "drop",
        7,
        {},
        {**GOOD, "rule": "drop"},
        {**GOOD, "rule": "allow@slack-1a2b3c4d"},
        {**GOOD, "rule": "dry-forecast@slack-1a2b3c4d"},
        {**GOOD, "rule": "drop@Slack!"},
        {**GOOD, "rule": 3},
        {**GOOD, "window": "y/2026"},
        {**GOOD, "window": None},
        {**GOOD, "window": "d/2026-13-40"},
        {**GOOD, "at": "noon"},
        {**GOOD, "at": "2026-11-23T12:00:00"},
        {**GOOD, "rule": f"forecast@{SINK}", "window": MONTH},
    ],
)
def test_junk_in_a_status_is_left_out(junk: object) -> None:
    assert from_status([junk]) == {}
    assert from_status([junk, GOOD]) == {SINK: Said(DROP, DAY, NOON)}


@pytest.mark.parametrize("junk", [None, {}, "x", 3])
def test_a_status_that_is_no_list_tells_nothing(junk: object) -> None:
    assert from_status(junk) == {}


def test_of_two_levels_of_a_sink_the_later_counts() -> None:
    later = {**GOOD, "rule": f"throttle@{SINK}", "at": "2026-11-23T13:00:00Z"}
    for items in ([GOOD, later], [later, GOOD]):
        assert from_status(items)[SINK].level is THROTTLE


def test_a_file_keeps_what_was_told(tmp_path: Path) -> None:
    path = tmp_path / "notified.json"
    said = {SINK: Said(DROP, DAY, NOON)}
    FileStore(path, NOON).save({KEY: said})
    store = FileStore(path, NOON)
    assert store.load() == {KEY: said}
    store.save({KEY: {SINK: NOTHING}, "default/other": said})
    assert FileStore(path, NOON).load() == {"default/other": said}
    assert FileStore(path, NOON + KEEP_S + 1).load() == {}


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"[]", b'{"teams": 3}', b'{"teams": {"a/b": []', b"\xff", b"[" * 99_999]
)
def test_a_file_that_cannot_be_read_is_set_aside(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notified.json"
    path.write_bytes(torn)
    store = FileStore(path, NOON)
    assert store.load() == {}
    assert path.with_suffix(".bad").read_bytes() == torn
    assert str(path) in caplog.text
    store.save({KEY: {SINK: Said(DROP, DAY, NOON)}})
    assert json.loads(path.read_text())["teams"].keys() == {KEY}


def test_a_file_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "notified.json"
    path.mkdir()
    with pytest.raises(SluiceError, match=r"notified\.json cannot be read: Is a directory"):
        FileStore(path, NOON)


def test_what_a_store_does_not_take_is_brought_again(caplog: pytest.LogCaptureFixture) -> None:
    store = Memory()
    told = Told(store)
    told.load([SINK])
    store.error = OSError("disk full")
    told.record(SINK, {KEY: Said(DROP, DAY, NOON)})
    with caplog.at_level(logging.ERROR):
        assert not told.flush()
    assert "disk full" in caplog.text
    assert told.of(SINK, KEY).level is DROP
    store.error = None
    assert told.flush()
    assert store.kept == {KEY: {SINK: Said(DROP, DAY, NOON)}}


def test_a_store_that_goes_on_failing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each sink tries every few seconds, and a disk that is full is no better for it."""
    store = Memory()
    told = Told(store)

    def said(*errors: OSError | None) -> int:
        caplog.clear()
        for store.error in errors:
            told.record(SINK, {KEY: Said(DROP, DAY, NOON)})
            assert told.flush() == (store.error is None)
        return len([one for one in caplog.records if one.levelno == logging.ERROR])

    full, gone = OSError("disk full"), OSError("no such directory")
    assert said(full, full, full) == 1
    assert said(full, gone) == 1
    assert said(None, gone) == 1


def test_sinks_that_are_not_set_any_more_are_forgotten() -> None:
    store = Memory()
    store.kept = {KEY: {SINK: Said(DROP, DAY, NOON), OTHER: Said(THROTTLE, DAY, NOON)}}
    told = Told(store)
    told.load([OTHER])
    assert told.of(SINK, KEY) == NOTHING
    assert told.levels(KEY) == [(THROTTLE, DAY)]
