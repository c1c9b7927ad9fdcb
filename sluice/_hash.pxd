"""The sampling hash: XXH64 over labels, timestamp and line, each seeding the next.

Unkeyed and with fixed constants, so that an entry that is sent again meets the same verdict
on every node, in every process and after every restart.

Source: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md (XXH64). Words are read
as the machine has them; Sluice runs on little-endian machines only (x86-64, arm64).
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from * nogil:
    const uint64_t P1 "0x9E3779B185EBCA87ULL"
    const uint64_t P2 "0xC2B2AE3D27D4EB4FULL"
    const uint64_t P3 "0x165667B19E3779F9ULL"
    const uint64_t P4 "0x85EBCA77C2B2AE63ULL"
    const uint64_t P5 "0x27D4EB2F165667C5ULL"


cdef inline uint64_t rotated(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline uint64_t word(const uint8_t *at) noexcept nogil:
    cdef uint64_t x
    memcpy(&x, at, 8)
    return x


cdef inline uint64_t half(const uint8_t *at) noexcept nogil:
    cdef uint32_t x
    memcpy(&x, at, 4)
    return x


cdef inline uint64_t lane(uint64_t sum, uint64_t x) noexcept nogil:
    return rotated(sum + x * P2, 31) * P1


cdef inline uint64_t merged(uint64_t h, uint64_t sum) noexcept nogil:
    return (h ^ lane(0, sum)) * P1 + P4


cdef inline uint64_t xxh64(const uint8_t *at, uint64_t size, uint64_t seed) noexcept nogil:
    """XXH64 of `size` bytes."""
    cdef const uint8_t *end = at + size
    cdef uint64_t a, b, c, d, h
    if size >= 32:
        a = seed + P1 + P2
        b = seed + P2
        c = seed
        d = seed - P1
        while end - at >= 32:
            a = lane(a, word(at))
            b = lane(b, word(at + 8))
            c = lane(c, word(at + 16))
            d = lane(d, word(at + 24))
            at += 32
        h = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18)
        h = merged(merged(merged(merged(h, a), b), c), d)
    else:
        h = seed + P5
    h += size
    while end - at >= 8:
        h = rotated(h ^ lane(0, word(at)), 27) * P1 + P4
        at += 8
    if end - at >= 4:
        h = rotated(h ^ (half(at) * P1), 23) * P2 + P3
        at += 4
    while at < end:
        h = rotated(h ^ (at[0] * P5), 11) * P1
        at += 1
    h = (h ^ (h >> 33)) * P2
    h = (h ^ (h >> 29)) * P3
    return h ^ (h >> 32)
