"""Loki's PushRequest in protobuf: offsets and sizes of what it holds, nothing copied.

    PushRequest   1 streams: repeated Stream   2 format: string
    Stream        1 labels: string   2 entries: repeated Entry   3 hash: uint64
    Entry         1 timestamp: Timestamp   2 line: string
                  3 structuredMetadata, 4 parsed: repeated LabelPair
    LabelPair     1 name: string   2 value: string

A repeated scalar: the last one counts. Fields come in any order, unknown ones are skipped.
Size of an entry: its line and its structured metadata's names and values, as Loki bills
them, which leaves out a pair named detected_level.
A Timestamp (1 seconds: int64  2 nanos: int32) that Loki refuses is refused, because Loki refuses
the whole push for it. One with unknown fields is left to Loki, and so is `parsed`.

Source: pkg/push/push.proto and pkg/util/entry_size.go of Loki 3.7.8.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from sluice._cursor cimport (
    BYTES, VARINT, Cursor, read_length, read_tag, read_varint, skip_value,
)
from sluice._scan cimport (
    BAD_TIME, BAD_TYPE, OK, STREAM_AT, STREAM_BODY, STREAM_COUNT, STREAM_END, STREAM_FIRST,
    STREAM_LABELS, STREAM_LABELS_END, STREAM_SIZE, Found, add_entry, open_stream,
)

from sluice._time cimport NANOS_END, is_in_time, word_at

cdef struct Span:
    const uint8_t *at
    uint64_t size


cdef inline int fail(Cursor *outer, Cursor *inner, int code) noexcept nogil:
    """Hand an inner cursor's error, its place and its numbers to the outer one."""
    outer.at = inner.at
    outer.need = inner.need
    outer.left = inner.left
    return code


cdef inline int read_bytes(Cursor *c, int wire_type, Span *span_out) noexcept nogil:
    """Read a BYTES field's content."""
    cdef int code
    if wire_type != BYTES:
        return BAD_TYPE
    code = read_length(c, &span_out.size)
    if code == OK:
        span_out.at = c.at
        c.at += span_out.size
    return code


cdef inline int read_pair(Span message, Cursor *outer, int64_t *size_out) noexcept nogil:
    """Add a LabelPair's billed bytes to `size_out`."""
    cdef Cursor c
    cdef Span name, value
    cdef int32_t field
    cdef int wire_type, code
    c.at = message.at
    c.end = message.at + message.size
    name.size = value.size = 0
    while c.at < c.end:
        code = read_tag(&c, &field, &wire_type)
        if code == OK:
            if field == 1:
                code = read_bytes(&c, wire_type, &name)
            elif field == 2:
                code = read_bytes(&c, wire_type, &value)
            else:
                code = skip_value(&c, wire_type)
        if code != OK:
            return fail(outer, &c, code)
    if name.size == 14 and memcmp(name.at, b"detected_level", 14) == 0:
        return OK
    size_out[0] += <int64_t>(name.size + value.size)
    return OK


cdef enum:
    # The first seven bytes of nearly every Timestamp, little-endian: the tag of seconds, a varint
    # of five bytes (so that they are in the years 1970 to 3058), the tag of nanos.
    USUAL_BITS = 0x00FF8080808080FF
    USUAL = 0x0010008080808008


cdef inline bint is_usual_time(Span message) noexcept nogil:
    """Whether it is a Timestamp in time as shippers write it; False says nothing."""
    cdef Cursor c
    cdef uint64_t nanos
    if message.size < 8 or word_at(message.at) & USUAL_BITS != USUAL:
        return False
    c.at = message.at + 7
    c.end = message.at + message.size
    return read_varint(&c, &nanos) == OK and c.at == c.end and nanos < NANOS_END


cdef inline int check_time(Span message, Cursor *outer) noexcept nogil:
    """See whether Loki refuses a Timestamp."""
    cdef Cursor c
    cdef uint64_t number
    cdef uint64_t seconds = 0
    cdef uint64_t nanos = 0
    cdef int32_t field
    cdef int wire_type, code
    c.at = message.at
    c.end = message.at + message.size
    while c.at < c.end:
        code = read_tag(&c, &field, &wire_type)
        if code == OK:
            if field > 2:
                return OK
            code = read_varint(&c, &number) if wire_type == VARINT else BAD_TYPE
        if code != OK:
            return fail(outer, &c, code)
        if field == 1:
            seconds = number
        else:
            nanos = number
    if is_in_time(<int64_t>seconds, <int32_t>nanos):
        return OK
    c.at, c.need, c.left = message.at, seconds, nanos
    return fail(outer, &c, BAD_TIME)


