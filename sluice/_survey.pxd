"""The first look at a batch: is every entry in range, and how do its teams run?

Nothing may be charged before the last entry is known to be sound, so a batch is read before it is
judged. Where its entries come grouped, what the reading finds is kept: a run's team, length and
sum are all that most runs are judged by, and their sizes are not read from memory again.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport malloc

from sluice._charge cimport RUN_MAX

cdef enum:
    PROBE = 64             # runs between two looks at how long they are
    SHORT = 8              # entries a run, below which runs are not worth their while
    RUNS_MAX = 16384       # runs that are kept, at 24 bytes each
    BLOCK = 32

cdef struct Run:
    int64_t n
    uint64_t total         # of their sizes; modulo 2^64 unless they are summable
    int32_t team

cdef struct Survey:
    Run *run               # those of the batch's head, or NULL; to be freed by who asked
    int64_t runs
    int64_t head           # how many entries they are
    int64_t bits           # the union of all sizes' bits
    bint is_sound


cdef inline int64_t run_length(const int32_t *team, int64_t n) noexcept nogil:
    """How many entries from the first on belong to the same team, RUN_MAX at the most."""
    cdef int32_t first = team[0]
    cdef int32_t other
    cdef int64_t i = 1
    cdef int k
    n = min(n, <int64_t>RUN_MAX)
    while i < n and i < SHORT:
        if team[i] != first:
            return i
        i += 1
    # Blocks without an early exit, so that the compiler can make vectors of them.
    while i + BLOCK <= n:
        other = 0
        for k in range(BLOCK):
            other |= team[i + k] ^ first
        if other:
            break
        i += BLOCK
    while i < n and team[i] == first:
        i += 1
    return i


cdef inline uint64_t sum_of(const int64_t *size, int64_t n, int64_t *bits) noexcept nogil:
    """The sum of sizes, modulo 2^64; their bits are added to `bits`."""
    cdef uint64_t total = 0
    cdef int64_t found = 0
    cdef int64_t i
    for i in range(n):
        total += <uint64_t>size[i]
        found |= size[i]
    bits[0] |= found
    return total


cdef inline uint32_t sign_of(int32_t team, int32_t teams) noexcept nogil:
    """A word whose sign bit is set for a team out of range; SSE2 has no minimum of integers."""
    return (<uint32_t>team + 1) | (<uint32_t>(teams - 1) - <uint32_t>team)


cdef inline void survey_batch(
    const int32_t *team, const int64_t *size, int64_t n, int32_t teams, Survey *survey_out
) noexcept nogil:
    """Look at a whole batch, run by run as long as that is worth it."""
    cdef int64_t room = min(n // SHORT + PROBE, <int64_t>RUNS_MAX)
    cdef Run *run = <Run *>malloc(room * sizeof(Run))
    cdef int64_t bits = 0
    cdef uint32_t signs = 0
    cdef int64_t at = 0
    cdef int64_t probed = 0
    cdef int64_t runs = 0
    cdef int64_t i
    while run != NULL and at < n and runs < room:
        run[runs].team = team[at]
        run[runs].n = run_length(team + at, n - at)
        run[runs].total = sum_of(size + at, run[runs].n, &bits)
        signs |= sign_of(team[at], teams)
        at += run[runs].n
        runs += 1
        if runs % PROBE == 0:
            if at - probed < PROBE * SHORT:
                break
            probed = at
    survey_out.run, survey_out.runs, survey_out.head = run, runs, at
    # No early exit, so that the compiler can make vectors of it.
    for i in range(at, n):
        bits |= size[i]
        signs |= sign_of(team[i], teams)
    survey_out.bits = bits
    survey_out.is_sound = bits >= 0 and signs < 0x80000000U
