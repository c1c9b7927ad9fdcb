"""The filtered JSON body, in its own dialect: raw labels, raw kept entries, new brackets.

A stream that keeps no entry is left out, and so is everything but labels and entries.
"""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, strlen

from sluice._scan cimport (
    ENTRY_AT, ENTRY_COLUMNS, ENTRY_END, STREAM_COLUMNS, STREAM_COUNT, STREAM_FIRST, STREAM_LABELS,
    STREAM_LABELS_END,
)


cdef inline uint8_t *written(uint8_t *out, const char *text) noexcept nogil:
    memcpy(out, text, strlen(text))
    return out + strlen(text)


cdef inline uint8_t *copied(
    uint8_t *out, const uint8_t *body, int64_t at, int64_t end
) noexcept nogil:
    memcpy(out, body + at, end - at)
    return out + (end - at)


cdef inline uint8_t *split_head(
    const uint8_t *body, const int64_t *stream, bint legacy, uint8_t *out
) noexcept nogil:
    """Write a stream up to its first entry. No labels stay no labels."""
    if stream[STREAM_LABELS_END]:
        out = written(out, b'{"labels":"' if legacy else b'{"stream":')
        out = copied(out, body, stream[STREAM_LABELS], stream[STREAM_LABELS_END])
        return written(out, b'","entries":[' if legacy else b',"values":[')
    return written(out, b'{"entries":[' if legacy else b'{"values":[')


cdef inline int64_t split_json(
    const uint8_t *body, const int64_t *stream, int64_t streams, const int64_t *entry,
    const uint8_t *outcome, bint legacy, uint8_t *out
) noexcept nogil:
    """Write the body without the entries whose outcome is not 0; returns its size.

    Each entry and its comma fit into their own old place, so `out` needs room for the body,
    for 64 bytes a stream and for 64 more.
    """
    cdef const int64_t *row
    cdef const int64_t *kept
    cdef uint8_t *to = written(out, b'{"streams":[')
    cdef int64_t s, i
    cdef int64_t entries
    cdef int64_t opened = 0
    for s in range(streams):
        row = stream + s * STREAM_COLUMNS
        entries = 0
        for i in range(row[STREAM_FIRST], row[STREAM_FIRST] + row[STREAM_COUNT]):
            if outcome[i]:
                continue
            if entries == 0:
                if opened:
                    to = written(to, b",")
                to = split_head(body, row, legacy, to)
            else:
                to = written(to, b",")
            kept = entry + i * ENTRY_COLUMNS
            to = copied(to, body, kept[ENTRY_AT], kept[ENTRY_END])
            entries += 1
        if entries:
            to = written(to, b"]}")
            opened += 1
    to = written(to, b"]}")
    return to - out
