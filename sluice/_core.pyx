"""The compiled core: ints and bytes in, ints out. No names, no clock, no settings, no state.

The doors check what they are given, drop the GIL once, and turn codes into exceptions; the
work is done by the leaves in the .pxd files. reference.py says the same in plain Python. Only
assign() works on a Python object, a dict that is lent to it, and keeps the GIL.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from sluice._batch cimport Batch, evaluate_batch
from sluice._book cimport (
    CELL_COUNTS, JOURNAL_IMAGE, KIND_AT, KIND_CELLS, KIND_COLUMNS, KIND_COUNTS, KIND_WORDS,
    SEAL_COLUMNS, book_row,
)
from sluice._charge cimport (
    RELAXED, RULE_COLUMNS, TALLY_COLUMNS as BATCH_COLUMNS, add_fetch,
)
from sluice._hash cimport xxh64
from sluice._json cimport scan_json as scan_json_body
from sluice._json_split cimport split_json as split_json_body
from sluice._judge cimport PROTOBUF, TALLY_COLUMNS, Push, judge_push
from sluice._scan cimport (
    BAD_ESCAPE, BAD_JSON, BAD_TAG, BAD_TIME, BAD_TIME_NS, BAD_TIME_TEXT, BAD_TYPE, BAD_TYPE_JSON,
    ENTRY_COLUMNS, OK, OVERLONG, STREAM_COLUMNS, STREAM_COUNT, STREAM_FIRST, STREAM_LABELS,
    STREAM_LABELS_END, TOO_DEEP, TRUNCATED, UNFINISHED, Found,
)
from sluice._split cimport split_push as split_push_body
from sluice._survey cimport Survey, survey_batch
from sluice._wire cimport scan_push as scan_push_body

from sluice import errors

# Sums of a run stay below 2^63 while no size reaches this (2^50 times RUN_MAX is 2^62).
cdef int64_t SUMMABLE = <int64_t>1 << 50
# Bytes that are scanned in microseconds: less than it costs to let go of the GIL in a crowd.
cdef int64_t BRIEF = 32768
# Bytes of one stream's label text as received; see assign().
LABELS_MAX = 65536
cdef int64_t LABEL_BYTES = LABELS_MAX

WORDS = {
    OVERLONG: "a varint of more than ten bytes",
    BAD_TAG: "a field number below 1, or a group's end without its start",
    BAD_TYPE: "a wire type that this field cannot have",
    BAD_JSON: "not what JSON allows here",
    BAD_TYPE_JSON: "a JSON value of a kind that a push cannot have here",
    BAD_ESCAPE: "an escape sequence that Loki refuses",
    TOO_DEEP: "nested deeper than 10000 levels",
    UNFINISHED: "the body ends inside a JSON value",
    BAD_TIME_NS: "Loki takes nanoseconds since 1970 here, as a decimal integer of 64 bits",
    BAD_TIME_TEXT: 'Loki takes RFC 3339 here, such as "2026-11-22T12:00:00.5Z"',
}


cdef refuse(int code, Found *found, const uint8_t[::1] body):
    if code == TRUNCATED:
        words = f"length {found.need} exceeds the {found.left} bytes left"
    elif code == BAD_TIME:
        words = (
            f"a timestamp of {<int64_t>found.need} s and {<int32_t>found.left} ns: Loki takes the"
            " years 1 to 9999, and 0 to 999999999 ns")
    elif code == BAD_TIME_NS or code == BAD_TIME_TEXT:
        text = bytes(body[found.at:found.at + errors.EXCERPT_BYTES]).split(b'"')[0]
        words = f"timestamp {errors.excerpt(text)}: {WORDS[code]}"
    else:
        words = WORDS[code]
    place = f"byte {found.at}"
    if found.in_entry >= 0:
        place = f"entry {found.in_entry}, {place}"
    if found.in_stream >= 0:
        place = f"stream {found.in_stream}, {place}"
    raise errors.BadPush(f"{place}: {words}")


cdef Found room(int64_t[:, ::1] stream_out, int64_t[:, ::1] entry_out) except *:
    """A scan's empty result over lent arrays."""
    cdef Found found
    if stream_out.shape[1] != STREAM_COLUMNS or entry_out.shape[1] != ENTRY_COLUMNS:
        raise ValueError(
            f"rows of {stream_out.shape[1]} and {entry_out.shape[1]} columns,"
            f" not {STREAM_COLUMNS} and {ENTRY_COLUMNS}")
    memset(&found, 0, sizeof(Found))
    found.in_stream = found.in_entry = -1
    found.stream_room = stream_out.shape[0]
    found.entry_room = entry_out.shape[0]
    found.stream = &stream_out[0, 0] if found.stream_room else NULL
    found.entry = &entry_out[0, 0] if found.entry_room else NULL
    return found


