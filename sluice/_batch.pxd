"""A batch of (team, size) pairs against the counters: by runs, or team by team where runs
are short.

Grouped batches go by the runs of their survey: one swap a run, without another look at its entries
unless a threshold lies among them. Where teams change with almost every entry, a
swap each would cost more than all the rest (9 ns of 11 here), so a chunk is judged on private
copies of its teams' counters, and one swap per team says whether the copy was still true. Where
another thread was faster, the verdicts stand if they are the same from its counter on; else the
entries of that team are judged again, in small blocks, and only where that fails one by one.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from sluice._charge cimport (
    ALLOW, DROP, RELAXED, RULE_COLUMNS, RULE_DRY, RULE_HARD, RULE_SOFT, TALLY_CHARGED,
    TALLY_COLUMNS, TALLY_DROPPED, TALLY_ENTRIES, THROTTLE, charge_run, load, plus, swap, verdict,
)
from sluice._survey cimport PROBE, SHORT, Survey, run_length, sum_of

cdef enum:
    CHUNK = 262144         # entries of such a chunk: 26 a swap with 10 000 teams
    BLOCK = 2048           # entries that are judged again at a time, where a race was lost
    LOST = -1
    DRY = -2

cdef struct Copy:
    int64_t used
    int64_t soft
    int64_t hard
    int64_t before         # the counter as it was read
    int64_t chunk          # the chunk it was read for; negative: LOST, DRY, or the block's
    int64_t entries[3]     # of that chunk, by action
    int64_t dropped        # their bytes

cdef struct Batch:
    const int32_t *team
    const int64_t *size
    int64_t n
    const int64_t *rule    # [teams, RULE_COLUMNS]
    int64_t *used          # [teams]
    int64_t teams
    uint8_t *action_out
    int64_t *tally_out     # [teams, TALLY_COLUMNS]
    bint is_summable       # no run's sum can overflow


cdef inline void charge(
    Batch *b, int64_t at, int32_t team, int64_t n, uint64_t total
) noexcept nogil:
    """Charge `n` entries of one team, whose sizes are `total` together."""
    if team < 0:
        memset(b.action_out + at, ALLOW, n)
        return
    charge_run(
        b.used + team, b.rule + team * <int64_t>RULE_COLUMNS, b.size + at, n,
        <int64_t>total if b.is_summable else -1, b.action_out + at,
        b.tally_out + team * <int64_t>TALLY_COLUMNS)


cdef inline void read_copy(Batch *b, int32_t team, Copy *copy, int64_t chunk) noexcept nogil:
    cdef const int64_t *rule = b.rule + team * <int64_t>RULE_COLUMNS
    copy.used = copy.before = load(b.used + team, RELAXED)
    copy.soft = rule[RULE_SOFT]
    copy.hard = rule[RULE_HARD]
    # A dry run counts more than a copy has words for: its entries go one by one.
    copy.chunk = DRY if rule[RULE_DRY] else chunk
    copy.entries[0] = copy.entries[1] = copy.entries[2] = copy.dropped = 0


cdef inline bint is_same_from(const Copy *copy, int64_t used) noexcept nogil:
    """Whether each of the copy's entries would get its verdict with the counter at `used`, too."""
    cdef int64_t charged = copy.used - copy.before
    if copy.entries[DROP]:
        return False
    if not copy.entries[THROTTLE]:
        return charged <= copy.soft - used
    return not copy.entries[ALLOW] and used > copy.soft and charged <= copy.hard - used


cdef inline bint keep_copy(Batch *b, int32_t team, const Copy *copy) noexcept nogil:
    """Make a copy's charges true, unless another thread changed what they hang on meanwhile."""
    cdef int64_t *tally = b.tally_out + team * <int64_t>TALLY_COLUMNS
    cdef int64_t *cell = b.used + team
    cdef int64_t charged = copy.used - copy.before
    cdef int64_t used = copy.before
    cdef int action
    while charged and not swap(cell, used, used + charged):
        used = load(cell, RELAXED)
        if not is_same_from(copy, used):
            return False
    for action in range(3):
        tally[TALLY_ENTRIES + action] += copy.entries[action]
    tally[TALLY_CHARGED] = plus(tally[TALLY_CHARGED], charged)
    tally[TALLY_DROPPED] = plus(tally[TALLY_DROPPED], copy.dropped)
    return True


