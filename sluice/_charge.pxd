"""One counter, many threads: what is charged to a team, by compare-and-swap.

A team's rule is a row of four words: above `soft` an entry is throttled, above `hard` it is
dropped (both compared with `used`, the bytes admitted since the ledger began), `keep` is the
bound of the sampling hash, `dry` lets everything pass.

Rule 1: a decision is made on one value of `used` and stands only if the swap finds that value
still there; so under any number of threads the outcome is that of some order of the runs.
Rule 2: `n > hard - used`, never `used + n > hard`: used is in [0, 2^62] and hard in [-1, 2^62],
so the difference cannot overflow.
Rule 3: RELAXED, for nothing but the counter's own value is read through it.
Rule 4: an entry needs at least one byte of room, although an empty one is charged nothing
(`needed`). Otherwise a team that has spent its limit to the byte could send empty entries for ever.
Rule 5: thresholds are read once, by `read_rule`, and `soft` never counts above `hard`: the ledger
replaces the two words one after the other while this code runs.
"""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

cdef extern from * nogil:
    int RELAXED "__ATOMIC_RELAXED"
    int64_t load "__atomic_load_n"(int64_t *cell, int order)
    int64_t add_fetch "__atomic_add_fetch"(int64_t *cell, int64_t n, int order)
    bint compare_exchange "__atomic_compare_exchange_n"(
        int64_t *cell, int64_t *expected, int64_t desired, bint weak, int success, int failure)

cdef extern from *:
    const int64_t USED_MAX "((int64_t)1 << 62)"

cdef extern from *:
    const int64_t INT64_MAX

cdef enum:
    ALLOW = 0
    THROTTLE = 1
    DROP = 2

cdef enum:
    RULE_SOFT = 0
    RULE_HARD = 1
    RULE_KEEP = 2
    RULE_DRY = 3
    RULE_COLUMNS = 4

cdef enum:
    # tally row: entries by action, bytes charged and dropped, dry run's bytes by action
    TALLY_ENTRIES = 0      # + ALLOW, THROTTLE, DROP
    TALLY_CHARGED = 3
    TALLY_DROPPED = 4
    TALLY_DRY = 5          # + ALLOW, THROTTLE, DROP
    TALLY_COLUMNS = 8

cdef enum:
    # Entries that one swap decides; bounds what a lost race costs, and the sums below.
    RUN_MAX = 4096
    # Entries that are looked at together where they may all fit, or none.
    BLOCK = 32


cdef inline int64_t plus(int64_t a, int64_t b) noexcept nogil:
    """The sum of two counts, or the largest there is: one call may name 2^63-1 bytes twice."""
    return a + b if b <= INT64_MAX - a else INT64_MAX


cdef inline bint swap(int64_t *cell, int64_t old, int64_t new) noexcept nogil:
    """Replace `old` by `new` unless another thread was faster."""
    return compare_exchange(cell, &old, new, False, RELAXED, RELAXED)


cdef inline void read_rule(
    const int64_t *rule, int64_t *soft_out, int64_t *hard_out
) noexcept nogil:
    """Read a team's thresholds."""
    hard_out[0] = load(<int64_t *>rule + RULE_HARD, RELAXED)
    soft_out[0] = min(load(<int64_t *>rule + RULE_SOFT, RELAXED), hard_out[0])


cdef inline int64_t needed(int64_t n) noexcept nogil:
    """The room that an entry of `n` bytes needs."""
    return n + <int64_t>(n == 0)


cdef inline int verdict(int64_t soft, int64_t hard, int64_t used, int64_t n) noexcept nogil:
    """What an entry of `n` bytes gets for a team at `used`; soft <= hard."""
    cdef int64_t need = needed(n)
    return <int>(need > soft - used) + <int>(need > hard - used)


cdef inline bint is_run_within(int64_t total, int64_t last, int64_t room) noexcept nogil:
    """Whether all entries of a run fit into `room`, one after another.

    Empty entries need one byte of room, so a run that fills the room to the byte must not end
    with one. `last` is the size of the last entry.
    """
    return total < room + <int64_t>(last > 0)


cdef inline bint is_any_within(const int64_t *size, int64_t n, int64_t room) noexcept nogil:
    """Whether any of these entries fits into `room`; the loop has no branch, so it vectorises."""
    cdef int64_t signs = 0
    cdef int64_t i
    if room < 1:
        return False
    for i in range(n):
        signs |= size[i] - (room + 1)
    return signs < 0


cdef inline int64_t fitting(
    const int64_t *size, int64_t n, bint is_summable, int64_t limit, int64_t *used
) noexcept nogil:
    """How many entries from the first on stay within `limit`; `used` moves behind them."""
    cdef int64_t i = 0
    cdef int64_t total, k
    while is_summable and i + BLOCK <= n:
        total = 0
        for k in range(BLOCK):
            total += size[i + k]
        if not is_run_within(total, size[i + BLOCK - 1], limit - used[0]):
            break
        used[0] += total
        i += BLOCK
    while i < n and needed(size[i]) <= limit - used[0]:
        used[0] += size[i]
        i += 1
    return i