def scan_push(
    const uint8_t[::1] body not None,
    int64_t[:, ::1] stream_out not None,
    int64_t[:, ::1] entry_out not None,
):
    cdef Found found = room(stream_out, entry_out)
    cdef int64_t n = body.shape[0]
    cdef int code = OK
    if n > BRIEF:
        with nogil:
            code = scan_push_body(&found, &body[0], n)
    elif n:
        code = scan_push_body(&found, &body[0], n)
    if code != OK:
        refuse(code, &found, body)
    return found.streams, found.entries


def scan_json(
    const uint8_t[::1] body not None,
    bint legacy,
    int64_t[:, ::1] stream_out not None,
    int64_t[:, ::1] entry_out not None,
):
    cdef Found found = room(stream_out, entry_out)
    cdef int64_t n = body.shape[0]
    cdef uint8_t nothing = 0
    cdef const uint8_t *at = &body[0] if n else &nothing
    cdef int code
    with nogil:
        code = scan_json_body(&found, at, n, legacy)
    if code != OK:
        refuse(code, &found, body)
    return found.streams, found.entries, bool(found.is_mixed)


cdef int64_t first_bad(
    const int32_t *team, const int64_t *size, int64_t n, int64_t teams
) noexcept nogil:
    """The first entry whose team or size is out of range, or -1."""
    cdef int64_t i
    for i in range(n):
        if size[i] < 0 or team[i] < -1 or team[i] >= teams:
            return i
    return -1


def evaluate(
    const int32_t[::1] team not None,
    const int64_t[::1] size not None,
    const int64_t[:, ::1] rule not None,
    int64_t[::1] used not None,
    uint8_t[::1] action_out not None,
    int64_t[:, ::1] tally_out not None,
):
    cdef Batch batch
    cdef int64_t n = team.shape[0]
    cdef int64_t teams = used.shape[0]
    cdef Survey survey
    cdef int64_t bad = -1
    if size.shape[0] != n or action_out.shape[0] != n:
        raise ValueError(f"{n} teams, {size.shape[0]} sizes, {action_out.shape[0]} actions")
    if rule.shape[0] != teams or rule.shape[1] != RULE_COLUMNS:
        raise ValueError(f"{teams} counters, {rule.shape[0]} rules of {rule.shape[1]} columns")
    if tally_out.shape[0] != teams or tally_out.shape[1] != BATCH_COLUMNS:
        raise ValueError(
            f"{teams} counters, {tally_out.shape[0]} tallies of {tally_out.shape[1]} columns")
    if n == 0:
        return
    batch.team = &team[0]
    batch.size = &size[0]
    batch.n = n
    batch.rule = &rule[0, 0] if teams else NULL
    batch.used = &used[0] if teams else NULL
    batch.teams = teams
    batch.action_out = &action_out[0]
    batch.tally_out = &tally_out[0, 0] if teams else NULL
    with nogil:
        survey_batch(batch.team, batch.size, n, <int32_t>teams, &survey)
        if survey.is_sound:
            batch.is_summable = survey.bits < SUMMABLE
            evaluate_batch(&batch, &survey)
        else:
            bad = first_bad(batch.team, batch.size, n, teams)
        free(survey.run)
    if bad >= 0 and size[bad] < 0:
        raise ValueError(f"entry {bad}: size {size[bad]} is below 0")
    if bad >= 0:
        raise IndexError(f"entry {bad}: team {team[bad]} is not one of {teams}")


cdef check_rows(const int64_t[:, ::1] stream, const int64_t[:, ::1] entry, int64_t outcomes):
    """Rows must be those of a scan: the loops follow their offsets without another look."""
    cdef int64_t entries = min(entry.shape[0], outcomes)
    cdef int64_t s
    if stream.shape[1] != STREAM_COLUMNS or entry.shape[1] != ENTRY_COLUMNS:
        raise ValueError(f"rows of {stream.shape[1]} and {entry.shape[1]} columns")
    for s in range(stream.shape[0]):
        if not 0 <= stream[s, STREAM_FIRST] <= entries - stream[s, STREAM_COUNT]:
            raise ValueError(
                f"stream {s}: {stream[s, STREAM_COUNT]} entries from {stream[s, STREAM_FIRST]} on,"
                f" {entry.shape[0]} rows, {outcomes} outcomes")


cdef object learned(learn, bytes key, int64_t s):
    """The owner of a label string that is not known; a refusal names the stream."""
    try:
        return learn(key)
    except errors.BadPush as error:
        raise errors.BadPush(f"stream {s}: {error.message}") from None


