"""The filtered body: kept entries' raw bytes, whatever else a stream held, and new lengths.

Everything that is not an entry (labels, hash, fields that Sluice does not know) is copied as
it came; of a stream that loses entries only its own length is written anew. A stream that had
entries and keeps none is left out.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from sluice._judge cimport KEPT
from sluice._scan cimport (
    ENTRY_AT, ENTRY_COLUMNS, ENTRY_END, STREAM_AT, STREAM_BODY, STREAM_COLUMNS, STREAM_COUNT,
    STREAM_END, STREAM_FIRST,
)


cdef inline uint8_t *copied(
    uint8_t *out, const uint8_t *body, int64_t at, int64_t end
) noexcept nogil:
    memcpy(out, body + at, end - at)
    return out + (end - at)


cdef inline uint8_t *write_varint(uint8_t *out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t>(value | 0x80)
        out += 1
        value >>= 7
    out[0] = <uint8_t>value
    return out + 1


cdef inline uint8_t *split_stream(
    const uint8_t *body, const int64_t *stream, const int64_t *entry, const uint8_t *outcome,
    int64_t lost, uint8_t *out
) noexcept nogil:
    """Write a stream without the `lost` bytes of the entries that are not kept."""
    cdef int64_t at = stream[STREAM_BODY]
    cdef int64_t first = stream[STREAM_FIRST]
    cdef int64_t i
    out[0] = 0x0A
    out = write_varint(out + 1, <uint64_t>(stream[STREAM_END] - at - lost))
    for i in range(first, first + stream[STREAM_COUNT]):
        if outcome[i] != KEPT:
            out = copied(out, body, at, entry[i * ENTRY_COLUMNS + ENTRY_AT])
            at = entry[i * ENTRY_COLUMNS + ENTRY_END]
    return copied(out, body, at, stream[STREAM_END])


cdef inline int64_t split_push(
    const uint8_t *body, int64_t n, const int64_t *stream, int64_t streams, const int64_t *entry,
    const uint8_t *outcome, uint8_t *out
) noexcept nogil:
    """Write the filtered PushRequest to `out`, which has room for `n` bytes; returns its size.

    It never grows: a stream's new length is smaller, so its varint is no longer than before.
    """
    cdef const int64_t *row
    cdef uint8_t *to = out
    cdef int64_t at = 0
    cdef int64_t s, i, kept, lost
    for s in range(streams):
        row = stream + s * STREAM_COLUMNS
        kept = lost = 0
        for i in range(row[STREAM_FIRST], row[STREAM_FIRST] + row[STREAM_COUNT]):
            if outcome[i] == KEPT:
                kept += 1
            else:
                lost += entry[i * ENTRY_COLUMNS + ENTRY_END] - entry[i * ENTRY_COLUMNS + ENTRY_AT]
        if lost == 0:
            continue
        to = copied(to, body, at, row[STREAM_AT])
        at = row[STREAM_END]
        if kept:
            to = split_stream(body, row, entry, outcome, lost, to)
    to = copied(to, body, at, n)
    return to - out
