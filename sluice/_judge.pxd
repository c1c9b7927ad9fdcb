"""The verdict on every entry of a scanned push, and the charge for those that are kept.

Streams come with the local number of their team. A run of streams of one team that stays
under its soft threshold costs one swap and no look at its entries; otherwise entries are
judged one by one, a chunk per swap, and those in the throttle band are sampled by hash.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset

from sluice._charge cimport (
    ALLOW, DROP, RELAXED, RULE_DRY, RULE_KEEP, THROTTLE, USED_MAX, load, read_rule, swap, verdict,
)
from sluice._cursor cimport Cursor, read_length, read_tag
from sluice._hash cimport xxh64
from sluice._json cimport json_entry_parts
from sluice._scan cimport (
    ENTRY_AT, ENTRY_COLUMNS, ENTRY_END, ENTRY_SIZE, STREAM_COLUMNS, STREAM_COUNT, STREAM_FIRST,
    STREAM_LABELS, STREAM_LABELS_END, STREAM_SIZE,
)
from sluice._wire cimport Span, read_entry

cdef enum:
    PROTOBUF = 0
    JSON = 1
    LEGACY = 2

cdef enum:
    KEPT = 0
    SAMPLED = 1
    DROPPED = 2

cdef enum:
    # tally row: entries by action, entries and bytes by outcome, dry run's bytes by action
    TALLY_ACTION = 0       # + ALLOW, THROTTLE, DROP
    TALLY_OUTCOME = 3      # + 2 * KEPT, SAMPLED, DROPPED: entries, then bytes
    TALLY_DRY = 9          # + ALLOW, THROTTLE, DROP
    TALLY_COLUMNS = 12
    CHUNK = 512

cdef extern from *:
    const uint64_t KEEP_ALL "UINT64_MAX"

cdef struct Push:
    const uint8_t *body
    int dialect
    const int64_t *stream
    const int64_t *entry


cdef inline uint64_t entry_hash(
    const Push *push, const int64_t *entry, uint64_t seed
) noexcept nogil:
    """The sampling hash of one entry; `seed` is that of its stream's labels."""
    cdef Cursor c
    cdef Span message, time, line
    cdef int64_t part[4]
    cdef int64_t size
    cdef int32_t field
    cdef int wire_type
    if push.dialect == PROTOBUF:
        c.at = push.body + entry[ENTRY_AT]
        c.end = push.body + entry[ENTRY_END]
        read_tag(&c, &field, &wire_type)
        read_length(&c, &message.size)
        message.at = c.at
        read_entry(message, &c, &time, &line, &size)
        return xxh64(line.at, line.size, xxh64(time.at, time.size, seed))
    memset(part, 0, sizeof(part))
    json_entry_parts(
        push.body, entry[ENTRY_AT], entry[ENTRY_END], push.dialect == LEGACY, part)
    seed = xxh64(push.body + part[0], <uint64_t>(part[1] - part[0]), seed)
    return xxh64(push.body + part[2], <uint64_t>(part[3] - part[2]), seed)


cdef inline bint is_kept(
    const Push *push, const int64_t *rule, const int64_t *entry, uint64_t seed
) noexcept nogil:
    """Whether an entry in the throttle band is among the sample."""
    cdef uint64_t keep = <uint64_t>rule[RULE_KEEP]
    if keep == KEEP_ALL:
        return True
    return entry_hash(push, entry, seed) < keep