cdef inline int read_entry(
    Span message, Cursor *outer, Span *time_out, Span *line_out, int64_t *size_out
) noexcept nogil:
    """Find an Entry's raw timestamp and line, and its billed size."""
    cdef Cursor c
    cdef Span pair
    cdef int64_t metadata = 0
    cdef int32_t field
    cdef int wire_type, code
    c.at = message.at
    c.end = message.at + message.size
    time_out.at = line_out.at = c.at
    time_out.size = line_out.size = 0
    while c.at < c.end:
        code = read_tag(&c, &field, &wire_type)
        if code == OK:
            if field == 1:
                code = read_bytes(&c, wire_type, time_out)
                if code == OK and not is_usual_time(time_out[0]):
                    code = check_time(time_out[0], &c)
            elif field == 2:
                code = read_bytes(&c, wire_type, line_out)
            elif field == 3:
                code = read_bytes(&c, wire_type, &pair)
                if code == OK:
                    code = read_pair(pair, &c, &metadata)
            elif field == 4:
                code = read_bytes(&c, wire_type, &pair)
            else:
                code = skip_value(&c, wire_type)
        if code != OK:
            return fail(outer, &c, code)
    size_out[0] = <int64_t>line_out.size + metadata
    return OK


cdef inline int read_stream(
    Span message, Cursor *outer, const uint8_t *body, Found *found, int64_t *row
) noexcept nogil:
    """Note a Stream's entries and fill its row; `row` is NULL where there is no room for it."""
    cdef Cursor c
    cdef Span labels, entry, time, line
    cdef int64_t first = found.entries
    cdef int64_t total = 0
    cdef int64_t size
    cdef const uint8_t *start
    cdef int32_t field
    cdef uint64_t number
    cdef int wire_type, code
    c.at = message.at
    c.end = message.at + message.size
    labels.at = body
    labels.size = 0
    while c.at < c.end:
        start = c.at
        code = read_tag(&c, &field, &wire_type)
        if code == OK:
            if field == 2:
                found.in_entry = found.entries - first
                code = read_bytes(&c, wire_type, &entry)
                if code == OK:
                    code = read_entry(entry, &c, &time, &line, &size)
                if code == OK:
                    add_entry(found, start - body, c.at - body, size)
                    total += size
                    found.in_entry = -1
            elif field == 1:
                code = read_bytes(&c, wire_type, &labels)
            elif field == 3:
                code = read_varint(&c, &number) if wire_type == VARINT else BAD_TYPE
            else:
                code = skip_value(&c, wire_type)
        if code != OK:
            return fail(outer, &c, code)
    if row != NULL:
        row[STREAM_BODY] = message.at - body
        row[STREAM_LABELS] = labels.at - body
        row[STREAM_LABELS_END] = labels.at - body + <int64_t>labels.size
        row[STREAM_FIRST] = first
        row[STREAM_COUNT] = found.entries - first
        row[STREAM_SIZE] = total
    return OK


cdef inline int scan_push(Found *found, const uint8_t *body, int64_t n) noexcept nogil:
    """Scan a whole PushRequest; after an error `found.at` is the culprit's offset."""
    cdef Cursor c
    cdef Span message
    cdef const uint8_t *start
    cdef int64_t *row
    cdef int32_t field
    cdef int wire_type, code
    c.at = body
    c.end = body + n
    while c.at < c.end:
        start = c.at
        code = read_tag(&c, &field, &wire_type)
        if code == OK:
            if field == 1:
                found.in_stream = found.streams
                code = read_bytes(&c, wire_type, &message)
                if code == OK:
                    row = open_stream(found)
                    code = read_stream(message, &c, body, found, row)
                    if code == OK and row != NULL:
                        row[STREAM_AT] = start - body
                        row[STREAM_END] = c.at - body
                    if code == OK:
                        found.in_stream = -1
            elif field == 2:
                code = read_bytes(&c, wire_type, &message)
            else:
                code = skip_value(&c, wire_type)
        if code != OK:
            found.at = c.at - body
            found.need = c.need
            found.left = c.left
            return code
    return OK
