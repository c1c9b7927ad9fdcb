"""A batch of (team, size) pairs against the counters: by runs, or team by team where runs
are short.

Grouped batches go by the runs of their survey: one swap a run, without another look at its entries
unless a threshold lies among them. Where teams change with almost every entry, a
swap each would cost more than all the rest (9 ns of 11 here), so a chunk is judged on private
copies of its teams' counters, and one swap per team says whether the copy was still true. Where
another thread was faster, the verdicts stand if they are the same from its counter on; else the
entries of all such teams are gathered team by team, and go by runs after all.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from sluice._charge cimport (
    ALLOW, DROP, RELAXED, RULE_COLUMNS, RULE_DRY, RUN_MAX, TALLY_CHARGED, TALLY_COLUMNS,
    TALLY_DROPPED, TALLY_ENTRIES, THROTTLE, charge_run, load, plus, read_rule, swap, verdict,
)
from sluice._survey cimport PROBE, SHORT, Survey, run_length, sum_of

cdef enum:
    CHUNK = 262144         # entries of such a chunk: 26 a swap with 10 000 teams
    LOST = -1
    DRY = -2

cdef struct Copy:
    int64_t used
    int64_t soft
    int64_t hard
    int64_t before         # the counter as it was read
    int64_t chunk          # the chunk it was read for; or LOST, DRY
    int64_t entries[3]     # of that chunk, by action
    int64_t dropped        # their bytes

cdef struct Gathered:
    int64_t size[CHUNK]
    int32_t entry[CHUNK]   # its place in the chunk
    uint8_t action[CHUNK]

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
    Batch *b, int32_t team, const int64_t *size, int64_t n, uint64_t total, uint8_t *action_out
) noexcept nogil:
    """Charge `n` entries of one team, whose sizes are `total` together."""
    if team < 0:
        memset(action_out, ALLOW, n)
        return
    charge_run(
        b.used + team, b.rule + team * <int64_t>RULE_COLUMNS, size, n,
        <int64_t>total if b.is_summable else -1, action_out,
        b.tally_out + team * <int64_t>TALLY_COLUMNS)


cdef inline void read_copy(Batch *b, int32_t team, Copy *copy, int64_t chunk) noexcept nogil:
    cdef const int64_t *rule = b.rule + team * <int64_t>RULE_COLUMNS
    copy.used = copy.before = load(b.used + team, RELAXED)
    read_rule(rule, &copy.soft, &copy.hard)
    # A dry run counts more than a copy has words for: its entries go one by one.
    copy.chunk = DRY if rule[RULE_DRY] else chunk
    copy.entries[0] = copy.entries[1] = copy.entries[2] = copy.dropped = 0


cdef inline bint is_same_from(const Copy *copy, int64_t used) noexcept nogil:
    """Whether each of the copy's entries would get its verdict with the counter at `used`, too.

    False where a threshold would be met to the byte: the last entry may be an empty one.
    """
    cdef int64_t charged = copy.used - copy.before
    if copy.entries[DROP]:
        return False
    if not copy.entries[THROTTLE]:
        return charged < copy.soft - used
    return not copy.entries[ALLOW] and used >= copy.soft and charged < copy.hard - used


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


cdef inline void evaluate_lost(
    Batch *b, int64_t at, int64_t end, Copy *copies, const int32_t *seen, int64_t teams,
    Gathered *gathered
) noexcept nogil:
    """Judge a chunk's entries of those teams whose copy was lost: gathered, one swap a run."""
    cdef int64_t bits = 0
    cdef int64_t place = 0
    cdef int64_t i, n
    cdef Copy *copy
    for i in range(teams):
        copy = copies + seen[i]
        if copy.chunk == LOST:
            # From here on, where its next entry goes.
            copy.before = place
            place += copy.entries[ALLOW] + copy.entries[THROTTLE] + copy.entries[DROP]
    for i in range(at, end):
        if b.team[i] >= 0 and copies[b.team[i]].chunk == LOST:
            copy = copies + b.team[i]
            gathered.size[copy.before] = b.size[i]
            gathered.entry[copy.before] = <int32_t>(i - at)
            copy.before += 1
    place = 0
    for i in range(teams):
        copy = copies + seen[i]
        while copy.chunk == LOST and place < copy.before:
            n = min(copy.before - place, <int64_t>RUN_MAX)
            charge(
                b, seen[i], gathered.size + place, n, sum_of(gathered.size + place, n, &bits),
                gathered.action + place)
            place += n
        copy.chunk = 0
    for i in range(place):
        b.action_out[at + gathered.entry[i]] = gathered.action[i]


cdef inline int64_t evaluate_chunk(
    Batch *b, int64_t at, Copy *copies, int32_t *seen, Gathered *gathered
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
        if copy.chunk == DRY:
            copy.entries[ALLOW] += 1
        else:
            judge_by_copy(b, copy, i)
    for i in range(teams):
        copy = copies + seen[i]
        if copy.chunk == DRY or not keep_copy(b, seen[i], copy):
            copy.chunk = LOST
            is_lost = True
    if is_lost:
        evaluate_lost(b, at, end, copies, seen, teams, gathered)
    return end


cdef inline void evaluate_batch(Batch *b, const Survey *survey) noexcept nogil:
    """Evaluate a whole batch, which was found to be sound."""
    cdef Copy *copies = NULL
    cdef int32_t *seen = NULL
    cdef Gathered *gathered = NULL
    cdef int64_t bits = 0
    cdef int64_t at = 0
    cdef int64_t runs = 0
    cdef int64_t probed = survey.head
    cdef int64_t n, i
    for i in range(survey.runs):
        n = survey.run[i].n
        charge(b, survey.run[i].team, b.size + at, n, survey.run[i].total, b.action_out + at)
        at += n
    while at < b.n:
        n = run_length(b.team + at, b.n - at)
        charge(
            b, b.team[at], b.size + at, n, sum_of(b.size + at, n, &bits), b.action_out + at)
        at += n
        runs += 1
        if runs % PROBE:
            continue
        if at - probed < PROBE * SHORT and b.n - at > 2 * b.teams:
            if copies == NULL:
                copies = <Copy *>calloc(b.teams, sizeof(Copy))
                seen = <int32_t *>malloc(min(b.teams, <int64_t>CHUNK) * sizeof(int32_t))
                gathered = <Gathered *>malloc(sizeof(Gathered))
            if copies != NULL and seen != NULL and gathered != NULL:
                at = evaluate_chunk(b, at, copies, seen, gathered)
        probed = at
    free(copies)
    free(seen)
    free(gathered)