cdef inline int64_t judge_chunk(
    const Push *push, const int64_t *rule, int64_t used, int64_t first, int64_t n, uint64_t seed,
    uint8_t *outcome_out, int64_t *tally_out
) noexcept nogil:
    """Judge `n` entries one after another from `used` on; returns what is used after them."""
    cdef const int64_t *entry
    cdef int64_t soft, hard, i, size
    cdef int action, outcome
    read_rule(rule, &soft, &hard)
    for i in range(first, first + n):
        entry = push.entry + i * ENTRY_COLUMNS
        size = entry[ENTRY_SIZE]
        action = verdict(soft, hard, used, size)
        outcome = KEPT
        if rule[RULE_DRY]:
            tally_out[TALLY_DRY + action] += size
            action = ALLOW if size <= USED_MAX - used else DROP
        if action == DROP:
            outcome = DROPPED
        elif action == THROTTLE and not is_kept(push, rule, entry, seed):
            outcome = SAMPLED
        if outcome == KEPT:
            used += size
        outcome_out[i] = outcome
        tally_out[TALLY_ACTION + action] += 1
        tally_out[TALLY_OUTCOME + 2 * outcome] += 1
        tally_out[TALLY_OUTCOME + 2 * outcome + 1] += size
    return used


cdef inline void judge_stream(
    const Push *push, const int64_t *stream, const int64_t *rule, int64_t *cell,
    uint8_t *outcome_out, int64_t *tally_out
) noexcept nogil:
    """Judge a stream entry by entry, a chunk per swap."""
    cdef int64_t at = stream[STREAM_FIRST]
    cdef int64_t end = at + stream[STREAM_COUNT]
    cdef int64_t n, used, after, column
    cdef int64_t tally[12]
    cdef uint64_t seed = xxh64(
        push.body + stream[STREAM_LABELS],
        <uint64_t>(stream[STREAM_LABELS_END] - stream[STREAM_LABELS]), 0)
    while at < end:
        n = min(end - at, <int64_t>CHUNK)
        while True:
            used = load(cell, RELAXED)
            memset(tally, 0, sizeof(tally))
            after = judge_chunk(push, rule, used, at, n, seed, outcome_out, tally)
            if after == used or swap(cell, used, after):
                break
        for column in range(TALLY_COLUMNS):
            tally_out[column] += tally[column]
        at += n


cdef inline bint is_under(
    int64_t total, int64_t count, const int64_t *rule, int64_t *cell, int64_t *tally_out
) noexcept nogil:
    """Charge a whole run if it stays below the soft threshold; else change nothing.

    A run that meets the threshold to the byte is looked at: its last entry may be an empty one.
    """
    cdef int64_t used, soft, hard
    while True:
        used = load(cell, RELAXED)
        read_rule(rule, &soft, &hard)
        if total >= soft - used:
            return False
        if swap(cell, used, used + total):
            break
    tally_out[TALLY_ACTION + ALLOW] += count
    tally_out[TALLY_OUTCOME + 2 * KEPT] += count
    tally_out[TALLY_OUTCOME + 2 * KEPT + 1] += total
    if rule[RULE_DRY]:
        tally_out[TALLY_DRY + ALLOW] += total
    return True


cdef inline int64_t judge_push(
    const Push *push, int64_t first, int64_t streams, const int32_t *team, const int32_t *slot,
    const int64_t *rule, int64_t *used, uint8_t *outcome_out, int64_t *tally_out, bint singly
) noexcept nogil:
    """Judge streams from `first` on, run by run of one team; returns where it stopped.

    Without `singly` it stops at the first run whose entries must be looked at. Outcomes come in
    zeroed (KEPT).
    """
    cdef int64_t s = first
    cdef int64_t r, i, total, count
    cdef const int64_t *row
    cdef const int64_t *own_rule
    cdef int64_t *cell
    while s < streams:
        total = count = 0
        r = s
        while r < streams and team[r] == team[s]:
            row = push.stream + r * STREAM_COLUMNS
            total += row[STREAM_SIZE]
            count += row[STREAM_COUNT]
            r += 1
        own_rule = rule + slot[team[s]] * <int64_t>4
        cell = used + slot[team[s]]
        if not is_under(total, count, own_rule, cell, tally_out + team[s] * TALLY_COLUMNS):
            if not singly:
                return s
            for i in range(s, r):
                judge_stream(
                    push, push.stream + i * STREAM_COLUMNS, own_rule, cell, outcome_out,
                    tally_out + team[s] * TALLY_COLUMNS)
        s = r
    return s