cdef inline int64_t charged_after(
    const int64_t *rule, int64_t used, const int64_t *size, int64_t n, int64_t total,
    uint8_t *action_out, int64_t *tally_out
) noexcept nogil:
    """Judge entries one after another from `used` on; returns what is used after the last.

    `total` is the sum of their sizes, or -1 if that may overflow.
    """
    cdef int64_t soft, hard
    cdef int64_t before = used
    cdef int64_t allowed, throttled, dropped_bytes, i, k, end
    cdef int action
    read_rule(rule, &soft, &hard)
    i = allowed = fitting(size, n, total >= 0, soft, &used)
    # The first of these crosses the soft threshold, so none behind it is below.
    i += fitting(size + i, n - i, total >= 0, hard, &used)
    throttled = i - allowed
    memset(action_out, ALLOW, allowed)
    memset(action_out + allowed, THROTTLE, throttled)
    # One did not fit. Smaller ones may, but not often.
    while i < n:
        end = min(n, i + BLOCK)
        if not is_any_within(size + i, end - i, hard - used):
            for k in range(i, end):
                action_out[k] = DROP
            i = end
        while i < end:
            action = verdict(soft, hard, used, size[i])
            action_out[i] = action
            used += size[i] if action != DROP else 0
            allowed += action == ALLOW
            throttled += action == THROTTLE
            i += 1
    dropped_bytes = total - (used - before)
    if total < 0:
        dropped_bytes = 0
        for i in range(n):
            if action_out[i] == DROP:
                dropped_bytes = plus(dropped_bytes, size[i])
    tally_out[TALLY_ENTRIES + ALLOW] = allowed
    tally_out[TALLY_ENTRIES + THROTTLE] = throttled
    tally_out[TALLY_ENTRIES + DROP] = n - allowed - throttled
    tally_out[TALLY_CHARGED] = used - before
    tally_out[TALLY_DROPPED] = dropped_bytes
    return used


cdef inline int64_t dry_after(
    const int64_t *rule, int64_t used, const int64_t *size, int64_t n, uint8_t *action_out,
    int64_t *tally_out
) noexcept nogil:
    """The same for a dry run: all is admitted, up to what the counter can hold."""
    cdef int64_t soft, hard, i
    cdef int action
    read_rule(rule, &soft, &hard)
    for i in range(n):
        action = verdict(soft, hard, used, size[i])
        tally_out[TALLY_DRY + action] = plus(tally_out[TALLY_DRY + action], size[i])
        action = ALLOW if size[i] <= USED_MAX - used else DROP
        action_out[i] = action
        tally_out[TALLY_ENTRIES + action] += 1
        if action == DROP:
            tally_out[TALLY_DROPPED] = plus(tally_out[TALLY_DROPPED], size[i])
        else:
            tally_out[TALLY_CHARGED] += size[i]
            used += size[i]
    return used


cdef inline int whole_run(
    const int64_t *rule, int64_t used, const int64_t *size, int64_t n, int64_t total
) noexcept nogil:
    """The one action that all entries of a run get, or -1 where they must be judged singly.

    A run gets one action if it stays under the soft threshold as a whole, if it begins there or
    above and fits under the hard one, or if not one of its entries fits. `total` is the sum of
    its sizes, or -1 if that may overflow.
    """
    cdef int64_t soft, hard
    if total < 0 or rule[RULE_DRY]:
        return -1
    read_rule(rule, &soft, &hard)
    if is_run_within(total, size[n - 1], soft - used):
        return ALLOW
    if used >= soft and is_run_within(total, size[n - 1], hard - used):
        return THROTTLE
    if not is_any_within(size, n, hard - used):
        return DROP
    return -1


cdef inline void charge_run(
    int64_t *cell, const int64_t *rule, const int64_t *size, int64_t n, int64_t total,
    uint8_t *action_out, int64_t *tally_out
) noexcept nogil:
    """Charge a run of one team's entries, RUN_MAX at the most, and add it to the team's tally."""
    cdef int64_t tally[8]
    cdef int64_t used, after
    cdef int action, column
    while True:
        used = load(cell, RELAXED)
        memset(tally, 0, sizeof(tally))
        action = whole_run(rule, used, size, n, total)
        if action >= 0:
            tally[TALLY_ENTRIES + action] = n
            tally[TALLY_DROPPED if action == DROP else TALLY_CHARGED] = total
            after = used + tally[TALLY_CHARGED]
        elif rule[RULE_DRY]:
            after = dry_after(rule, used, size, n, action_out, tally)
        else:
            after = charged_after(rule, used, size, n, total, action_out, tally)
        if after == used or swap(cell, used, after):
            break
    if action >= 0:
        memset(action_out, action, n)
    for column in range(TALLY_COLUMNS):
        tally_out[column] = plus(tally_out[column], tally[column])
