"""The core in plain Python: the specification that runs. For tests and benchmarks only.

Same doors, same arguments, same errors in the same words as _core.pyx; one entry after
another, no chunks, no swaps. What is done with bytes is in reference_push.py and
reference_json.py.
"""

from collections.abc import Callable, Mapping, MutableSequence, Sequence

from sluice import errors
from sluice.policy import KEEP_ALL, Action
from sluice.reference_json import scan_json as scan_json
from sluice.reference_push import KEPT, STREAM_COLUMNS, Rows, check_rows, columns, hash_of
from sluice.reference_push import entry_hash as entry_hash
from sluice.reference_push import scan_push as scan_push
from sluice.reference_push import split as split

USED_MAX = 2**62
SAMPLED, DROPPED = 1, 2
RULE_COLUMNS, BATCH_COLUMNS, PUSH_COLUMNS = 4, 8, 12
SEAL_COLUMNS = 3
LABELS_MAX = 65_536


# evaluate: (team, size) pairs against the counters


def plus(a: int, b: int) -> int:
    return min(int(a) + int(b), 2**63 - 1)


def verdict(soft: int, hard: int, used: int, size: int) -> Action:
    """What an entry of `size` bytes gets for a team at `used`; an empty one needs one byte."""
    need = max(size, 1)
    if need > hard - used:
        return Action.DROP
    if need > soft - used:
        return Action.THROTTLE
    return Action.ALLOW


def check_batch(
    team: Sequence[int],
    size: Sequence[int],
    rule: Rows,
    used: Sequence[int],
    action_out: Sequence[int],
    tally_out: Rows,
) -> None:
    n, teams = len(team), len(used)
    if not len(size) == len(action_out) == n:
        raise ValueError(f"{n} teams, {len(size)} sizes, {len(action_out)} actions")
    width = columns(rule, RULE_COLUMNS)
    if (len(rule), width) != (teams, RULE_COLUMNS):
        raise ValueError(f"{teams} counters, {len(rule)} rules of {width} columns")
    width = columns(tally_out, BATCH_COLUMNS)
    if (len(tally_out), width) != (teams, BATCH_COLUMNS):
        raise ValueError(f"{teams} counters, {len(tally_out)} tallies of {width} columns")
    for i in range(n):
        if size[i] < 0:
            raise ValueError(f"entry {i}: size {size[i]} is below 0")
        if not -1 <= team[i] < teams:
            raise IndexError(f"entry {i}: team {team[i]} is not one of {teams}")


def evaluate(
    team: Sequence[int],
    size: Sequence[int],
    rule: Rows,
    used: MutableSequence[int],
    action_out: MutableSequence[int],
    tally_out: Rows,
) -> None:
    check_batch(team, size, rule, used, action_out, tally_out)
    for i in range(len(team)):
        t, n = int(team[i]), int(size[i])
        if t < 0:
            action_out[i] = Action.ALLOW
            continue
        soft, hard, _, dry = (int(word) for word in rule[t])
        action = verdict(soft, hard, int(used[t]), n)
        if dry:
            tally_out[t][5 + action] = plus(tally_out[t][5 + action], n)
            action = Action.ALLOW if n <= USED_MAX - int(used[t]) else Action.DROP
        action_out[i] = action
        tally_out[t][action] += 1
        column = 4 if action == Action.DROP else 3
        tally_out[t][column] = plus(tally_out[t][column], n)
        if action != Action.DROP:
            used[t] += n


# judge: the outcome of each entry of a scanned push


def check_places(
    stream: Rows,
    team: Sequence[int],
    slot: Sequence[int],
    rule: Rows,
    used: Sequence[int],
    tally_out: Rows,
) -> None:
    if len(team) != len(stream):
        raise ValueError(f"{len(stream)} streams, {len(team)} teams")
    width = columns(tally_out, PUSH_COLUMNS)
    if (len(tally_out), width) != (len(slot), PUSH_COLUMNS):
        raise ValueError(f"{len(slot)} teams, {len(tally_out)} tallies of {width} columns")
    width = columns(rule, RULE_COLUMNS)
    if (len(rule), width) != (len(used), RULE_COLUMNS):
        raise ValueError(f"{len(used)} counters, {len(rule)} rules of {width} columns")
    for what, place, where, room in (
        ("stream", team, "team", len(slot)),
        ("team", slot, "slot", len(used)),
    ):
        for i in range(len(place)):
            if not 0 <= place[i] < room:
                raise IndexError(f"{what} {i}: {where} {place[i]} is not one of {room}")


def assign(
    body: bytes,
    dialect: int,
    stream: Rows,
    known: Mapping[bytes, int],
    learn: Callable[[bytes], int],
    team_out: MutableSequence[int],
    app_out: MutableSequence[int],
) -> list[int]:
    width = columns(stream, STREAM_COLUMNS)
    if width != STREAM_COLUMNS:
        raise ValueError(f"rows of {width} columns, not {STREAM_COLUMNS}")
    if not len(team_out) == len(app_out) == len(stream):
        raise ValueError(
            f"{len(stream)} streams, {len(team_out)} teams, {len(app_out)} applications"
        )
    place: dict[int, int] = {}
    for s, (at, end) in enumerate((row[3], row[4]) for row in stream):
        if not 0 <= at <= end <= len(body):
            raise ValueError(f"stream {s}: labels of {end - at} bytes at byte {at} of {len(body)}")
        if end - at > LABELS_MAX:
            raise errors.BadPush(
                f"stream {s}: its labels are {end - at} bytes of text,"
                f" at most {LABELS_MAX} are read"
            )
        key = bytes([dialect]) + bytes(body[at:end])
        try:
            owner = known[key] if key in known else learn(key)
        except errors.BadPush as error:
            raise errors.BadPush(f"stream {s}: {error.message}") from None
        team_out[s] = place.setdefault(owner >> 32, len(place))
        app_out[s] = owner % 2**31
    return list(place)


