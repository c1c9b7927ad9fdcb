"""The core and its reference behind the same calls, and the arrays that both are lent.

What goes into the compiled core lies in blocks of exactly its own size: so AddressSanitizer
sees an overread of one byte. The reference gets lists of Python integers, which never overflow.
"""

import re
from array import array
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sluice import _core, errors, policy, reference
from sluice.policy import KEEP_ALL

CORES = {"compiled": _core, "reference": reference}
PROTOBUF, JSON, LEGACY = range(3)
ALLOW, THROTTLE, DROP = range(3)
KEPT, SAMPLED, DROPPED = range(3)
STREAM_COLUMNS, ENTRY_COLUMNS, BATCH_COLUMNS, PUSH_COLUMNS = 8, 3, 8, 12
# Stream and entry columns, as in _scan.pxd.
AT, END, BODY, LABELS, LABELS_END, FIRST, COUNT, SIZE = range(8)
ENTRY_SIZE = 2
USED_MAX = 2**62
# Nothing writes it, so it shows what was left alone.
UNTOUCHED = 255


class Rule(NamedTuple):
    """One team's row of `rule`; `keep` is unsigned here."""

    soft: int
    hard: int
    keep: int = KEEP_ALL
    dry: int = 0

    @property
    def words(self) -> list[int]:
        """The row as int64."""
        return [self.soft, self.hard, (self.keep ^ 2**63) - 2**63, self.dry]


def limited(limit: int, **more: int) -> Rule:
    return Rule(policy.soft_limit(limit), limit, **more)


class Rows(NamedTuple):
    """What a scan found: int64 [s, 8] and [e, 3]."""

    stream: np.ndarray
    entry: np.ndarray

    @property
    def sizes(self) -> list[int]:
        return self.entry[:, ENTRY_SIZE].tolist()


class Evaluated(NamedTuple):
    action: list[int]
    tally: list[list[int]]
    used: list[int]


class Judged(NamedTuple):
    outcome: list[int]
    tally: list[list[int]]
    used: list[int]


def exact(body: bytes) -> array:
    """The bytes, without the spare room that an array made from bytes has behind them."""
    return array("B", body)[:]


def table(rows: Sequence[Sequence[int]], columns: int) -> np.ndarray:
    return np.array(rows, np.int64).reshape(len(rows), columns)


def rule_table(rules: Sequence[Rule]) -> np.ndarray:
    return table([rule.words for rule in rules], 4)


def no_rows(columns: int, n: int = 0) -> np.ndarray:
    return np.zeros((n, columns), np.int64)


def lent(core: ModuleType, *arrays: np.ndarray) -> list[Any]:
    """The arrays as this core takes them."""
    return list(arrays) if core is _core else [a.tolist() for a in arrays]


def listed(*arrays: Any) -> list[Any]:
    return [np.asarray(a).tolist() if isinstance(a, np.ndarray) else a for a in arrays]


def evaluate(
    core: ModuleType,
    team: Sequence[int],
    size: Sequence[int],
    rules: Sequence[Rule],
    used: Sequence[int],
) -> Evaluated:
    """What becomes of a batch."""
    team_in, size_in, rule, cell, action, tally = lent(
        core,
        np.array(team, np.int32),
        np.array(size, np.int64),
        rule_table(rules),
        np.array(used, np.int64),
        np.full(len(team), UNTOUCHED, np.uint8),
        no_rows(BATCH_COLUMNS, len(used)),
    )
    core.evaluate(team_in, size_in, rule, cell, action, tally)
    return Evaluated(*listed(action, tally, cell))


def scan(core: ModuleType, body: bytes, dialect: int = PROTOBUF) -> Rows:
    """The rows of a push, in exactly the room that they need."""
    block = exact(body)

    def found(stream: np.ndarray, entry: np.ndarray) -> tuple[int, int]:
        if dialect == PROTOBUF:
            return core.scan_push(block, stream, entry)
        return core.scan_json(block, dialect == LEGACY, stream, entry)[:2]

    streams, entries = found(no_rows(STREAM_COLUMNS), no_rows(ENTRY_COLUMNS))
    rows = Rows(no_rows(STREAM_COLUMNS, streams), no_rows(ENTRY_COLUMNS, entries))
    assert found(*rows) == (streams, entries)
    return rows


def judge(
    core: ModuleType,
    body: bytes,
    rows: Rows,
    team: Sequence[int],
    rules: Sequence[Rule],
    used: Sequence[int],
    *,
    slot: Sequence[int] | None = None,
    dialect: int = PROTOBUF,
) -> Judged:
    """What becomes of a scanned push; without `slot` the teams' places are their numbers."""
    slot = range(len(used)) if slot is None else slot
    stream, entry, team_in, slot_in, rule, cell, outcome, tally = lent(
        core,
        *rows,
        np.array(team, np.int32),
        np.array(slot, np.int32),
        rule_table(rules),
        np.array(used, np.int64),
        np.zeros(len(rows.entry), np.uint8),
        no_rows(PUSH_COLUMNS, len(slot)),
    )
    core.judge(exact(body), dialect, stream, entry, team_in, slot_in, rule, cell, outcome, tally)
    return Judged(*listed(outcome, tally, cell))


def split(
    core: ModuleType, body: bytes, rows: Rows, outcome: Sequence[int], dialect: int = PROTOBUF
) -> bytes:
    """The body without the entries whose outcome is not KEPT."""
    verdicts = array("B", outcome)
    if core is reference:
        return reference.split(body, dialect, *lent(core, *rows), verdicts)
    spare = 0 if dialect == PROTOBUF else 64 * len(rows.stream) + 64
    out = np.full(len(body) + spare, UNTOUCHED, np.uint8)
    size = _core.split(exact(body), dialect, *rows, verdicts, out)
    assert (out[size:] == UNTOUCHED).all(), "wrote beyond the size that it returned"
    return out[:size].tobytes()


def outcome_of(call: Callable[[], Any]) -> Any:
    """Its value, or the type and the text of its refusal."""
    try:
        return call()
    except (errors.SluiceError, ValueError, IndexError) as refusal:
        return type(refusal), str(refusal)


def unplaced(refusal: str) -> str:
    """A refusal's text without the stream and the entry in front of the byte."""
    return re.sub(r"^(stream \d+, )?(entry \d+, )?", "", refusal)