cdef inline void judge_by_copy(Batch *b, Copy *copy, int64_t i) noexcept nogil:
    cdef int action = verdict(copy.soft, copy.hard, copy.used, b.size[i])
    b.action_out[i] = action
    copy.entries[action] += 1
    if action == DROP:
        copy.dropped = plus(copy.dropped, b.size[i])
    else:
        copy.used += b.size[i]


cdef inline void evaluate_lost(Batch *b, int64_t at, int64_t end, Copy *copies) noexcept nogil:
    """Judge a block's entries of teams whose copy was lost: by new copies, else one by one."""
    cdef int32_t seen[BLOCK]
    cdef int64_t mark = -end - 2
    cdef int64_t teams = 0
    cdef bint is_lost = False
    cdef int64_t i
    cdef Copy *copy
    for i in range(at, end):
        if b.team[i] < 0:
            continue
        copy = copies + b.team[i]
        if copy.chunk >= 0:
            continue
        if copy.chunk != mark and copy.chunk != DRY:
            read_copy(b, b.team[i], copy, mark)
            seen[teams] = b.team[i]
            teams += 1
        if copy.chunk == DRY:
            charge(b, i, b.team[i], 1, b.size[i])
        else:
            judge_by_copy(b, copy, i)
    for i in range(teams):
        copy = copies + seen[i]
        if copy.chunk == mark and not keep_copy(b, seen[i], copy):
            copy.chunk = LOST
            is_lost = True
    if is_lost:
        for i in range(at, end):
            if b.team[i] >= 0 and copies[b.team[i]].chunk == LOST:
                charge(b, i, b.team[i], 1, b.size[i])


cdef inline int64_t evaluate_chunk(
    Batch *b, int64_t at, Copy *copies, int32_t *seen
) noexcept nogil:
    """Evaluate a chunk team by team; returns where the next one begins."""
    cdef int64_t end = min(b.n, at + CHUNK)
    cdef int64_t teams = 0
    cdef bint is_lost = False
    cdef int64_t i
    cdef int32_t team
    cdef Copy *copy
    for i in range(at, end):
        team = b.team[i]
        if team < 0:
            b.action_out[i] = ALLOW
            continue
        copy = copies + team
        # Chunks are told apart by their end, which is never 0.
        if copy.chunk != end and copy.chunk != DRY:
            read_copy(b, team, copy, end)
            seen[teams] = team
            teams += 1
        if copy.chunk != DRY:
            judge_by_copy(b, copy, i)
    for i in range(teams):
        copy = copies + seen[i]
        if copy.chunk == DRY or not keep_copy(b, seen[i], copy):
            copy.chunk = min(copy.chunk, <int64_t>LOST)
            is_lost = True
    if is_lost:
        while at < end:
            evaluate_lost(b, at, min(end, at + BLOCK), copies)
            at += BLOCK
        for i in range(teams):
            copies[seen[i]].chunk = 0
    return end


cdef inline void evaluate_batch(Batch *b, const Survey *survey) noexcept nogil:
    """Evaluate a whole batch, which was found to be sound."""
    cdef Copy *copies = NULL
    cdef int32_t *seen = NULL
    cdef int64_t bits = 0
    cdef int64_t at = 0
    cdef int64_t runs = 0
    cdef int64_t probed = survey.head
    cdef int64_t n, i
    for i in range(survey.runs):
        charge(b, at, survey.run[i].team, survey.run[i].n, survey.run[i].total)
        at += survey.run[i].n
    while at < b.n:
        n = run_length(b.team + at, b.n - at)
        charge(b, at, b.team[at], n, sum_of(b.size + at, n, &bits))
        at += n
        runs += 1
        if runs % PROBE:
            continue
        if at - probed < PROBE * SHORT and b.n - at > 2 * b.teams:
            if copies == NULL:
                copies = <Copy *>calloc(b.teams, sizeof(Copy))
                seen = <int32_t *>calloc(min(b.teams, <int64_t>CHUNK), sizeof(int32_t))
            if copies != NULL and seen != NULL:
                at = evaluate_chunk(b, at, copies, seen)
        probed = at
    free(copies)
    free(seen)