def judge(
    body: bytes,
    dialect: int,
    stream: Rows,
    entry: Rows,
    team: Sequence[int],
    slot: Sequence[int],
    rule: Rows,
    used: MutableSequence[int],
    outcome_out: MutableSequence[int],
    tally_out: Rows,
) -> None:
    check_rows(stream, entry, len(outcome_out))
    check_places(stream, team, slot, rule, used, tally_out)
    body = bytes(body)
    for row, t in zip(stream, team, strict=True):
        soft, hard, keep, dry = (int(word) for word in rule[slot[t]])
        tally = tally_out[t]
        for i in range(int(row[5]), int(row[5]) + int(row[6])):
            size, before = int(entry[i][2]), int(used[slot[t]])
            action = verdict(soft, hard, before, size)
            if dry:
                tally[9 + action] += size
                action = Action.ALLOW if size <= USED_MAX - before else Action.DROP
            outcome = KEPT
            if action == Action.DROP:
                outcome = DROPPED
            elif action == Action.THROTTLE and keep % 2**64 != KEEP_ALL:
                is_kept = hash_of(body, dialect, row, entry[i]) < keep % 2**64
                outcome = KEPT if is_kept else SAMPLED
            if outcome == KEPT:
                used[slot[t]] += size
            outcome_out[i] = outcome
            tally[action] += 1
            tally[3 + 2 * outcome] += 1
            tally[4 + 2 * outcome] += size


# book: what became of a push


def check_book(
    row: Rows,
    at: Sequence[int],
    totals: Rows,
    committed: Sequence[int],
    kind: Rows,
    key: Rows,
    cell: Rows,
    weight: Sequence[int],
    journal: Sequence[int],
) -> None:
    wide = columns(row, 0)
    width = columns(totals, wide - SEAL_COLUMNS)
    if not len(at) == len(totals) == len(committed):
        raise ValueError(f"{len(at)} rows, {len(totals)} totals, {len(committed)} amounts")
    if columns(kind, 4) != 4 or not len(key) == len(cell) == len(kind):
        raise ValueError(f"{len(kind)} kinds, {len(key)} keys, {len(cell)} cells")
    if columns(key, 0) != columns(cell, 0):
        raise ValueError(f"{columns(key, 0)} keys, {columns(cell, 0)} cells")
    if len(weight) != wide or len(journal) != 2 + wide:
        raise ValueError(
            f"{len(weight)} weights and a journal of {len(journal)} for rows of {wide} columns"
        )
    if width > wide - SEAL_COLUMNS:
        raise ValueError(f"totals of {width} columns for rows of {wide}")
    for k, (first, cells, size, counts) in enumerate(kind):
        fits = 0 <= counts <= min(width, size - 3) and first + cells * size <= wide - SEAL_COLUMNS
        if not fits or min(first, cells) < 0:
            raise ValueError(f"kind {k} does not fit into rows of {wide} columns")
    for r in at:
        rows = min(len(row), columns(key, 0))
        if not 0 <= r < rows:
            raise IndexError(f"row {r} is not one of {rows}")
        for k in range(len(kind)):
            if not 0 <= cell[k][r] < kind[k][1]:
                raise IndexError(f"row {r}: cell {cell[k][r]} is not one of {kind[k][1]}")


def book(
    row: Rows,
    at: Sequence[int],
    totals: Rows,
    committed: Sequence[int],
    kind: Rows,
    key: Rows,
    cell: Rows,
    weight: Sequence[int],
    journal: MutableSequence[int],
) -> None:
    check_book(row, at, totals, committed, kind, key, cell, weight, journal)
    for i, r in enumerate(at):
        own = row[r]
        journal[2:] = own
        before = list(own)
        for column, n in enumerate(totals[i]):
            own[column] = plus(own[column], n)
        for k, (first, _, size, counts) in enumerate(kind):
            start = first + cell[k][r] * size
            if own[start] == key[k][r]:
                for column, n in enumerate([committed[i], *totals[i][:counts]], start + 2):
                    own[column] = plus(own[column], n)
        journal[0], journal[1] = 0, wrapped(journal[1] + 1)
        own[-2] = journal[1]
        grown = sum(w * (new - old) for w, new, old in zip(weight, own, before, strict=True))
        own[-1] = wrapped(own[-1] + grown)


def wrapped(n: int) -> int:
    """What an int64 has of a number."""
    return (n + 2**63) % 2**64 - 2**63


# add: what was charged is given back


def add(cell: MutableSequence[int], at: Sequence[int], n: Sequence[int]) -> None:
    if len(at) != len(n):
        raise ValueError(f"{len(at)} places, {len(n)} amounts")
    for place in at:
        if not 0 <= place < len(cell):
            raise IndexError(f"place {place} is not one of {len(cell)}")
    for place, amount in zip(at, n, strict=True):
        cell[place] += amount