def assign(
    const uint8_t[::1] body not None,
    int dialect,
    const int64_t[:, ::1] stream not None,
    dict known not None,
    learn,
    int32_t[::1] team_out not None,
    int32_t[::1] app_out not None,
):
    cdef int64_t n = body.shape[0]
    cdef int64_t s, at, size, owner
    cdef int32_t row, team = 0, last = 0
    cdef PyObject *found
    cdef bytes key
    cdef dict place = {}
    if stream.shape[1] != STREAM_COLUMNS:
        raise ValueError(f"rows of {stream.shape[1]} columns, not {STREAM_COLUMNS}")
    if not team_out.shape[0] == app_out.shape[0] == stream.shape[0]:
        raise ValueError(
            f"{stream.shape[0]} streams, {team_out.shape[0]} teams,"
            f" {app_out.shape[0]} applications")
    for s in range(stream.shape[0]):
        at = stream[s, STREAM_LABELS]
        size = stream[s, STREAM_LABELS_END] - at
        if not (0 <= at <= n and 0 <= size <= n - at):
            raise ValueError(f"stream {s}: labels of {size} bytes at byte {at} of {n}")
        if size > LABEL_BYTES:
            raise errors.BadPush(
                f"stream {s}: its labels are {size} bytes of text, at most {LABEL_BYTES} are read")
        key = PyBytes_FromStringAndSize(NULL, 1 + size)
        PyBytes_AS_STRING(key)[0] = dialect
        if size:
            memcpy(PyBytes_AS_STRING(key) + 1, &body[at], size)
        found = PyDict_GetItem(known, key)
        owner = <object>found if found != NULL else learned(learn, key, s)
        row = owner >> 32
        if s == 0 or row != last:
            team = place.setdefault(row, len(place))
            last = row
        team_out[s] = team
        app_out[s] = owner & 0x7fffffff
    return list(place)


def judge(
    const uint8_t[::1] body not None,
    int dialect,
    const int64_t[:, ::1] stream not None,
    const int64_t[:, ::1] entry not None,
    const int32_t[::1] team not None,
    const int32_t[::1] slot not None,
    const int64_t[:, ::1] rule not None,
    int64_t[::1] used not None,
    uint8_t[::1] outcome_out not None,
    int64_t[:, ::1] tally_out not None,
):
    cdef int64_t streams = stream.shape[0]
    cdef int64_t i
    cdef uint8_t *outcome
    cdef Push push
    check_rows(stream, entry, outcome_out.shape[0])
    if team.shape[0] != streams:
        raise ValueError(f"{streams} streams, {team.shape[0]} teams")
    if tally_out.shape[0] != slot.shape[0] or tally_out.shape[1] != TALLY_COLUMNS:
        raise ValueError(
            f"{slot.shape[0]} teams, {tally_out.shape[0]} tallies of {tally_out.shape[1]} columns")
    if rule.shape[0] != used.shape[0] or rule.shape[1] != RULE_COLUMNS:
        raise ValueError(
            f"{used.shape[0]} counters, {rule.shape[0]} rules of {rule.shape[1]} columns")
    for i in range(streams):
        if not 0 <= team[i] < slot.shape[0]:
            raise IndexError(f"stream {i}: team {team[i]} is not one of {slot.shape[0]}")
    for i in range(slot.shape[0]):
        if not 0 <= slot[i] < used.shape[0]:
            raise IndexError(f"team {i}: slot {slot[i]} is not one of {used.shape[0]}")
    if streams == 0:
        return
    push.body = &body[0]
    push.dialect = dialect
    push.stream = &stream[0, 0]
    push.entry = &entry[0, 0] if entry.shape[0] else NULL
    outcome = &outcome_out[0] if outcome_out.shape[0] else NULL
    # Runs below the band take nanoseconds; to get the GIL back in a crowd takes up to 5 ms.
    i = judge_push(
        &push, 0, streams, &team[0], &slot[0], &rule[0, 0], &used[0], outcome, &tally_out[0, 0],
        False)
    if i < streams:
        with nogil:
            judge_push(
                &push, i, streams, &team[0], &slot[0], &rule[0, 0], &used[0], outcome,
                &tally_out[0, 0], True)


