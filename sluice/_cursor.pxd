"""A bounded reader over protobuf bytes that somebody else owns.

Rule 1: nothing here allocates, raises or touches a Python object.
Rule 2: every read compares with `end` first; a failed read leaves `at` at the start of
the bad field, so that the caller can say where it is.
Rule 3: it reads what the code that gogo/protobuf generates for Loki reads (pkg/push/types.go
and push.pb.go of Loki 3.7.8), no less: a varint may have ten bytes whatever the tenth holds,
a field number is the low 32 bits of the tag, and a group's end need not name its start.

Source: https://protobuf.dev/programming-guides/encoding/
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from sluice._scan cimport BAD_TAG, BAD_TYPE, OK, OVERLONG, TRUNCATED

cdef enum:
    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    GROUP = 3
    GROUP_END = 4
    FIXED32 = 5

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end
    uint64_t need          # after TRUNCATED: the bytes that were declared
    uint64_t left          # after TRUNCATED: the bytes that were left


cdef inline int truncated(Cursor *c, uint64_t need) noexcept nogil:
    c.need = need
    c.left = <uint64_t>(c.end - c.at)
    return TRUNCATED


cdef inline int read_varint(Cursor *c, uint64_t *value_out) noexcept nogil:
    """Read one varint: OK, TRUNCATED or OVERLONG. Bits beyond the 64th are dropped."""
    cdef const uint8_t *at = c.at
    cdef uint64_t value = 0
    cdef uint8_t byte
    cdef int shift
    for shift in range(0, 64, 7):
        if at == c.end:
            return truncated(c, <uint64_t>(at - c.at) + 1)
        byte = at[0]
        at += 1
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            c.at = at
            value_out[0] = value
            return OK
    return OVERLONG


cdef inline int read_length(Cursor *c, uint64_t *length_out) noexcept nogil:
    """Read the length of a BYTES field and check it against the bytes left."""
    cdef const uint8_t *start = c.at
    cdef int code
    # Nine lengths of ten fit one byte; the general reader costs a third of the scan.
    if c.at < c.end and c.at[0] < 0x80:
        length_out[0] = c.at[0]
        c.at += 1
    else:
        code = read_varint(c, length_out)
        if code != OK:
            return code
    if length_out[0] > <uint64_t>(c.end - c.at):
        code = truncated(c, length_out[0])
        c.at = start
        return code
    return OK


cdef inline int read_tag(Cursor *c, int32_t *field_out, int *type_out) noexcept nogil:
    """Read a field's number and wire type; BAD_TAG for a number below 1 or a group's end."""
    cdef const uint8_t *start = c.at
    cdef uint64_t tag
    cdef int code
    if c.at < c.end and c.at[0] < 0x80:
        tag = c.at[0]
        c.at += 1
    else:
        code = read_varint(c, &tag)
        if code != OK:
            return code
    field_out[0] = <int32_t>(tag >> 3)
    type_out[0] = <int>(tag & 7)
    if type_out[0] == GROUP_END or field_out[0] <= 0:
        c.at = start
        return BAD_TAG
    return OK


cdef inline int skip_plain(Cursor *c, int wire_type) noexcept nogil:
    """Skip one value that is not a group."""
    cdef uint64_t number
    cdef uint64_t size
    cdef int code
    if wire_type == VARINT:
        return read_varint(c, &number)
    if wire_type == BYTES:
        code = read_length(c, &size)
        if code != OK:
            return code
    elif wire_type == FIXED64:
        size = 8
    elif wire_type == FIXED32:
        size = 4
    else:
        return BAD_TYPE
    if size > <uint64_t>(c.end - c.at):
        return truncated(c, size)
    c.at += size
    return OK


cdef inline int skip_value(Cursor *c, int wire_type) noexcept nogil:
    """Skip one value of any wire type; groups by counting, so that depth costs no stack."""
    cdef int64_t depth = 1
    cdef uint64_t tag
    cdef int code
    if wire_type != GROUP:
        return skip_plain(c, wire_type)
    while depth > 0:
        code = read_varint(c, &tag)
        if code != OK:
            return code
        wire_type = <int>(tag & 7)
        if wire_type == GROUP:
            depth += 1
        elif wire_type == GROUP_END:
            depth -= 1
        else:
            code = skip_plain(c, wire_type)
            if code != OK:
                return code
    return OK