def split(
    const uint8_t[::1] body not None,
    int dialect,
    const int64_t[:, ::1] stream not None,
    const int64_t[:, ::1] entry not None,
    const uint8_t[::1] outcome not None,
    uint8_t[::1] out not None,
):
    cdef int64_t streams = stream.shape[0]
    cdef int64_t n = body.shape[0]
    cdef int64_t needed = n if dialect == PROTOBUF else n + 64 * streams + 64
    cdef int64_t size
    cdef const int64_t *entries
    check_rows(stream, entry, outcome.shape[0])
    if out.shape[0] < needed:
        raise ValueError(f"room for {out.shape[0]} bytes, {needed} needed")
    if n == 0 or streams == 0 or entry.shape[0] == 0:
        raise ValueError("a push without entries has nothing to split")
    entries = &entry[0, 0]
    with nogil:
        if dialect == PROTOBUF:
            size = split_push_body(
                &body[0], n, &stream[0, 0], streams, entries, &outcome[0], &out[0])
        else:
            size = split_json_body(
                &body[0], &stream[0, 0], streams, entries, &outcome[0], dialect != 1, &out[0])
    return size


def add(int64_t[::1] cell not None, const int32_t[::1] at not None, const int64_t[::1] n not None):
    cdef int64_t i
    if at.shape[0] != n.shape[0]:
        raise ValueError(f"{at.shape[0]} places, {n.shape[0]} amounts")
    for i in range(at.shape[0]):
        if not 0 <= at[i] < cell.shape[0]:
            raise IndexError(f"place {at[i]} is not one of {cell.shape[0]}")
    for i in range(at.shape[0]):
        add_fetch(&cell[at[i]], n[i], RELAXED)


def book(
    int64_t[:, ::1] row not None,
    const int32_t[::1] at not None,
    const int64_t[:, ::1] totals not None,
    const int64_t[::1] committed not None,
    const int64_t[:, ::1] kind not None,
    const int32_t[:, ::1] key not None,
    const int32_t[:, ::1] cell not None,
    const int64_t[::1] weight not None,
    int64_t[::1] journal not None,
):
    cdef int64_t columns = row.shape[1]
    # Of counters: the seal stands behind them.
    cdef int64_t room = columns - SEAL_COLUMNS
    cdef int64_t kinds = kind.shape[0]
    cdef int64_t rows = min(row.shape[0], key.shape[1])
    cdef int64_t i, k
    if not at.shape[0] == totals.shape[0] == committed.shape[0]:
        raise ValueError(
            f"{at.shape[0]} rows, {totals.shape[0]} totals, {committed.shape[0]} amounts")
    if kind.shape[1] != KIND_WORDS or not key.shape[0] == cell.shape[0] == kinds:
        raise ValueError(f"{kinds} kinds, {key.shape[0]} keys, {cell.shape[0]} cells")
    if key.shape[1] != cell.shape[1]:
        raise ValueError(f"{key.shape[1]} keys, {cell.shape[1]} cells")
    if weight.shape[0] != columns or journal.shape[0] != JOURNAL_IMAGE + columns:
        raise ValueError(
            f"{weight.shape[0]} weights and a journal of {journal.shape[0]}"
            f" for rows of {columns} columns")
    if totals.shape[1] > room:
        raise ValueError(f"totals of {totals.shape[1]} columns for rows of {columns}")
    for k in range(kinds):
        if (
            min(kind[k, KIND_AT], kind[k, KIND_CELLS], kind[k, KIND_COUNTS]) < 0
            or kind[k, KIND_COUNTS] > min(totals.shape[1], kind[k, KIND_COLUMNS] - CELL_COUNTS)
            or kind[k, KIND_AT] + kind[k, KIND_CELLS] * kind[k, KIND_COLUMNS] > room
        ):
            raise ValueError(f"kind {k} does not fit into rows of {columns} columns")
    for i in range(at.shape[0]):
        if not 0 <= at[i] < rows:
            raise IndexError(f"row {at[i]} is not one of {rows}")
        for k in range(kinds):
            if not 0 <= cell[k, at[i]] < kind[k, KIND_CELLS]:
                raise IndexError(
                    f"row {at[i]}: cell {cell[k, at[i]]} is not one of {kind[k, KIND_CELLS]}")
    for i in range(at.shape[0]):
        book_row(
            &row[at[i], 0], at[i], &totals[i, 0], totals.shape[1], committed[i],
            &kind[0, 0], kinds, &key[0, at[i]], &cell[0, at[i]], key.shape[1],
            &weight[0], columns, &journal[0])


cdef uint64_t hashed(const uint8_t[::1] part, uint64_t seed):
    cdef uint8_t nothing = 0
    return xxh64(&part[0] if part.shape[0] else &nothing, part.shape[0], seed)


def entry_hash(
    const uint8_t[::1] labels not None,
    const uint8_t[::1] time not None,
    const uint8_t[::1] line not None,
):
    return hashed(line, hashed(time, hashed(labels, 0)))
